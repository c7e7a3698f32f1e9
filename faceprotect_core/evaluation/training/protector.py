"""Trains the network of Instant: few looks at a face give the change of its light and shade.

    python -m faceprotect_core.evaluation.training.protector --images FACES --out DIR

FACES holds photos <identity>_<photo>.jpg, 256 x 256. Every tenth identity is held out. The built-in recognisers are in
the loss, but for the judge, each through slightly wrong alignments and mirrored half of the time; beside them stands
the fidelity to the photo, with a weight that is drawn for each. First the network learns to look once, without a
gradient; then it goes on from its own result, five looks in a row, each with the gradient of the last. Resumable,
seeded; prints the held-out curve as it goes. DIR/protector.safetensors takes the place of what the package ships: that
one began with --start, the network of one look of before, instead of with the first 800 steps, and is no better
(docs/RESULTS.md). About two hours on one CPU core.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ...checks import given
from ...faces import FaceCrop
from ...faces.crop import cropped_images, cropped_masks
from ...instant.network import OF_A_PHOTO, ProtectorNetwork
from ...instant.protect import Looks, further, sized
from ...method.light_and_shade import LightAndShade, LightAndShadeSettings
from ...method.objectives import LEAD
from ...method.views import AlignmentJitter
from ...photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES
from ...photos.settings import WEIGHTS as COUNTS
from ...pixels import as_saved
from ...surrogates import FRSurrogate, load_surrogate
from ...verify.quality import psnr, ssim
from ..people import command, split_identities
from ..recognition import FARS
from .crops import embed_crops, read_crops, with_both_photos
from .demo_model import save_half
from .stage import Stage, parsed

log = logging.getLogger("faceprotect.instant.train")
MARGIN, STEEPNESS = 0.2, 6.0  # see `IdentityObjective`
LEAST, MOST = 0.3, 1.4  # of the fidelity's weight
BATCH = 6
ONE_LOOK = 800  # steps
LOOKS = 5  # in a row, afterwards; checkpoints fall between rows
CURVE, MEASURED, AT = 500, (1, 3, 5), 0.7  # steps; looks; the fidelity's weight
ROOM = 0.02  # past the threshold, as a verdict wants it
SETTINGS = LightAndShadeSettings()  # its fidelity_weight is 1
OF_SIZE = 0.01  # of what keeps the plane of a first look about as large as 1: `sized` would not mind any size


class Known:
    """How well the recognisers still know some faces: [B], differentiable. See `IdentityObjective`."""

    def __init__(self, recognisers: Mapping[str, FRSurrogate], faces, embeddings: Mapping[str, Tensor]):
        self.recognisers, self.faces, self.embeddings = recognisers, faces, embeddings
        self.jitter = AlignmentJitter(1)

    def __call__(self, image: Tensor, chosen: Sequence[int], step: int) -> Tensor:
        parts = []
        for number, (name, one) in enumerate(self.recognisers.items()):
            faces = [self.jitter(self.faces[index], step, number, place) for place, index in enumerate(chosen)]
            seen = one.embed(image, faces, mirrored=(step + number) % 2 == 1)
            past = one.margin(seen, self.embeddings[name][list(chosen)])
            parts.append(COUNTS[name] * F.softplus(STEEPNESS * (MARGIN - past) + LEAD) / STEEPNESS)
        return torch.stack(parts).sum(0)


class Training:
    """The loss of a step, which is one look, and where the last one ended; network: a fresh one, if there is none."""

    def __init__(
        self,
        crops: Sequence[FaceCrop],
        recognisers: Mapping[str, FRSurrogate],
        network: ProtectorNetwork | None = None,
    ):
        faces = [crop.face for crop in crops]
        self.count, self.known = len(crops), Known(recognisers, faces, embed_crops(recognisers, crops))
        self.images, self.masks = cropped_images(crops), cropped_masks(crops)
        self.network = network or ProtectorNetwork()
        self.chosen: list[int] = []
        self.value: Tensor | None = None
        self.slope: Tensor | None = None  # of the plain loss by the value, where there is more in the loss
        self.size = torch.zeros(1)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Mean over some photos of the identity loss and of what is seen."""
        value = gradient = None
        if step < ONE_LOOK or (step - ONE_LOOK) % LOOKS == 0 or self.value is None:
            self.chosen = self.choose(generator)
            self.weight = LEAST * (MOST / LEAST) ** torch.rand(len(self.chosen), generator=generator)
        else:
            problem, fix = "the last look has no gradient", "call backward() on its loss before the next"
            slope = given(self.value.grad if self.slope is None else self.slope, problem, fix)
            value, gradient = self.value.detach(), len(self.chosen) * slope
        light = LightAndShade(self.images[self.chosen], self.masks[self.chosen], SETTINGS, sum(COUNTS.values()))
        self.value = self._next(light, value, gradient, bool(torch.rand((), generator=generator) < 0.5))
        self.value.retain_grad()
        rendering = light.render(self.value)
        plain = self.known(rendering.image, self.chosen, step) + self.weight * rendering.losses["fidelity"]
        besides = self.besides(rendering.image, step)
        if besides is None:
            return (plain + OF_SIZE * self.size).mean()
        (self.slope,) = torch.autograd.grad(plain.mean(), self.value, retain_graph=True)
        return (plain + besides + OF_SIZE * self.size).mean()

    def choose(self, generator: torch.Generator) -> list[int]:
        """The indices of the photos of a row of looks."""
        return torch.randperm(self.count, generator=generator)[:BATCH].tolist()

    def besides(self, image: Tensor, step: int) -> Tensor | None:
        """[B]: what else the network should care for, which is not in the gradient that its looks are shown."""
        return None

    def _next(self, light: LightAndShade, value: Tensor | None, gradient: Tensor | None, mirrored: bool) -> Tensor:
        """What another look gives, as in `Looks`; mirrored: the network sees everything in a mirror.

        self.size: [B], 0 where the plane of a first look has a mean square of 1. Without it what the layers hold grew
        to 1e10 within 800 steps, and the first step down a gradient was as large.
        """
        photo, mask, *before = (
            x if x is None or not mirrored else x.flip(3) for x in (light.photo, light.mask, value, gradient)
        )
        plane = self.network(photo, mask, self.weight, *before)
        plane = plane.flip(3) if mirrored else plane
        self.size = plane.square().mean((1, 2, 3)).clamp_min(1e-12).log().square() * (value is None)
        return sized(light, plane) if value is None else further(value, plane)


class HeldOut:
    """People whom the network was not trained on: photo a is protected, and compared with photo b."""

    def __init__(self, paths: Sequence[Path], panel: Mapping[str, FRSurrogate]):
        self.panel, (self.crops, again) = panel, with_both_photos(read_crops(paths))
        self.others = embed_crops(panel, again)
        self.own = embed_crops(panel, self.crops)
        self.images, self.masks = cropped_images(self.crops), cropped_masks(self.crops)
        seen = {name: one for name, one in panel.items() if name in BUILT_IN_SURROGATES}
        self.known = Known(seen, [crop.face for crop in self.crops], self.own)

    def looked_at(self, network: ProtectorNetwork, fidelity: float, looks: int) -> list[Tensor]:
        """The values [N, 1, 64, 64] after each look."""
        found = []
        for chosen in torch.arange(len(self.images)).split(BATCH):
            photo, mask = self.images[chosen], self.masks[chosen]
            light = LightAndShade(photo, mask, SETTINGS, fidelity * sum(COUNTS.values()))
            seen = Looks(photo, mask, fidelity, network)
            values = [seen.first()]
            while len(values) < looks:
                at = values[-1].clone().requires_grad_()
                rendering = light.render(at)
                loss = self.known(rendering.image, chosen.tolist(), len(values)) + rendering.losses["fidelity"]
                (gradient,) = torch.autograd.grad(loss.sum(), at)
                values.append(seen.next(values[-1], gradient))
            found.append(values)
        return [torch.cat(of_look) for of_look in zip(*found, strict=True)]

    @torch.no_grad()
    def measure(self, value: Tensor) -> str:
        """PSNR and SSIM; the share of people past each recogniser's threshold at FAR 0.1 and 0.01 on the other photo;
        how many all recognisers take for somebody else on the photo itself."""
        light = LightAndShade(self.images, self.masks, SETTINGS)
        image = as_saved(light.lit(value))
        said = [f"{psnr(self.images, image).mean():.1f} dB, SSIM {ssim(self.images, image).mean():.3f}"]
        itself = []
        for name, embeddings in embed_crops(self.panel, self.crops, image).items():
            past = [self.panel[name].margin(embeddings, self.others[name], far) for far in FARS[:2]]
            said.append(f"{name} " + " and ".join(f"{one.gt(0).float().mean():.0%}" for one in past))
            itself.append(self.panel[name].margin(embeddings, self.own[name]))
            said[-1] += f" ({itself[-1].mean():+.3f})"
        behind = torch.stack(itself).amin(0)
        return "; ".join([*said, f"{int((behind > ROOM).sum())} of {len(behind)} by all on the photo itself"])


def _earlier(path: Path, fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """A fresh network's weights with those of a network of one look, which saw the photo and the mask alone."""
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    stem = torch.zeros_like(fresh["stem.weight"])
    stem[:, :OF_A_PHOTO] = state["stem.weight"][:, :OF_A_PHOTO]
    return fresh | state | {"stem.weight": stem}


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and weights go here")
    parser.add_argument("--start", type=Path, help="weights of an earlier network, instead of the first 800 steps")
    parser.add_argument("--steps", type=int, default=3000, help="with 6 photos each (3000)")
    args = parsed(parser)
    recognisers = {name: load_surrogate(name) for name in BUILT_IN_SURROGATES}
    train_paths, held_out_paths = split_identities(args.images)
    people = HeldOut(held_out_paths, {BUILT_IN_JUDGE: load_surrogate(BUILT_IN_JUDGE)} | recognisers)
    torch.manual_seed(args.seed)
    training = Training([*read_crops(train_paths).values()], recognisers)
    log.info("%d photos to train on, %d people held out", training.count, len(people.crops))

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        if step % CURVE == 0 and step:
            for look, value in enumerate(people.looked_at(training.network, AT, max(MEASURED)), start=1):
                if look in MEASURED:
                    log.info("step %d, look %d: %s", step, look, people.measure(value))
        return training.loss(step, generator)

    stage = Stage("protector", training.network, args.steps, 1e-3, args)
    if args.start and not stage.step:
        training.network.load_state_dict(_earlier(args.start, training.network.state_dict()))
        stage.step = ONE_LOOK
    network = stage.run(loss_of)
    for look, value in enumerate(people.looked_at(network, AT, 8), start=1):
        log.info("look %d: %s", look, people.measure(value))
    save_half(network.state_dict(), args.out / "protector.safetensors", "protector")


if __name__ == "__main__":
    main()

"""Trains the network of Instant: one look at a face gives the change of its light and shade.

    python -m faceprotect_core.evaluation.training.protector --images FACES --out DIR

FACES holds photos <identity>_<photo>.jpg, 256 x 256. Every tenth identity is held out. The built-in recognisers are in
the loss, but for the judge, each through slightly wrong alignments and mirrored half of the time; the change is made as
large as a PSNR that is drawn for each photo. Resumable, seeded; prints the held-out curve as it goes.
DIR/protector.safetensors is what the package ships. About an hour on one CPU core.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...faces import FaceCrop
from ...faces.crop import cropped_images, cropped_masks
from ...instant.network import ProtectorNetwork
from ...instant.protect import scaled_to_psnr
from ...method.light_and_shade import LightAndShade, LightAndShadeSettings
from ...method.objectives import LEAD
from ...method.restraint.fidelity import DIFFERENCE, UNLIKENESS, Unlikeness
from ...method.views import AlignmentJitter
from ...photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, WEIGHTS
from ...pixels import as_saved
from ...surrogates import FRSurrogate, load_surrogate
from ...verify.quality import psnr, ssim
from ..people import command, split_identities
from ..recognition import FARS
from .crops import embed_crops, read_crops
from .demo_model import save_half
from .stage import Stage, parsed

log = logging.getLogger("faceprotect.instant.train")
MARGIN, STEEPNESS = 0.3, 6.0  # see `IdentityObjective`
SMALLEST, LARGEST = 31.0, 38.0  # dB
BATCH = 8
ALWAYS, IN_TURNS = (
    ("mobileface",),
    ("mobilefacenet", "faceres"),
)  # the dear ones every other step, with twice the weight
RESTRAINT = 0.5  # of what Fidelity weighs: at a given PSNR it only says where and how smoothly
CURVE = 250  # steps


class Training:
    """The loss of a step."""

    def __init__(self, crops: Sequence[FaceCrop], recognisers: Mapping[str, FRSurrogate]):
        self.recognisers, self.faces = recognisers, [crop.face for crop in crops]
        self.images, self.masks = cropped_images(crops), cropped_masks(crops)
        self.embeddings, self.jitter = embed_crops(recognisers, crops), AlignmentJitter(1)
        self.network = ProtectorNetwork()

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Mean over 8 photos of the identity loss, and of what is seen beside the square, which the PSNR gives."""
        chosen = torch.randperm(len(self.faces), generator=generator)[:BATCH].tolist()
        images, masks = self.images[chosen], self.masks[chosen]
        wanted = SMALLEST + (LARGEST - SMALLEST) * torch.rand(len(chosen), generator=generator)
        flip, mirrored = (torch.rand(2, generator=generator) < 0.5).tolist()
        plane = (
            self.network(images.flip(3), masks.flip(3), wanted).flip(3) if flip else self.network(images, masks, wanted)
        )
        light = LightAndShade(images, masks, LightAndShadeSettings())
        image = light.lit(scaled_to_psnr(light, plane, wanted))
        seen = DIFFERENCE * light.fidelity.colour_difference(image)
        seen = seen + UNLIKENESS * Unlikeness(_grey(images))(_grey(image))
        loss = RESTRAINT * sum(WEIGHTS.values()) * seen
        for name in (*ALWAYS, IN_TURNS[step % 2]):
            loss = loss + (1 if name in ALWAYS else 2) * self._known(name, image, chosen, step, mirrored)
        return loss.mean()

    def _known(self, name: str, image: Tensor, chosen: list[int], step: int, mirrored: bool) -> Tensor:
        """[B]: a recogniser's part of the loss, see `IdentityObjective`."""
        one, number = self.recognisers[name], BUILT_IN_SURROGATES.index(name)
        faces = [self.jitter(self.faces[index], step, number, place) for place, index in enumerate(chosen)]
        past = one.margin(one.embed(image, faces, mirrored=mirrored), self.embeddings[name][chosen])
        return WEIGHTS[name] * F.softplus(STEEPNESS * (MARGIN - past) + LEAD) / STEEPNESS


def _grey(images: Tensor) -> Tensor:
    return images.mean(1, keepdim=True)  # SSIM needs no more of a change that is the same in every channel


class HeldOut:
    """People whom the network was not trained on: photo a is protected, and compared with photo b."""

    def __init__(self, paths: Sequence[Path], panel: Mapping[str, FRSurrogate]):
        crops = read_crops(paths)
        names = [name for name in crops if name.endswith("_a") and f"{name[:-1]}b" in crops]
        self.panel, self.crops = panel, [crops[name] for name in names]
        self.others = embed_crops(panel, [crops[f"{name[:-1]}b"] for name in names])
        self.images, self.masks = cropped_images(self.crops), cropped_masks(self.crops)

    @torch.no_grad()
    def measure(self, network: ProtectorNetwork, decibels: float) -> str:
        """At one PSNR: SSIM, and the share of people past each recogniser's threshold at FAR 0.1 and 0.01."""
        light = LightAndShade(self.images, self.masks, LightAndShadeSettings())
        wanted = torch.full((len(self.images),), decibels)
        parts = zip(self.images.split(BATCH), self.masks.split(BATCH), wanted.split(BATCH), strict=True)
        plane = torch.cat([network(*part) for part in parts])
        image = as_saved(light.lit(scaled_to_psnr(light, plane, wanted)))
        said = [f"{psnr(self.images, image).mean():.1f} dB, SSIM {ssim(self.images, image).mean():.3f}"]
        for name, embeddings in embed_crops(self.panel, self.crops, image).items():
            past = [self.panel[name].margin(embeddings, self.others[name], far) for far in FARS[:2]]
            said.append(f"{name} " + " and ".join(f"{one.gt(0).float().mean():.0%}" for one in past))
        return "; ".join(said)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and weights go here")
    parser.add_argument("--steps", type=int, default=2200, help="with 8 photos each (2200)")
    args = parsed(parser)
    recognisers = {name: load_surrogate(name) for name in BUILT_IN_SURROGATES}
    train_paths, held_out_paths = split_identities(args.images)
    people = HeldOut(held_out_paths, {BUILT_IN_JUDGE: load_surrogate(BUILT_IN_JUDGE)} | recognisers)
    torch.manual_seed(args.seed)
    training = Training([*read_crops(train_paths).values()], recognisers)
    log.info("%d photos to train on, %d people held out", len(training.faces), len(people.crops))

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        if step % CURVE == 0 and step:
            log.info("step %d: %s", step, people.measure(training.network, 33.0))
        return training.loss(step, generator)

    network = Stage("protector", training.network, args.steps, 1e-3, args).run(loss_of)
    for decibels in (31.0, 33.0, 35.0, 37.0):
        log.info("%s", people.measure(network, decibels))
    save_half(network.state_dict(), args.out / "protector.safetensors", "protector")


if __name__ == "__main__":
    main()

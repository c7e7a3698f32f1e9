"""What should the network of Instant give? Lightness, colours, or a change of the latent, each learned as long.

    python -m faceprotect_core.evaluation.training.first_look --images FACES --out DIR [--what lightness latent]

One network for each, which looks once, with the loss of `protector` and the same seed. On photos a of the held-out
people each change is scaled to one CIEDE2000 over the face, and all recognisers compare with photo b; the judge was in
no loss. Resumable; prints a table.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...demo import load_demo_model
from ...faces import FaceCrop
from ...faces.crop import cropped_images, cropped_masks
from ...instant.network import CHANNELS, ProtectorNetwork
from ...instant.protect import FIRST_PSNR
from ...method.restraint.fidelity import Fidelity
from ...photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES
from ...photos.settings import WEIGHTS as COUNTS
from ...pixels import as_saved
from ...protocols import decoder_of_changes
from ...surrogates import FRSurrogate, load_surrogate
from ...verify.quality import ciede2000, psnr, ssim
from ...verify.visibility import FACE
from ..people import command, split_identities
from ..recognition import FARS
from .crops import embed_crops, read_crops, with_both_photos
from .protector import AT, BATCH, OF_SIZE, Known
from .stage import Stage, parsed

log = logging.getLogger("faceprotect.instant.first_look")
PLANES = {"lightness": 1, "colour": 3, "latent": 4}  # that a network gives
LATENT_SIZE = 0.5  # root mean square of a change of the latent, where the plane's is 1
EQUAL, HALVINGS, LARGEST_FACTOR = 2.0, 12, 4.0  # CIEDE2000 over the face, mean; how its factor is found


class Changes:
    """Some photos, and what a network's planes [B, k, 64, 64] change in them."""

    def __init__(self, what: str, crops: Sequence[FaceCrop]):
        self.what, self.images, self.masks = what, cropped_images(crops), cropped_masks(crops)
        if what == "latent":
            codec = load_demo_model()[1]
            self.decode = decoder_of_changes(codec)
            with torch.no_grad():
                self.latents = torch.cat([codec.encode(part) for part in self.images.split(BATCH)])

    def __call__(self, chosen: Sequence[int], planes: Tensor) -> Tensor:
        """[B, 3, 256, 256]: a change of `FIRST_PSNR`, before clamping; the latent's in lightness alone."""
        if self.what == "latent":
            latent, step = self.latents[chosen], LATENT_SIZE * F.avg_pool2d(planes, 2)
            with torch.no_grad():
                before = self.decode(latent)
            change = (self.decode(latent + step) - before).mean(1, keepdim=True)
        else:
            change = F.interpolate(planes, self.images.shape[-2:], mode="bicubic", align_corners=False)
        change = self.masks[chosen] * change.expand(-1, 3, -1, -1)
        size = change.square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
        return 10 ** (-FIRST_PSNR / 20) * change / size


def network_of(what: str) -> ProtectorNetwork:
    network = ProtectorNetwork()
    network.head = nn.Conv2d(CHANNELS[0], PLANES[what], 3, padding=1)
    return network


def planes_of(network: ProtectorNetwork, photo: Tensor, mask: Tensor) -> Tensor:
    return network(photo, mask, photo.new_full((len(photo),), AT))


def train(what: str, crops: Sequence[FaceCrop], recognisers: Mapping[str, FRSurrogate], args) -> ProtectorNetwork:
    """Mean over some photos of the identity loss, of what is seen, and of what keeps the planes' size at about 1."""
    changes = Changes(what, crops)
    known = Known(recognisers, [crop.face for crop in crops], embed_crops(recognisers, crops))
    torch.manual_seed(args.seed)
    network, weight = network_of(what), AT * sum(COUNTS.values())

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randperm(len(crops), generator=generator)[:BATCH].tolist()
        photo, mask = changes.images[chosen], changes.masks[chosen]
        planes = planes_of(network, photo, mask)
        image = (photo + changes(chosen, planes)).clamp(0, 1)
        size = planes.square().mean((1, 2, 3)).clamp_min(1e-12).log().square()
        return (known(image, chosen, step) + weight * Fidelity(photo, mask)(image) + OF_SIZE * size).mean()

    return Stage(f"first look, {what}", network, args.steps, 1e-3, args).run(loss_of)


@torch.no_grad()
def at_equal_difference(network: ProtectorNetwork, changes: Changes) -> Tensor:
    """[N, 3, 256, 256], 8 bits: the photos with each change as large as the eye may see."""
    images = []
    for index, (photo, mask) in enumerate(zip(changes.images.split(1), changes.masks.split(1), strict=True)):
        change, low, high = changes([index], planes_of(network, photo, mask)), 0.0, LARGEST_FACTOR
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            seen, _worst = ciede2000(photo, as_saved(photo + middle * change), mask > FACE)
            low, high = (middle, high) if seen < EQUAL else (low, middle)
        images.append(as_saved(photo + low * change))
    return torch.cat(images)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints go here")
    parser.add_argument("--what", nargs="+", choices=PLANES, default=[*PLANES])
    parser.add_argument("--steps", type=int, default=800, help="with 6 photos each (800)")
    args = parsed(parser)
    recognisers = {name: load_surrogate(name) for name in BUILT_IN_SURROGATES}
    panel = {BUILT_IN_JUDGE: load_surrogate(BUILT_IN_JUDGE)} | recognisers
    train_paths, held_out_paths = split_identities(args.images)
    theirs = [*read_crops(train_paths).values()]
    people, again = with_both_photos(read_crops(held_out_paths))
    others = embed_crops(panel, again)
    log.info(
        "| the network gives | PSNR | SSIM | past the threshold on the other photo: %s |\n|%s",
        " | ".join(f"{name} at FAR {FARS[0]}, {FARS[1]}" for name in panel), " --- |" * (3 + len(panel)),
    )  # fmt: skip
    for what in args.what:
        network, changes = train(what, theirs, recognisers, args), Changes(what, people)
        images = at_equal_difference(network, changes)
        cells = [f"{psnr(changes.images, images).mean():.1f}", f"{ssim(changes.images, images).mean():.3f}"]
        for name, embeddings in embed_crops(panel, people, images).items():
            past = [panel[name].margin(embeddings, others[name], far) for far in FARS[:2]]
            cells.append(", ".join(f"{one.gt(0).float().mean():.0%}" for one in past) + f" ({past[1].mean():+.3f})")
        log.info("| %s | %s |", what, " | ".join(cells))


if __name__ == "__main__":
    main()

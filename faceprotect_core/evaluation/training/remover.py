"""Can the protection be learned away? Trains a network on photos and their protected copies, and tries it on others.

    python -m faceprotect_core.evaluation.training.remover --images FACES --out DIR [--preset instant fast]

FACES holds photos <identity>_<photo>.jpg, 256 x 256. Somebody who has this tool protects photos of the training
identities, all with one preset, and trains a network (the one of Instant, which knows how light and shade changes a
photo) to give the photo back. Each remover is tried on photos a of the held-out people, as every preset protects them,
and the judge, which was in no loss, compares with photo b. Resumable, seeded; prints a table.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ...faces import FaceCrop
from ...faces.crop import cropped_images, cropped_masks
from ...instant.network import ProtectorNetwork
from ...method.light_and_shade import LightAndShade, LightAndShadeSettings
from ...photos.batch import Aim, CropProtector
from ...photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, LIGHT, PRESETS
from ...pixels import as_saved
from ...surrogates import FRSurrogate, load_surrogate
from ...verify.quality import psnr
from ..people import command, split_identities
from ..recognition import FARS
from .crops import embed_crops, read_crops
from .stage import Stage, parsed

log = logging.getLogger("faceprotect.remover")
BATCH = 8
WEIGHT = 33.0  # the network's other input, the same for all, which says nothing here
SAVED_EVERY = 20


def protected(crops: Mapping[str, FaceCrop], preset: str, kept: Path) -> Tensor:
    """[N, 3, 256, 256] in [0, 1], 8 bits: the crops after the first version of a preset; what is done is kept."""
    done = load_file(kept) if kept.exists() else {}
    surrogates = [load_surrogate(name) for name in BUILT_IN_SURROGATES]
    protector = CropProtector(Aim("dodge", surrogates, PRESETS[LIGHT][preset], None, None, None, None))
    for number, (name, crop) in enumerate(tqdm(crops.items(), desc=preset, mininterval=10), start=1):
        if name not in done:
            (outcome,) = protector([crop])
            if isinstance(outcome, Exception):
                raise outcome
            done[name] = as_saved(outcome.image).mul(255).round().to(torch.uint8)
        if number % SAVED_EVERY == 0 or number == len(crops):
            save_file(done, kept)
    return torch.stack([done[name] for name in crops]).float() / 255


def restored(remover: ProtectorNetwork, images: Tensor, masks: Tensor) -> Tensor:
    """[B, 3, 256, 256] in [0, 1]: what a remover makes of protected photos."""
    plane = remover(images, masks, images.new_full((len(images),), WEIGHT))
    return LightAndShade(images, masks, LightAndShadeSettings()).lit(plane)


@torch.no_grad()
def everybody_restored(remover: ProtectorNetwork, images: Tensor, masks: Tensor) -> Tensor:
    """[N, 3, 256, 256], 8 bits."""
    parts = zip(images.split(BATCH), masks.split(BATCH), strict=True)
    return as_saved(torch.cat([restored(remover, *part) for part in parts]))


def train_remover(originals: Tensor, images: Tensor, masks: Tensor, name: str, args) -> ProtectorNetwork:
    """Mean absolute difference to the originals, mirrored half of the time."""
    torch.manual_seed(args.seed)
    remover = ProtectorNetwork()

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randperm(len(images), generator=generator)[:BATCH]
        batch = [x[chosen] for x in (images, masks, originals)]
        if torch.rand((), generator=generator) < 0.5:
            batch = [x.flip(3) for x in batch]
        return F.l1_loss(restored(remover, *batch[:2]), batch[2])

    return Stage(f"remover of {name}", remover, args.steps, 1e-3, args).run(loss_of)


def seen(
    judge: FRSurrogate, crops: Sequence[FaceCrop], images: Tensor, others: Tensor, originals: Tensor
) -> tuple[float, ...]:
    """Share of people whom the judge knows again at each FAR of 0.1 and 0.01, and the mean PSNR to the originals."""
    embeddings = embed_crops({judge.name: judge}, crops, images)[judge.name]
    known = [judge.margin(embeddings, others, far).le(0).float().mean().item() for far in FARS[:2]]
    return *known, psnr(originals, images).mean().item()


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="protected photos and checkpoints go here")
    parser.add_argument("--preset", nargs="+", choices=[*PRESETS[LIGHT]], default=["instant", "fast"])
    parser.add_argument("--photos", type=int, default=300, help="photos that a remover is trained on (300)")
    parser.add_argument("--steps", type=int, default=1500, help="of a remover, with 8 photos each (1500)")
    args = parsed(parser)
    train_paths, held_out_paths = split_identities(args.images)
    train = read_crops([path for path in train_paths if path.stem.endswith("_a")][: args.photos])
    people = read_crops(path for path in held_out_paths if path.stem.endswith("_a"))
    again = read_crops(path for path in held_out_paths if path.stem.endswith("_b"))
    people = {name: crop for name, crop in people.items() if f"{name[:-1]}b" in again}
    judge = load_surrogate(BUILT_IN_JUDGE)
    others = embed_crops({judge.name: judge}, [again[f"{name[:-1]}b"] for name in people])[judge.name]
    crops = [*people.values()]
    originals, masks = cropped_images(crops), cropped_masks(crops)
    shown = {preset: protected(people, preset, args.out / f"held_out_{preset}.safetensors") for preset in args.preset}
    pairs = {preset: protected(train, preset, args.out / f"train_{preset}.safetensors") for preset in args.preset}
    rows = [("untouched", "-", seen(judge, crops, originals, others, originals))]
    rows += [(preset, "-", seen(judge, crops, images, others, originals)) for preset, images in shown.items()]
    theirs = cropped_images([*train.values()]), cropped_masks([*train.values()])
    removers = {preset: train_remover(theirs[0], pairs[preset], theirs[1], preset, args) for preset in args.preset}
    for preset, (trained_on, remover) in product(args.preset, removers.items()):
        images = everybody_restored(remover, shown[preset], masks)
        rows.append((preset, trained_on, seen(judge, crops, images, others, originals)))
    log.info(
        "| preset | remover trained on | judge matches at FAR 0.1 | at 0.01 | PSNR to the original |\n|%s", " --- |" * 5
    )
    for preset, trained_on, (often, seldom, decibels) in rows:
        log.info("| %s | %s | %.0f %% | %.0f %% | %.1f |", preset, trained_on, 100 * often, 100 * seldom, decibels)


if __name__ == "__main__":
    main()

"""Can the protection be learned away? Trains a network on photos and their protected copies, and tries it on others.

    python -m faceprotect_core.evaluation.training.remover --images FACES --out DIR [--ways instant fast]

FACES holds photos <identity>_<photo>.jpg, 256 x 256. Somebody who has this tool protects photos of the training
identities, all in one way (a preset, or one of `ways` that should be harder to undo), and trains a network (the one of
Instant, which knows how light and shade changes a photo) to give the photo back. Each remover is tried on photos a of
the held-out people, as every way protects them, and the judge, which was in no loss, compares with photo b. Resumable,
seeded; prints a table.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ...checks import require
from ...faces import FaceCrop
from ...faces.crop import cropped_images, cropped_masks
from ...instant.network import ProtectorNetwork
from ...photos.batch import CropProtector
from ...photos.settings import BUILT_IN_JUDGE
from ...pixels import as_saved
from ...surrogates import FRSurrogate, load_surrogate
from ...verify.quality import psnr
from ..people import command, split_identities
from ..recognition import FARS
from .crops import embed_crops, read_crops
from .draws import draws_alike, train_with_draws
from .stage import Stage, parsed
from .turns import train_in_turns
from .ways import (
    BASE,
    DRAWN,
    IN_TURNS,
    PAST_A_REMOVER,
    WAYS,
    Protector,
    aim_of,
    by_network,
    file_name,
    left_over,
    restored,
)

log = logging.getLogger("faceprotect.remover")
LEARNED = {IN_TURNS: train_in_turns, DRAWN: train_with_draws}  # ways whose network has to learn first
BATCH = 8
SAVED_EVERY = 20


def protected(crops: Mapping[str, FaceCrop], protector: Protector, kept: Path) -> Tensor:
    """[N, 3, 256, 256] in [0, 1], 8 bits: the crops after the first version; what is done is kept."""
    done = load_file(kept) if kept.exists() else {}
    for number, (name, crop) in enumerate(tqdm(crops.items(), desc=kept.stem, mininterval=10), start=1):
        if name not in done:
            torch.manual_seed(zlib.crc32(f"{kept.stem} {name}".encode()))  # of a way that draws, for each its own
            (outcome,) = protector([crop])
            if isinstance(outcome, Exception):
                raise outcome
            done[name] = as_saved(outcome.image).mul(255).round().to(torch.uint8)
        if number % SAVED_EVERY == 0 or number == len(crops):
            save_file(done, kept)
    return torch.stack([done[name] for name in crops]).float() / 255


@torch.no_grad()
def everybody_restored(remover: ProtectorNetwork, images: Tensor, masks: Tensor) -> Tensor:
    """[N, 3, 256, 256], 8 bits."""
    parts = zip(images.split(BATCH), masks.split(BATCH), strict=True)
    return as_saved(torch.cat([restored(remover, *part) for part in parts]))


def train_remover(originals: Tensor, images: Tensor, masks: Tensor, name: str, args) -> ProtectorNetwork:
    """Photos mirrored half of the time, see `left_over`."""
    torch.manual_seed(args.seed)
    remover = ProtectorNetwork()

    def loss_of(_step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randperm(len(images), generator=generator)[:BATCH]
        batch = [x[chosen] for x in (images, masks, originals)]
        if torch.rand((), generator=generator) < 0.5:
            batch = [x.flip(3) for x in batch]
        return left_over(remover, *batch)

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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["instant", "fast"], help="of protecting them")
    parser.add_argument("--photos", type=int, default=300, help="photos that a remover is trained on (300)")
    parser.add_argument("--steps", type=int, default=1500, help="of a remover, with 8 photos each (1500)")
    args = parsed(parser)
    first = args.ways[: args.ways.index(PAST_A_REMOVER)] if PAST_A_REMOVER in args.ways else [BASE]
    require(
        BASE in first, f"{PAST_A_REMOVER!r} needs a remover trained on {BASE!r}", f"name {BASE} before it in --ways"
    )
    train_paths, held_out_paths = split_identities(args.images)
    train = read_crops([path for path in train_paths if path.stem.endswith("_a")][: args.photos])
    people = read_crops(path for path in held_out_paths if path.stem.endswith("_a"))
    again = read_crops(path for path in held_out_paths if path.stem.endswith("_b"))
    people = {name: crop for name, crop in people.items() if f"{name[:-1]}b" in again}
    judge = load_surrogate(BUILT_IN_JUDGE)
    others = embed_crops({judge.name: judge}, [again[f"{name[:-1]}b"] for name in people])[judge.name]
    crops = [*people.values()]
    originals, masks = cropped_images(crops), cropped_masks(crops)
    theirs = cropped_images([*train.values()]), cropped_masks([*train.values()])
    shown: dict[str, Tensor] = {}
    removers: dict[str, ProtectorNetwork] = {}
    rows = [("untouched", "-", seen(judge, crops, originals, others, originals))]
    for way in args.ways:
        name = file_name(way)
        if way in LEARNED:
            network = LEARNED[way]([*train.values()], args)
            protector: Protector = by_network(network)
            if way == DRAWN:
                log.info("two draws have a correlation of %.2f", draws_alike(network, crops, aim_of("instant")))
        else:
            protector = CropProtector(aim_of(way, removers.get(BASE)))
        shown[way] = protected(people, protector, args.out / f"held_out_{name}.safetensors")
        rows.append((way, "-", seen(judge, crops, shown[way], others, originals)))
        pairs = protected(train, protector, args.out / f"train_{name}.safetensors")
        removers[way] = train_remover(theirs[0], pairs, theirs[1], name, args)
    for way, (trained_on, remover) in product(args.ways, removers.items()):
        images = everybody_restored(remover, shown[way], masks)
        rows.append((way, trained_on, seen(judge, crops, images, others, originals)))
    log.info(
        "| protected by | remover trained on | judge matches at FAR 0.1 | at 0.01 | PSNR to the original |\n|%s",
        " --- |" * 5,
    )
    for way, trained_on, (often, seldom, decibels) in rows:
        log.info("| %s | %s | %.0f %% | %.0f %% | %.1f |", way, trained_on, 100 * often, 100 * seldom, decibels)


if __name__ == "__main__":
    main()

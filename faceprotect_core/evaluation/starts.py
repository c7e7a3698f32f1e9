"""Does it help to begin where the network of Instant ended? Presets from nothing, and from its change in fewer steps.

    python -m faceprotect_core.evaluation.starts --images FACES --out starts.json [--people 20] [--presets balanced]

FACES holds photos <identity>_a.jpg and <identity>_b.jpg of one face each, of whom the training identities are taken:
presets are chosen on these. First versions of photo a, each taken back to the preset's margin; the judge, which is in
no loss, compares with photo b. For diffusion the network's picture is inverted into the latent. Resumable; prints a
Markdown table.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..faces import FaceCrop
from ..instant.protect import load_protector_network
from ..method.inversion import ddim_invert
from ..method.schedule import DDIMSchedule
from ..photos.batch import Aim, Changed, CropProtector
from ..photos.settings import BUILT_IN_JUDGE, DIFFUSION
from ..pixels import as_saved
from ..surrogates import FRSurrogate, load_surrogate
from ..verify.quality import ciede2000, psnr, ssim
from ..verify.visibility import FACE
from .people import command, split_identities
from .recognition import FARS
from .training.crops import embed_crops, read_crops, with_both_photos
from .training.ways import aim_of, by_network

log = logging.getLogger("faceprotect.evaluation.starts")
PRESET_NAMES = ("fast", "balanced", "strong", "diffusion, fast", "diffusion, balanced", "diffusion, strong")
PARTS = (1 / 3, 1 / 2, 2 / 3)  # of the preset's iterations, from the network's change
COLUMNS = ("PSNR", "SSIM", "CIEDE2000", "judge past its threshold", "seconds of a core")


def rows_of(presets: Sequence[str]) -> dict[str, tuple[str, int, bool]]:
    """Row -> its preset, how many iterations, and whether the network begins."""
    found = {}
    for preset in presets:
        whole = aim_of(preset).settings.method.iterations
        found[f"{preset}: {whole}"] = (preset, whole, False)
        for part in PARTS:
            count = round(part * whole)
            found[f"{preset}: the network, then {count}"] = (preset, count, True)
    return found


def protected(crop: FaceCrop, preset: str, iterations: int, by_the_network: bool) -> Changed:
    """The first version."""
    aim = aim_of(preset)
    aim = replace(aim, settings=aim.settings.tuned(iterations=iterations))
    (outcome,) = CropProtector(aim)([crop], starts=[start_for(aim, crop)] if by_the_network else None)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def start_for(aim: Aim, crop: FaceCrop) -> Tensor:
    """The value of the variable that is the network's change: a plane of lightness, or the noisy latent."""
    (looked,) = by_network(load_protector_network())([crop])
    assert isinstance(looked, Changed)
    if aim.settings.way != DIFFUSION:
        return looked.value
    denoiser, codec, context = aim.diffusion
    latent, knobs = codec.encode(looked.image[None]), aim.knobs
    schedule = DDIMSchedule.scaled_linear()
    return ddim_invert(denoiser, latent, context, schedule, knobs.depth, knobs.pairing).latents[-1][0]


@torch.no_grad()
def numbers(judge: FRSurrogate, crop: FaceCrop, image: Tensor, other: Tensor) -> dict[str, float]:
    """What is seen of a change [3, h, w], and what the judge says about the other photo, of which it has `other`."""
    image, photo = as_saved(image[None]), crop.image[None]
    seen, _ = ciede2000(photo, image, crop.mask[None] > FACE)
    embedding = embed_crops({judge.name: judge}, [crop], image)[judge.name]
    past = {far: judge.margin(embedding, other, far).item() for far in FARS[:2]}
    return {"PSNR": psnr(photo, image).item(), "SSIM": ssim(photo, image).item(), "CIEDE2000": float(seen)} | {
        "judge past its threshold": past[FARS[1]],
        **{f"matched at FAR {far}": float(margin <= 0) for far, margin in past.items()},
    }


def measured(
    crops: Sequence[FaceCrop], again: Sequence[FaceCrop], presets: Sequence[str], out: Path
) -> dict[str, list[dict[str, float]]]:
    """Row -> the numbers of each person; `out` keeps them. crops, again: two photos of each."""
    judge = load_surrogate(BUILT_IN_JUDGE)
    others = embed_crops({judge.name: judge}, again)[judge.name]
    results = json.loads(out.read_text()) if out.exists() else {}
    for row, wanted in rows_of(presets).items():
        people = results.setdefault(row, [])
        for number in range(len(people), len(crops)):
            begun = time.process_time()
            changed = protected(crops[number], *wanted)
            seconds = time.process_time() - begun
            said = numbers(judge, crops[number], changed.image, others[number : number + 1])
            people.append(said | {"seconds of a core": seconds})
            out.write_text(json.dumps(results, indent=1))
            log.info("%s, %d of %d: %.0f s", row, number + 1, len(crops), seconds)
    return {row: results[row] for row in rows_of(presets)}


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: means over the people."""
    lines = [f"| iterations | {' | '.join(COLUMNS)} | matched at FAR {FARS[0]}, {FARS[1]} |", "| --- " * 7 + "|"]
    for row, people in results.items():
        mean = {name: sum(one[name] for one in people) / len(people) for name in people[0]}
        said = [f"{mean[name]:.{digits}f}" for name, digits in zip(COLUMNS, (1, 4, 2, 3, 1), strict=True)]
        matched = ", ".join(f"{round(mean[f'matched at FAR {far}'] * len(people))}" for far in FARS[:2])
        lines.append(f"| {row} | {' | '.join(said)} | {matched} of {len(people)} |")
    return "\n".join(lines)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON with the numbers of every person")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--presets", nargs="+", choices=PRESET_NAMES, default=PRESET_NAMES)
    args = parser.parse_args()
    paths = split_identities(args.images)[0]
    crops, again = with_both_photos(read_crops(islice(paths, 3 * args.people)))
    log.info("%s", table(measured(crops[: args.people], again[: args.people], args.presets, args.out)))


if __name__ == "__main__":
    main()

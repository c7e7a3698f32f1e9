"""How far past the thresholds should a preset go? Its first versions, scaled until they are so far past.

    python -m faceprotect_core.evaluation.margins --images FACES --out margins.json --preset instant
    python -m faceprotect_core.evaluation.margins --images FACES --out margins.json --preset balanced \\
        --training --people 20

FACES holds photos <identity>_a.jpg and <identity>_b.jpg of one face each. Photo a of the held-out people, or of
those of the training identities, is changed by light and shade; then each change is scaled until the least-fooled
surrogate is so far past its threshold. The judge, which is in no loss, compares with photo b. Resumable; prints a
Markdown table.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..faces import FaceCrop
from ..faces.crop import cropped_images, cropped_masks
from ..instant.protect import look
from ..method.light_and_shade import protect_by_light
from ..method.restraint.least_change import least_change
from ..photos.settings import LIGHT, PRESETS
from ..pixels import as_saved
from .first_versions import Numbers, Panel, count, mean, panel_of
from .people import command, split_identities
from .training.ways import aim_of

log = logging.getLogger("faceprotect.evaluation.margins")
MARGINS = (-0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
HEADER = (
    "| margin | reached | PSNR (worst) | SSIM | judge matches at FAR 0.1, 0.01 | all four past on the photo itself |"
)


def scaled(crop: FaceCrop, preset: str, margins: Sequence[float]) -> dict[float, tuple[Tensor, bool]]:
    """Margin -> the first version [3, h, w] that is just as far past, and whether it could be made so."""
    aim = aim_of(preset)
    photo, mask, objective = cropped_images([crop]), cropped_masks([crop]), aim.objective([crop])
    if aim.settings.network:
        lit = look(photo, mask, objective, aim.settings.light)
    else:
        lit = protect_by_light(photo, objective, aim.settings.light, mask=mask)
    found = {}
    for margin in margins:
        objective.margin = margin
        images, _ = least_change(photo, lit.rendering.image, objective)
        found[margin] = images[0], bool(objective.reached(as_saved(images)))
    return found


def measured(panel: Panel, preset: str, margins: Sequence[float], out: Path) -> dict[str, list[Numbers]]:
    """Margin -> the numbers of each person of the panel; `out` keeps them."""

    def person(number: int) -> dict[str, Numbers]:
        versions = scaled(panel.crops[number], preset, margins)
        return {
            str(margin): panel.numbers(number, image) | {"reached": float(reached)}
            for margin, (image, reached) in versions.items()
        }

    people = panel.kept(out, f"{preset} at {margins}", aim_of(preset).settings, person)
    return {str(margin): [one[str(margin)] for one in people] for margin in margins}


def table(results: Mapping[str, Sequence[Numbers]]) -> str:
    """Markdown."""
    lines = [HEADER, "| --- " * (HEADER.count("|") - 1) + "|"]
    for margin, people in results.items():
        decibels = f"{mean(people, 'PSNR'):.1f} ({min(one['PSNR'] for one in people):.1f})"
        matched = ", ".join(f"{mean(people, name):.0%}" for name in ("matched, lenient", "matched, strict"))
        said = f"{count(people, 'reached')} of {len(people)} | {decibels} | {mean(people, 'SSIM'):.3f} | {matched}"
        lines.append(f"| {margin} | {said} | {count(people, 'all on the photo itself')} |")
    return "\n".join(lines)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON with the numbers of every person")
    parser.add_argument("--preset", choices=PRESETS[LIGHT], default="balanced")
    parser.add_argument("--margins", nargs="+", type=float, default=MARGINS)
    parser.add_argument("--training", action="store_true", help="people of the training identities")
    parser.add_argument("--people", type=int, default=45)
    args = parser.parse_args()
    paths = split_identities(args.images)[0 if args.training else 1]
    log.info("%s", table(measured(panel_of(paths, args.people), args.preset, args.margins, args.out)))


if __name__ == "__main__":
    main()

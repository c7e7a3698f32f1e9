"""Does it help to begin where the network of Instant ended? Presets from nothing, and from its change in fewer steps.

    python -m faceprotect_core.evaluation.starts --images FACES --out starts.json [--people 20] [--presets balanced]

FACES holds photos <identity>_a.jpg and <identity>_b.jpg of one face each, of whom the training identities are taken:
presets are chosen on these. First versions of photo a, each taken back to the preset's margin; the judge, which is in
no loss, compares with photo b. For diffusion the network's picture is inverted into the latent. Resumable; prints a
Markdown table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..instant.protect import load_protector_network
from ..photos.batch import Aim, CropProtector
from ..photos.settings import LIGHT, PRESETS
from .first_versions import Numbers, Panel, count, mean, panel_of
from .people import command, split_identities
from .training.ways import BY_DIFFUSION, aim_of

log = logging.getLogger("faceprotect.evaluation.starts")
PRESET_NAMES = (*(name for name, one in PRESETS[LIGHT].items() if not one.network), *BY_DIFFUSION)
PARTS = (1 / 3, 1 / 2, 2 / 3)  # of the preset's iterations, from the network's change
COLUMNS = {"PSNR": 1, "SSIM": 4, "CIEDE2000": 2, "past": 3, "seconds": 1}  # and their digits
HEADER = (
    "| iterations | PSNR | SSIM | CIEDE2000 | judge past its threshold | s of a core | it matches at FAR 0.1, 0.01 |"
)


def rows_of(presets: Sequence[str]) -> dict[str, Aim]:
    """Row -> how it is protected: as much as the preset from nothing, and parts of it from the network's change."""
    load_protector_network()  # without it all rows would begin at the photo
    found = {}
    for preset in presets:
        aim = aim_of(preset)
        settings = replace(aim.settings, head_start=False)
        whole = settings.method.iterations
        found[f"{preset}: {whole}"] = replace(aim, settings=settings)
        for few in (round(part * whole) for part in PARTS):
            begun = replace(settings, head_start=True).tuned(iterations=2 * few)  # of which it takes half
            found[f"{preset}: the network, then {few}"] = replace(aim, settings=begun)
    return found


def measured(panel: Panel, presets: Sequence[str], out: Path) -> dict[str, list[Numbers]]:
    """Row -> the numbers of each person of the panel; `out` keeps them."""
    found = {}
    for row, aim in rows_of(presets).items():
        protector = CropProtector(aim)

        def person(number: int, protector: CropProtector = protector) -> Numbers:
            begun = time.process_time()
            (changed,) = protector([panel.crops[number]])
            seconds = time.process_time() - begun
            if isinstance(changed, Exception):
                raise changed
            return panel.numbers(number, changed.image) | {"seconds": seconds}

        found[row] = panel.kept(out, row, aim.settings, person)
    return found


def table(results: Mapping[str, Sequence[Numbers]]) -> str:
    """Markdown: means over the people; how many the judge matches."""
    lines = [HEADER, "| --- " * (HEADER.count("|") - 1) + "|"]
    for row, people in results.items():
        said = [f"{mean(people, name):.{digits}f}" for name, digits in COLUMNS.items()]
        matched = f"{count(people, 'matched, lenient')}, {count(people, 'matched, strict')} of {len(people)}"
        lines.append(f"| {row} | {' | '.join(said)} | {matched} |")
    return "\n".join(lines)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON with the numbers of every person")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--presets", nargs="+", choices=PRESET_NAMES, default=PRESET_NAMES)
    args = parser.parse_args()
    paths = split_identities(args.images)[0]
    log.info("%s", table(measured(panel_of(paths, args.people), args.presets, args.out)))


if __name__ == "__main__":
    main()

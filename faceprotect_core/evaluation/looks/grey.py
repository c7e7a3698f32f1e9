"""Grey photos stay grey, and nothing changes beyond the face: people's photos through the command and through the node.

    python -m faceprotect_core.evaluation.looks.grey --images FACES [--people 20] [--preset fast]

Photo a of the people whom the demo model was not trained on is made grey, and is written once with one channel and once
with three equal ones. The command's road is `protect_folder`, the node's `protect_photo`. Prints a Markdown table.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from torch import Tensor

from ...faces import crop_face, find_face, load_detector
from ...folders.protector import Choice, load_protector
from ...folders.run import protect_folder
from ...photos.photo import protect_photo
from ...photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, LIGHT, PRESETS
from ...pixels import as_saved, from_pixels
from ...surrogates import load_surrogate
from ..people import command, pairs_among, split_identities
from .edge import edge_of

log = logging.getLogger("faceprotect.evaluation.looks")
MODES = ("L", "RGB")


class Count:
    """Of one road: what came out, and in what state."""

    def __init__(self, detector):
        self.detector = detector
        self.photos = self.grey = self.equal_outside = 0
        self.farthest = 0.0

    def add(self, photo: Tensor, finished: Tensor, grey: bool) -> None:
        """[3, H, W] twice, of 8 bits a channel."""
        face = find_face(photo, self.detector)
        edge = edge_of(photo, finished, face, crop_face(photo, face).photo_pixels_per_pixel)
        self.photos, self.grey = self.photos + 1, self.grey + grey
        self.equal_outside += edge.outside == 0
        self.farthest = max(self.farthest, edge.farthest)

    def row(self, name: str, tried: int) -> str:
        """Of the table."""
        cells = name, f"{self.photos} of {tried}", self.grey, self.equal_outside, f"{self.farthest:.1f}"
        return f"| {' | '.join(map(str, cells))} |"


HEADER = (
    "| road | came out | grey still | bit-equal outside the face | farthest, pixels of the crop |\n"
    "| --- | --- | --- | --- | --- |"
)


def by_command(paths: list[Path], mode: str, preset: str, count: Count) -> None:
    """Grey files of that mode through a folder's run; a file counts as grey with the mode that it came in."""
    with TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        for path in paths:
            _grey(path).convert(mode).save(source / f"{path.stem}.png")
        protect_folder(source, out, load_protector(Choice(preset=preset)))
        for written in sorted(out.glob("*.png")):
            finished, photo = Image.open(written), Image.open(source / written.name)
            levels = np.asarray(finished.convert("RGB"))
            grey = finished.mode == "L" or (mode == "RGB" and (levels == levels[..., :1]).all())
            count.add(from_pixels(np.asarray(photo.convert("RGB"))), from_pixels(levels), bool(grey))


def by_node(paths: list[Path], preset: str, count: Count) -> None:
    """What Protect Photo calls, on images with three equal channels, as ComfyUI has them."""
    used, judge = [load_surrogate(name) for name in BUILT_IN_SURROGATES], load_surrogate(BUILT_IN_JUDGE)
    for path in paths:
        photo = from_pixels(np.asarray(_grey(path).convert("RGB")))
        result = protect_photo(photo, used, PRESETS[LIGHT][preset], judge=judge, detector=count.detector)
        count.add(photo, as_saved(result.image), bool((result.image == result.image[:1]).all()))


def _grey(path: Path) -> Image.Image:
    return Image.open(path).convert("L")


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--people", type=int, default=20, help="the first so many of those held out (20)")
    parser.add_argument("--preset", choices=[*PRESETS[LIGHT]], default="fast")
    args = parser.parse_args()
    _, held_out = split_identities(args.images)
    paths, detector = [path for path, _ in pairs_among(held_out)[: args.people]], load_detector()
    log.info("%s", HEADER)
    count = Count(detector)
    by_node(paths, args.preset, count)
    log.info("%s", count.row("Protect Photo", len(paths)))
    for mode in MODES:
        count = Count(detector)
        by_command(paths, mode, args.preset, count)
        log.info("%s", count.row(f"command, {mode}", len(paths)))


if __name__ == "__main__":
    main()

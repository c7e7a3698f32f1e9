"""Ten composed photos, protected: a sheet to look at, and what of them changed where.

    python -m faceprotect_core.evaluation.looks.sheet docs/looks.jpg [--pictures DIR] [--preset balanced]

Each photo: before, after, five times the change (grey: bit-equal), and the steepest place of its edge before and after.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...faces import load_detector
from ...photos.photo import PhotoResult, protect_photo
from ...photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, LIGHT, PRESETS
from ...pixels import as_saved, to_pixels
from ...surrogates import load_surrogate
from ...verify.visibility import visibility_of
from ..people import parser_of
from .composed import COMPOSITIONS, composed
from .edge import Edge, edge_of

log = logging.getLogger("faceprotect.evaluation.looks")
TILE, ACROSS, QUALITY = 152, 2, 82  # pixels of a picture; photos in a row; of the JPEG
AMPLIFIED = 5
HEAD, DETAIL = 1.6, 0.25  # sides of what is shown, in sides of the face's box


def tiles(photo: Tensor, finished: Tensor, result: PhotoResult, edge: Edge) -> list[Image.Image]:
    """The five pictures of one photo."""
    left, top, right, bottom = result.crops[0].photo_face.box_xyxy
    side, middle = right - left, ((left + right) / 2, (top + bottom) / 2)
    change = 0.5 + AMPLIFIED * (finished - photo)
    head = [_cut(one, middle, HEAD * side, Image.Resampling.LANCZOS) for one in (photo, finished, change)]
    return head + [_cut(one, edge.place, DETAIL * side, Image.Resampling.NEAREST) for one in (photo, finished)]


def _cut(image: Tensor, middle: tuple[float, float], side: float, resampling: Image.Resampling) -> Image.Image:
    left, top = (round(value - side / 2) for value in middle)
    box = left, top, left + round(side), top + round(side)
    return Image.fromarray(to_pixels(image)).crop(box).resize((TILE, TILE), resampling)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="the sheet, a JPEG or PNG")
    parser.add_argument("--pictures", type=Path, help="folder for the photos at their own size, PNG")
    parser.add_argument("--preset", choices=[*PRESETS[LIGHT]], default="balanced")
    args = parser.parse_args()
    used, judge = [load_surrogate(name) for name in BUILT_IN_SURROGATES], load_surrogate(BUILT_IN_JUDGE)
    detector, settings = load_detector(), PRESETS[LIGHT][args.preset]
    rows = -(-len(COMPOSITIONS) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * 5 * TILE, rows * TILE), "white")
    log.info("| photo | protected | asked | not bit-equal outside | farthest | steepest | CIEDE2000, 95 % |")
    for number, (name, composition) in enumerate(COMPOSITIONS.items()):
        photo = composed(composition, seed=number)
        result = protect_photo(photo, used, settings, judge=judge, detector=detector)
        crop, finished = result.crops[0], as_saved(result.image)
        edge = edge_of(photo, finished, crop.photo_face, crop.photo_pixels_per_pixel)
        for place, tile in enumerate(tiles(photo, finished, result, edge)):
            sheet.paste(tile, ((number % ACROSS * 5 + place) * TILE, number // ACROSS * TILE))
        seen = visibility_of(photo, finished, crop.photo_face)
        verdict, numbers = result.faces[0], f"{edge.farthest:.1f} | {edge.steepest:.1f}"
        cells = name, verdict.protected, verdict.asked, edge.outside, numbers
        log.info("| %s |", " | ".join(map(str, (*cells, f"{seen.ciede2000:.1f}, {seen.ciede2000_95:.1f}"))))
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            both = torch.cat([photo, finished], 2)
            Image.fromarray(to_pixels(both)).save(args.pictures / f"{number}_{name.replace(' ', '_')}.png")
    sheet.save(args.out, quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()

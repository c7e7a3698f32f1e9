"""What the report's pictures are drawn with: a sheet of fixed width that grows downwards, text, hatching. PIL only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..pixels import from_pixels, to_pixels

WIDTH, MARGIN = 1200, 28
TALLEST = 20_000  # pixels
INK, FAINT, PAPER, RULE = (28, 32, 38), (108, 116, 126), (255, 255, 255), (214, 218, 224)
RED, GREEN, GREY = (190, 48, 44), (38, 132, 72), (120, 126, 134)
PALE_RED, PALE_GREEN = (253, 233, 231), (231, 245, 235)
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


class Sheet:
    """White paper; `y` is where the next part begins."""

    def __init__(self):
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (WIDTH, TALLEST), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.y: float = MARGIN

    def text(self, at: tuple[float, float], text: str, size: int = 17, fill: Colour = INK, anchor: str = "la") -> None:
        """One line; anchor as in Pillow, "la" for the left top corner."""
        self.pen.text(at, text, font=font(size), fill=fill, anchor=anchor)

    def paragraph(self, text: str, size: int = 17, fill: Colour = INK) -> None:
        """Wrapped lines, from `y` on."""
        for line in wrapped(text, size, WIDTH - 2 * MARGIN):
            self.text((MARGIN, self.y), line, size, fill)
            self.y += round(size * 1.4)

    def picture(self, box: Box, picture: Tensor) -> None:
        """[3, H, W] in [0, 1], resized to the box."""
        from PIL import Image

        size = (round(box[2] - box[0]), round(box[3] - box[1]))
        pixels = Image.fromarray(to_pixels(picture)).resize(size, Image.Resampling.LANCZOS)
        self.image.paste(pixels, (round(box[0]), round(box[1])))

    def bar(self, box: Box, fill: Colour, hatched: bool = False) -> None:
        """A filled rectangle; hatched: only its outline and slanted lines."""
        if box[2] - box[0] < 1:
            return
        if not hatched:
            self.pen.rectangle(box, fill=fill)
            return
        left, top, right, bottom = box
        height = bottom - top
        for start in np.arange(left - height, right, 7):
            x0, x1 = max(start, left), min(start + height, right)
            if x1 > x0:
                self.pen.line((x0, bottom - (x0 - start), x1, bottom - (x1 - start)), fill=fill, width=1)
        self.pen.rectangle(box, outline=fill)

    def rule(self) -> None:
        """A thin line across, and a gap."""
        self.pen.line((MARGIN, self.y, WIDTH - MARGIN, self.y), fill=RULE)
        self.y += 14

    def finished(self) -> Tensor:
        """[3, H, W] in [0, 1], as high as what was drawn."""
        sheet = self.image.crop((0, 0, WIDTH, min(TALLEST, round(self.y) + MARGIN)))
        return from_pixels(np.array(sheet))


def font(size: int):
    """Pillow's own typeface."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def elided(text: str, size: int, width: float) -> str:
    """The text, or as much of its beginning and end as fits into so many pixels."""
    face = font(size)
    if face.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and face.getlength(_middle_out(text, kept)) > width:
        kept -= 1
    return _middle_out(text, kept)


def wrapped(text: str, size: int, width: float) -> Sequence[str]:
    """Lines of at most so many pixels; a word that is too long is cut in its middle."""
    face, lines = font(size), [""]
    for word in text.split():
        word = elided(word, size, width)
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]


def blended(one: Colour, other: Colour, share: float) -> Colour:
    """Between two colours; share 0 is the first."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _middle_out(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"

"""A photo as its file has it, and the formats of photo files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

READABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
WAY_OUT = "export the photo as JPEG or PNG"
# TIFF tags, which EXIF's are too.
ORIENTATION, BITS_PER_SAMPLE, SAMPLE_FORMAT, PLANAR, PHOTOMETRIC = 274, 258, 339, 284, 262
SOFTWARE, PNG_SOFTWARE = 305, "Software"  # EXIF's and TIFF's tag; the keyword of PNG's text
MARK = "FaceProtect"  # what it says in every photo that was protected: the same in all, nothing about anybody


@dataclass(frozen=True, eq=False)
class PhotoFile:
    """A photo as read from a file; made by `of` where it may have an alpha.

    Args:
        image: [3, H, W] float32 in [0, 1], upright, as it is seen: over white where it is transparent.
        alpha: [1, H, W] float32 in [0, 1], or None.
        icc_profile: of RGB colours, or None for sRGB.
        bits: 8 or 16 per channel.
        format: PIL's name, such as "JPEG".
        exif: as in the file, with the orientation that `image` no longer has; or None.
        colours: [3, H, W], what `alpha` is applied to, white where it is nearly 0: what was erased is gone. Or None.
        grey: the file has one channel of colour, and is written so again.
        notes: what of the file could not be used, in sentences.
    """

    image: Tensor
    alpha: Tensor | None = None
    icc_profile: bytes | None = None
    bits: int = 8
    format: str = "PNG"
    exif: bytes | None = None
    colours: Tensor | None = None
    grey: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, colours: Tensor, alpha: Tensor | None, **others: Any) -> PhotoFile:
        """Of colours [3, H, W], under an alpha [1, H, W] if there is one. others: the other fields."""
        if alpha is None:
            return cls(colours, **others)
        colours = erased(colours, alpha)
        return cls(over_white(colours, alpha), alpha, colours=colours, **others)


HIDES = 8 / 255  # of an alpha: of what is behind less, at most 7 of 255 levels are seen on white


def over_white(colours: Tensor, alpha: Tensor) -> Tensor:
    """What is seen of colours [..., 3, H, W] with an alpha [..., 1, H, W], both in [0, 1], on a white page."""
    return torch.where(alpha == 1, colours, colours * alpha + (1 - alpha))


def erased(colours: Tensor, alpha: Tensor) -> Tensor:
    """The colours [..., 3, H, W], white where alpha [..., 1, H, W] hides them: unseen, but a file would keep them."""
    return torch.where(alpha < HIDES, torch.ones_like(colours), colours)


def under_alpha(image: Tensor, before: Tensor, colours: Tensor, alpha: Tensor) -> Tensor:
    """The colours that look like `image` [..., 3, H, W] through an alpha, where it differs from what was seen before.

    before: over_white(colours, alpha). Where `image` has not changed the colours are those given, bit-equal.
    """
    changed = ((image - (1 - alpha)) / alpha.clamp_min(1e-6)).clamp(0, 1)
    return erased(torch.where(image == before, colours, changed), alpha)

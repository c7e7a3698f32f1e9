"""A photo as its file has it, and the formats of photo files."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

READABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
WAY_OUT = "export the photo as JPEG or PNG"
# TIFF tags, which EXIF's are too.
ORIENTATION, BITS_PER_SAMPLE, SAMPLE_FORMAT, PLANAR, PHOTOMETRIC = 274, 258, 339, 284, 262


@dataclass(frozen=True, eq=False)
class PhotoFile:
    """A photo as read from a file.

    Args:
        image: [3, H, W] float32 in [0, 1], upright.
        alpha: [1, H, W] float32 in [0, 1], or None.
        icc_profile: of RGB colours, or None for sRGB.
        bits: 8 or 16 per channel.
        format: PIL's name, such as "JPEG".
        exif: as in the file, with the orientation that `image` no longer has; or None.
    """

    image: Tensor
    alpha: Tensor | None = None
    icc_profile: bytes | None = None
    bits: int = 8
    format: str = "PNG"
    exif: bytes | None = None

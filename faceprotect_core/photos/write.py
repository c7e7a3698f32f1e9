"""Photos are written back: all of a file or nothing, from bare pixels, with what is named here and nothing else.

A protected photo must not carry its old face along: embedded thumbnails, MakerNotes, XMP and Photoshop resources may
hold one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..checks import require, require_finite
from ..files import replacing, write_and_flush
from .encode import clean_exif, encode_photo
from .file import WRITABLE, PhotoFile

if TYPE_CHECKING:
    from PIL import Image

LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # pixels that the format, or its library, can hold


def write_photo(path: Path | str, image: Tensor, like: PhotoFile | None = None, **options: Any) -> tuple[str, ...]:
    """Writes a photo under a temporary name first: all of it, or nothing. Everything else: see `encode_file`.

    Returns:
        What could not be kept, in sentences.
    """
    encoded = encode_file(path, image, like, **options)
    write_file(path, encoded)
    return encoded.notes


@dataclass(frozen=True)
class Encoded:
    """The bytes of a photo's file, and what could not be kept, in sentences."""

    data: bytes
    notes: tuple[str, ...]


def encode_file(
    path: Path | str,
    image: Tensor,
    like: PhotoFile | None = None,
    *,
    keep_metadata: bool = False,
    quality: int = 95,
    mark: bool = True,
) -> Encoded:
    """A photo in the format of the path's suffix; nothing is written.

    Kept from the photo it was made of: bits per channel (PNG, TIFF), colour profile, grey (not in WebP), alpha (not in
    JPEG, where what was transparent is white). What an alpha of 0 hides is white in every format. WebP is lossless at
    quality 100. All metadata is left out: EXIF, GPS, XMP, IPTC, comments, thumbnails. The file is marked as protected
    ("Software: FaceProtect"), so that nobody takes it for an original.

    Args:
        image: [3, H, W] in [0, 1]; values outside are clamped.
        like: the photo that the image was made of; None writes 8 bits without profile and alpha.
        keep_metadata: keeps EXIF, GPS included, without MakerNote and thumbnail, which may show the unprotected face.
        quality: 1 to 100, of JPEG (always 4:4:4) and WebP.
        mark: False leaves the mark out; `is_marked` does not know such a file again.

    Raises:
        ProtectionError: a suffix that cannot be written, NaN, a size other than the source's.
    """
    path, like = Path(path), like or PhotoFile(image)
    _require_writable(path, image, like, quality)
    exif, notes = _kept_exif(like.exif, image) if keep_metadata and like.exif else (None, ())
    return Encoded(encode_photo(WRITABLE[path.suffix.lower()], image, like, exif, quality, mark), notes)


def write_file(path: Path | str, encoded: Encoded, check: Callable[[Path], None] | None = None) -> None:
    """All of the bytes, or nothing. check: called with the temporary file; when it raises, nothing is written."""
    with replacing(Path(path)) as temporary:
        write_and_flush(temporary, encoded.data)
        if check:
            check(temporary)


def _kept_exif(exif: bytes, image: Tensor) -> tuple[Image.Exif | None, tuple[str, ...]]:
    try:
        kept = clean_exif(exif, image)
        kept.tobytes()
        return kept, ()
    except Exception:  # struct.error, TypeError, ValueError, ...: whatever a camera wrote
        return None, ("Its EXIF data cannot be written again and is left out.",)


def _require_writable(path: Path, image: Tensor, like: PhotoFile, quality: int) -> None:
    require(
        path.suffix.lower() in WRITABLE,
        f"photos are not written as {path.suffix or 'files without a suffix'} ({path.name!r})",
        f"use one of {', '.join(WRITABLE)}",
    )
    require(
        image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0 and image.shape == like.image.shape,
        f"the image to be written is {list(image.shape)}, the photo it was made of {list(like.image.shape)}",
        "write an image [3, H, W] of the photo's size",
    )
    longest = LONGEST_SIDE.get(WRITABLE[path.suffix.lower()])
    require(
        longest is None or max(image.shape) <= longest,
        f"{path.name!r} is {image.shape[2]} x {image.shape[1]} pixels, the format holds {longest} at most",
        "write it as PNG",
    )
    require(
        path.suffix.lower() not in (".tif", ".tiff") or like.alpha is None or like.bits == 8,
        f"{path.name!r} would be a TIFF of 16 bits with alpha, which could not be read back and judged",
        "write it as PNG",
    )
    require(1 <= quality <= 100, f"the quality is {quality}", "use 1 to 100; 95 is the default")
    require_finite(image, f"the image to be written as {path.name!r}", "protect the photo again in float32")

"""A photo's pixels, and what may stay with them, as the bytes of a PNG, JPEG, WebP or TIFF file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..pixels import from_pixels, to_pixels
from .file import (
    BITS_PER_SAMPLE,
    MARK,
    ORIENTATION,
    PHOTOMETRIC,
    PLANAR,
    PNG_SOFTWARE,
    SAMPLE_FORMAT,
    SOFTWARE,
    PhotoFile,
    under_alpha,
)

if TYPE_CHECKING:
    from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by the number of channels
STRIP_BYTES = 1 << 20
# TIFF tags that only the writer needs.
ICC_PROFILE, EXTRA_SAMPLES, COMPRESSION, STRIP_OFFSETS, STRIP_LENGTHS = 34675, 338, 259, 273, 279
EXIF_IFD, GPS_IFD, MAKER_NOTE = 0x8769, 0x8825, 0x927C
WIDTH_AND_HEIGHT = {0xA002: 2, 0xA003: 1}  # PixelXDimension, PixelYDimension -> axis of [3, H, W]
# Description, make, model, resolution, software, date, artist, copyright. What is not here is not kept: an unknown tag
# may be a preview.
KEPT_IFD0 = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x0213, 0x8298)
# Of the Exif IFD: MakerNote, the interoperability IFD, and where the subject is, which a turn would falsify.
DROPPED_EXIF = (MAKER_NOTE, 0xA005, 0x9214, 0xA214)
LONGEST_VALUE = 1024  # bytes: a longer EXIF value is no setting of the camera


def encode_photo(
    file_format: str, image: Tensor, like: PhotoFile, exif: Image.Exif | None, quality: int, mark: bool
) -> bytes:
    """The bytes of a file with that EXIF; see `encode_file`."""
    if mark and file_format != "PNG":
        exif = _marked(exif)
    deep = like.bits == 16 and file_format in ("PNG", "TIFF")
    planes = image.detach().cpu()
    if like.alpha is not None and like.colours is not None and file_format != "JPEG":
        alpha = like.alpha.cpu()
        planes = torch.cat([under_alpha(planes, like.image.cpu(), like.colours.cpu(), alpha), alpha])
    pixels = to_pixels(planes.float(), np.uint16 if deep else np.uint8)
    if like.grey and file_format != "WEBP" and (pixels[..., :1] == pixels[..., 1:3]).all():
        pixels = np.ascontiguousarray(np.delete(pixels, (1, 2), axis=2))
    if file_format == "TIFF":
        return _tiff(pixels, like.icc_profile, exif)
    if deep:
        return _png_of_16_bits(pixels, like.icc_profile, exif, mark)
    return _by_pil(file_format, pixels, like.icc_profile, exif, quality, mark)


def decode_jpeg(data: bytes) -> Tensor:
    """[3, H, W]: what a JPEG of `encode_photo` gives back."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as decoded:
        return from_pixels(np.asarray(decoded.convert("RGB")))


def _marked(exif: Image.Exif | None) -> Image.Exif:
    """The name of the camera's software gives way."""
    from PIL import Image

    exif = exif or Image.Exif()
    exif[SOFTWARE] = MARK
    return exif


def _by_pil(file_format: str, pixels: np.ndarray, profile: bytes | None, exif, quality: int, mark: bool) -> bytes:
    from PIL import Image, PngImagePlugin

    options: dict[str, Any] = {
        "PNG": {},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality, "lossless": quality == 100, "exact": True, "method": 4},
    }[file_format]
    if profile:
        options["icc_profile"] = profile
    if exif is not None:
        options["exif"] = exif.tobytes()
    if mark and file_format == "PNG":  # as text, which ComfyUI's mask editor keeps
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text(PNG_SOFTWARE, MARK)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def clean_exif(exif: bytes, image: Tensor) -> Image.Exif:
    """What `keep_metadata` keeps: known tags with short values, upright, with the size of `image` [3, H, W]."""
    from PIL import ExifTags, Image

    old, new = Image.Exif(), Image.Exif()
    old.load(exif)
    for tag in KEPT_IFD0:
        if tag in old and _is_short(old[tag]):
            new[tag] = old[tag]
    new[ORIENTATION] = 1
    for ifd, known in ((EXIF_IFD, ExifTags.TAGS), (GPS_IFD, ExifTags.GPSTAGS)):
        kept = {tag: value for tag, value in old.get_ifd(ifd).items() if tag in known and _is_short(value)}
        if ifd == EXIF_IFD:
            kept = {tag: value for tag, value in kept.items() if tag not in DROPPED_EXIF}
            kept |= {tag: image.shape[axis] for tag, axis in WIDTH_AND_HEIGHT.items() if tag in kept}
        if kept:
            new[ifd] = kept
    return new


def _is_short(value) -> bool:
    if isinstance(value, (bytes, str)):
        return len(value) <= LONGEST_VALUE
    return not isinstance(value, dict) and (not isinstance(value, tuple) or len(value) <= LONGEST_VALUE // 8)


def _png_of_16_bits(pixels: np.ndarray, profile: bytes | None, exif, mark: bool) -> bytes:
    """PNG of 16 bits (ISO/IEC 15948), which PIL does not write in colour; rows as differences to the one above."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    differences = rows.copy()
    differences[1:] -= rows[:-1]
    up_filter = np.full((height, 1), 2, np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    parts = [(b"IHDR", header)]
    if profile:
        parts.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    if exif is not None:
        parts.append((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    if mark:
        parts.append((b"tEXt", f"{PNG_SOFTWARE}\0{MARK}".encode()))
    parts.append((b"IDAT", zlib.compress(np.hstack([up_filter, differences]).tobytes(), 4)))
    return PNG_SIGNATURE + b"".join(_png_chunk(*part) for part in [*parts, (b"IEND", b"")])


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _tiff(pixels: np.ndarray, profile: bytes | None, exif) -> bytes:
    """Baseline TIFF 6.0: strips of deflate, with differences along the row. PIL writes no 16 bits and no EXIF."""
    from PIL import TiffImagePlugin, TiffTags

    height, width, channels = pixels.shape
    pixels = pixels.astype(pixels.dtype.newbyteorder("<"))
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    rows = max(1, STRIP_BYTES // differences[0].nbytes)
    strips = [zlib.compress(differences[top : top + rows].tobytes(), 4) for top in range(0, height, rows)]
    strips = [strip + b"\0" * (len(strip) % 2) for strip in strips]
    layout = {256: width, 257: height, BITS_PER_SAMPLE: (pixels.dtype.itemsize * 8,) * channels, COMPRESSION: 8}
    layout |= {PHOTOMETRIC: 2 if channels > 2 else 1, ORIENTATION: 1, 277: channels, 278: rows, PLANAR: 1, 317: 2}
    layout |= {SAMPLE_FORMAT: (1,) * channels} | ({EXTRA_SAMPLES: (2,)} if channels in (2, 4) else {})
    ifd = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    for tag, value in (dict(exif or {}) | layout).items():
        ifd[tag] = value
    if profile:
        ifd.tagtype[ICC_PROFILE] = TiffTags.UNDEFINED
        ifd[ICC_PROFILE] = profile
    ifd.tagtype[STRIP_OFFSETS] = ifd.tagtype[STRIP_LENGTHS] = TiffTags.LONG
    lengths = [len(strip) for strip in strips]
    ifd[STRIP_OFFSETS] = tuple(sum(lengths[:index]) for index in range(len(strips)))  # tobytes() adds the IFD's end
    ifd[STRIP_LENGTHS] = tuple(lengths)
    return b"II*\0\x08\0\0\0" + ifd.tobytes(8) + b"".join(strips)

"""Photo files for the tests, some of them written without the code under test."""

import struct
import zlib

import numpy as np
import tifffile
import torch
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RANDOM = np.random.default_rng(7)


def pixels(height: int = 20, width: int = 30, channels: int = 3, dtype=np.uint8) -> np.ndarray:
    return RANDOM.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype=dtype)


def saved(path, array: np.ndarray, **options):
    Image.fromarray(array).save(path, **options)
    return path


def as_bytes(planes: torch.Tensor, top: int = 255) -> np.ndarray:
    return planes.mul(top).round().numpy().astype(np.uint8 if top == 255 else np.uint16).transpose(1, 2, 0)


def png_16(array: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits, written without the code under test."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff_16(path, array: np.ndarray, **options):
    tifffile.imwrite(path, array, **options)
    return path

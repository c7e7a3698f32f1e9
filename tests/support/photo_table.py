"""A table of photo files: format x mode x alpha x profile x EXIF x size x suffix, and what must come out of each."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from photo_files import SRGB, chunk, png_16

PORTRAIT = skimage.data.astronaut()[10:200, 140:300]  # one face; taller than wide, so that a turn shows
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
PROFILES = {"srgb": SRGB, "cut short": SRGB[:300], "of grey": GREY_PROFILE}
# What undoes each orientation, for numpy's [H, W, C].
UNDONE: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")


@dataclass(frozen=True)
class PhotoCase:
    """A file that is written, or one that must be refused.

    Args:
        name: of the file; its suffix may lie.
        format: PIL's. mode: PIL's, or "RGB;16". size: height and width of the upright picture, a part of the portrait.
        orientation: EXIF's. profile: one of PROFILES.
        damage: what is done to the bytes; the photo must be refused then.
    """

    name: str
    format: str = "PNG"
    mode: str = "RGB"
    orientation: int = 1
    profile: str | None = None
    size: tuple[int, int] | None = None
    damage: Callable[[bytes], bytes] | None = None

    @property
    def has_alpha(self) -> bool:
        return self.mode in ("RGBA", "LA", "P transparent")

    @property
    def is_grey(self) -> bool:
        return self.mode in ("1", "L", "LA", "I;16")

    def upright(self) -> Image.Image:
        """The picture as it must be seen, in its mode; what is erased is a corner, and half of it is seen through."""
        height, width = self.size or PORTRAIT.shape[:2]
        picture = Image.fromarray(np.ascontiguousarray(PORTRAIT[:height, :width])).convert("RGBA")
        if self.has_alpha:
            alpha = np.full((height, width), 255, np.uint8)
            alpha[: height // 8], alpha[: height // 8, : width // 2] = 100, 0
            picture.putalpha(Image.fromarray(alpha))
        if self.mode in ("P", "P transparent"):
            return picture.convert("RGB").quantize(64)
        if self.mode in ("I;16", "RGB;16"):
            return picture.convert("L" if self.mode == "I;16" else "RGB")
        return picture.convert("RGB" if self.mode == "CMYK" else picture.mode).convert(self.mode)

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        data = self._bytes()
        path.write_bytes(self.damage(data) if self.damage else data)
        return path

    def _bytes(self) -> bytes:
        exif = Image.Exif()
        exif[0x0112], exif[0x010F], exif[0x0131] = self.orientation, "THE-CAMERA", "THE-PROGRAM"
        upright = self.upright()
        turned = Image.fromarray(np.ascontiguousarray(UNDONE[self.orientation](np.asarray(upright))))
        if upright.mode == "P":
            turned = Image.frombytes("P", turned.size, turned.tobytes())
            turned.putpalette(upright.getpalette())
        if self.mode == "CMYK":
            turned = Image.frombytes("CMYK", turned.size, turned.tobytes())
        if self.mode == "I;16":
            turned = Image.fromarray(np.asarray(turned).astype(np.uint16) * 257)
        if self.mode == "RGB;16":
            orientation = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
            return png_16(np.asarray(turned).astype(np.uint16) * 257, 2, orientation)
        options = {"exif": exif.tobytes()} if self.format not in ("BMP", "GIF") else {}
        options |= {"quality": 100, "subsampling": 0} if self.format == "JPEG" else {}
        options |= {"lossless": True, "exact": True} if self.format == "WEBP" else {}
        options |= {"transparency": 0} if self.mode == "P transparent" else {}
        options |= {"icc_profile": PROFILES[self.profile]} if self.profile else {}
        buffer = io.BytesIO()
        turned.save(buffer, self.format, **options)
        return buffer.getvalue()


MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "P transparent", "1", "I;16", "RGB;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("L", "P", "P transparent"),
}
SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}
OTHER_NAMES = {
    "JPEG": ("upper.JPG", "pc.jpeg", "old.jfif", "server.jpe", "pipe.pjpeg", "none", "unknown.photo", "lie.png"),
    "PNG": ("upper.PNG", "lie.jpg", "lie.webp", "dots.a.b.png", "ünï cödé.png"),
    "TIFF": ("long.tiff", "lie_too.jpg"),
}


def _animated(_: bytes) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (60, 80), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty.png": lambda data: b"",
    "text.jpg": lambda data: b"no photo",
    "cut.png": lambda data: data[: len(data) // 2],
    "heic.jpg": lambda data: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "zeros.webp": lambda data: bytes(500),
    "animated.png": _animated,
}


def table() -> Iterator[PhotoCase]:
    for file_format, modes in MODES.items():
        for mode in modes:
            name = mode.replace(";", "").replace(" ", "_")
            yield PhotoCase(f"{file_format}_{name}{SUFFIX[file_format]}", file_format, mode)
    for file_format in ("PNG", "JPEG", "WEBP", "TIFF"):
        suffix = SUFFIX[file_format]
        for orientation in range(2, 9):
            yield PhotoCase(f"turned_{file_format}_{orientation}{suffix}", file_format, orientation=orientation)
        for profile in PROFILES:
            name = f"profile_{file_format}_{profile.replace(' ', '_')}{suffix}"
            yield PhotoCase(name, file_format, profile=profile)
        for mode in MODES[file_format]:
            profile = "srgb" if mode in ("RGBA", "L") else None
            name = f"lying_{file_format}_{mode.replace(';', '').replace(' ', '_')}{suffix}"
            yield PhotoCase(name, file_format, mode, 6, profile)
    for file_format, names in OTHER_NAMES.items():
        yield from (PhotoCase(name, file_format) for name in names)
    yield from (PhotoCase(name, damage=damage) for name, damage in DAMAGES.items())


def small() -> Iterator[PhotoCase]:
    """Too small for a face."""
    for file_format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        for height, width in ((1, 1), (1, 90), (90, 1), (7, 5)):
            name = f"small_{file_format}_{height}_{width}{SUFFIX[file_format]}"
            yield PhotoCase(name, file_format, size=(height, width), orientation=1)

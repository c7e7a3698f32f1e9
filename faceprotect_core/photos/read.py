"""Photos as people have them are read: turned by EXIF, with colour profiles, alpha or 16 bits a channel."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checks import ProtectionError, require
from .file import BITS_PER_SAMPLE, ORIENTATION, PHOTOMETRIC, PLANAR, READABLE, SAMPLE_FORMAT, WAY_OUT, PhotoFile

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 200_000_000  # a phone's largest photo; more is refused as a decompression bomb


def read_photo(path: Path | str) -> PhotoFile:
    """Reads a photo: EXIF orientation applied, grey repeated, CMYK and grey profiles converted to sRGB.

    Of a phone's JPEG with several pictures (MPO) the first is read. AVIF of more than 8 bits is read with 8.

    Raises:
        ProtectionError: not a photo that can be read whole: damaged, animated, of several pages, too large, HEIC, raw,
            or a kind of 16 or 32 bits that cannot be read without loss.
    """
    path = Path(path)
    require(path.is_file(), f"there is no photo file {path.name!r}", "check the name")
    require(path.stat().st_size > 0, f"the photo {path.name!r} is empty (0 bytes)", "copy it from the camera again")
    with _readable(path) as image:
        _require_one_picture(image, path.name)
        exif = _exif_of(image)
        if _is_deep(image, path):
            return _read_deep(image, path, exif)
        return _read_8_bit(image, path.name, exif)


@contextmanager
def _readable(path: Path) -> Iterator[Image.Image]:
    """PIL's image of the file; whatever a damaged file makes PIL raise becomes an error that names a way out."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _pixel_limit(Image), Image.open(path, formats=_known(Image)) as image:
            yield image
    except ProtectionError:
        raise
    except UnidentifiedImageError as error:
        raise ProtectionError(
            f"{path.name!r} is not a photo in a format that can be read here (HEIC and raw files cannot, a renamed "
            f"file neither). How to fix: {WAY_OUT}."
        ) from error
    except Image.DecompressionBombError as error:
        raise ProtectionError(
            f"the photo {path.name!r} has more than {MAX_PIXELS // 1_000_000} million pixels. "
            "How to fix: reduce it first."
        ) from error
    except Exception as error:  # damaged files make decoders raise anything: struct.error, SyntaxError, IndexError
        raise ProtectionError(
            f"the photo {path.name!r} cannot be read, it is damaged or unusual ({_words(error, path)}). "
            f"How to fix: copy it from the camera again, or open it in another program and {WAY_OUT}."
        ) from error


def _known(pil) -> list[str]:
    pil.init()
    return [name for name in READABLE if name in pil.OPEN]


@contextmanager
def _pixel_limit(pil) -> Iterator[None]:
    """PIL warns above its limit and refuses twice as much; the limit is put back afterwards."""
    before = pil.MAX_IMAGE_PIXELS
    pil.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pil.MAX_IMAGE_PIXELS = before


def _words(error: Exception, path: Path) -> str:
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return words.replace(str(path), path.name)


def _require_one_picture(image: Image.Image, name: str) -> None:
    pictures = getattr(image, "n_frames", 1)
    require(
        pictures == 1 or image.format == "MPO",
        f"{name!r} is animated or has several pages ({pictures} pictures); only single photos are protected, and the "
        "other pictures would keep the face",
        "save the one picture that you want as PNG",
    )


def _exif_of(image: Image.Image) -> bytes | None:
    exif = image.getexif()
    return exif.tobytes() if len(exif) else None


def _orientation_of(image: Image.Image) -> int:
    return image.getexif().get(ORIENTATION, 1)


def _read_8_bit(image: Image.Image, name: str, exif: bytes | None) -> PhotoFile:
    from PIL import ImageOps

    image.load()
    turned = ImageOps.exif_transpose(image)
    alpha = None
    if turned.has_transparency_data:
        alpha = _planes(np.asarray(turned.convert("RGBA").getchannel("A"))[..., None])
    rgb, profile = _to_rgb(turned, image.info.get("icc_profile"), name)
    planes = _planes(np.asarray(rgb))
    return PhotoFile(planes, alpha, profile, 8, str(image.format), exif)


def _to_rgb(image: Image.Image, profile: bytes | None, name: str) -> tuple[Image.Image, bytes | None]:
    """The picture in RGB, and the profile that belongs to it: a grey or CMYK profile on RGB pixels would be wrong."""
    convertible = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
    require(image.mode in convertible, f"the photo {name!r} has pixels of the kind {image.mode!r}", WAY_OUT)
    profile = profile or b""
    space = profile[16:20]
    if image.mode == "CMYK" and space == b"CMYK":
        return _through_profile(image, profile), None
    if image.mode in ("L", "LA") and space == b"GRAY":
        return _through_profile(image.convert("L"), profile), None
    rgb = image.convert("RGBA").convert("RGB") if image.has_transparency_data else image.convert("RGB")
    return rgb, profile if space == b"RGB " else None


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
    assert converted is not None  # only what is converted in place is
    return converted


def _planes(pixels: np.ndarray) -> Tensor:
    """[H, W, C] of 8 or 16 bits -> [C, H, W] float32 in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    return torch.from_numpy(planes).div_(float(np.iinfo(pixels.dtype).max))


# ------------------------------------------------------------------------------------------------ 16 bits


def _is_deep(image: Image.Image, path: Path) -> bool:
    if image.format == "PNG":
        return _png_depth_and_colour(path)[0] == 16
    if image.format == "TIFF":
        return max(_tags(image).get(BITS_PER_SAMPLE, (1,))) > 8
    return image.mode.startswith("I;16")


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Of a TIFF."""
    from PIL import TiffImagePlugin

    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image.tag_v2


def _png_depth_and_colour(path: Path) -> tuple[int, int]:
    with open(path, "rb") as file:
        depth, colour = file.read(26)[24:]
    return depth, colour


def _read_deep(image: Image.Image, path: Path, exif: bytes | None) -> PhotoFile:
    """PIL reduces RGB of 16 bits to 8, so kornia_rs reads it."""
    orientation = _orientation_of(image)
    profile = image.info.get("icc_profile")
    kind = "mono" if image.mode.startswith("I;16") else "rgba" if image.mode == "RGBA" else "rgb"
    _require_deep_kind(image, kind, profile, path)
    pixels = _oriented(_deep_reader(str(image.format))(str(path), kind), orientation)
    require(
        pixels.dtype == np.uint16 and pixels.ndim == 3,
        f"the installed kornia_rs read {path.name!r} as {pixels.dtype} of shape {list(pixels.shape)}",
        "update it (pip install -U kornia_rs), or save the photo with 8 bits a channel",
    )
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    rgb = np.repeat(rgb, 3, axis=2) if rgb.shape[2] == 1 else rgb
    profile = profile if profile and profile[16:20] == b"RGB " else None
    return PhotoFile(_planes(rgb), _planes(alpha) if alpha.size else None, profile, 16, str(image.format), exif)


def _require_deep_kind(image: Image.Image, kind: str, profile: bytes | None, path: Path) -> None:
    """What kornia_rs reads without loss; a TIFF in separate planes it would read wrongly, without an error."""
    way_out = "save it as RGB of 8 bits, or as a PNG of 16 bits in RGB or RGBA"
    name = path.name
    grey_profile = kind == "mono" and profile and profile[16:20] == b"GRAY"
    require(not grey_profile, f"the photo {name!r} has 16-bit grey pixels with a profile of their own", way_out)
    if image.format == "PNG":
        grey_and_alpha = _png_depth_and_colour(path)[1] == 4
        require(not grey_and_alpha, f"the photo {name!r} is a PNG of 16 bits with grey and alpha", way_out)
        require("transparency" not in image.info, f"the photo {name!r} has 16 bits and a transparent colour", way_out)
        return
    tags = _tags(image)
    plain = (
        set(tags[BITS_PER_SAMPLE]) == {16}
        and set(tags.get(SAMPLE_FORMAT, (1,))) == {1}
        and (kind == "mono" or tags.get(PLANAR, 1) == 1)
        and kind != "rgba"
        and tags.get(PHOTOMETRIC) in ((1,) if kind == "mono" else (2,))
    )
    require(plain, f"the photo {name!r} is a TIFF of more than 8 bits with alpha, separate planes or floats", way_out)


def _deep_reader(file_format: str) -> Callable[[str, str], np.ndarray]:
    names = {"PNG": "read_image_png_u16", "TIFF": "read_image_tiff_u16"}
    try:
        from kornia_rs import io as kornia_io

        return getattr(kornia_io, names[file_format])
    except (ImportError, AttributeError, KeyError) as error:
        raise ProtectionError(
            f"the photo is a {file_format} of 16 bits, and the installed kornia_rs cannot read it. How to fix: update "
            "it (pip install -U kornia_rs), or save the photo with 8 bits a channel."
        ) from error


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, C], turned and mirrored as EXIF's orientation (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels

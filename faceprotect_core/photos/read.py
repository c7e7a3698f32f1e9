"""Photos as people have them are read: turned by EXIF, with colour profiles, alpha or 16 bits a channel."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import ProtectionError, require
from ..pixels import from_pixels
from . import phones
from .file import (
    BITS_PER_SAMPLE,
    MARK,
    ORIENTATION,
    PHOTOMETRIC,
    PLANAR,
    PNG_SOFTWARE,
    READABLE,
    SAMPLE_FORMAT,
    SOFTWARE,
    WAY_OUT,
    PhotoFile,
)

if TYPE_CHECKING:
    from PIL import Image

UNUSABLE_PROFILE = "Its colour profile cannot be used and is left out; colours may look a little different."
MAX_PIXELS = 200_000_000  # a phone's largest photo; more is refused as a decompression bomb


def read_photo(path: Path | str) -> PhotoFile:
    """Reads a photo: EXIF orientation applied, grey repeated, CMYK and grey profiles converted to sRGB.

    Of a phone's file with several pictures (MPO, HEIC) the main one is read; what is left out is in the notes. AVIF and
    HEIC of more than 8 bits are read with 8.

    Raises:
        ProtectionError: not a photo that can be read whole: damaged, animated, of several pages, too large, raw, HEIC
            without pillow-heif, or a kind of 16 or 32 bits that cannot be read without loss.
    """
    path = Path(path)
    require(path.is_file(), f"there is no photo file {path.name!r}", "check the name")
    require(path.stat().st_size > 0, f"the photo {path.name!r} is empty (0 bytes)", "copy it from the camera again")
    with _readable(path) as image:
        _require_one_picture(image, path.name)
        exif, notes = _exif_of(image)
        notes += phones.left_out(image, path)
        if _is_deep(image, path):
            return _read_deep(image, path, exif, notes)
        return _read_8_bit(image, path.name, exif, notes)


def is_picture(path: Path) -> bool:
    """Whether a file begins like a picture that can be read, whatever it is called."""
    from PIL import Image

    try:
        with Image.open(path, formats=_known(Image)):
            return True
    except Exception:  # of any kind: it is not known what the file is
        return False


def is_marked(path: Path) -> bool:
    """Whether the file says that it was protected already. One that cannot be read says nothing."""
    from PIL import Image

    try:
        with _pixel_limit(Image), Image.open(path, formats=_known(Image)) as image:
            # Of a PNG PIL would decode every pixel to look for EXIF behind them.
            return MARK == (image.info.get(PNG_SOFTWARE) if image.format == "PNG" else image.getexif().get(SOFTWARE))
    except Exception:  # of any kind, as above
        return False


@contextmanager
def _readable(path: Path) -> Iterator[Image.Image]:
    """PIL's image of the file; whatever a damaged file makes PIL raise becomes an error that names a way out."""
    from PIL import Image, UnidentifiedImageError

    try:
        # As an open file: PIL maps a path's pixels into memory, and garbles TIFFs that are to be turned.
        with _pixel_limit(Image), open(path, "rb") as file, Image.open(file, formats=_known(Image)) as image:
            yield image
    except ProtectionError:
        raise
    except UnidentifiedImageError as error:
        raise ProtectionError(*phones.unreadable(path)) from error
    except Image.DecompressionBombError as error:
        raise ProtectionError(
            f"the photo {path.name!r} has more than {MAX_PIXELS // 1_000_000} million pixels", "reduce it first"
        ) from error
    except Exception as error:  # damaged files make decoders raise anything: struct.error, SyntaxError, IndexError
        raise ProtectionError(
            f"the photo {path.name!r} cannot be read, it is damaged or unusual ({_words(error, path)})",
            f"copy it from the camera again, or open it in another program and {WAY_OUT}",
        ) from error


def _known(pil) -> list[str]:
    pil.init()
    phones.register_heif()
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
        pictures == 1 or image.format in phones.OF_SEVERAL,
        f"{name!r} is animated or has several pages ({pictures} pictures); only single photos are protected, and the "
        "other pictures would keep the face",
        "save the one picture that you want as PNG",
    )


def _exif_of(image: Image.Image) -> tuple[bytes | None, tuple[str, ...]]:
    """As in the file. A TIFF has it in tags of its own, among which unusual ones may not be written again."""
    if image.info.get("exif"):
        return image.info["exif"], ()
    try:
        exif = image.getexif()
        return (exif.tobytes() if len(exif) else None), ()
    except Exception:  # struct.error, TypeError, ValueError, ...: whatever a camera wrote
        return None, ("Its EXIF data cannot be read and is left out.",)


def _orientation_of(image: Image.Image) -> int:
    """EXIF's, from what can be read; 1, upright, where it says nothing."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:
        found = 1
    return found if found in range(1, 9) else 1


def _read_8_bit(image: Image.Image, name: str, exif: bytes | None, notes: tuple[str, ...]) -> PhotoFile:
    image.load()
    orientation = _orientation_of(image)
    rgb, profile, more = _to_rgb(image, image.info.get("icc_profile"), name)
    planes = from_pixels(_oriented(np.asarray(rgb), orientation))
    alpha = None
    if image.has_transparency_data:
        transparency = np.asarray(image.convert("RGBA").getchannel("A"))[..., None]
        alpha = from_pixels(_oriented(transparency, orientation))
    others = {"format": str(image.format), "exif": exif, "notes": notes + more}
    return PhotoFile.of(planes, alpha, grey=_is_grey(image), icc_profile=profile, **others)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")


def _to_rgb(image: Image.Image, profile: bytes | None, name: str) -> tuple[Image.Image, bytes | None, tuple[str, ...]]:
    """In RGB; the profile that belongs to it, since a grey or CMYK one on RGB pixels would be wrong; and notes."""
    convertible = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
    require(image.mode in convertible, f"the photo {name!r} has pixels of the kind {image.mode!r}", WAY_OUT)
    rgb = image.convert("RGBA").convert("RGB") if image.has_transparency_data else image.convert("RGB")
    if not profile:
        return rgb, None, ()
    space = profile[16:20]
    try:
        if image.mode == "CMYK" and space == b"CMYK":
            return _through_profile(image, profile), None, ()
        if image.mode in ("L", "LA") and space == b"GRAY":
            return _through_profile(image.convert("L"), profile), None, ()
        if space == b"RGB " and _is_profile(profile):
            return rgb, profile, ()
    except Exception:  # ImageCms.PyCMSError, OSError, ...: littleCMS refuses the profile
        pass
    return rgb, None, (UNUSABLE_PROFILE,)


def _is_profile(profile: bytes) -> bool:
    from PIL import ImageCms

    whole = int.from_bytes(profile[:4], "big") <= len(profile)  # littleCMS opens some that are cut short
    return whole and bool(ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile)


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
    assert converted is not None  # only what is converted in place is
    return converted


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


def _read_deep(image: Image.Image, path: Path, exif: bytes | None, notes: tuple[str, ...]) -> PhotoFile:
    """PIL reduces RGB of 16 bits to 8, so kornia_rs reads it."""
    orientation = _orientation_of(image)
    profile = image.info.get("icc_profile")
    kind = "mono" if image.mode.startswith("I;16") else "rgba" if image.mode == "RGBA" else "rgb"
    _require_deep_kind(image, kind, path)
    pixels = _oriented(_deep_reader(str(image.format))(str(path), kind), orientation)
    require(
        pixels.dtype == np.uint16 and pixels.ndim == 3,
        f"the installed kornia_rs read {path.name!r} as {pixels.dtype} of shape {list(pixels.shape)}",
        "update it (pip install -U kornia_rs), or save the photo with 8 bits a channel",
    )
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    colours = np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours
    kept = profile if profile and profile[16:20] == b"RGB " and _is_profile(profile) else None
    if profile and not kept:
        notes += (UNUSABLE_PROFILE,)
    plane = from_pixels(alpha) if alpha.size else None
    others = {"bits": 16, "format": str(image.format), "exif": exif, "notes": notes}
    return PhotoFile.of(from_pixels(colours), plane, grey=kind == "mono", icc_profile=kept, **others)


def _require_deep_kind(image: Image.Image, kind: str, path: Path) -> None:
    """What kornia_rs reads without loss; a TIFF in separate planes it would read wrongly, without an error."""
    way_out = "save it as RGB of 8 bits, or as a PNG of 16 bits in RGB or RGBA"
    name = path.name
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
            f"the photo is a {file_format} of 16 bits, and the installed kornia_rs cannot read it",
            "update it (pip install -U kornia_rs), or save the photo with 8 bits a channel",
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

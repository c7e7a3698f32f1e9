"""What phones write: HEIC, and files that hold or accompany more than the one photo that is protected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .file import WAY_OUT

if TYPE_CHECKING:
    from PIL import Image

OF_SEVERAL = ("MPO", "HEIF")  # formats whose first or main picture is the photo
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
GAIN_MAP_WORDS = (b"hdrgm:Version", b"HDRGainMap")  # of Ultra HDR, of Apple; in XMP
MOTION_WORDS = (b"MotionPhoto", b"MicroVideo")  # of Google, in XMP
VIDEO_SUFFIXES = (".mov", ".mp4")
SHOWS = "shows the unprotected face"


def register_heif() -> None:
    """Lets PIL open HEIC, where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def unreadable(path: Path) -> tuple[str, str]:
    """Why PIL knows no such format, and a way out."""
    with open(path, "rb") as file:
        beginning = file.read(12)
    brand = beginning[8:] if beginning[4:8] == b"ftyp" else b""
    if brand in HEIC_BRANDS:
        return f"{path.name!r} is a HEIC photo, which needs pillow-heif", f"pip install pillow-heif, or {WAY_OUT}"
    if brand in AVIF_BRANDS:
        fix = f"pip install --upgrade pillow, or {WAY_OUT}"
        return f"{path.name!r} is an AVIF photo, which needs Pillow 11.3 or newer", fix
    problem = "is not a photo in a format that can be read here (raw files cannot, a renamed file neither)"
    return f"{path.name!r} {problem}", WAY_OUT


def left_out(image: Image.Image, path: Path) -> tuple[str, ...]:
    """In sentences, what belongs to a photo, is not written, and still shows the face as it was."""
    xmp = image.info.get("xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    gain_map = any(word in xmp for word in GAIN_MAP_WORDS) or any("gainmap" in one for one in image.info.get("aux", ()))
    more = getattr(image, "n_frames", 1) - 1 if image.format in OF_SEVERAL else 0
    said = []
    if gain_map:
        said.append(f"Its gain map, which brightens it on HDR screens, {SHOWS} and is left out.")
    elif more:
        said.append(f"The file's other pictures ({more}) may show the unprotected face and are left out.")
    if any(word in xmp for word in MOTION_WORDS):
        said.append(f"The video in the file {SHOWS} and is left out.")
    said += [
        f"The Live Photo's video {video.name!r} beside it {SHOWS}; it was neither changed nor copied."
        for video in _videos_beside(path)
    ]
    return tuple(said)


def _videos_beside(path: Path) -> list[Path]:
    """The companions of a Live Photo have its name."""
    names = [path.stem + suffix for lower in VIDEO_SUFFIXES for suffix in (lower, lower.upper())]
    found = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    return [one for index, one in enumerate(found) if not any(one.samefile(other) for other in found[:index])]

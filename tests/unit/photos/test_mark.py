"""What was protected says so in its file, in the same words in all, and is known again by them."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from faceprotect_core.photos.encode import STRIP_OFFSETS
from faceprotect_core.photos.file import MARK, PNG_SOFTWARE, SOFTWARE, PhotoFile
from faceprotect_core.photos.read import is_marked, read_photo
from faceprotect_core.photos.write import write_photo
from photo_files import SRGB, chunk, pixels, png_16, saved

SUFFIXES = ["png", "jpg", "webp", "tif"]


def camera() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[SOFTWARE] = "Camera", "Camera 1.2"
    return exif


def source(path, kind: str) -> PhotoFile:
    if kind == "16 bits":
        path.write_bytes(png_16(pixels(dtype=np.uint16), 2, chunk(b"eXIf", camera().tobytes()[6:])))
        return read_photo(path)
    return read_photo(saved(path, pixels(channels={"grey": 1, "alpha": 4}.get(kind, 3)).squeeze(), exif=camera()))


@pytest.mark.parametrize("keep", [False, True], ids=["pixels only", "metadata kept"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["colour", "grey", "alpha", "16 bits"])
def test_what_is_written_is_marked_and_known_again(tmp_path, kind, suffix, keep):
    photo = source(tmp_path / "in.png", kind)
    assert not is_marked(tmp_path / "in.png")
    marked, plain = tmp_path / f"marked.{suffix}", tmp_path / f"plain.{suffix}"
    write_photo(marked, photo.image, photo, keep_metadata=keep)
    write_photo(plain, photo.image, photo, keep_metadata=keep, mark=False)
    assert is_marked(marked) and not is_marked(plain)
    assert torch.equal(read_photo(marked).image, read_photo(plain).image)
    with Image.open(marked) as image:
        assert image.getexif().get(0x010F) == ("Camera" if keep else None)


def texts(path) -> dict:
    """What a file says beside its pixels, and beside where in it they are."""
    with Image.open(path) as image:
        image.load()
        of_png = getattr(image, "text", {})
        tags = {tag: value for tag, value in image.getexif().items() if tag != STRIP_OFFSETS}
        return of_png | tags | {"comment": image.info.get("comment")}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_mark_is_the_same_in_every_file_and_all_that_is_added(tmp_path, suffix):
    added = []
    for number, size in enumerate([(20, 30), (9, 50)]):
        photo = read_photo(saved(tmp_path / "in.png", pixels(*size), icc_profile=SRGB if number else None))
        for mark in (True, False):
            write_photo(tmp_path / f"{mark}.{suffix}", photo.image, photo, quality=90 + number, mark=mark)
        marked, plain = texts(tmp_path / f"True.{suffix}"), texts(tmp_path / f"False.{suffix}")
        added.append({key: value for key, value in marked.items() if plain.get(key) != value})
        assert not plain.keys() - marked.keys()
    assert added == [{PNG_SOFTWARE if suffix == "png" else SOFTWARE: MARK}] * 2


def test_a_png_without_its_mark_is_the_unmarked_file_bit_by_bit(tmp_path):
    for deep in (8, 16):
        photo = dataclasses.replace(PhotoFile(torch.rand(3, 12, 16)), bits=deep)
        write_photo(tmp_path / "marked.png", photo.image, photo)
        write_photo(tmp_path / "plain.png", photo.image, photo, mark=False)
        text = chunk(b"tEXt", b"Software\0FaceProtect")
        assert (tmp_path / "marked.png").read_bytes().replace(text, b"") == (tmp_path / "plain.png").read_bytes()


@pytest.mark.parametrize("name", ["nothing.png", "text.png", "short.jpg", "odd.jpg", "other.webp"])
def test_other_files_are_not_marked(tmp_path, name):
    path, exif = tmp_path / name, camera()
    if name == "text.png":
        path.write_text(f"Software {MARK}")
    elif name == "odd.jpg":
        saved(path, pixels(), exif=b"Exif\0\0" + bytes(64))
    elif name == "other.webp":
        exif[SOFTWARE] = f"{MARK} 2"
        saved(path, pixels(), exif=exif)
    elif name == "short.jpg":
        path.write_bytes(b"\xff\xd8\xff\xe1")
    assert not is_marked(path)

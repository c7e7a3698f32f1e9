"""Photos as people have them are read upright and whole, or refused with a way out."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from faceprotect_core.checks import ProtectionError
from faceprotect_core.photos.file import WRITABLE
from faceprotect_core.photos.read import _oriented, read_photo
from faceprotect_core.photos.write import write_photo
from photo_files import SRGB, as_bytes, chunk, pixels, png_16, saved, tiff_16


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_read_upright(tmp_path, suffix, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a bright top left corner
    undone = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = _oriented(upright, undone)
    path = saved(tmp_path / f"photo.{suffix}", np.ascontiguousarray(turned), exif=exif)
    image = read_photo(path).image
    assert image.shape == (3, 16, 32)
    assert np.abs(as_bytes(image).astype(int) - upright).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bits_are_turned_as_eight_are(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = pixels(channels=3)
    saved(tmp_path / "eight.png", array, exif=exif)
    orientation_chunk = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "deep.png").write_bytes(png_16(array.astype(np.uint16) * 257, 2, orientation_chunk))
    tiff_16(
        tmp_path / "deep.tiff", array.astype(np.uint16) * 257, photometric="rgb",
        extratags=[(274, 3, 1, orientation, True)],
    )  # fmt: skip
    eight = read_photo(tmp_path / "eight.png")
    for name in ("deep.png", "deep.tiff"):
        deep = read_photo(tmp_path / name)
        assert deep.bits == 16
        torch.testing.assert_close(deep.image, eight.image, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "mode, alpha",
    [("L", False), ("LA", True), ("RGBA", True), ("P", False), ("1", False), ("CMYK", False), ("RGB", False)],
)
def test_every_usual_kind_of_pixels_becomes_rgb(tmp_path, mode, alpha):
    source = Image.fromarray(pixels(channels=4), "RGBA")
    source = (source.convert("RGB") if mode == "P" else source).convert(mode)
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    source.save(path, **({"quality": 100} if mode == "CMYK" else {}))
    photo = read_photo(path)
    assert photo.image.shape == (3, 20, 30) and photo.image.dtype == torch.float32
    assert (photo.alpha is not None) is alpha
    with Image.open(path) as kept:
        colours, plane = np.asarray(kept.convert("RGBA").convert("RGB")), np.asarray(kept.convert("RGBA"))[..., 3:]
    if not alpha:
        assert np.array_equal(as_bytes(photo.image), colours)
        return
    assert np.array_equal(as_bytes(photo.alpha), plane)
    colours = np.where(plane < 8, 255, colours)  # hidden
    assert np.array_equal(as_bytes(photo.colours), colours)
    seen = colours * (plane / 255) + 255 - plane.astype(float)
    assert np.abs(as_bytes(photo.image) - seen).max() < 0.51


def test_a_palette_with_a_transparent_colour_keeps_it(tmp_path):
    palette = Image.fromarray(pixels(), "RGB").quantize(4)
    palette.save(tmp_path / "p.png", transparency=2)
    photo = read_photo(tmp_path / "p.png")
    assert np.array_equal(as_bytes(photo.alpha)[..., 0] == 0, np.asarray(palette) == 2)


@pytest.mark.parametrize("mode, space", [("CMYK", b"CMYK"), ("L", b"GRAY")])
def test_a_profile_that_is_not_of_rgb_is_applied_and_not_kept(tmp_path, monkeypatch, mode, space):
    """littleCMS has no such profile built in: what is checked is that one is sent through it and then left out."""
    profile = SRGB[:16] + space + SRGB[20:]
    seen = []
    monkeypatch.setattr(
        ImageCms, "profileToProfile",
        lambda image, source, target, outputMode: seen.append(source.read()) or image.convert(outputMode),
    )  # fmt: skip
    Image.new(mode, (8, 8)).save(tmp_path / "photo.jpg", icc_profile=profile)
    photo = read_photo(tmp_path / "photo.jpg")
    assert seen == [profile] and photo.icc_profile is None


def test_of_a_phones_several_pictures_the_first_is_read(tmp_path):
    first, second = Image.new("RGB", (16, 8), "white"), Image.new("RGB", (4, 4), "black")
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second])
    photo = read_photo(tmp_path / "phone.jpg")
    assert photo.format == "MPO" and photo.image.shape == (3, 8, 16) and photo.image.min() > 0.9
    write_photo(tmp_path / "out.jpg", photo.image, photo)
    with Image.open(tmp_path / "out.jpg") as written:
        assert written.format == "JPEG" and getattr(written, "n_frames", 1) == 1


def test_a_photo_of_one_pixel_is_read_and_written(tmp_path):
    photo = read_photo(saved(tmp_path / "dot.png", np.array([[[1, 2, 3]]], np.uint8)))
    for suffix in WRITABLE:
        write_photo(tmp_path / f"out{suffix}", photo.image, photo)
        assert read_photo(tmp_path / f"out{suffix}").image.shape == (3, 1, 1)


def truncated(path):
    saved(path.with_suffix(".png"), pixels(200, 200)).rename(path)
    path.write_bytes(path.read_bytes()[:40_000])


def animated(path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def pages(path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path, "TIFF", save_all=True, append_images=frames[1:])


def bomb(path):
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


REFUSED = {
    "truncated": (truncated, "damaged"),
    "a text file": (lambda path: path.write_text("not a photo"), "renamed"),
    "0 bytes": (lambda path: path.touch(), "0 bytes"),
    "missing": (lambda path: None, "there is no photo file"),
    "animated": (animated, r"animated or has several pages \(2"),
    "several pages": (pages, r"animated or has several pages \(2"),
    "too large": (bomb, "200 million pixels"),
    "floats": (lambda path: Image.fromarray(np.ones((8, 8), np.float32)).save(path, "TIFF"), "floats"),
    "16 bits, grey and alpha": (
        lambda path: path.write_bytes(png_16(pixels(channels=2, dtype=np.uint16), 4)),
        "grey and alpha",
    ),
    "16 bits in separate planes": (
        lambda path: tiff_16(path, pixels(dtype=np.uint16).transpose(2, 0, 1).copy(), photometric="rgb"),
        "separate planes",
    ),
    "16 bits, damaged": (
        lambda path: path.write_bytes(png_16(pixels(dtype=np.uint16), 2)[:-400]),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_a_way_out_and_no_path(tmp_path, name):
    make, said = REFUSED[name]
    make(tmp_path / "photo.jpg")
    with pytest.raises(ProtectionError, match=said) as caught:
        read_photo(tmp_path / "photo.jpg")
    assert "How to fix: " in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_pils_limit_on_pixels_is_put_back(tmp_path, monkeypatch):
    before = 12_345_678
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", before)
    bomb(tmp_path / "bomb.png")
    with pytest.raises(ProtectionError):
        read_photo(tmp_path / "bomb.png")
    assert Image.MAX_IMAGE_PIXELS == before


def test_without_kornia_rs_sixteen_bits_are_refused_and_not_reduced(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kornia_rs", None)
    (tmp_path / "deep.png").write_bytes(png_16(pixels(dtype=np.uint16), 2))
    with pytest.raises(ProtectionError, match="kornia_rs"):
        read_photo(tmp_path / "deep.png")


# What is unusual and intact


def odd_exif(kind: str) -> bytes:
    """EXIF that PIL reads and cannot write again, or cannot read."""
    good = Image.Exif()
    good[0x0112], good[0x010F] = 6, "Camera"
    data = bytearray(good.tobytes())
    if kind == "cut short":
        return bytes(data[:-20])
    if kind == "an unknown type":
        return bytes(data).replace(struct.pack("<H", 0x010F) + b"\x02\0", struct.pack("<H", 0x010F) + b"\x63\0")
    if kind == "an offset beyond the end":
        return bytes(data[:-8]) + b"\xff" * 8
    return b"Exif\0\0" + bytes(64)


ODD_EXIF = ["cut short", "an unknown type", "an offset beyond the end", "zeros"]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kind", ODD_EXIF)
def test_odd_exif_refuses_no_photo(tmp_path, kind, suffix, keep):
    path = saved(tmp_path / f"in.{suffix}", pixels(), exif=odd_exif(kind))
    photo = read_photo(path)
    write_photo(tmp_path / "out.jpg", photo.image, photo, keep_metadata=keep)
    assert read_photo(tmp_path / "out.jpg").image.shape == photo.image.shape


@pytest.mark.parametrize("mode, space", [("CMYK", b"CMYK"), ("L", b"GRAY"), ("RGB", b"RGB ")])
def test_a_profile_that_cannot_be_used_is_left_out_and_said(tmp_path, mode, space):
    broken = SRGB[:16] + space + SRGB[20:300]
    Image.new(mode, (8, 8), 100 if mode == "L" else None).save(tmp_path / "photo.jpg", icc_profile=broken)
    photo = read_photo(tmp_path / "photo.jpg")
    assert photo.icc_profile is None and "colour profile" in photo.notes[0]
    with Image.open(tmp_path / "photo.jpg") as plain:
        assert np.array_equal(as_bytes(photo.image), np.asarray(plain.convert("RGB")))

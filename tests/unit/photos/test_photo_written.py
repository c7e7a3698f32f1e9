"""What is kept of a photo's file, and what never leaves with a protected photo."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from faceprotect_core import files
from faceprotect_core.checks import ProtectionError
from faceprotect_core.photos.file import PhotoFile
from faceprotect_core.photos.read import read_photo
from faceprotect_core.photos.write import encode_file, write_file, write_photo
from photo_files import SRGB, as_bytes, chunk, pixels, png_16, saved, tiff_16

MARKER = b"THE-UNPROTECTED-FACE"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + MARKER + b"</x:xmpmeta>"

# Pixels


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("channels", [3, 4])
def test_eight_bits_come_back_bit_equal_with_profile_and_alpha(tmp_path, suffix, channels):
    array = pixels(channels=channels)
    photo = read_photo(saved(tmp_path / "in.png", array, icc_profile=SRGB))
    write_photo(tmp_path / f"out.{suffix}", photo.image, photo, quality=100)
    with Image.open(tmp_path / f"out.{suffix}") as written:
        erased = array[..., 3:] < 8 if channels == 4 else np.zeros_like(array[..., :1], bool)
        expected = np.where(erased & (np.arange(channels) < 3), 255, array)
        assert np.array_equal(np.asarray(written), expected)
        assert written.info["icc_profile"] == SRGB


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("shape", [(20, 30), (1, 1), (700, 400)])
def test_sixteen_bits_come_back_bit_equal_with_their_profile(tmp_path, suffix, shape):
    array = pixels(*shape, dtype=np.uint16)
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(SRGB))
    (tmp_path / "in.png").write_bytes(png_16(array, 2, profile))
    photo = read_photo(tmp_path / "in.png")
    assert np.array_equal(as_bytes(photo.image, 65535), array)
    write_photo(tmp_path / f"out.{suffix}", photo.image, photo)
    again = read_photo(tmp_path / f"out.{suffix}")
    assert again.bits == 16 and again.icc_profile == SRGB
    assert np.array_equal(as_bytes(again.image, 65535), array)


def test_a_tiff_of_sixteen_bits_is_read_the_same_by_another_reader(tmp_path):
    array = pixels(700, 400, dtype=np.uint16)
    photo = PhotoFile(torch.from_numpy(array.astype(np.float32) / 65535).permute(2, 0, 1), bits=16, icc_profile=SRGB)
    write_photo(tmp_path / "out.tif", photo.image, photo)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), array)


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "deflate", "predictor": 2}])
def test_tiffs_of_sixteen_bits_are_read_as_written_by_others(tmp_path, options):
    array = pixels(dtype=np.uint16)
    photo = read_photo(tiff_16(tmp_path / "in.tif", array, photometric="rgb", **options))
    assert np.array_equal(as_bytes(photo.image, 65535), array)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_sixteen_bits_is_read_without_loss(tmp_path, suffix):
    grey = pixels(channels=1, dtype=np.uint16)[..., 0]
    Image.fromarray(grey).save(tmp_path / f"grey.{suffix}")
    photo = read_photo(tmp_path / f"grey.{suffix}")
    assert photo.bits == 16
    assert all(np.array_equal(plane, grey) for plane in as_bytes(photo.image, 65535).transpose(2, 0, 1))


def test_alpha_of_sixteen_bits_is_kept(tmp_path):
    array = pixels(channels=4, dtype=np.uint16)
    (tmp_path / "in.png").write_bytes(png_16(array, 6))
    photo = read_photo(tmp_path / "in.png")
    write_photo(tmp_path / "out.png", photo.image, photo)
    assert np.array_equal(as_bytes(read_photo(tmp_path / "out.png").alpha, 65535), array[..., 3:])


def test_jpeg_is_written_with_all_its_colours(tmp_path):
    photo = PhotoFile.of(torch.rand(3, 32, 32), torch.rand(1, 32, 32), icc_profile=SRGB, bits=16)
    write_photo(tmp_path / "out.JPG", photo.image, photo)
    with Image.open(tmp_path / "out.JPG") as written:
        assert {sampling[1:3] for sampling in written.layer} == {(1, 1)}
        assert written.info["icc_profile"] == SRGB
        best = [[table[0] for table in (tables,)][0] for tables in written.quantization.values()]
        assert max(best) <= 2  # quality 95; 75 starts at 8


# Writing: what was erased stays erased


def erased_bystander(path, mode: str = "RGBA"):
    """A red square on blue, under an alpha that erases it and half hides a strip."""
    array = np.full((16, 16, 4), (0, 0, 200, 255), np.uint8)
    array[4:12, 4:12] = 255, 0, 0, 0
    array[0] = 10, 20, 30, 77
    Image.fromarray(array).convert(mode).save(path)
    return array


@pytest.mark.parametrize("source", ["in.png", "in.webp", "in.tif"])
@pytest.mark.parametrize("target", ["out.jpg", "out.png", "out.webp", "out.tif"])
def test_what_an_alpha_erased_is_in_no_file_that_is_written(tmp_path, source, target):
    path = tmp_path / source
    array = erased_bystander(path)
    if source == "in.webp":
        Image.fromarray(array).save(path, lossless=True, exact=True)
    photo = read_photo(path)
    assert photo.image[:, 4:12, 4:12].eq(1).all()  # what detectors and recognisers are shown
    write_photo(tmp_path / target, photo.image, photo, quality=100)
    with Image.open(tmp_path / target) as written:
        pixels, mode = np.asarray(written.convert("RGBA")), written.mode
    assert pixels[5:11, 5:11, :3].min() > 250
    if mode == "RGBA":
        assert np.array_equal(pixels[0], array[0]) and (pixels[4:12, 4:12, 3] == 0).all()


@pytest.mark.parametrize("alpha", [0, 2, 7, 8, 200])
def test_what_an_alpha_all_but_erased_is_gone_too(tmp_path, alpha):
    """A soft eraser leaves 2 of 255, and the colours beneath as they were."""
    array = np.full((16, 16, 4), (200, 30, 60, alpha), np.uint8)
    Image.fromarray(array).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    write_photo(tmp_path / "out.png", photo.image, photo)
    with Image.open(tmp_path / "out.png") as written:
        colours, kept = np.asarray(written.convert("RGB")), np.asarray(written)[..., 3]
    assert (kept == alpha).all() and (colours == (255 if alpha < 8 else array[..., :3])).all()


def test_a_change_under_half_an_alpha_looks_as_it_was_made(tmp_path):
    photo = read_photo(saved(tmp_path / "in.png", pixels(channels=4)))
    changed = (photo.image + 0.02).clamp(0, 1)
    write_photo(tmp_path / "out.png", changed, photo)
    opaque = photo.alpha[0] > 0.9
    again = read_photo(tmp_path / "out.png")
    assert (again.image - changed).abs()[:, opaque].max() < 2 / 255 and torch.equal(again.alpha, photo.alpha)


# Writing: grey stays grey


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_grey_is_written_as_grey(tmp_path, mode, suffix):
    if mode == "I;16":
        Image.fromarray(pixels(channels=1, dtype=np.uint16)[..., 0]).save(tmp_path / "in.png")
    else:
        Image.fromarray(pixels(channels=4)).convert(mode).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    write_photo(tmp_path / f"out.{suffix}", (photo.image * 0.9), photo)
    with Image.open(tmp_path / f"out.{suffix}") as written:
        assert written.mode.startswith("RGB") if suffix == "webp" else written.mode in ("L", "LA", "I;16")
    again = read_photo(tmp_path / f"out.{suffix}").image
    assert (again.amax(0) - again.amin(0)).max() < (0.02 if suffix == "webp" else 1e-6)


# metadata


def exif_with_everything() -> bytes:
    """Orientation 6, a place, a camera, a MakerNote, an unknown long tag, and a thumbnail in IFD1."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0xC4A5] = "Camera", 6, MARKER
    exif._ifds[ExifTags.IFD.Exif] = {
        0x927C: MARKER, 0x829A: 0.01, 0x9286: b"ASCII\0\0\0" + MARKER * 100, 0xA002: 99, 0x9214: (1, 2),
    }  # fmt: skip
    exif._ifds[ExifTags.IFD.GPSInfo] = {1: "N", 2: (60.0, 10.0, 0.0)}
    data = exif.tobytes()
    return with_thumbnail(data, thumbnail())


def thumbnail() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "JPEG", comment=MARKER)
    return buffer.getvalue()


def with_thumbnail(exif: bytes, picture: bytes) -> bytes:
    """IFD1 with a JPEG, appended to the TIFF structure of an EXIF block."""
    tiff = bytearray(exif.removeprefix(b"Exif\0\0"))
    tiff += b"\0" * (len(tiff) % 2)
    order = "<" if tiff[:2] == b"II" else ">"
    ifd0 = struct.unpack(order + "I", tiff[4:8])[0]
    entries = struct.unpack(order + "H", tiff[ifd0 : ifd0 + 2])[0]
    link = ifd0 + 2 + 12 * entries
    struct.pack_into(order + "I", tiff, link, len(tiff))
    start = len(tiff) + 2 + 12 * 2 + 4
    ifd1 = struct.pack(order + "HHHIIHHII", 2, 0x0201, 4, 1, start, 0x0202, 4, 1, len(picture)) + bytes(4)
    return b"Exif\0\0" + bytes(tiff) + ifd1 + picture


def photo_with_everything(path):
    exif, options = exif_with_everything(), {}
    if path.suffix == ".png":
        info = PngInfo()
        info.add_text("Comment", MARKER.decode())
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = {"pnginfo": info}
    elif path.suffix == ".jpg":
        options = {"xmp": XMP, "comment": MARKER}
    elif path.suffix == ".webp":
        options = {"xmp": XMP, "lossless": True}
    else:  # XMP, Photoshop and IPTC are tags of their own
        tags = Image.Exif()
        tags.load(exif)
        tags[700], tags[34377], tags[33723] = XMP, MARKER, MARKER
        exif = tags.tobytes()
    return saved(path, pixels(), exif=exif, icc_profile=SRGB, **options)


@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.webp", "in.tif"])
@pytest.mark.parametrize("target", ["out.jpg", "out.png", "out.webp", "out.tiff"])
def test_no_metadata_leaves_with_the_photo(tmp_path, source, target):
    path = photo_with_everything(tmp_path / source)
    assert MARKER in path.read_bytes()
    photo = read_photo(path)
    write_photo(tmp_path / target, photo.image, photo, mark=False)
    data = (tmp_path / target).read_bytes()
    assert not [word for word in (MARKER, b"xmp", b"Camera", b"Photoshop", b"eXIf", b"Exif\0") if word in data]
    again = read_photo(tmp_path / target)
    assert again.icc_profile == SRGB
    with Image.open(tmp_path / target) as written:
        assert not {0x010F, 0x8825, 0x8769, 700, 34377, 33723} & set(written.getexif())


@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.webp", "in.tif"])
@pytest.mark.parametrize("target", ["out.jpg", "out.png", "out.webp", "out.tiff", "deep.png", "deep.tiff"])
def test_kept_metadata_is_upright_and_has_no_picture_in_it(tmp_path, source, target):
    photo = read_photo(photo_with_everything(tmp_path / source))
    if target.startswith("deep"):
        photo = PhotoFile(photo.image, None, photo.icc_profile, 16, photo.format, photo.exif)
    write_photo(tmp_path / target, photo.image, photo, keep_metadata=True)
    data = (tmp_path / target).read_bytes()
    assert not [word for word in (MARKER, b"xmp") if word in data]
    assert read_photo(tmp_path / target).image.shape == photo.image.shape
    with Image.open(tmp_path / target) as written:
        exif = written.getexif()
        assert exif[0x010F] == "Camera" and exif.get(0x0112, 1) == 1
        assert not exif.get_ifd(ExifTags.IFD.IFD1)
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
        camera = exif.get_ifd(ExifTags.IFD.Exif)
        assert 0x829A in camera and not {0x927C, 0x9286, 0x9214} & set(camera)
        assert camera[0xA002] == photo.image.shape[2]


# all or nothing


def test_a_failed_check_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"before")

    def refuse(written):
        raise ProtectionError("no", "yes")

    with pytest.raises(ProtectionError, match="no"):
        write_file(path, encode_file(path, torch.rand(3, 8, 8)), refuse)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_no_temporary_file_is_left_behind(tmp_path, monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(error):
        write_photo(tmp_path / "out.png", torch.rand(3, 8, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, image, said",
    [
        ("out.png", torch.full((3, 8, 8), float("nan")), "192 of 192 values"),
        ("out.heic", torch.rand(3, 8, 8), "not written as .heic"),
        ("out.png", torch.rand(1, 8, 8), r"\[1, 8, 8\]"),
        ("out.webp", torch.rand(3, 1, 16_384), "16383"),
        ("out.jpg", torch.rand(3, 1, 65_501), "65500"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, image, said):
    with pytest.raises(ProtectionError, match=said):
        write_photo(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []

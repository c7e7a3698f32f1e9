"""Photos as people have them: what is read, what is kept, and what never leaves with a protected photo."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from faceprotect_core import files
from faceprotect_core.checks import ProtectionError
from faceprotect_core.photos.file import WRITABLE, PhotoFile
from faceprotect_core.photos.read import _oriented, read_photo
from faceprotect_core.photos.write import write_photo

MARKER = b"THE-UNPROTECTED-FACE"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + MARKER + b"</x:xmpmeta>"
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


# Reading


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
    assert np.array_equal(as_bytes(photo.colours), np.where(plane == 0, 255, colours))
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


def heic(path):
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))


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
    "HEIC": (heic, "HEIC and raw"),
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


# Writing: pixels


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("channels", [3, 4])
def test_eight_bits_come_back_bit_equal_with_profile_and_alpha(tmp_path, suffix, channels):
    array = pixels(channels=channels)
    photo = read_photo(saved(tmp_path / "in.png", array, icc_profile=SRGB))
    write_photo(tmp_path / f"out.{suffix}", photo.image, photo, quality=100)
    with Image.open(tmp_path / f"out.{suffix}") as written:
        erased = array[..., 3:] == 0 if channels == 4 else np.zeros_like(array[..., :1], bool)
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


# Reading: what is unusual and intact


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


# Writing: metadata


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
    write_photo(tmp_path / target, photo.image, photo)
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


# Writing: all or nothing


def test_a_failed_check_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"before")

    def refuse(written):
        raise ProtectionError("no", "yes")

    with pytest.raises(ProtectionError, match="no"):
        write_photo(path, torch.rand(3, 8, 8), check=refuse)
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
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, image, said):
    with pytest.raises(ProtectionError, match=said):
        write_photo(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []

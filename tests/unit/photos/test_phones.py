"""What phones write: HEIC and AVIF are read, and what else of a photo shows the face is said."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from faceprotect_core.checks import ProtectionError
from faceprotect_core.photos.read import is_picture, read_photo
from faceprotect_core.photos.write import write_photo
from needs import missing
from photo_files import as_bytes, pixels

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
AVIF = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(200)
SMOOTH = np.full((64, 96, 3), (200, 120, 60), np.uint8)
SMOOTH[:20, :30] = (20, 40, 160)  # a corner, to see how it is turned


def xmp(words: str) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {words}/></x:xmpmeta>'.encode()


@pytest.fixture
def heif():
    try:
        import pillow_heif
    except ImportError:
        missing("HEIC needs pillow-heif: pip install pillow-heif")
    pillow_heif.register_heif_opener()
    return pillow_heif


def test_heic_is_read_with_its_profile_and_written_as_png(heif, tmp_path):
    profile = Image.open(io.BytesIO(_png_with_profile())).info["icc_profile"]
    Image.fromarray(SMOOTH).save(tmp_path / "photo.heic", quality=95, icc_profile=profile)
    assert is_picture(tmp_path / "photo.heic")
    photo = read_photo(tmp_path / "photo.heic")
    assert photo.format == "HEIF" and photo.icc_profile == profile and photo.notes == ()
    assert np.abs(as_bytes(photo.image).astype(int) - SMOOTH)[30:].max() <= 6  # HEIC loses a little
    write_photo(tmp_path / "out.png", photo.image, photo)
    assert np.array_equal(as_bytes(read_photo(tmp_path / "out.png").image), as_bytes(photo.image))


def test_a_turned_heic_is_turned_once(heif, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # its right side is up
    Image.fromarray(SMOOTH).save(tmp_path / "photo.heic", quality=95, exif=exif.tobytes())
    image = as_bytes(read_photo(tmp_path / "photo.heic").image)
    assert image.shape == (96, 64, 3)
    assert image[5, -5, 2] > 120 > image[-5, 5, 2]  # the corner, which was at the left


def test_of_several_pictures_the_main_one_is_read_and_the_others_are_said(heif, tmp_path):
    file = heif.from_pillow(Image.fromarray(SMOOTH))
    file.add_from_pillow(Image.fromarray(255 - SMOOTH))
    file.save(tmp_path / "photo.heic", quality=95, primary_index=0)
    photo = read_photo(tmp_path / "photo.heic")
    assert np.abs(as_bytes(photo.image).astype(int) - SMOOTH)[30:].max() <= 6
    assert "other pictures (1)" in photo.notes[0] and "left out" in photo.notes[0]


@pytest.mark.parametrize(
    ("data", "kind", "said"), [(HEIC, "HEIF", "pillow-heif"), (AVIF, "AVIF", "Pillow 11.3")], ids=["HEIC", "AVIF"]
)
def test_where_it_cannot_be_read_the_error_names_what_is_missing(tmp_path, monkeypatch, data, kind, said):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.init()
    monkeypatch.delitem(Image.OPEN, kind, raising=False)
    (tmp_path / "photo.jpg").write_bytes(data)
    with pytest.raises(ProtectionError, match=said) as caught:
        read_photo(tmp_path / "photo.jpg")
    assert "How to fix: pip install" in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_avif_is_read(tmp_path):
    Image.fromarray(SMOOTH).save(tmp_path / "photo.avif", quality=95)
    photo = read_photo(tmp_path / "photo.avif")
    assert photo.format == "AVIF"
    assert np.abs(as_bytes(photo.image).astype(int) - SMOOTH)[30:].max() <= 6


@pytest.mark.parametrize("words", ["hdrgm:Version='1.0'", "HDRGainMap:HDRGainMapVersion='131072'"])
def test_a_gain_map_is_left_out_and_said(tmp_path, words):
    both = [Image.fromarray(SMOOTH), Image.fromarray(SMOOTH[::2, ::2])]
    both[0].save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=both[1:], xmp=xmp(words))
    photo = read_photo(tmp_path / "photo.jpg")
    assert len(photo.notes) == 1 and "gain map" in photo.notes[0]
    write_photo(tmp_path / "out.jpg", photo.image, photo, keep_metadata=True)
    written = (tmp_path / "out.jpg").read_bytes()
    assert b"MPF" not in written and words.split(":")[0].encode() not in written


def test_other_pictures_of_an_mpo_are_left_out_and_said(tmp_path):
    both = [Image.fromarray(pixels()), Image.fromarray(pixels())]
    both[0].save(tmp_path / "photo.mpo", "MPO", save_all=True, append_images=both[1:])
    photo = read_photo(tmp_path / "photo.mpo")
    assert "other pictures (1)" in photo.notes[0]


def test_the_video_in_a_motion_photo_is_left_out_and_said(tmp_path):
    Image.fromarray(SMOOTH).save(tmp_path / "photo.jpg", xmp=xmp("GCamera:MotionPhoto='1'"))
    with open(tmp_path / "photo.jpg", "ab") as file:
        file.write(struct.pack(">I4s4s", 24, b"ftyp", b"mp42") + bytes(1000))
    photo = read_photo(tmp_path / "photo.jpg")
    assert "video in the file" in photo.notes[0]
    write_photo(tmp_path / "out.jpg", photo.image, photo)
    assert b"ftyp" not in (tmp_path / "out.jpg").read_bytes()


@pytest.mark.parametrize("video", ["IMG_1.MOV", "IMG_1.mov", "IMG_1.mp4"])
def test_the_video_beside_a_live_photo_is_said(tmp_path, video):
    Image.fromarray(pixels()).save(tmp_path / "IMG_1.jpg")
    (tmp_path / video).touch()
    (tmp_path / "IMG_2.mov").touch()
    (note,) = read_photo(tmp_path / "IMG_1.jpg").notes
    assert video in note and "neither changed nor copied" in note


def test_a_plain_photo_has_nothing_to_say(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "photo.jpg")
    assert read_photo(tmp_path / "photo.jpg").notes == ()


def _png_with_profile() -> bytes:
    from PIL import ImageCms

    made = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (1, 1)).save(made, "PNG", icc_profile=profile)
    return made.getvalue()

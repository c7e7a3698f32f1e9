"""What goes in and what must come out: every file of the table through the command, in each format of its output."""

import numpy as np
import pytest
import torch
from PIL import Image

from faceprotect_core import files
from faceprotect_core.folders import protector as protector_module
from faceprotect_core.photos.encode import decode_jpeg
from faceprotect_core.photos.file import WRITABLE
from faceprotect_core.photos.read import is_marked, read_photo
from faceprotect_core.photos.write import encode_file, write_file
from folder_photos import FakeProtector, record, run_protect
from photo_files import SRGB
from photo_table import LOSSLESS, PhotoCase, small, table

CASES = [*table(), *small()]
FORMATS = ("keep", "png", "jpeg", "webp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For each format the output folder of one run over all files. The protector inverts: every pixel counts."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "in").mkdir()
    for case in CASES:
        case.write(folder / "in")
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeProtector()
        fake.tolerance = 1.0
        patch.setattr(protector_module, "load_protector", lambda choice: fake)
        patch.setattr(protector_module, "photos_at_once", lambda choice: 1)
        patch.setattr(files.os, "fsync", lambda _: None)  # 500 files, and as many records
        for kind in FORMATS:
            assert run_protect(folder / "in", folder / kind, "--format", kind, "--quality", "100") == 1
    return {kind: folder / kind for kind in FORMATS}


def expected(case: PhotoCase) -> np.ndarray:
    """RGBA: the picture upright and inverted, white where it was erased."""
    picture = case.upright()
    if case.mode == "P transparent":
        picture.info["transparency"] = 0
    rgba = np.asarray(picture.convert("RGBA")).astype(float)
    colours, alpha = rgba[..., :3], rgba[..., 3:] / 255
    return np.concatenate([255 - (colours * alpha + 255 * (1 - alpha)), rgba[..., 3:]], axis=2)


def rgba(picture: Image.Image) -> np.ndarray:
    if picture.mode == "I;16":  # PIL would cut it off at 255
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    return np.asarray(picture.convert("RGBA")).astype(float)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_command_writes_what_it_must_or_nothing(runs, case, kind):
    entry = record(runs[kind])[case.name]
    if case.damage:
        assert entry["status"] == "failed" and "How to fix: " in entry["reason"]
        assert "output" not in entry
        return
    assert entry["status"] == "protected", entry
    path = runs[kind] / entry["output"]
    assert is_marked(path)
    with Image.open(path) as written:
        assert written.format == WRITABLE[path.suffix.lower()] == (written.format if kind == "keep" else kind.upper())
        lossless = case.format in (*LOSSLESS, "WEBP") and written.format != "JPEG" and case.mode != "CMYK"
        seen, wanted = rgba(written), expected(case)
        assert seen.shape == wanted.shape
        if case.has_alpha and written.format != "JPEG":
            assert np.array_equal(seen[..., 3], wanted[..., 3])
            erased = seen[..., 3] == 0
            assert (seen[erased][:, :3] == 255).all()
            opaque = seen[..., 3] == 255
            seen, wanted = seen[opaque], wanted[opaque]
        else:
            assert (seen[..., 3] == 255).all()
        difference = np.abs(seen[..., :3] - wanted[..., :3])
        assert difference.max() <= 1 if lossless else difference.mean() < 4
        grey = case.is_grey and case.format != "GIF" and written.format != "WEBP"  # a GIF has a palette
        assert (written.mode in ("L", "LA", "I;16")) == grey
        assert written.info.get("icc_profile") == (SRGB if case.profile == "srgb" else None)
    data = path.read_bytes()
    assert b"THE-CAMERA" not in data and b"THE-PROGRAM" not in data


def test_the_table_is_as_large_as_it_says():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) and len(FORMATS) * len(names) >= 400


@pytest.mark.parametrize("case", [case for case in CASES if not case.damage], ids=lambda case: case.name)
def test_what_a_jpeg_will_give_back_is_known_before_it_is_written(tmp_path, case):
    photo, path = read_photo(case.write(tmp_path)), tmp_path / "written.jpg"
    encoded = encode_file(path, photo.image, photo, quality=90, keep_metadata=True)
    write_file(path, encoded)
    assert torch.equal(decode_jpeg(encoded.data), read_photo(path).image)

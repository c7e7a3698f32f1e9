"""Nothing is lost in a folder, and nothing is passed off as protected: outputs as inputs, full disks, two runs at once,
files that nobody mentions, one photo alone."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from faceprotect_core.checks import ProtectionError
from faceprotect_core.files import locked
from faceprotect_core.folders.plan import passed_over
from faceprotect_core.folders.record import Record
from faceprotect_core.folders.run import protect_folder
from folder_photos import FakeProtector, files, record, write_photo
from folder_photos import run_protect as run

# What was protected is no original


@pytest.mark.parametrize(
    "where", ["the folder of outputs", "a subfolder of it", "a folder that holds it", "a copy in it"]
)
def test_a_protected_photo_is_not_protected_again(folders, tmp_path, where):
    source, out = folders
    protect_folder(source, out, FakeProtector())
    again = {"the folder of outputs": out, "a subfolder of it": out / "sub", "a folder that holds it": tmp_path}.get(
        where
    )
    if again is None:
        again = out
        (out / "renamed.png").write_bytes((out / "a.png").read_bytes())
    outputs = {path.relative_to(again).as_posix() for path in out.rglob("*.png") if again in path.parents}
    second = FakeProtector()
    done = protect_folder(again, tmp_path / "second", second)
    refused = {one.task.name for one in done if one.status == "failed"}
    assert refused == outputs
    assert all("is protected already" in one.entry["reason"] for one in done if one.status == "failed")
    assert not any((tmp_path / "second" / name).exists() for name in outputs)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("taken", ["the folder", "the one photo"])
def test_a_protected_photo_is_known_wherever_it_was_copied_to(folders, tmp_path, fake, capsys, kind, taken):
    source, out = folders
    fake.tolerance = 1.0
    assert run(source, out, "--format", kind) == 0
    (protected,) = out.glob("a.*")
    copy = tmp_path / "elsewhere" / "holiday.dat"  # not even its suffix tells
    copy.parent.mkdir()
    copy.write_bytes(protected.read_bytes())
    calls, second = fake.calls, tmp_path / "second"
    capsys.readouterr()
    assert run(copy if taken == "the one photo" else copy.parent, second) == 1
    said = capsys.readouterr().out
    assert "'holiday.dat' is protected already" in said and "How to fix: protect the original photo" in said
    assert fake.calls == calls and set(files(second)) == {"faceprotect.json"}


def test_without_the_mark_a_copy_is_not_known(folders, tmp_path, fake, capsys):
    source, out = folders
    assert run(source, out, "--no-mark") == 0 and record(out)["a.png"]["settings"]["mark"] is False
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes((out / "a.png").read_bytes())
    assert run(tmp_path / "elsewhere", tmp_path / "second") == 0
    assert run(out, tmp_path / "third") == 1 and "is protected already" in capsys.readouterr().out  # the record knows


def test_a_photo_beside_protected_ones_is_an_original_all_the_same(folders, tmp_path):
    source, out = folders
    protect_folder(source, out, FakeProtector())
    write_photo(out / "new.png", 9)
    done = protect_folder(out, tmp_path / "second", FakeProtector())
    assert {one.task.name: one.status for one in done}["new.png"] == "protected"


# Disks and rights


def test_a_folder_that_cannot_be_written_to_is_said_before_the_first_photo(folders, fake, capsys, monkeypatch):
    """As on a disk that is read-only; the tests run with all rights."""

    def refuse(path, *arguments, **options):
        if str(path).endswith(".part"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return original(path, *arguments, **options)

    original = open
    monkeypatch.setattr("builtins.open", refuse)
    assert run(*folders) == 2
    said = capsys.readouterr().err
    assert "cannot be written to (Read-only file system)" in said and "How to fix: " in said
    assert str(folders[1].parent) not in said and fake.calls == 0


@pytest.mark.parametrize(
    ("before", "said"),
    [(True, "The file could not be read or written (No space left"),
     (False, "was protected, but the record could not be written (No space left")],
    ids=["before the file", "after it"],
)  # fmt: skip
def test_a_record_that_cannot_be_written_is_a_failure_and_the_others_go_on(folders, monkeypatch, before, said):
    put, failed = Record.put, []

    def full(self, name, entry):
        if name == "b.png" and ("coming" in entry) == before and not failed:
            failed.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/path")
        put(self, name, entry)

    monkeypatch.setattr(Record, "put", full)
    done = protect_folder(*folders, FakeProtector())
    assert [one.status for one in done] == ["protected", "failed", "protected"]
    reason = done[1].entry["reason"]
    assert said in reason and "/secret" not in reason
    assert not (folders[1] / "b.png").exists() and record(folders[1])["b.png"]["status"] == "failed"
    again = protect_folder(*folders, FakeProtector())
    assert {one.task.name: one.status for one in again}["b.png"] == "protected"


# Two runs


def test_a_second_run_into_the_same_folder_waits_for_nobody_and_is_refused(folders):
    source, out = folders
    out.mkdir()
    with locked(out), pytest.raises(ProtectionError, match="another run is at work.*How to fix"):
        protect_folder(source, out, FakeProtector())
    assert len(protect_folder(source, out, FakeProtector())) == 3
    assert set(record(out)) == {"a.png", "b.png", "sub/c.png"}


def test_photos_of_two_folders_that_have_one_name_do_not_replace_each_other(folders, tmp_path):
    """An edited original is protected anew, also where the folder was moved; a namesake from elsewhere is not."""
    source, out = folders
    protect_folder(source, out, FakeProtector())
    write_photo(tmp_path / "trip" / "a.png", 9)
    before = files(out)["a.png"]
    (done,) = protect_folder(tmp_path / "trip", out, FakeProtector())
    assert done.status == "failed" and files(out)["a.png"] == before
    assert "was made from another photo, of another folder" in done.entry["reason"]
    (done,) = protect_folder(tmp_path / "trip" / "a.png", out, FakeProtector())
    assert done.status == "failed" and files(out)["a.png"] == before
    source = source.rename(tmp_path / "moved")
    assert {one.status for one in protect_folder(source, out, FakeProtector(more=1))} == {"protected"}
    write_photo(source / "a.png", 8)
    done = {one.task.name: one.status for one in protect_folder(source, out, FakeProtector(more=1))}
    assert done == {"a.png": "protected", "b.png": "already", "sub/c.png": "already"}


@pytest.mark.parametrize("again", [FakeProtector(), FakeProtector(more=1)], ids=["same settings", "other settings"])
def test_a_stop_between_a_file_and_the_record_leaves_no_file_that_no_run_knows(folders, monkeypatch, again):
    source, out = folders
    protect_folder(source / "a.png", out, FakeProtector())
    write_photo(source / "a.png", 8)
    put = Record.put

    def stopped(self, name, entry):
        if entry.get("source_sha256") and "coming" not in entry:
            raise KeyboardInterrupt
        put(self, name, entry)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Record, "put", stopped)
        protect_folder(source, out, FakeProtector())
    assert record(out)["a.png"]["coming"]
    assert {one.status for one in protect_folder(source, out, again)} <= {"protected", "already"}
    assert all("coming" not in entry and entry["status"] == "protected" for entry in record(out).values())


def test_an_original_that_was_done_and_cannot_be_read_any_more_stops_no_others(folders):
    source, out = folders
    protect_folder(source, out, FakeProtector())
    (source / "a.png").unlink()
    (source / "a.png").symlink_to(source / "gone.png")
    write_photo(source / "d.png", 7)
    done = {one.task.name: one.status for one in protect_folder(source, out, FakeProtector())}
    assert done == {"a.png": "failed", "b.png": "already", "d.png": "protected", "sub/c.png": "already"}
    assert "could not be read" in record(out)["a.png"]["reason"] and (out / "a.png").is_file()


def test_two_runs_at_once_lose_nothing(folders):
    source, out = folders
    out.mkdir()
    outcomes = []

    def one():
        try:
            outcomes.append(len(protect_folder(source, out, FakeProtector())))
        except ProtectionError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert 3 in outcomes and all(one == 3 or "another run" in one for one in outcomes)
    assert set(record(out)) == {"a.png", "b.png", "sub/c.png"}


# Names


def test_photos_are_known_by_what_is_in_them_and_the_rest_is_named_once(tmp_path, fake, capsys):
    source = tmp_path / "in"
    write_photo(source / "a.png")
    jpeg = write_photo(tmp_path / "photo.jpg").read_bytes()
    for name in ("b.jpe", "c.pjpeg", "d", "e.jif", "f.photo"):
        (source / name).write_bytes(jpeg)
    for name in ("raw.HIF", "g.jxl"):
        (source / name).write_bytes(b"no picture that can be read here")
    for name in ("notes.txt", "movie.MP4", "side.xmp", ".hidden", "Thumbs.db"):
        (source / name).write_bytes(b"x")
    for number in range(7):
        (source / f"unknown{number}.abc").write_bytes(b"\x00" * 100)
    out, fake.tolerance = tmp_path / "out", 1.0
    assert run(source, out) == 1
    protected = {name for name, entry in record(out).items() if entry["status"] == "protected"}
    assert protected == {"a.png", "b.jpe", "c.pjpeg", "d", "e.jif", "f.photo"}
    assert {name for name, entry in record(out).items() if entry["status"] == "failed"} == {"raw.HIF", "g.jxl"}
    said = capsys.readouterr().out
    assert "7 other files are no photos that can be read: unknown0.abc" in said and "and 2 more" in said
    assert "notes.txt" not in said and len(passed_over(source, out)) == 7


@pytest.mark.parametrize("target", ["folder", "file"])
def test_one_photo_in_gives_one_photo_out(tmp_path, fake, target):
    photo = write_photo(tmp_path / "in" / "me.png")
    write_photo(tmp_path / "in" / "other.png", 3)
    out = tmp_path / "out" if target == "folder" else tmp_path / "out" / "protected.jpg"
    fake.tolerance = 1.0
    assert run(photo, out) == 0
    made = files(tmp_path / "out")
    assert set(made) == {"faceprotect.json", "me.png" if target == "folder" else "protected.jpg"}


def test_one_photo_is_never_written_over_itself(tmp_path, fake, capsys):
    photo = write_photo(tmp_path / "me.png")
    before = photo.read_bytes()
    assert run(photo, photo) == 2 and photo.read_bytes() == before
    assert "would land on one of the input photos" in capsys.readouterr().err


def test_a_name_that_is_too_long_is_said_in_one_sentence(folders, fake, capsys):
    assert run(folders[0], folders[1] / ("x" * 300)) == 2
    said = capsys.readouterr().err
    assert "How to fix: " in said and "Traceback" not in said and str(folders[1]) not in said


# Grey and alpha, through the command


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_grey_photo_is_written_grey(tmp_path, fake, suffix):
    source = tmp_path / "in"
    source.mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
    Image.fromarray(grey).save(source / f"grey{suffix}")
    fake.tolerance = 1.0
    assert run(source, tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / f"grey{suffix}") as written:
        assert written.mode == "L"


def test_what_of_a_file_could_not_be_kept_is_said(tmp_path, fake, capsys):
    source = tmp_path / "in"
    broken = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:300]
    write_photo(source / "a.png", icc_profile=broken)
    assert run(source, tmp_path / "out") == 0
    (note,) = record(tmp_path / "out")["a.png"]["notes"]
    assert "colour profile cannot be used" in note and note in capsys.readouterr().out


def test_an_erased_background_stays_erased_as_jpeg(tmp_path, fake):
    source: Path = tmp_path / "in"
    source.mkdir()
    array = np.full((16, 16, 4), (0, 0, 200, 255), np.uint8)
    array[4:12, 4:12] = 255, 0, 0, 0
    Image.fromarray(array).save(source / "cut.png")
    fake.tolerance = 1.0
    assert run(source, tmp_path / "out", "--format", "jpeg") == 0
    with Image.open(tmp_path / "out" / "cut.jpg") as written:
        inside = np.asarray(written.convert("RGB"))[6:10, 6:10]
    assert np.ptp(inside.reshape(-1, 3), axis=0).max() < 12 and inside[..., 0].max() < 60  # the fake inverts white

"""A folder of photos: resumable, nothing overwritten, no unprotected file; one bad photo does not stop the others."""

import json
import os

import pytest
import torch
from PIL import Image

from faceprotect_core.checks import ProtectionError
from faceprotect_core.folders.record import RECORD
from faceprotect_core.folders.run import Options, protect_folder
from faceprotect_core.photos.read import read_photo
from folder_photos import FakeProtector, Reading, TwoAtOnce, files, record, without_seconds, write_photo


def statuses(done) -> dict:
    return {one.task.name: one.status for one in done}


# What comes out


def test_every_photo_is_protected_and_subfolders_are_mirrored(folders):
    source, target = folders
    before = files(source)
    done = protect_folder(source, target, FakeProtector())
    assert set(statuses(done).values()) == {"protected"}
    assert set(files(target)) == {"a.png", "b.png", "sub/c.png", RECORD}
    for name in ("a.png", "sub/c.png"):
        torch.testing.assert_close(read_photo(target / name).image, 1 - read_photo(source / name).image)
    assert files(source) == before


def test_the_record_says_what_was_done_without_an_absolute_path(folders, tmp_path):
    source, target = folders
    protect_folder(source, target, FakeProtector())
    entry = record(target)["sub/c.png"]
    assert entry["status"] == "protected" and entry["output"] == "sub/c.png"
    assert entry["verdict"] == (
        "Protected, 1 face. fake, not used to make this, says distance 0.81; the same person below 0.60."
    )
    (face,) = entry["faces"]
    assert [(score["recogniser"], score["role"], score["after"]) for score in face["scores"]] == [
        ("fake", "judge", 0.81), ("other", "loss", 0.1)
    ]  # fmt: skip
    assert (face["protected"], face["evidence"], face["judge_asked"]) == (True, True, 1)
    assert entry["settings"] == {
        "preset": "balanced", "version": 1, "format": "keep", "quality": 95, "keep_metadata": False, "mark": True,
    }  # fmt: skip
    assert str(tmp_path) not in (target / RECORD).read_text()


def test_the_record_says_how_often_the_judge_was_asked_before_the_file_was_written(folders):
    """Reading the file back is no further version."""
    source, target = folders
    protector = FakeProtector()
    protector.asked = 2
    protect_folder(source, target, protector)
    assert record(target)["a.png"]["faces"][0]["judge_asked"] == 2


@pytest.mark.parametrize(
    "wanted, outputs",
    [
        ("keep", {"a.JPG": "a.JPG", "b.bmp": "b.png", "c.jfif": "c.jpg", "d.tif": "d.tif"}),
        ("png", {"a.JPG": "a.png", "b.bmp": "b.png", "c.jfif": "c.png", "d.tif": "d.png"}),
        ("jpeg", {"a.JPG": "a.JPG", "b.bmp": "b.jpg", "c.jfif": "c.jpg", "d.tif": "d.jpg"}),
        ("webp", {"a.JPG": "a.webp", "b.bmp": "b.webp", "c.jfif": "c.webp", "d.tif": "d.webp"}),
    ],
)
def test_the_format_is_the_photos_own_or_the_one_that_was_asked_for(tmp_path, wanted, outputs):
    for name in outputs:
        write_photo(tmp_path / "in" / name, format="JPEG" if name.endswith("jfif") else None)
    protector = FakeProtector()
    protector.tolerance = 1.0
    done = protect_folder(tmp_path / "in", tmp_path / "out", protector, Options(format=wanted))
    assert {one.task.name: one.task.output_name for one in done} == outputs
    formats = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
    for name in outputs.values():
        expected = formats.get(wanted) or {"a.JPG": "JPEG", "b.png": "PNG", "c.jpg": "JPEG", "d.tif": "TIFF"}[name]
        with Image.open(tmp_path / "out" / name) as written:
            assert written.format == expected


def test_photos_that_want_the_same_name_all_get_one_and_keep_it(tmp_path):
    source, target, options = tmp_path / "in", tmp_path / "out", Options(format="png")
    protector = FakeProtector()
    write_photo(source / "a.bmp", 1)
    protect_folder(source, target, protector, options)
    write_photo(source / "a.png", 2)
    write_photo(source / "A.PNG", 3)
    write_photo(source / "a.BMP", 4)
    write_photo(source / "a.webp.png", 5)
    done = protect_folder(source, target, protector, options)
    outputs = {one.task.name: one.task.output_name for one in done}
    assert statuses(done)["a.bmp"] == "already" and outputs["a.bmp"] == "a.png"
    assert len({name.casefold() for name in outputs.values()}) == 5
    assert outputs["a.BMP"] == "a.BMP.png" and outputs["a.webp.png"] == "a.webp.png"
    for name, output in outputs.items():
        torch.testing.assert_close(read_photo(target / output).image, 1 - read_photo(source / name).image)
    assert set(statuses(protect_folder(source, target, protector, options)).values()) == {"already"}


# Going on


def test_what_is_done_is_not_done_again(folders):
    source, target = folders
    protect_folder(source, target, FakeProtector())
    before, again = files(target), FakeProtector()
    done = protect_folder(source, target, again)
    assert set(statuses(done).values()) == {"already"} and again.calls == 0
    assert files(target) == before


CHANGES = {
    "the photo": lambda source, target: write_photo(source / "b.png", 99),
    "the output is gone": lambda source, target: (target / "b.png").unlink(),
    "a new photo": lambda source, target: write_photo(source / "new.png", 7),
    "failed before": lambda source, target: _edit(target, lambda photos: photos["b.png"].update(status="failed")),
}


def _edit(target, change):
    content = json.loads((target / RECORD).read_text())
    change(content["photos"])
    (target / RECORD).write_text(json.dumps(content))


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_changed_is_done_again(folders, change):
    source, target = folders
    protect_folder(source, target, FakeProtector())
    CHANGES[change](source, target)
    again = FakeProtector()
    done = protect_folder(source, target, again)
    assert again.calls == 1 and "failed" not in statuses(done).values()
    assert [one.status for one in done] == ["already"] * (len(done) - 1) + ["protected"]


@pytest.mark.parametrize("settings, options", [({"preset": "strong"}, Options()), ({}, Options(quality=50))])
def test_other_settings_do_everything_again(folders, settings, options):
    source, target = folders
    protect_folder(source, target, FakeProtector())
    again = FakeProtector(**settings)
    done = protect_folder(source, target, again, options)
    assert set(statuses(done).values()) == {"protected"} and again.calls == 3


def test_after_ctrl_c_the_next_run_goes_on(folders):
    source, target = folders
    stopped = FakeProtector()
    stopped.error = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        protect_folder(source, target, stopped)
    assert set(files(target)) == {"a.png", RECORD}
    done = protect_folder(source, target, FakeProtector())
    assert statuses(done) == {"a.png": "already", "b.png": "protected", "sub/c.png": "protected"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1, "photos": {"a": 3}}', '{"version": 1}'])
def test_a_damaged_record_is_reported_and_left_alone(folders, content):
    source, target = folders
    target.mkdir()
    (target / RECORD).write_text(content)
    with pytest.raises(ProtectionError, match="damaged") as caught:
        protect_folder(source, target, FakeProtector())
    assert "How to fix" in str(caught.value)
    assert (target / RECORD).read_text() == content


# One bad photo


BAD = {
    "not protected": lambda fake: setattr(fake, "protected", False),
    "NaN": lambda fake: None,
    "no face": lambda fake: fake.error.update({2: ProtectionError("no face", "crop closer")}),
    "a bug": lambda fake: fake.error.update({2: KeyError("/home/someone/secret")}),
    "out of memory": lambda fake: fake.error.update({2: MemoryError()}),
}


@pytest.mark.parametrize("kind", ["no face", "a bug", "out of memory", "unreadable", "NaN"])
def test_one_bad_photo_is_reported_and_the_others_go_on(folders, kind):
    source, target = folders
    protector = FakeProtector()
    if kind == "unreadable":
        (source / "b.png").write_text("not a photo")
    elif kind == "NaN":
        inverted = protector.inverted

        def with_nan(image, on_step=None):
            result = inverted(image, on_step)
            if protector.calls == 2:
                result.image[0, 0, 0] = float("nan")
            return result

        protector.inverted = with_nan
    else:
        BAD[kind](protector)
    done = protect_folder(source, target, protector)
    assert statuses(done) == {"a.png": "protected", "b.png": "failed", "sub/c.png": "protected"}
    assert set(files(target)) == {"a.png", "sub/c.png", RECORD}
    reason = record(target)["b.png"]["reason"]
    assert "How to fix: " in reason and "secret" not in reason and str(source) not in reason


def test_a_photo_that_is_not_protected_enough_is_not_written(folders):
    source, target = folders
    protector = FakeProtector()
    protector.protected = False
    done = protect_folder(source, target, protector)
    assert set(statuses(done).values()) == {"failed"} and set(files(target)) == {RECORD}
    reason = record(target)["a.png"]["reason"]
    assert "--preset strong" in reason
    assert "NOT PROTECTED enough. Face 0: fake, not used to make this, says distance 0.50; the same person" in reason


def test_a_file_that_does_not_survive_its_own_compression_never_gets_its_name(folders):
    """The fake is exact: only lossless files survive it."""
    source, target = folders
    done = protect_folder(source, target, FakeProtector(), Options(format="jpeg"))
    assert set(statuses(done).values()) == {"failed"}
    assert [name for name in files(target) if name != RECORD] == []
    assert "read back" in record(target)["a.png"]["reason"] and "--format png" in record(target)["a.png"]["reason"]


@pytest.mark.parametrize(("written_as", "again"), [("png", 0), ("jpeg", 0), ("webp", 3)])
def test_a_file_is_judged_once_more_only_where_it_gives_back_other_pixels(folders, written_as, again):
    source, target = folders
    protector = Reading()
    done = protect_folder(source, target, protector, Options(format=written_as))
    assert set(statuses(done).values()) == {"protected"} and protector.asked_again == again


def test_a_failed_second_attempt_leaves_the_first_output_and_still_knows_it(folders):
    source, target = folders
    protect_folder(source, target, FakeProtector())
    before = files(target)["a.png"]
    harder = FakeProtector(preset="strong")
    harder.protected = False
    protect_folder(source, target, harder)
    assert files(target)["a.png"] == before
    assert "earlier run" in record(target)["a.png"]["reason"]
    done = protect_folder(source, target, FakeProtector(preset="strong"))
    assert set(statuses(done).values()) == {"protected"}


# Several photos at once

SCENES = {
    "all is well": lambda source, target, fake: None,
    "no face": lambda source, target, fake: BAD["no face"](fake),
    "a bug": lambda source, target, fake: BAD["a bug"](fake),
    "out of memory": lambda source, target, fake: BAD["out of memory"](fake),
    "not protected": lambda source, target, fake: BAD["not protected"](fake),
    "does not survive": lambda source, target, fake: setattr(fake, "tolerance", -1),
    "unreadable": lambda source, target, fake: (source / "b.png").write_text("not a photo"),
    "the first is unreadable": lambda source, target, fake: (source / "a.png").write_text("not a photo"),
    "not ours": lambda source, target, fake: write_photo(target / "b.png", 55),
    "one is done": lambda source, target, fake: protect_folder(source / "sub", target / "sub", FakeProtector()),
}


@pytest.mark.parametrize("scene", SCENES)
def test_several_photos_at_once_come_out_as_one_after_the_other(tmp_path, scene):
    outcomes = []
    for number, protector in enumerate((FakeProtector(), TwoAtOnce())):
        source, target = tmp_path / f"in{number}", tmp_path / f"out{number}"
        for seed, name in enumerate(("a.png", "b.png", "sub/c.png", "z.png")):
            write_photo(source / name, seed)
        SCENES[scene](source, target, protector)
        done = protect_folder(source, target, protector)
        entries = record(target)
        assert all(entry["seconds"] >= 0 for entry in entries.values())
        written = {name: content for name, content in files(target).items() if not name.endswith(RECORD)}
        reported = [(one.number, one.task.name, one.status) for one in done]
        outcomes.append((reported, without_seconds(entries), written))
    assert outcomes[0] == outcomes[1]


def test_with_several_at_once_the_next_run_does_what_is_left(folders):
    source, target = folders
    write_photo(source / "z.png", 9)
    stopped = TwoAtOnce()
    stopped.error = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        protect_folder(source, target, stopped)
    assert set(files(target)) == {"a.png", "b.png", RECORD}
    again = TwoAtOnce()
    assert list(statuses(protect_folder(source, target, again)).values()) == ["already", "already"] + ["protected"] * 2
    assert again.calls == 2
    assert set(statuses(protect_folder(source, target, again)).values()) == {"already"} and again.calls == 2


def test_with_several_at_once_a_photo_is_read_when_it_is_needed_and_written_before_the_next(folders):
    source, target = folders
    protector, seen = TwoAtOnce(), []
    protect_folder(
        source, target, protector, on_step=lambda task, event: seen.append((task.name, len(files(target)))),
        on_photo=lambda done: seen.append((done.task.name, protector.calls)),
    )  # fmt: skip
    assert seen == [("a.png", 0), ("a.png", 0), ("a.png", 2), ("b.png", 2), ("sub/c.png", 3), ("sub/c.png", 3)]


def test_an_error_of_the_protector_itself_fails_those_at_work_and_the_others_go_on(folders):
    source, target = folders
    (source / "a.png").write_text("not a photo")
    protector = TwoAtOnce()
    protector._attempt = protector.inverted
    protector.error = {1: KeyError("a bug")}
    done = protect_folder(source, target, protector)
    assert statuses(done) == {"a.png": "failed", "b.png": "failed", "sub/c.png": "protected"}
    assert "is not a photo in a format" in record(target)["a.png"]["reason"]
    assert "An unexpected KeyError in folder_photos.py" in record(target)["b.png"]["reason"]


def test_a_protector_that_cannot_begin_ends_the_run(folders, monkeypatch):
    def protect(photos, on_step=None):
        raise ProtectionError("there is no target", "bring one")

    protector = FakeProtector()
    monkeypatch.setattr(protector, "protect", protect)
    with pytest.raises(ProtectionError, match="no target"):
        protect_folder(*folders, protector)


# Nothing that is not ours is overwritten


def test_a_file_that_the_record_does_not_know_is_not_overwritten(folders):
    source, target = folders
    write_photo(target / "a.png", 55)
    before = files(target)["a.png"]
    done = protect_folder(source, target, FakeProtector())
    assert statuses(done)["a.png"] == "failed" and files(target)["a.png"] == before
    assert "--overwrite" in record(target)["a.png"]["reason"]
    done = protect_folder(source, target, FakeProtector(), Options(overwrite=True))
    assert statuses(done)["a.png"] == "protected" and files(target)["a.png"] != before


def test_an_output_that_somebody_changed_is_not_overwritten(folders):
    source, target = folders
    protect_folder(source, target, FakeProtector())
    write_photo(target / "a.png", 56)
    before = files(target)["a.png"]
    done = protect_folder(source, target, FakeProtector())
    assert statuses(done)["a.png"] == "failed" and files(target)["a.png"] == before


def test_the_same_folder_twice_is_refused(folders, tmp_path):
    source, _ = folders
    (tmp_path / "link").symlink_to(source, target_is_directory=True)
    for target in (source, source / "sub" / "..", tmp_path / "link"):
        with pytest.raises(ProtectionError, match="same"):
            protect_folder(source, target, FakeProtector())


def test_an_output_folder_inside_the_input_is_left_out(folders):
    source, _ = folders
    target = source / "protected"
    protect_folder(source, target, FakeProtector())
    done = protect_folder(source, target, FakeProtector())
    assert set(statuses(done)) == {"a.png", "b.png", "sub/c.png"}
    assert set(files(target)) == {"a.png", "b.png", "sub/c.png", RECORD}


def test_an_input_inside_the_output_works_unless_an_output_would_land_on_it(tmp_path):
    target = tmp_path / "all"
    source = target / "in"
    write_photo(source / "a.png")
    assert statuses(protect_folder(source, target, FakeProtector())) == {"a.png": "protected"}
    write_photo(source / "in" / "a.png", 3)
    before = files(source)
    with pytest.raises(ProtectionError, match="land on one of the input"):
        protect_folder(source, target, FakeProtector(), Options(overwrite=True))
    assert files(source) == before


@pytest.mark.parametrize("link", ["file", "hard link", "folder"])
def test_no_link_leads_a_write_onto_an_input(folders, link):
    source, target = folders
    target.mkdir()
    if link == "file":
        (target / "a.png").symlink_to(source / "b.png")
    elif link == "hard link":
        os.link(source / "b.png", target / "a.png")
    else:
        (target / "sub").symlink_to(source, target_is_directory=True)
    before = files(source)
    with pytest.raises(ProtectionError, match="land on one of the input|leads the output"):
        protect_folder(source, target, FakeProtector(), Options(overwrite=True))
    assert files(source) == before


def test_photos_that_cannot_be_read_at_all_are_reported_and_other_files_are_not(folders):
    source, target = folders
    (source / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (source / "notes.txt").write_text("notes")
    (source / "._a.png").write_text("what macOS leaves behind")
    done = protect_folder(source, target, FakeProtector())
    assert statuses(done) == {
        "a.png": "protected",
        "b.png": "protected",
        "phone.HEIC": "failed",
        "sub/c.png": "protected",
    }
    assert "export the photo as JPEG" in record(target)["phone.HEIC"]["reason"]


def test_a_folder_without_photos_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ProtectionError, match="no photos"):
        protect_folder(tmp_path / "in", tmp_path / "out", FakeProtector())
    with pytest.raises(ProtectionError, match="does not exist"):
        protect_folder(tmp_path / "nowhere", tmp_path / "out", FakeProtector())
    assert not (tmp_path / "out").exists()

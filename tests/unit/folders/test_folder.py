"""A folder of photos: resumable, nothing overwritten, no unprotected file; one bad photo does not stop the others."""

import json
import os
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from faceprotect_core import __main__ as command
from faceprotect_core import load_surrogate
from faceprotect_core.checks import ProtectionError
from faceprotect_core.faces import Face
from faceprotect_core.folders import protector as protector_module
from faceprotect_core.folders.protector import Choice, load_protector
from faceprotect_core.folders.record import RECORD
from faceprotect_core.folders.run import Options, protect_folder
from faceprotect_core.photos.read import read_photo
from faceprotect_core.photos.settings import DIFFUSION, LIGHT, PRESETS, PhotoSettings
from faceprotect_core.progress import Step
from faceprotect_core.verify.verdict import JUDGE, LOSS, FaceVerdict, Score

RANDOM = np.random.default_rng(5)
FACE = Face((1.0, 1.0, 9.0, 9.0), 1.0, ((0.0, 0.0),) * 5)


def verdict(protected: bool = True, asked: int = 1) -> FaceVerdict:
    judge = Score("fake", JUDGE, "euclidean", 0.0, 0.81 if protected else 0.5, 0.6, True, protected)
    used = Score("other", LOSS, "cosine", 1.0, 0.1, 0.3, True, True)
    return FaceVerdict(FACE, True, (judge, used), asked=asked)


class FakeProtector:
    """Inverts the photo, and counts. A file survives when its pixels are what was protected."""

    faces_per_batch = 1

    def __init__(self, **settings):
        self.settings = {"preset": "balanced", "version": 1} | settings
        self.calls, self.error, self.protected, self.tolerance, self.asked = 0, {}, True, 1e-6, 1

    def protect(self, photo, on_step=None):
        self.calls += 1
        if self.calls in self.error:
            raise self.error[self.calls]
        if on_step:
            on_step(Step("protection", 1, 1))
        return SimpleNamespace(image=1 - photo, faces=(verdict(self.protected, self.asked),))

    def judge(self, original, finished, faces):
        assert faces == [FACE]
        return (verdict((1 - original - finished).abs().max().item() <= self.tolerance),)


class TwoAtOnce(FakeProtector):
    """Has both photos before it protects the first, and both results before it gives the first away."""

    faces_per_batch = 2

    def protect_all(self, photos, on_step=None):
        photos = iter(photos)
        while together := list(islice(photos, self.faces_per_batch)):
            report = on_step and (lambda event: on_step(replace(event, photos=len(together))))  # noqa: B023
            yield from [one if isinstance(one, Exception) else self._attempt(one, report) for one in together]

    def _attempt(self, photo, on_step):
        try:
            return self.protect(photo, on_step)
        except Exception as error:
            return error


def photo(path, seed: int = 0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folders(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        photo(source / name, number)
    return source, target


def statuses(done) -> dict:
    return {one.task.name: one.status for one in done}


def files(folder) -> dict:
    """Every file's content, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(folder) -> dict:
    return json.loads((folder / RECORD).read_text())["photos"]


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
        "Protected: 1 face. fake, not used to make this: distance 0.81; the same person below 0.60."
    )
    (face,) = entry["faces"]
    assert [(score["recogniser"], score["role"], score["after"]) for score in face["scores"]] == [
        ("fake", "judge", 0.81), ("other", "loss", 0.1)
    ]  # fmt: skip
    assert (face["protected"], face["evidence"], face["judge_asked"]) == (True, True, 1)
    assert entry["settings"] == {
        "preset": "balanced", "version": 1, "format": "keep", "quality": 95, "keep_metadata": False,
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
        photo(tmp_path / "in" / name, format="JPEG" if name.endswith("jfif") else None)
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
    photo(source / "a.bmp", 1)
    protect_folder(source, target, protector, options)
    photo(source / "a.png", 2)
    photo(source / "A.PNG", 3)
    photo(source / "a.BMP", 4)
    photo(source / "a.webp.png", 5)
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
    "the photo": lambda source, target: photo(source / "b.png", 99),
    "the output is gone": lambda source, target: (target / "b.png").unlink(),
    "a new photo": lambda source, target: photo(source / "new.png", 7),
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
    "no face": lambda fake: fake.error.update({2: ProtectionError("no face. How to fix: crop closer.")}),
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
        protect = protector.protect

        def with_nan(image, on_step=None):
            result = protect(image, on_step)
            if protector.calls == 2:
                result.image[0, 0, 0] = float("nan")
            return result

        protector.protect = with_nan
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
    assert "NOT PROTECTED enough: face 0 of 1 (fake, not used to make this: distance 0.50; the same person" in reason


def test_a_file_that_does_not_survive_its_own_compression_never_gets_its_name(folders):
    """The fake is exact: only lossless files survive it."""
    source, target = folders
    done = protect_folder(source, target, FakeProtector(), Options(format="jpeg"))
    assert set(statuses(done).values()) == {"failed"}
    assert [name for name in files(target) if name != RECORD] == []
    assert "read back" in record(target)["a.png"]["reason"] and "--format png" in record(target)["a.png"]["reason"]


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
    "not ours": lambda source, target, fake: photo(target / "b.png", 55),
    "one is done": lambda source, target, fake: protect_folder(source / "sub", target / "sub", FakeProtector()),
}


def without_seconds(entries: dict) -> dict:
    return {name: {key: value for key, value in entry.items() if key != "seconds"} for name, entry in entries.items()}


@pytest.mark.parametrize("scene", SCENES)
def test_several_photos_at_once_come_out_as_one_after_the_other(tmp_path, scene):
    outcomes = []
    for number, protector in enumerate((FakeProtector(), TwoAtOnce())):
        source, target = tmp_path / f"in{number}", tmp_path / f"out{number}"
        for seed, name in enumerate(("a.png", "b.png", "sub/c.png", "z.png")):
            photo(source / name, seed)
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
    photo(source / "z.png", 9)
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


# Nothing that is not ours is overwritten


def test_a_file_that_the_record_does_not_know_is_not_overwritten(folders):
    source, target = folders
    photo(target / "a.png", 55)
    before = files(target)["a.png"]
    done = protect_folder(source, target, FakeProtector())
    assert statuses(done)["a.png"] == "failed" and files(target)["a.png"] == before
    assert "--overwrite" in record(target)["a.png"]["reason"]
    done = protect_folder(source, target, FakeProtector(), Options(overwrite=True))
    assert statuses(done)["a.png"] == "protected" and files(target)["a.png"] != before


def test_an_output_that_somebody_changed_is_not_overwritten(folders):
    source, target = folders
    protect_folder(source, target, FakeProtector())
    photo(target / "a.png", 56)
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
    photo(source / "a.png")
    assert statuses(protect_folder(source, target, FakeProtector())) == {"a.png": "protected"}
    photo(source / "in" / "a.png", 3)
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


# The command line


@pytest.fixture
def fake(monkeypatch):
    made = FakeProtector()
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: made)
    return made


def run(*arguments) -> int:
    return command.main(["protect", *map(str, arguments)])


def test_the_command_says_what_happens_and_exits_with_0(folders, fake, capsys):
    assert run(*folders) == 0
    lines = capsys.readouterr().out.splitlines()
    said = "Protected: 1 face. fake, not used to make this: distance 0.81; the same person below 0.60."
    assert lines[0].startswith(f"1 of 3  a.png  {said} 0 s")
    assert lines[3] == "3 photos: 3 protected, 0 already done, 0 failed." and len(lines) == 4
    assert run(*folders) == 0
    assert f"1 of 3  a.png  already: {said}\n" in capsys.readouterr().out


def test_a_failed_photo_exits_with_1(folders, fake, capsys):
    fake.protected = False
    assert run(*folders) == 1
    out = capsys.readouterr().out
    assert "FAILED: " in out and "How to fix: " in out and "Nothing was written" in out


WRONG = {
    "a missing folder": lambda source, target: (source / "nowhere", target),
    "the same folder": lambda source, target: (source, source),
    "no output folder": lambda source, target: (source,),
    "an unknown preset": lambda source, target: (source, target, "--preset", "best"),
    "faces that are none": lambda source, target: (source, target, "--faces", "left"),
    "a quality of 0": lambda source, target: (source, target, "--quality", "0"),
    "a min_face of 0": lambda source, target: (source, target, "--min-face", "0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_exits_with_2_and_writes_nothing(folders, fake, capsys, name):
    source, target = folders
    try:
        code = run(*WRONG[name](source, target))
    except SystemExit as exit_:  # argparse's own
        code = exit_.code
    assert code == 2 and capsys.readouterr().err
    assert fake.calls == 0 and not target.exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--goal", "impersonate"), "no target"),
        (("--target", "x.png"), "needs none"),
        (("--device", "cuda"), "no CUDA device"),
        (("--model", "nowhere"), "scheduler_config.json"),
        (("--way", "light-and-shade", "--model", "demo"), "needs no model"),
        (("--surrogate", "mobileface", "--judge", "mobileface"), "the judge mobileface is the same network"),
        (("--surrogate", "nobody"), "'nobody' is not a built-in surrogate"),
        (("--judge", "nobody.pth"), "nobody.pth"),
    ],
)
def test_wrong_choices_exit_with_2(folders, capsys, monkeypatch, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*folders, *arguments) == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(folders, fake, capsys):
    fake.error = {2: KeyboardInterrupt()}
    assert run(*folders) == 130
    assert "go on" in capsys.readouterr().err


def test_the_choices_reach_the_protector(folders, monkeypatch):
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or FakeProtector())
    run(*folders, "--preset", "fast", "--faces", "0,2", "--goal", "synthetic", "--min-face", "40", "--threshold", "0.5")
    assert chosen == [Choice(preset="fast", which="0,2", goal="synthetic", min_face=40, threshold=0.5)]


BUILT_IN = ("mobilefacenet", "faceres", "mobileface")


@pytest.mark.parametrize(
    "arguments, surrogates, judge",
    [
        ((), BUILT_IN, "dlib_resnet"),
        (("--judge", "none"), BUILT_IN, "none"),
        (("--judge", "faceres"), ("mobilefacenet", "mobileface"), "faceres"),
        (("--judge", "mine.pth"), BUILT_IN, "mine.pth"),
        (("--surrogate", "mine.pth", "faceres"), ("mine.pth", "faceres"), "dlib_resnet"),
        (("--surrogate", "dlib_resnet", "mobilefacenet"), ("dlib_resnet", "mobilefacenet"), "faceres"),
        (("--surrogate", "dlib_resnet", *BUILT_IN), ("dlib_resnet", *BUILT_IN), "none"),
        (("--surrogate", "dlib_resnet", "--judge", "dlib_resnet"), ("dlib_resnet",), "dlib_resnet"),
    ],
)
def test_the_judge_is_one_that_is_not_used_unless_it_was_named(folders, monkeypatch, arguments, surrogates, judge):
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or FakeProtector())
    run(*folders, *arguments)
    assert chosen == [Choice(surrogates=surrogates, judge=judge)]


@pytest.mark.parametrize(
    "arguments, way, model",
    [
        ((), LIGHT, None),
        (("--way", "light-and-shade"), LIGHT, None),
        (("--way", "diffusion"), DIFFUSION, None),
        (("--model", "demo"), DIFFUSION, "demo"),
        (("--way", "diffusion", "--model", "some/folder"), DIFFUSION, "some/folder"),
    ],
)
def test_a_model_that_is_named_chooses_diffusion(folders, monkeypatch, arguments, way, model):
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or FakeProtector())
    run(*folders, *arguments)
    (choice,) = chosen
    assert (choice.chosen_way, choice.model) == (way, model)


@pytest.mark.parametrize("way, model", [(None, None), (DIFFUSION, None), (None, "demo")])
def test_the_settings_of_the_record_name_way_model_and_recognisers(way, model):
    settings = load_protector(Choice(way, model, surrogates=("mobileface", "faceres"))).settings
    assert settings["way"] == (LIGHT if (way, model) == (None, None) else DIFFUSION)
    assert settings["model"] == (None if settings["way"] == LIGHT else "demo")
    assert (settings["model_sha256"] is None) == (settings["way"] == LIGHT)
    assert [name.split()[0] for name in settings["surrogates"]] == ["mobileface", "faceres"]
    assert all(len(name.split()[1]) == 16 for name in settings["surrogates"])
    assert settings["judge"].startswith("dlib_resnet ") and settings["photo_settings"]["way"] == settings["way"]


def test_without_a_judge_the_record_says_so_and_another_judge_is_another_setting():
    chosen = [Choice(surrogates=("mobileface",), judge=name) for name in ("none", "faceres", "dlib_resnet")]
    settings = [load_protector(choice).settings for choice in chosen]
    assert settings[0]["judge"] is None and len({str(one) for one in settings}) == 3


@pytest.mark.parametrize(
    "choice, message",
    [
        (Choice(preset="best"), "no preset 'best'"),
        (Choice(way=LIGHT, model="demo"), "needs no model"),
        (Choice(surrogates=()), "no recogniser is named"),
        (Choice(surrogates=("dlib_resnet",)), "the judge dlib_resnet is the same network as dlib_resnet"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice, message):
    with pytest.raises(ProtectionError, match=f"{message}.*How to fix"):
        load_protector(choice)


def test_names_that_the_terminal_cannot_show_do_not_stop_it(folders, fake, monkeypatch):
    import io

    source, target = folders
    photo(source / "äöü ✓.png")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(command.sys, "stdout", stream)
    assert run(source, target) == 0


# The real thing


def load_weak(name: str):
    """Recognisers whose thresholds few iterations reach."""
    return load_surrogate(name, threshold=0.05 if name == "dlib_resnet" else 0.9)


WEAK = {
    LIGHT: PhotoSettings(iterations=2, lr=0.25, margin=0.15, strength=11.0, likeness_weight=25.0, tries=1),
    DIFFUSION: replace(
        PRESETS[DIFFUSION]["fast"], null_text_iterations=1, iterations=4, lr=0.06, fidelity_weight=0.0,
        objective_weight=0.01, margin=0.15, tries=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way, batch", [(LIGHT, 1), (LIGHT, 2), (DIFFUSION, 2)])
def test_a_real_photo_is_protected_by_the_command_and_only_its_face_changes(tmp_path, monkeypatch, capsys, way, batch):
    pixels = skimage.data.astronaut()
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "astronaut.png")
    Image.fromarray(pixels[300:, 300:]).save(tmp_path / "in" / "nobody.png")
    monkeypatch.setattr(protector_module, "load_surrogate", load_weak)
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: load_protector(choice, WEAK[way]))
    options = ["--batch", batch, "--way", way.replace(" ", "-"), "--surrogate", "mobileface"]
    assert run(tmp_path / "in", tmp_path / "out", *options) == 1
    out = capsys.readouterr().out
    assert "1 of 2  astronaut.png  Protected: 1 face. dlib_resnet, not used to make this: distance 0." in out
    assert "nobody.png  FAILED: no face found" in out
    written = np.asarray(Image.open(tmp_path / "out" / "astronaut.png"))
    changed = (written != pixels).any(-1)
    assert changed[80:160, 190:260].mean() > 0.2 and not changed[300:].any()
    entry = record(tmp_path / "out")["astronaut.png"]
    (face,) = entry["faces"]
    judge, used = face["scores"]
    assert (judge["recogniser"], judge["role"], judge["knew"]) == ("dlib_resnet", "judge", True)
    assert judge["before"] < 0.01 and judge["after"] > 0.05 and face["evidence"]
    assert used["before"] > 0.99 and used["after"] < 0.9
    assert entry["settings"]["way"] == way and f"distance {judge['after']:.2f}" in entry["verdict"]

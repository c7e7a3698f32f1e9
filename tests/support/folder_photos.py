"""Folders of photos for the tests, and protectors without a model."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from faceprotect_core import __main__ as command
from faceprotect_core.faces import Face
from faceprotect_core.folders.record import RECORD
from faceprotect_core.progress import Step
from faceprotect_core.verify.verdict import JUDGE, LOSS, FaceVerdict, Score

FACE = Face((1.0, 1.0, 9.0, 9.0), 1.0, ((0.0, 0.0),) * 5)


def verdict(protected: bool = True, asked: int = 1) -> FaceVerdict:
    judge = Score("fake", JUDGE, "euclidean", 0.0, 0.81 if protected else 0.5, 0.6, True, protected)
    used = Score("other", LOSS, "cosine", 1.0, 0.1, 0.3, True, True)
    return FaceVerdict(FACE, True, (judge, used), asked=asked)


class FakeProtector:
    """Inverts photos one by one, and counts. A file survives when its pixels are what was protected."""

    def __init__(self, **settings):
        self.settings = {"preset": "balanced", "version": 1} | settings
        self.calls, self.error, self.protected, self.tolerance, self.asked = 0, {}, True, 1e-6, 1

    def protect(self, photos, on_step=None):
        for photo in photos:
            yield photo if isinstance(photo, Exception) else self.inverted(photo.image, on_step)

    def inverted(self, photo, on_step=None):
        self.calls += 1
        if self.calls in self.error:
            raise self.error[self.calls]
        if on_step:
            on_step(Step("protection", 1, 1))
        return SimpleNamespace(image=1 - photo, faces=(verdict(self.protected, self.asked),))

    def judge(self, original, finished, faces):
        assert faces == [FACE]
        return (verdict((1 - original - finished).abs().max().item() <= self.tolerance),)


class Reading(FakeProtector):
    """Judges what the file will give back; `asked_again`: how many files it was asked to judge once more."""

    asked_again = 0

    def protect(self, photos, on_step=None):
        for photo in photos:
            photo.as_written(1 - photo.image)
            yield self.inverted(photo.image, on_step)

    def judge(self, original, finished, faces):
        self.asked_again += 1
        return (verdict(),)


class TwoAtOnce(FakeProtector):
    """Has both photos before it protects the first, and both results before it gives the first away."""

    def protect(self, photos, on_step=None):
        photos = iter(photos)
        while together := list(islice(photos, 2)):
            report = on_step and (lambda event: on_step(replace(event, photos=len(together))))  # noqa: B023
            yield from [one if isinstance(one, Exception) else self._attempt(one.image, report) for one in together]

    def _attempt(self, photo, on_step):
        try:
            return self.inverted(photo, on_step)
        except Exception as error:
            return error


def write_photo(path: Path, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_folders(path: Path) -> tuple[Path, Path]:
    """Three photos in a folder, and where they go."""
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        write_photo(path / "in" / name, number)
    return path / "in", path / "out"


def files(folder: Path) -> dict:
    """Every file's content, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text())["photos"]


def without_seconds(entries: dict) -> dict:
    """Nor where the source lay: what is the same for the same photos."""
    left_out = "seconds", "source_folder"
    return {
        name: {key: value for key, value in entry.items() if key not in left_out} for name, entry in entries.items()
    }


def run_protect(*arguments) -> int:
    """The exit code of `python -m faceprotect_core protect`."""
    return command.main(["protect", *map(str, arguments)])

"""The one road of a folder's photos: read, protected, written and judged; the same here and in a worker of Ray."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ..checks import require
from ..faces import Face
from ..files import sha256_of
from ..photos import words
from ..photos.file import PhotoFile
from ..photos.photo import OnPhotoStep, PhotoEvent
from ..photos.read import read_photo
from ..photos.write import write_photo
from ..verify.verdict import FaceVerdict
from .outcome import Outcome
from .plan import Options, Task

OnTaskStep = Callable[[Task, PhotoEvent], None]


class Result(Protocol):
    """What of a PhotoResult is used here."""

    image: Tensor
    faces: tuple[FaceVerdict, ...]


class Protector(Protocol):
    """Protects and judges photos, always in the same way."""

    settings: dict
    """All that decides how a photo comes out, for JSON; with "preset"."""

    def protect(
        self, photos: Iterable[Tensor | Exception], on_step: OnPhotoStep | None = None
    ) -> Iterator[Result | Exception]:
        """Photos [3, H, W] in [0, 1] on the CPU, taken when they are needed -> for each, in order, a result whose image
        is on the CPU, or why there is none. Exceptions are passed on in their place, see `protect_photos`; one that is
        raised is that of all photos that were taken and have no result."""
        ...

    def judge(self, original: Tensor, finished: Tensor, faces: list[Face]) -> tuple[FaceVerdict, ...]: ...


def settings_of(protector: Protector, options: Options) -> dict:
    """What must agree for a photo to count as done, as JSON gives it back."""
    return json.loads(json.dumps(protector.settings | options.settings))


@dataclass(frozen=True, eq=False)
class _Source:
    """A photo at work. start: when it was read, in seconds of `time.monotonic`. photo: why it cannot be read, if so."""

    task: Task
    start: float
    sha256: str
    photo: PhotoFile | Exception


def work_through(
    tasks: Iterable[Task], protector: Protector, options: Options, on_step: OnTaskStep | None = None
) -> Iterator[Outcome]:
    """What became of each photo, in order. Each is read when the protector takes it, and written before the next.

    A photo that fails costs the others nothing, and nothing is written for it. on_step: gets the first photo of those
    that are at work.
    """
    left, at_work = iter(tasks), deque[_Source]()

    def images() -> Iterator[Tensor | Exception]:
        for task in left:
            at_work.append(_read(task, options))
            photo = at_work[-1].photo
            yield photo if isinstance(photo, Exception) else photo.image

    def report(event: PhotoEvent) -> None:
        on_step(next(source.task for source in at_work if not isinstance(source.photo, Exception)), event)

    def finished(result: Result | Exception) -> Outcome:
        return _finished(at_work.popleft(), result, protector, options)

    while True:
        try:
            for result in protector.protect(images(), on_step and report):
                yield finished(result)
            return
        except Exception as error:
            if not at_work:  # it failed before the first photo, and would again
                raise
            failed = [finished(error) for _ in range(len(at_work))]
        yield from failed


def _read(task: Task, options: Options) -> _Source:
    start = time.monotonic()
    try:
        digest = sha256_of(task.source)
        task.require_original(digest)
        task.require_free(options)
        return _Source(task, start, digest, read_photo(task.source))
    except Exception as error:
        return _Source(task, start, "", error)


def _finished(source: _Source, result: Result | Exception, protector: Protector, options: Options) -> Outcome:
    for given in (source.photo, result):
        if isinstance(given, Exception):
            return Outcome.failed(source.task, given, time.monotonic() - source.start)
    try:
        written = _write(source, result, protector, options)
        return Outcome(source.task, time.monotonic() - source.start, written)
    except Exception as error:
        return Outcome.failed(source.task, error, time.monotonic() - source.start)


def _write(source: _Source, result: Result, protector: Protector, options: Options) -> dict:
    """Writes what came out, reads it back and judges it; only then the file gets its name. Returns what the record says
    of it."""
    task, photo, path = source.task, source.photo, source.task.staged or source.task.output
    stronger = "protect it harder (--preset strong)"
    if protector.settings.get("preset") == "strong":
        stronger = "use a larger or sharper photo of the face"
    _require_protected(result.faces, "the photo", stronger)
    judged: list[FaceVerdict] = []

    def check(written: PhotoFile) -> None:
        again = protector.judge(photo.image, written.image, [verdict.face for verdict in result.faces])
        judged[:] = [
            replace(one, asked=before.asked, network=before.network)
            for one, before in zip(again, result.faces, strict=True)
        ]
        suffix = path.suffix.lower()
        png = "" if suffix == ".png" else "write it as PNG (--format png), or "
        _require_protected(judged, f"the written {suffix} file, read back,", png + stronger)

    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"keep_metadata": options.keep_metadata, "quality": options.quality, "mark": options.mark}
    notes = [*photo.notes, *write_photo(path, result.image, photo, check=check, **kept)]
    return {
        "source_sha256": source.sha256,
        "output": task.output_name,
        "output_sha256": sha256_of(path),
        "verdict": words.in_a_line(judged),
        "scope": words.scope(protector.settings.get("min_face")),
        "faces": [verdict.to_dict() for verdict in judged],
    } | ({"notes": notes} if notes else {})


def _require_protected(verdicts, what: str, fix: str) -> None:
    require(bool(verdicts), f"{what} has no face", "use a photo in which the face is upright and well lit")
    failed = {number: verdict for number, verdict in enumerate(verdicts) if not verdict.protected}
    said = ". ".join(f"Face {number}: {words.short(verdict)}" for number, verdict in failed.items())
    require(not failed, f"{what} is NOT PROTECTED enough. {said}", fix)

"""One photo of a folder: read, protected, written and judged; the same here, in a worker of Ray and in a batch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..checks import require
from ..faces import Face
from ..files import sha256_of
from ..method.inversion import OnStep
from ..photos import words
from ..photos.file import PhotoFile
from ..photos.read import read_photo
from ..photos.write import write_photo
from ..verify.verdict import FaceVerdict
from .plan import Options, Task

OnTaskStep = Callable[[Task, dict], None]


class Result(Protocol):
    """What of a PhotoResult is used here."""

    image: Tensor
    faces: tuple[FaceVerdict, ...]


class Protector(Protocol):
    """Protects and judges photos, always in the same way."""

    settings: dict
    """All that decides how a photo comes out, for JSON; with "preset"."""

    faces_per_batch: int
    """How many faces it protects at once; above 1 also of several photos, with `protect_all`."""

    def protect(self, photo: Tensor, on_step: OnStep | None = None) -> Result:
        """[3, H, W] in [0, 1] on the CPU -> a result whose image is on the CPU."""
        ...

    def protect_all(
        self, photos: Iterable[Tensor | Exception], on_step: OnStep | None = None
    ) -> Iterator[Result | Exception]:
        """The same for many, taken as they are needed; a photo's exception comes in its place, see `protect_photos`."""
        ...

    def judge(self, original: Tensor, finished: Tensor, faces: list[Face]) -> tuple[FaceVerdict, ...]: ...


@dataclass(frozen=True)
class Job:
    """One photo to protect. known: its entry in the record, or {}. staged: what the file is called at first."""

    task: Task
    known: dict
    staged: Path | None = None


@dataclass(frozen=True)
class Work:
    """Protects the photo of a Job, and returns its entry; an exception says how many `seconds` it took to come."""

    protector: Protector
    options: Options
    on_step: OnTaskStep | None = None

    def __call__(self, job: Job) -> dict:
        start = time.monotonic()
        on_step = self.on_step and (lambda event: self.on_step(job.task, event))
        try:
            require_free(job.task, job.known, self.options)
            task = replace(job.task, output=job.staged or job.task.output)
            return protect_one(task, self.protector, self.options, on_step)
        except Exception as error:
            error.seconds = time.monotonic() - start
            raise


def protect_one(task: Task, protector: Protector, options: Options, on_step: OnStep | None = None) -> dict:
    """Reads, protects, writes and judges one photo; nothing else is touched. Returns its entry for the record.

    Raises:
        ValueError: the photo cannot be read, has no face, or is not protected far enough; then nothing is written.
    """
    source = read_source(task)
    return write_result(task, source, protector.protect(source.photo.image, on_step), protector, options)


@dataclass(frozen=True, eq=False)
class Source:
    """A photo that was read. start: when, in seconds of `time.monotonic`."""

    photo: PhotoFile
    sha256: str
    start: float


def read_source(task: Task) -> Source:
    start = time.monotonic()
    digest = sha256_of(task.source)
    return Source(read_photo(task.source), digest, start)


def write_result(task: Task, source: Source, result: Result, protector: Protector, options: Options) -> dict:
    """Writes and judges what came out, and returns its entry for the record; see `protect_one`."""
    photo, preset = source.photo, protector.settings.get("preset")
    _require_protected(result.faces, "the photo", _stronger(preset))
    faces = [verdict.face for verdict in result.faces]
    judged: list[FaceVerdict] = []

    def check(written: PhotoFile) -> None:
        again = protector.judge(photo.image, written.image, faces)
        judged[:] = [replace(one, asked=before.asked) for one, before in zip(again, result.faces, strict=True)]
        suffix = task.output.suffix.lower()
        png = "" if suffix == ".png" else "write it as PNG (--format png), or "
        _require_protected(judged, f"the written {suffix} file, read back,", png + _stronger(preset))

    task.output.parent.mkdir(parents=True, exist_ok=True)
    write_photo(
        task.output, result.image, photo, keep_metadata=options.keep_metadata, quality=options.quality, check=check
    )
    return {
        "status": "protected",
        "source_sha256": source.sha256,
        "output": task.output_name,
        "output_sha256": sha256_of(task.output),
        "settings": settings_of(protector, options),
        "verdict": words.in_a_line(judged),
        "scope": words.scope(protector.settings.get("min_face")),
        "faces": [verdict.to_dict() for verdict in judged],
        "seconds": round(time.monotonic() - source.start, 1),
    }


def _stronger(preset: str | None) -> str:
    if preset == "strong":
        return "use a larger or sharper photo of the face"
    return "protect it harder (--preset strong)"


def _require_protected(verdicts, what: str, fix: str) -> None:
    require(bool(verdicts), f"{what} has no face", "use a photo in which the face is upright and well lit")
    failed = [str(number) for number, verdict in enumerate(verdicts) if not verdict.protected]
    said = "; ".join(words.short(verdict) for verdict in verdicts if not verdict.protected)
    require(not failed, f"{what} is NOT PROTECTED enough: face {', '.join(failed)} of {len(verdicts)} ({said})", fix)


def settings_of(protector: Protector, options: Options) -> dict:
    """What must agree for a photo to count as done, as JSON gives it back."""
    return json.loads(json.dumps(protector.settings | options.settings))


def require_free(task: Task, known: dict, options: Options) -> None:
    """An existing file is replaced only when it is ours and unchanged."""
    ours = known.get("output") == task.output_name and known.get("output_sha256")
    require(
        options.overwrite or not os.path.lexists(task.output) or (ours and sha256_of(task.output) == ours),
        f"there is already a file {task.output_name!r} in the output folder, which is not from an earlier run or was "
        "changed since",
        "move it away, or use --overwrite",
    )

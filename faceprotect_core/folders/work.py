"""The one road of a folder's photos: read, protected, written and judged; the same here and in a worker of Ray."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..checks import require
from ..faces import Face
from ..files import sha256_of
from ..photos import words
from ..photos.encode import decode_jpeg
from ..photos.file import WRITABLE, PhotoFile
from ..photos.photo import OnPhotoStep, PhotoEvent
from ..photos.read import read_photo
from ..photos.write import Encoded, encode_file, write_file
from ..pixels import to_pixels
from ..verify.verdict import FaceVerdict
from .outcome import Outcome
from .plan import Options, Task

OnTaskStep = Callable[[Task, PhotoEvent], None]
OnWrite = Callable[[Task, str], None]  # with the digest of what is to be written


class Result(Protocol):
    """What of a PhotoResult is used here."""

    image: Tensor
    faces: tuple[FaceVerdict, ...]


@dataclass(frozen=True, eq=False)
class Original:
    """A photo to protect.

    Args:
        image: [3, H, W] in [0, 1] on the CPU.
        as_written: see `CutPhoto`.
    """

    image: Tensor
    as_written: Callable[[Tensor], Tensor] = lambda image: image


class Protector(Protocol):
    """Protects and judges photos, always in the same way."""

    settings: dict
    """All that decides how a photo comes out, for JSON; with "preset"."""

    def protect(
        self, photos: Iterable[Original | Exception], on_step: OnPhotoStep | None = None
    ) -> Iterator[Result | Exception]:
        """Photos, taken when they are needed -> for each, in order, a result whose image is on the CPU, or why there is
        none. Verdicts are on what `as_written` last gave, where it was asked. Exceptions are passed on in their place,
        see `protect_photos`; one that is raised is that of all photos that were taken and have no result."""
        ...

    def judge(self, original: Tensor, finished: Tensor, faces: list[Face]) -> tuple[FaceVerdict, ...]: ...


def settings_of(protector: Protector, options: Options) -> dict:
    """What must agree for a photo to count as done, as JSON gives it back."""
    return json.loads(json.dumps(protector.settings | options.settings))


@dataclass(eq=False)
class _Source:
    """A photo at work.

    Args:
        start: when it was read, in seconds of `time.monotonic`.
        photo: why it cannot be read, if so.
        judged: the last image that was judged as its file will give it back; encoded: this file, if it is a JPEG.
    """

    task: Task
    start: float
    sha256: str
    photo: PhotoFile | Exception
    judged: Tensor | None = None
    encoded: Encoded | None = None

    def original(self, options: Options) -> Original | Exception:
        photo, path = self.photo, self.task.output
        if isinstance(photo, Exception):
            return photo

        def as_written(image: Tensor) -> Tensor:
            self.judged = image.cpu()
            if WRITABLE[path.suffix.lower()] != "JPEG":
                return image
            self.encoded = encode_file(path, self.judged, photo, **options.kept)
            return decode_jpeg(self.encoded.data)

        return Original(photo.image, as_written)


def work_through(
    tasks: Iterable[Task],
    protector: Protector,
    options: Options,
    on_step: OnTaskStep | None = None,
    announce: OnWrite | None = None,
) -> Iterator[Outcome]:
    """What became of each photo, in order. Each is read when the protector takes it, and written before the next.

    A photo that fails costs the others nothing, and nothing is written for it. on_step: gets the first photo of those
    that are at work. announce: called before a file gets its name.
    """
    left, at_work = iter(tasks), deque[_Source]()

    def images() -> Iterator[Original | Exception]:
        for task in left:
            at_work.append(_read(task, options))
            yield at_work[-1].original(options)

    def report(event: PhotoEvent) -> None:
        on_step(next(source.task for source in at_work if not isinstance(source.photo, Exception)), event)

    def finished(result: Result | Exception) -> Outcome:
        return _finished(at_work.popleft(), result, protector, options, announce)

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
        task.require_free(options, digest)
        return _Source(task, start, digest, read_photo(task.source))
    except Exception as error:
        return _Source(task, start, "", error)


def _finished(
    source: _Source, result: Result | Exception, protector: Protector, options: Options, announce: OnWrite | None
) -> Outcome:
    for given in (source.photo, result):
        if isinstance(given, Exception):
            return Outcome.failed(source.task, given, time.monotonic() - source.start)
    try:
        written = _write(source, result, protector, options, announce)
        return Outcome(source.task, time.monotonic() - source.start, written)
    except Exception as error:
        return Outcome.failed(source.task, error, time.monotonic() - source.start)


def _write(source: _Source, result: Result, protector: Protector, options: Options, announce: OnWrite | None) -> dict:
    """Writes what came out, reads it back and judges it, unless that very image was judged; only then the file gets its
    name. Returns what the record says of it."""
    task, photo, path = source.task, source.photo, source.task.staged or source.task.output
    stronger, suffix = "protect it harder (--preset strong)", path.suffix.lower()
    if protector.settings.get("preset") == "strong":
        stronger = "use a larger or sharper photo of the face"
    as_png = f"write it as PNG (--format png), or {stronger}"
    _require_protected(result.faces, "the photo", as_png if WRITABLE[suffix] == "JPEG" else stronger)
    judged = [*result.faces]
    known = source.judged is not None and torch.equal(source.judged, result.image)
    encoded = (source.encoded if known else None) or encode_file(path, result.image, photo, **options.kept)

    digest = hashlib.sha256(encoded.data).hexdigest()

    def check(temporary: Path) -> None:
        judge_written(temporary)
        if announce:
            announce(task, digest)

    def judge_written(temporary: Path) -> None:
        if known and encoded is source.encoded and temporary.read_bytes() == encoded.data:
            return
        written = read_photo(temporary).image
        if known and encoded is not source.encoded and np.array_equal(to_pixels(written), to_pixels(result.image)):
            return
        again = protector.judge(photo.image, written, [verdict.face for verdict in result.faces])
        judged[:] = [
            replace(one, asked=before.asked, network=before.network)
            for one, before in zip(again, result.faces, strict=True)
        ]
        fix = stronger if suffix == ".png" else as_png
        _require_protected(judged, f"the written {suffix} file, read back,", fix)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, encoded, check)
    notes = [*photo.notes, *encoded.notes]
    return {
        "source_sha256": source.sha256,
        "source_folder": task.folder,
        "output": task.output_name,
        "output_sha256": digest,
        "verdict": words.in_a_line(judged),
        "scope": words.scope(protector.settings.get("min_face")),
        "faces": [verdict.to_dict() for verdict in judged],
    } | ({"notes": notes} if notes else {})


def _require_protected(verdicts, what: str, fix: str) -> None:
    require(bool(verdicts), f"{what} has no face", "use a photo in which the face is upright and well lit")
    failed = {number: verdict for number, verdict in enumerate(verdicts) if not verdict.protected}
    said = ". ".join(f"Face {number}: {words.short(verdict)}" for number, verdict in failed.items())
    require(not failed, f"{what} is NOT PROTECTED enough. {said}", fix)

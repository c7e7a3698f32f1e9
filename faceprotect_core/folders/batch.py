"""The photos of a folder with the faces of several photos in one batch; each is written as soon as it is known."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing

from torch import Tensor

from ..photos.photo import PhotoEvent
from .one_photo import Job, OnTaskStep, Protector, Result, Source, read_source, require_free, write_result
from .plan import Options


def run_together(
    jobs: Iterable[Job], protector: Protector, options: Options, on_step: OnTaskStep | None = None
) -> Iterator[tuple[int, dict | Exception]]:
    """Yields (number of the job, the photo's entry or its exception) in order, like `run_jobs`.

    The seconds of a photo are those from its reading on, also of the photos that are protected with it. on_step: gets
    the first photo of those that are at work.
    """
    waiting: deque[tuple[Job, Source | Exception]] = deque()

    def images() -> Iterator[Tensor | Exception]:
        for job in jobs:
            source = _read(job, options)
            waiting.append((job, source))
            yield source if isinstance(source, Exception) else source.photo.image

    def report(event: PhotoEvent) -> None:
        on_step(next(job.task for job, source in waiting if isinstance(source, Source)), event)

    outcomes = protector.protect_all(images(), on_step and report)
    with closing(outcomes):
        for number, outcome in enumerate(outcomes):
            yield number, _finish(*waiting.popleft(), outcome, protector, options)


def _read(job: Job, options: Options) -> Source | Exception:
    start = time.monotonic()
    try:
        require_free(job.task, job.known, options)
        return read_source(job.task)
    except Exception as error:
        error.seconds = time.monotonic() - start
        return error


def _finish(
    job: Job, source: Source | Exception, outcome: Result | Exception, protector: Protector, options: Options
) -> dict | Exception:
    """Writes what came out; an exception says how many `seconds` it took to come."""
    if isinstance(source, Exception):
        return source
    try:
        if isinstance(outcome, Exception):
            raise outcome
        return write_result(job.task, source, outcome, protector, options)
    except Exception as error:
        error.seconds = time.monotonic() - source.start
        return error

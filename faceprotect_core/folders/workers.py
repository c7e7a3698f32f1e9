"""The photos of a folder, several at once: on threads, or on Ray's workers.

A file gets its name here, at the moment at which the record hears of it: so a stop at any time leaves neither
half-written files nor files that the record does not know. With Ray the folders must have the same paths on all
machines.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

from ..checks import ProtectionError, require
from ..files import sha256_of
from ..jobs.job import RayOptions
from ..jobs.run import run_jobs
from ..photos.photo import PhotoEvent
from .outcome import Outcome
from .plan import Options, Task
from .work import OnTaskStep, OnWrite, Protector, settings_of, work_through

TRIES = 2


class _Stopped(BaseException):
    """Nobody waits for this photo any more; raised in its thread."""


def work_on_workers(
    tasks: list[Task],
    out_dir: Path,
    load: Callable[[], Protector],
    options: Options,
    settings: dict,
    ray: RayOptions | None = None,
    threads: int = 1,
    on_step: OnTaskStep | None = None,
    announce: OnWrite | None = None,
) -> Iterator[Outcome]:
    """What became of each photo, as they finish.

    settings: what the workers' protectors must agree with. on_step: on threads, called from any of them. announce: see
    `work_through`.
    """
    staging = Path(tempfile.mkdtemp(prefix=".faceprotect-", dir=out_dir.absolute()))
    stopped = Event()

    def report(task: Task, event: PhotoEvent) -> None:
        if stopped.is_set():
            raise _Stopped
        if on_step:
            on_step(task, event)

    try:
        staged = [_staged(task, staging / f"{number}{task.output.suffix}") for number, task in enumerate(tasks)]
        work = partial(_load, load, options, settings, None if ray else report)
        outcomes = run_jobs(staged, work, ray=ray, threads=threads, on_end=stopped.set)
        with closing(outcomes):
            for number, outcome in outcomes:
                yield _landed(staged[number], outcome, options, announce)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _staged(task: Task, path: Path) -> Task:
    """A worker may have another working directory."""
    return replace(task, source=task.source.absolute(), output=task.output.absolute(), staged=path)


def _load(
    load: Callable[[], Protector], options: Options, settings: dict, on_step: OnTaskStep | None
) -> Callable[[Task], Outcome]:
    protector = load()
    require(
        settings_of(protector, options) == settings,
        "a worker has other settings or model weights than this process",
        "install the same version of FaceProtect, and the same model, on all machines",
    )

    def work(task: Task) -> Outcome:
        for _ in range(TRIES):
            (outcome,) = work_through([task], protector, options, on_step)
            if outcome.final:
                break
        return outcome

    return work


def _landed(task: Task, outcome: Outcome | Exception, options: Options, announce: OnWrite | None = None) -> Outcome:
    """With its file at its place. An exception is that of the worker itself."""
    if isinstance(outcome, Exception):
        return Outcome.failed(task, outcome)
    if outcome.written is None:
        return outcome
    try:
        require(
            task.staged.is_file() and sha256_of(task.staged) == outcome.written["output_sha256"],
            "what the worker wrote is not in the output folder of this machine",
            "use folders that all machines share, under the same path",
        )
        task.require_free(options, outcome.written["source_sha256"])
        task.output.parent.mkdir(parents=True, exist_ok=True)
        if announce:
            announce(task, outcome.written["output_sha256"])
        os.replace(task.staged, task.output)
    except (OSError, ProtectionError) as error:
        return Outcome.failed(task, error, outcome.seconds)
    return outcome

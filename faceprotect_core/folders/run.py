"""Protect a folder of photos: every photo on its own, resumable, and never a file that is not what it says.

A photo is written only when it is protected as a stranger would read it: the file is read back and judged before it
gets its name. `faceprotect.json` in the output folder says for every photo what was done and what came of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..checks import ProtectionError, require
from ..files import locked, require_writable
from ..jobs.job import RayOptions
from .plan import Options, Task, folder_of, plan
from .record import Record
from .work import OnTaskStep, Protector, settings_of, work_through
from .workers import work_on_workers


@dataclass(frozen=True)
class PhotoDone:
    """One photo of the run. number: from 1. status: "protected", "already" or "failed". seconds_left: a guess."""

    task: Task
    number: int
    count: int
    status: Literal["protected", "already", "failed"]
    entry: dict
    seconds_left: float


def protect_folder(
    source: Path | str,
    out: Path | str,
    protector: Protector,
    options: Options | None = None,
    *,
    on_photo: Callable[[PhotoDone], None] | None = None,
    on_step: OnTaskStep | None = None,
    ray: RayOptions | None = None,
    threads: int = 1,
    load: Callable[[], Protector] | None = None,
) -> list[PhotoDone]:
    """Protects all photos of a folder, or one. What an earlier run has done is reported first, and not done again.

    A photo that fails is reported, and nothing is written for it; the others go on. The record is written after every
    photo, so that a run can be stopped at any time.

    Args:
        source: a folder, or one photo. out: a folder, or for one photo the file that is to be written.
        ray: several photos at once, with the same results; they are reported as they finish, and on_step is not
            called. What fails for a reason that may pass (memory, disk, a worker that died) is tried once more.
        threads: without Ray, so many photos at once in this process, which share its cores, with the same results up
            to rounding; they are reported as they finish, and on_step is called from any of the threads.
        load: with Ray or several threads, makes the same protector in each of them; with Ray picklable. Of `protector`
            only settings are used then.

    Raises:
        ProtectionError: the folders cannot be used, see `plan`; the record is damaged; Ray or its workers are missing.
    """
    at_once = ray is not None or threads > 1
    fix = "pass what makes a protector in each worker"
    require(not at_once or load is not None, "there is no load, and several photos at once need one", fix)
    source, out, options = Path(source), Path(out), options or Options()
    out_dir = folder_of(out, source)
    plan(source, out, options, Record.read(out_dir))  # what is wrong is said before anything is made
    require_writable(out_dir)
    with locked(out_dir):
        return _protect_tasks(source, out, protector, options, on_photo, on_step, ray, threads, load)


def _protect_tasks(
    source: Path, out: Path, protector, options, on_photo, on_step, ray, threads, load
) -> list[PhotoDone]:
    out_dir = folder_of(out, source)
    record = Record.read(out_dir)
    tasks = plan(source, out, options, record)
    settings = settings_of(protector, options)
    done: list[PhotoDone] = []
    left: list[Task] = []

    def report(task: Task, status: str, entry: dict, seconds_left: float = 0.0) -> None:
        done.append(PhotoDone(task, len(done) + 1, len(tasks), status, entry, seconds_left))
        if on_photo:
            on_photo(done[-1])

    def announce(task: Task, digest: str) -> None:
        record.announce(task.name, task.output_name, digest)

    for task in tasks:
        if _is_done(task, settings):
            report(task, "already", task.known)
        else:
            left.append(task)
    start, protected = time.monotonic(), 0
    threads = min(threads, len(left))
    if ray is None and threads <= 1:
        outcomes = work_through(left, protector, options, on_step, announce)
    else:
        outcomes = work_on_workers(left, out_dir, load, options, settings, ray, threads, on_step, announce)
    with closing(outcomes):
        for outcome in outcomes:
            entry = _recorded(record, outcome.task, outcome.entry(settings))
            protected += entry["status"] == "protected"  # a photo that fails mostly fails at once
            mean = (time.monotonic() - start) / protected if protected else 0.0
            report(outcome.task, entry["status"], entry, mean * (len(tasks) - len(done) - 1))
    return done


def _is_done(task: Task, settings: dict) -> bool:
    """A source that cannot be read is none that is done: it is reported like any other, and the others go on."""
    try:
        return task.is_done(settings)
    except OSError:
        return False


def _recorded(record: Record, task: Task, entry: dict) -> dict:
    """The entry, written down. Where that fails, as on a full disk, the photo has failed like any other, and its output
    goes, which no later run would know; the others go on."""
    try:
        record.put(task.name, entry)
        return entry
    except OSError as error:
        reason = entry.get("reason", "")
        if entry["status"] == "protected":
            task.output.unlink(missing_ok=True)
            reason = str(
                ProtectionError(
                    f"The photo was protected, but the record could not be written ({error.strerror})",
                    "make room on the disk and run it again",
                )
            )
        failed = {"settings": entry["settings"], "seconds": entry["seconds"], "status": "failed", "reason": reason}
        record.photos[task.name] = failed  # written with the next one
        return failed

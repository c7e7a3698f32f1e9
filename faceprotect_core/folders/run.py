"""Protect a folder of photos: every photo on its own, resumable, and never a file that is not what it says.

A photo is written only when it is protected as a stranger would read it: the file is read back and judged before it
gets its name. `faceprotect.json` in the output folder says for every photo what was done and what came of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..checks import require
from ..files import sha256_of
from ..jobs.job import RayOptions, raised_at
from ..jobs.run import run_jobs
from ..photos.batch import out_of_memory
from .batch import run_together
from .one_photo import Job, OnTaskStep, Protector, Work, settings_of
from .plan import Options, Task, plan
from .record import Record
from .workers import run_on_workers


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
    in_dir: Path | str,
    out_dir: Path | str,
    protector: Protector,
    options: Options | None = None,
    *,
    on_photo: Callable[[PhotoDone], None] | None = None,
    on_step: OnTaskStep | None = None,
    ray: RayOptions | None = None,
    load: Callable[[], Protector] | None = None,
) -> list[PhotoDone]:
    """Protects all photos of a folder, in order; what an earlier run has done is not done again.

    A photo that fails is reported, and nothing is written for it; the others go on. The record is written after every
    photo, so that a run can be stopped at any time.

    Args:
        protector: one that protects several faces at once is given several photos, see `faces_per_batch`.
        ray: several photos at once, with the same results; they are reported as they finish, and on_step is not
            called. What fails for a reason that may pass (memory, disk, a worker that died) is tried once more.
        load: with Ray, makes the same protector in each worker; picklable. Of `protector` only settings are used then.

    Raises:
        ProtectionError: the folders cannot be used, see `plan`; the record is damaged; Ray or its workers are missing.
    """
    require(ray is None or load is not None, "with Ray there is no load", "pass what makes a protector in each worker")
    in_dir, out_dir, options = Path(in_dir), Path(out_dir), options or Options()
    record = Record.read(out_dir)
    tasks = plan(in_dir, out_dir, options, record)
    settings = settings_of(protector, options)
    out_dir.mkdir(parents=True, exist_ok=True)
    together = ray is None and protector.faces_per_batch > 1
    progress = _Progress(tasks, record, settings, on_photo, at_once=ray is not None or together)
    jobs: list[Job] = []

    def still_open() -> Iterator[Job]:
        for task in tasks:
            known = record.photos.get(task.name, {})
            if _is_done(task, known, settings):
                progress.add(task, "already", known)
            else:
                jobs.append(Job(task, known))
                yield jobs[-1]

    if together:
        outcomes = run_together(still_open(), protector, options, on_step)
    elif ray is None:
        outcomes = run_jobs(still_open(), lambda: Work(protector, options, on_step), retries=0)
    else:
        outcomes = run_on_workers(list(still_open()), out_dir, load, options, settings, ray)
    with closing(outcomes):
        for number, outcome in outcomes:
            task = jobs[number].task
            entry = _failure(jobs[number], settings, outcome) if isinstance(outcome, Exception) else outcome
            record.put(task.name, entry)
            progress.add(task, entry["status"], entry)
    return progress.done


class _Progress:
    """Reports photos as they are done, and guesses from those of this run how long the others take."""

    def __init__(self, tasks: list[Task], record: Record, settings: dict, on_photo, at_once: bool):
        self.tasks, self.record, self.settings, self.on_photo, self.at_once = tasks, record, settings, on_photo, at_once
        self.done: list[PhotoDone] = []
        self.times: list[float] = []
        self.start = time.monotonic()

    def add(self, task: Task, status: str, entry: dict) -> None:
        if status == "protected":  # a photo that fails mostly fails at once
            self.times.append(entry["seconds"])
        if status == "already" and not self.times:  # before the first that has to be done
            self.start = time.monotonic()
        reported = {photo.task.name for photo in self.done} | {task.name}
        seconds_left = self._seconds_left([other for other in self.tasks if other.name not in reported])
        self.done.append(PhotoDone(task, len(self.done) + 1, len(self.tasks), status, entry, seconds_left))
        if self.on_photo:
            self.on_photo(self.done[-1])

    def _seconds_left(self, tasks: list[Task]) -> float:
        """Those that look done already take no time."""
        if not self.times:
            return 0.0
        known = self.record.photos
        still_open = [task for task in tasks if not _looks_done(task, known.get(task.name, {}), self.settings)]
        seconds = time.monotonic() - self.start if self.at_once else sum(self.times)
        return seconds / len(self.times) * len(still_open)


def _is_done(task: Task, known: dict, settings: dict) -> bool:
    return (
        _looks_done(task, known, settings)
        and known.get("output") == task.output_name
        and sha256_of(task.output) == known.get("output_sha256")
        and sha256_of(task.source) == known.get("source_sha256")
    )


def _looks_done(task: Task, known: dict, settings: dict) -> bool:
    return known.get("status") == "protected" and known.get("settings") == settings and task.output.is_file()


def _failure(job: Job, settings: dict, error: Exception) -> dict:
    task, known = job.task, job.known
    entry = {
        "status": "failed",
        "reason": _reason(error),
        "settings": settings,
        "seconds": round(getattr(error, "seconds", 0.0), 1),
    }
    if known.get("output") == task.output_name and known.get("output_sha256") and task.output.is_file():
        entry |= {"output": known["output"], "output_sha256": known["output_sha256"]}
        entry["reason"] += " The output of an earlier run was left as it is."
    return entry


def _reason(error: Exception) -> str:
    """For the user and the record: no absolute path, and where it happened if the error is not one of ours."""
    if isinstance(error, ValueError) and "How to fix: " in str(error):
        return str(error)
    if out_of_memory(error):
        return "There is not enough memory for this photo. How to fix: reduce the photo, or use --device cpu."
    if isinstance(error, OSError):
        return f"The file could not be read or written ({error.strerror}). How to fix: check disk space and rights."
    return f"An unexpected {type(error).__name__} in {raised_at(error)}. How to fix: report it, with this line."

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

from ..checks import require
from ..jobs.job import RayOptions
from .plan import Options, Task, plan
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
    """Protects all photos of a folder. What an earlier run has done is reported first, and not done again.

    A photo that fails is reported, and nothing is written for it; the others go on. The record is written after every
    photo, so that a run can be stopped at any time.

    Args:
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
    done, left = [], []

    def report(task: Task, status: str, entry: dict, seconds_left: float = 0.0) -> None:
        done.append(PhotoDone(task, len(done) + 1, len(tasks), status, entry, seconds_left))
        if on_photo:
            on_photo(done[-1])

    for task in tasks:
        if task.is_done(settings):
            report(task, "already", task.known)
        else:
            left.append(task)
    start, protected = time.monotonic(), 0
    if ray is None:
        outcomes = work_through(left, protector, options, on_step)
    else:
        outcomes = work_on_workers(left, out_dir, load, options, settings, ray)
    with closing(outcomes):
        for outcome in outcomes:
            entry = outcome.entry(settings)
            record.put(outcome.task.name, entry)
            protected += entry["status"] == "protected"  # a photo that fails mostly fails at once
            mean = (time.monotonic() - start) / protected if protected else 0.0
            report(outcome.task, entry["status"], entry, mean * (len(tasks) - len(done) - 1))
    return done

"""The photos of a folder on Ray's workers: a file gets its name here, at the moment at which the record hears of it.

So a stop at any time leaves neither half-written files nor files that the record does not know. The folders must have
the same paths on all machines.
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

from ..checks import require
from ..files import sha256_of
from ..jobs.job import RayOptions
from ..jobs.run import run_jobs
from .one_photo import Job, Protector, Work, require_free, settings_of
from .plan import Options


def run_on_workers(
    jobs: list[Job], out_dir: Path, load: Callable[[], Protector], options: Options, settings: dict, ray: RayOptions
) -> Iterator[tuple[int, dict | Exception]]:
    """Yields (number of the job, the photo's entry or its exception) as they finish, like `run_jobs`.

    settings: what the workers' protectors must agree with.
    """
    staging = Path(tempfile.mkdtemp(prefix=".faceprotect-", dir=out_dir.absolute()))
    try:
        staged = [_staged(job, staging / f"{number}{job.task.output.suffix}") for number, job in enumerate(jobs)]
        outcomes = run_jobs(staged, partial(_load_work, load, options, settings), ray=ray)
        with closing(outcomes):
            for number, outcome in outcomes:
                yield number, _landed(staged[number], outcome, options)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _staged(job: Job, path: Path) -> Job:
    """A worker may have another working directory."""
    task = replace(job.task, source=job.task.source.absolute(), output=job.task.output.absolute())
    return replace(job, task=task, staged=path)


def _load_work(load: Callable[[], Protector], options: Options, settings: dict) -> Work:
    protector = load()
    require(
        settings_of(protector, options) == settings,
        "a worker has other settings or model weights than this process",
        "install the same version of FaceProtect, and the same model, on all machines",
    )
    return Work(protector, options)


def _landed(job: Job, outcome: dict | Exception, options: Options) -> dict | Exception:
    if isinstance(outcome, Exception):
        return outcome
    try:
        require(
            job.staged.is_file() and sha256_of(job.staged) == outcome["output_sha256"],
            "what the worker wrote is not in the output folder of this machine",
            "use folders that all machines share, under the same path",
        )
        require_free(job.task, job.known, options)
        job.task.output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(job.staged, job.task.output)
    except (OSError, ValueError) as error:
        return error
    return outcome

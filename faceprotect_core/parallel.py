"""Many independent jobs: here, one after the other, or on several workers of Ray, each of which loads once.

A worker is a process with one GPU, or with some CPU cores. Jobs, results and what loads the models travel between
processes: they must be picklable, and small. What is done with Ray is in ray_backend.py.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .checks import ProtectionError, require

Work = Callable[[object], object]


@dataclass(frozen=True)
class RayOptions:
    """How to use Ray. With RAY_ADDRESS set, or Ray initialised, that cluster is used; else Ray is started here.

    workers: processes at work; None: one per GPU, or one per two CPU cores.
    device: "cpu", or "cuda" for one GPU per worker.
    threads: PyTorch's CPU threads in each worker; None: as many as here, because the number changes the last bits.
    """

    workers: int | None = None
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self):
        for name in ("workers", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"the number of {name} is {value}", "use 1 or more")


def run_jobs(
    jobs: Iterable,
    load: Callable[[], Work],
    *,
    ray: RayOptions | None = None,
    retries: int = 1,
    on_done: Callable[[int, object], None] | None = None,
) -> Iterator[tuple[int, object]]:
    """Yields (number of the job, its result), or its exception in the result's place; see `raised_at`.

    A job that raises is tried again `retries` times, one that takes its worker process down too. A ProtectionError is
    final: it says what is wrong with the job, not with the machine.

    Args:
        jobs: without Ray they are taken one by one and done in order; with Ray all at once, and yielded as they finish.
        load: called once per worker; returns work(job) -> result.
        on_done: called with what is yielded, before it is.

    Raises:
        ProtectionError: Ray is missing, or has no such workers.
        Exception: what `load` raised.
    """
    if ray is None:
        outcomes = _run_here(jobs, load, retries)
    else:
        from .ray_backend import run_with_ray

        outcomes = run_with_ray(list(jobs), load, ray, retries)
    with closing(outcomes):
        for number, outcome in outcomes:
            if on_done:
                on_done(number, outcome)
            yield number, outcome


def raised_at(error: BaseException) -> str:
    """The file and line where an error was raised, also when that was in another process."""
    frames = traceback.extract_tb(error.__traceback__)
    here = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
    return getattr(error, "raised_at", here)


def _run_here(jobs: Iterable, load: Callable[[], Work], retries: int) -> Iterator[tuple[int, object]]:
    work = load()
    for number, job in enumerate(jobs):
        yield number, attempt(work, job, retries)


def attempt(work: Work, job, retries: int):
    """The job's result or its last exception."""
    for _ in range(retries + 1):
        try:
            return work(job)
        except ProtectionError as error:
            return error
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # what they hold may be the memory that the next try needs
            failure = error
    return failure

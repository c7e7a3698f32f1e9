"""Many independent jobs: one after the other, on several threads, or on several workers of Ray; each loads once.

A worker of Ray is a process with one GPU, or with some CPU cores. Jobs, results and what loads the models travel
between processes: they must be picklable, and small. What is done with Ray is in ray.py, with threads in threads.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from .job import RayOptions, Work, attempt


def run_jobs(
    jobs: Iterable,
    load: Callable[[], Work],
    *,
    ray: RayOptions | None = None,
    threads: int = 1,
    retries: int = 1,
    on_done: Callable[[int, object], None] | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, object]]:
    """Yields (number of the job, its result), or its exception in the result's place; see `raised_at`.

    A job that raises is tried again `retries` times, one that takes its worker process down too. A ProtectionError is
    final: it says what is wrong with the job, not with the machine.

    Args:
        jobs: taken one by one and done in order; with Ray or threads all at once, and yielded as they finish.
        load: called once per worker or thread; returns work(job) -> result.
        threads: how many of this process, without Ray.
        on_done: called with what is yielded, before it is.
        on_end: with threads, called when no more results are wanted, as after Ctrl+C. What is at work is waited for
            then, so whoever wants it to stop lets it raise what is no Exception.

    Raises:
        ProtectionError: Ray is missing, or has no such workers.
        Exception: what `load` raised.
    """
    if ray is not None:
        from .ray import run_with_ray

        outcomes = run_with_ray(list(jobs), load, ray, retries)
    elif threads > 1:
        from .threads import run_on_threads

        outcomes = run_on_threads(list(jobs), load, threads, retries, on_end)
    else:
        outcomes = _run_here(jobs, load, retries)
    with closing(outcomes):
        for number, outcome in outcomes:
            if on_done:
                on_done(number, outcome)
            yield number, outcome


def _run_here(jobs: Iterable, load: Callable[[], Work], retries: int) -> Iterator[tuple[int, object]]:
    work = load()
    for number, job in enumerate(jobs):
        yield number, attempt(work, job, retries)

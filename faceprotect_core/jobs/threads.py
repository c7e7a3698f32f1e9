"""Jobs on threads of this process, each with its share of the cores.

PyTorch divides every layer among all cores, and the layers of small networks are too small for that: two photos at
once on a core each are done sooner than one after the other on two cores (docs/PERFORMANCE.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import local

import torch

from .job import Work, attempt

LOOK_UP = 0.5  # seconds: so often Ctrl+C is heard on Windows


def run_on_threads(
    jobs: Sequence, load: Callable[[], Work], threads: int, retries: int, on_end: Callable[[], None]
) -> Iterator[tuple[int, object]]:
    """Yields (number of the job, its result or exception) as they finish; see `run_jobs`. load: called in each thread.

    At its end, which may be early, on_end is called, and then the jobs at work are waited for.
    """
    here, cores = local(), torch.get_num_threads()

    def work(job):
        if not hasattr(here, "work"):
            here.work = load()
        return attempt(here.work, job, retries)

    torch.set_num_threads(max(1, cores // threads))  # of each thread that begins from now on
    pool = ThreadPoolExecutor(threads, "faceprotect")
    try:
        numbers: dict[Future, int] = {pool.submit(work, job): number for number, job in enumerate(jobs)}
        waiting = set(numbers)
        while waiting:
            done, waiting = wait(waiting, LOOK_UP, FIRST_COMPLETED)
            yield from ((numbers[future], future.result()) for future in done)
    finally:
        on_end()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(cores)

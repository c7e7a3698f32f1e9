"""One of many independent jobs: what works on it, with how many workers, and what becomes of its errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..checks import ProtectionError, require

Work = Callable[[object], object]


@dataclass(frozen=True)
class RayOptions:
    """How to use Ray. With RAY_ADDRESS set, or Ray initialised, that cluster is used; else Ray is started here.

    workers: processes at work; None: one per GPU, or one per two CPU cores.
    device: "cpu", or "cuda" for one GPU per worker.
    """

    workers: int | None = None
    device: str = "cpu"

    def __post_init__(self):
        enough = self.workers is None or self.workers >= 1
        require(enough, f"the number of workers is {self.workers}", "use 1 or more")


def raised_at(error: BaseException) -> str:
    """The file and line where an error was raised, also when that was in another process."""
    frames = traceback.extract_tb(error.__traceback__)
    here = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
    return getattr(error, "raised_at", here)


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

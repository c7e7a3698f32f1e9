"""What became of a photo, in the words of the record."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from ..checks import ProtectionError, out_of_memory
from ..jobs.job import raised_at
from .plan import Task


@dataclass(frozen=True)
class Outcome:
    """What the record says of the file that was written, or why none was.

    seconds: from the reading of the photo on. final: another try would end in the same way.
    """

    task: Task
    seconds: float
    written: dict | None = None
    error: ProtectionError | None = None
    final: bool = True

    @classmethod
    def failed(cls, task: Task, error: Exception, seconds: float = 0.0) -> Outcome:
        traceback.clear_frames(error.__traceback__)  # what they hold may be the memory that the next try needs
        return cls(task, seconds, error=_for_the_user(error), final=isinstance(error, ProtectionError))

    def entry(self, settings: dict) -> dict:
        """For the record. Where a photo fails, the output of an earlier run stays, and stays known."""
        entry = {"settings": settings, "seconds": round(self.seconds, 1)}
        if self.written is not None:
            return entry | {"status": "protected"} | self.written
        entry |= {"status": "failed", "reason": str(self.error)}
        known, task = self.task.known, self.task
        if known.get("output") == task.output_name and known.get("output_sha256") and task.output.is_file():
            entry |= {
                key: known[key] for key in ("output", "output_sha256", "source_sha256", "source_folder") if key in known
            }
            entry["reason"] += " The output of an earlier run was left as it is."
        return entry


def _for_the_user(error: Exception) -> ProtectionError:
    """Without an absolute path; where it happened if the error is not one of ours."""
    if isinstance(error, ProtectionError):
        return error
    if out_of_memory(error):
        return ProtectionError("There is not enough memory for this photo", "reduce the photo, or use --device cpu")
    if isinstance(error, OSError):
        return ProtectionError(
            f"The file could not be read or written ({error.strerror})", "check disk space and rights"
        )
    return ProtectionError(f"An unexpected {type(error).__name__} in {raised_at(error)}", "report it, with this line")

"""Protect a folder of photos: every photo on its own, resumable, and never a file that is not what it says.

A photo is written only when it is protected as a stranger would read it: the file is read back and judged before it
gets its name. `faceprotect.json` in the output folder says for every photo what was done and what came of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from torch import Tensor

from .checks import ProtectionError, require
from .faces import Face
from .folder_record import Record, sha256_of
from .inversion import OnStep
from .judge import FaceVerdict
from .photo_file import WRITABLE, PhotoFile, read_photo, write_photo

Format = Literal["keep", "png", "jpeg", "webp"]
SUFFIX_OF = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
JPEG_SUFFIXES = (".jfif", ".mpo")  # other names of JPEG files
# What people's photos are called. Those that cannot be read are reported, and not passed over.
PHOTO_SUFFIXES = (
    *(*WRITABLE, *JPEG_SUFFIXES, ".bmp", ".gif", ".avif", ".heic", ".heif", ".jp2"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)


class Result(Protocol):
    """What of a PhotoResult is used here."""

    image: Tensor
    faces: tuple[FaceVerdict, ...]


class Protector(Protocol):
    """Protects and judges single photos, always in the same way."""

    settings: dict
    """All that decides how a photo comes out, for JSON; with "preset"."""

    def protect(self, photo: Tensor, on_step: OnStep | None = None) -> Result:
        """[3, H, W] in [0, 1] on the CPU -> a result whose image is on the CPU."""
        ...

    def judge(self, original: Tensor, finished: Tensor, faces: list[Face]) -> tuple[FaceVerdict, ...]: ...


@dataclass(frozen=True)
class Options:
    """How files are written. format: "keep" keeps each photo's own where it can be written, and writes PNG else."""

    format: Format = "keep"
    quality: int = 95
    keep_metadata: bool = False
    overwrite: bool = False

    def __post_init__(self):
        known = get_args(Format)
        require(self.format in known, f"the format is {self.format!r}", f"use one of {', '.join(known)}")
        require(1 <= self.quality <= 100, f"the quality is {self.quality}", "use 1 to 100")

    @property
    def settings(self) -> dict:
        return {"format": self.format, "quality": self.quality, "keep_metadata": self.keep_metadata}


@dataclass(frozen=True)
class Task:
    """One photo. name, output_name: relative to the two folders, with forward slashes."""

    name: str
    source: Path
    output_name: str
    output: Path


# ------------------------------------------------------------------------------------------------ which photos


def plan(in_dir: Path, out_dir: Path, options: Options, record: Record) -> list[Task]:
    """The photos of a folder and its subfolders, and where each goes.

    Left out: the output folder, links to folders, and what begins with a dot.

    Raises:
        ProtectionError: no photos, the same folder twice, or an output that would land on an input or outside.
    """
    require(in_dir.is_dir(), f"the input folder {in_dir.name!r} does not exist", "check the name")
    require(not out_dir.exists() or out_dir.is_dir(), f"the output {out_dir.name!r} is no folder", "name a folder")
    require(
        in_dir.resolve() != out_dir.resolve(),
        "the input and the output folder are the same",
        "name another output folder; the originals are never changed",
    )
    names = sorted(_photos_in(in_dir, out_dir.resolve()))
    require(bool(names), f"there are no photos in {in_dir.name!r}", f"they end in one of {', '.join(WRITABLE)}")
    outputs = _output_names(names, options, record)
    tasks = [Task(name, in_dir / name, outputs[name], out_dir / outputs[name]) for name in names]
    _require_inputs_are_safe(tasks, out_dir.resolve())
    return tasks


def _photos_in(folder: Path, left_out: Path) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        raise ProtectionError(
            f"a subfolder of the input cannot be read ({error.strerror}). How to fix: give yourself the right to."
        )

    for path, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(path)
        folders[:] = [one for one in folders if not one.startswith(".") and (here / one).resolve() != left_out]
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in PHOTO_SUFFIXES:
                yield (here / file).relative_to(folder).as_posix()


def _output_names(names: list[str], options: Options, record: Record) -> dict[str, str]:
    """Photo's name -> output's name, no two the same, not even where a and A are.

    A photo keeps the name that it had in an earlier run; then photos that keep their own name come first; of the
    others that want the same name, the later ones keep their old suffix in it (a.jpg.png).
    """
    wanted = {name: _wanted(name, options.format) for name in names}
    with_old_suffix = {name: name + Path(wanted[name]).suffix for name in names}
    recorded = {name: record.photos.get(name, {}).get("output") or "" for name in names}
    earlier = {
        name: output
        for name, output in recorded.items()
        if output == wanted[name] or (output.startswith(with_old_suffix[name]) and Path(output).suffix in wanted[name])
    }
    outputs, taken = {}, set()
    for name in sorted(names, key=lambda name: (name not in earlier, wanted[name] != name, name)):
        output = earlier.get(name, wanted[name])
        if output.casefold() in taken:
            output = with_old_suffix[name]
        while output.casefold() in taken:
            output += Path(output).suffix
        taken.add(output.casefold())
        outputs[name] = output
    return outputs


def _wanted(name: str, wanted_format: str) -> str:
    suffix = Path(name).suffix
    if wanted_format == "keep":
        kept = WRITABLE.get(suffix.lower())
        return name if kept else name.removesuffix(suffix) + (".jpg" if suffix.lower() in JPEG_SUFFIXES else ".png")
    if WRITABLE.get(suffix.lower()) == wanted_format.upper():
        return name
    return name.removesuffix(suffix) + SUFFIX_OF[wanted_format]


def _require_inputs_are_safe(tasks: list[Task], out_dir: Path) -> None:
    """No output is an input: neither by name, nor through a link, nor on a disk that takes a.jpg for A.JPG."""
    inputs = {_identity(task.source) for task in tasks if task.source.exists()}
    for task in tasks:
        folder = task.output.parent.resolve()
        require(
            folder == out_dir or out_dir in folder.parents,
            f"a link in the output folder leads the output of {task.name!r} out of it",
            "remove the link, or use another output folder",
        )
        require(
            not (task.output.exists() and _identity(task.output) in inputs),
            f"the output of {task.name!r} would land on one of the input photos",
            "use an output folder that does not hold the input folder, and no links between them",
        )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


# ------------------------------------------------------------------------------------------------ one photo


def protect_one(task: Task, protector: Protector, options: Options, on_step: OnStep | None = None) -> dict:
    """Reads, protects, writes and judges one photo; nothing else is touched. Returns its entry for the record.

    Raises:
        ValueError: the photo cannot be read, has no face, or is not protected far enough; then nothing is written.
    """
    start = time.monotonic()
    digest = sha256_of(task.source)
    photo = read_photo(task.source)
    result = protector.protect(photo.image, on_step)
    preset = protector.settings.get("preset")
    _require_protected(result.faces, "the photo", _stronger(preset))
    faces = [verdict.face for verdict in result.faces]
    judged: list[FaceVerdict] = []

    def check(written: PhotoFile) -> None:
        judged[:] = protector.judge(photo.image, written.image, faces)
        suffix = task.output.suffix.lower()
        png = "" if suffix == ".png" else "write it as PNG (--format png), or "
        _require_protected(judged, f"the written {suffix} file, read back,", png + _stronger(preset))

    task.output.parent.mkdir(parents=True, exist_ok=True)
    write_photo(
        task.output, result.image, photo, keep_metadata=options.keep_metadata, quality=options.quality, check=check
    )
    return {
        "status": "protected",
        "source_sha256": digest,
        "output": task.output_name,
        "output_sha256": sha256_of(task.output),
        "settings": settings_of(protector, options),
        "faces": [verdict.to_dict() for verdict in judged],
        "seconds": round(time.monotonic() - start, 1),
    }


def _stronger(preset: str | None) -> str:
    if preset == "strong":
        return "use a larger or sharper photo of the face"
    return "protect it harder (--preset strong)"


def _require_protected(verdicts, what: str, fix: str) -> None:
    require(bool(verdicts), f"{what} has no face", "use a photo in which the face is upright and well lit")
    failed = [str(number) for number, verdict in enumerate(verdicts) if not verdict.protected]
    require(not failed, f"{what} is NOT PROTECTED enough: face {', '.join(failed)} of {len(verdicts)}", fix)


def settings_of(protector: Protector, options: Options) -> dict:
    """What must agree for a photo to count as done, as JSON gives it back."""
    return json.loads(json.dumps(protector.settings | options.settings))


# ------------------------------------------------------------------------------------------------ all photos


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
    on_step: Callable[[Task, dict], None] | None = None,
) -> list[PhotoDone]:
    """Protects all photos of a folder, one after the other; what an earlier run has done is not done again.

    A photo that fails is reported, and nothing is written for it; the others go on. The record is written after every
    photo, so that a run can be stopped at any time.

    Raises:
        ProtectionError: the folders cannot be used, see `plan`; or the record is damaged.
    """
    in_dir, out_dir, options = Path(in_dir), Path(out_dir), options or Options()
    record = Record.read(out_dir)
    tasks = plan(in_dir, out_dir, options, record)
    settings = settings_of(protector, options)
    out_dir.mkdir(parents=True, exist_ok=True)
    done: list[PhotoDone] = []
    times: list[float] = []
    for number, task in enumerate(tasks, start=1):
        step = on_step and (lambda event, task=task: on_step(task, event))
        status, entry = _attempt(task, protector, options, settings, record, step)
        if status == "protected":  # a photo that fails mostly fails at once
            times.append(entry["seconds"])
        seconds_left = _seconds_left(times, tasks[number:], record, settings)
        done.append(PhotoDone(task, number, len(tasks), status, entry, seconds_left))
        if on_photo:
            on_photo(done[-1])
    return done


def _attempt(task, protector, options: Options, settings: dict, record: Record, on_step) -> tuple[str, dict]:
    known = record.photos.get(task.name, {})
    if _is_done(task, known, settings):
        return "already", known
    start = time.monotonic()
    try:
        _require_free(task, known, options)
        entry = protect_one(task, protector, options, on_step)
    except Exception as error:  # whatever is wrong with one photo must not stop the others
        entry = _failure(task, known, settings, _reason(error), time.monotonic() - start)
    record.put(task.name, entry)
    return entry["status"], entry


def _is_done(task: Task, known: dict, settings: dict) -> bool:
    return (
        _looks_done(task, known, settings)
        and known.get("output") == task.output_name
        and sha256_of(task.output) == known.get("output_sha256")
        and sha256_of(task.source) == known.get("source_sha256")
    )


def _require_free(task: Task, known: dict, options: Options) -> None:
    """An existing file is replaced only when it is ours and unchanged."""
    ours = known.get("output") == task.output_name and known.get("output_sha256")
    require(
        options.overwrite or not os.path.lexists(task.output) or (ours and sha256_of(task.output) == ours),
        f"there is already a file {task.output_name!r} in the output folder, which is not from an earlier run or was "
        "changed since",
        "move it away, or use --overwrite",
    )


def _failure(task: Task, known: dict, settings: dict, reason: str, seconds: float) -> dict:
    entry = {"status": "failed", "reason": reason, "settings": settings, "seconds": round(seconds, 1)}
    if known.get("output") == task.output_name and known.get("output_sha256") and task.output.is_file():
        entry |= {"output": known["output"], "output_sha256": known["output_sha256"]}
        entry["reason"] += " The output of an earlier run was left as it is."
    return entry


def _reason(error: Exception) -> str:
    """For the user and the record: no absolute path, and where it happened if the error is not one of ours."""
    if isinstance(error, ValueError) and "How to fix: " in str(error):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return "There is not enough memory for this photo. How to fix: reduce the photo, or use --device cpu."
    if isinstance(error, OSError):
        return f"The file could not be read or written ({error.strerror}). How to fix: check disk space and rights."
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"
    return f"An unexpected {type(error).__name__} in {where}. How to fix: report it, with this line."


def _seconds_left(times: list[float], tasks: list[Task], record: Record, settings: dict) -> float:
    """From the photos of this run so far; those that look done already take no time."""
    still_open = [task for task in tasks if not _looks_done(task, record.photos.get(task.name, {}), settings)]
    return sum(times) / len(times) * len(still_open) if times else 0.0


def _looks_done(task: Task, known: dict, settings: dict) -> bool:
    return known.get("status") == "protected" and known.get("settings") == settings and task.output.is_file()

"""Which photos of a folder are protected, and where each goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..checks import ProtectionError, require
from ..files import sha256_of
from ..photos.file import WRITABLE
from .record import Record

Format = Literal["keep", "png", "jpeg", "webp"]
SUFFIX_OF = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
JPEG_SUFFIXES = (".jfif", ".mpo")  # other names of JPEG files
# What people's photos are called. Those that cannot be read are reported, and not passed over.
PHOTO_SUFFIXES = (
    *(*WRITABLE, *JPEG_SUFFIXES, ".bmp", ".gif", ".avif", ".heic", ".heif", ".jp2"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)


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
    """One photo. name, output_name: relative to the two folders, with forward slashes. known: what the record says of
    it. staged: what its file is called at first, where that is not the output."""

    name: str
    source: Path
    output_name: str
    output: Path
    known: dict = field(default_factory=dict)
    staged: Path | None = None

    def is_done(self, settings: dict) -> bool:
        """An earlier run protected this very photo with these settings, and its output is still there."""
        return (
            self.known.get("status") == "protected"
            and self.known.get("settings") == settings
            and self._is_ours()
            and sha256_of(self.source) == self.known.get("source_sha256")
        )

    def require_free(self, options: Options) -> None:
        """An existing file is replaced only when it is ours and unchanged."""
        require(
            options.overwrite or not os.path.lexists(self.output) or self._is_ours(),
            f"there is already a file {self.output_name!r} in the output folder, which is not from an earlier run or "
            "was changed since",
            "move it away, or use --overwrite",
        )

    def _is_ours(self) -> bool:
        ours = self.known.get("output") == self.output_name and self.known.get("output_sha256")
        return bool(ours) and self.output.is_file() and sha256_of(self.output) == ours


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
    tasks = [
        Task(name, in_dir / name, outputs[name], out_dir / outputs[name], record.photos.get(name, {})) for name in names
    ]
    _require_inputs_are_safe(tasks, out_dir.resolve())
    return tasks


def _photos_in(folder: Path, left_out: Path) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        raise ProtectionError(
            f"a subfolder of the input cannot be read ({error.strerror})", "give yourself the right to"
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

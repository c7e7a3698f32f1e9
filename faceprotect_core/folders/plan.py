"""Which photos of a folder are protected, and where each goes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..checks import ProtectionError, require
from ..files import sha256_of
from ..photos.file import WRITABLE
from ..photos.read import is_marked, is_picture
from .record import RECORD, Record

Format = Literal["keep", "png", "jpeg", "webp"]
SUFFIX_OF = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
JPEG_SUFFIXES = (".jfif", ".mpo", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp")  # other names of JPEG files
# What people's photos are called. Those that cannot be read are reported, and not passed over.
PHOTO_SUFFIXES = (
    *(*WRITABLE, *JPEG_SUFFIXES, ".bmp", ".gif", ".avif", ".heic", ".heif", ".hif", ".jp2", ".jxl", ".psd"),
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".3fr", ".dcr", ".erf", ".iiq", ".mrw", ".x3f", ".rwl"),
)
# Plainly no pictures: what else lies among photos. Other files are looked into.
OTHER_SUFFIXES = (
    *(".txt", ".md", ".json", ".xml", ".csv", ".html", ".htm", ".css", ".js", ".ini", ".db", ".log", ".yaml", ".yml"),
    *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".odt", ".ods", ".ppt", ".pptx", ".zip", ".gz", ".tar", ".7z", ".rar"),
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".3gp", ".mts", ".mp3", ".wav", ".m4a", ".aac", ".flac", ".ogg"),
    *(".xmp", ".aae", ".thm", ".lrcat", ".lnk", ".url", ".exe", ".dll", ".py", ".safetensors", ".onnx", ".pth", ".pt"),
)


@dataclass(frozen=True)
class Options:
    """How files are written. format: "keep" keeps each photo's own where it can be written, and writes PNG else. mark:
    the files say that they are protected, see `encode_file`."""

    format: Format = "keep"
    quality: int = 95
    keep_metadata: bool = False
    overwrite: bool = False
    mark: bool = True

    def __post_init__(self):
        known = get_args(Format)
        require(self.format in known, f"the format is {self.format!r}", f"use one of {', '.join(known)}")
        require(1 <= self.quality <= 100, f"the quality is {self.quality}", "use 1 to 100")

    @property
    def kept(self) -> dict:
        """For `encode_file`."""
        return {"keep_metadata": self.keep_metadata, "quality": self.quality, "mark": self.mark}

    @property
    def settings(self) -> dict:
        return {"format": self.format} | self.kept


@dataclass(frozen=True)
class Task:
    """One photo. name, output_name: relative to the two folders, with forward slashes. known: what the record says of
    it. staged: what its file is called at first, where that is not the output. made: the digests of what earlier runs
    wrote around the source. folder: a digest of where the source's folder is."""

    name: str
    source: Path
    output_name: str
    output: Path
    known: dict = field(default_factory=dict)
    staged: Path | None = None
    made: frozenset[str] = frozenset()
    folder: str = ""

    def is_done(self, settings: dict) -> bool:
        """An earlier run protected this very photo with these settings, and its output is still there."""
        return (
            self.known.get("status") == "protected"
            and self.known.get("settings") == settings
            and self._is_ours()
            and sha256_of(self.source) == self.known.get("source_sha256")
        )

    def require_original(self, digest: str) -> None:
        """To protect a protected photo can undo it: the second run flees from the first, and is judged against it."""
        require(
            digest not in self.made and not is_marked(self.source),
            f"{self.name!r} is protected already, an earlier run wrote it",
            "protect the original photo; for more protection with --preset strong",
        )

    def require_free(self, options: Options, digest: str) -> None:
        """An existing file is replaced only when it is ours, unchanged, and was made from this photo.

        That is one with this digest, or one that lay where it lies: photos of two folders may have the same name.
        """
        if options.overwrite or not os.path.lexists(self.output):
            return
        require(
            self._is_ours(),
            f"there is already a file {self.output_name!r} in the output folder, which is not from an earlier run or "
            "was changed since",
            "move it away, or use --overwrite",
        )
        require(
            self.known.get("source_sha256", digest) == digest or self.known.get("source_folder") == self.folder,
            f"{self.output_name!r} in the output folder was made from another photo, of another folder",
            "use another output folder, or --overwrite",
        )

    def _is_ours(self) -> bool:
        """What the record says that we wrote, or were about to."""
        ours = {self.known.get("output_sha256")} if self.known.get("output") == self.output_name else set()
        ours |= {digest for name, digest in self.known.get("coming", {}).items() if name == self.output_name}
        return bool(ours) and self.output.is_file() and sha256_of(self.output) in ours


def folder_of(out: Path, source: Path) -> Path:
    """The output folder: `out` itself, or the one that a single photo's file is to lie in."""
    return out.parent if _is_one_file(source, out) else out


def _is_one_file(source: Path, out: Path) -> bool:
    return source.is_file() and out.suffix.lower() in WRITABLE and not out.is_dir()


def plan(source: Path, out: Path, options: Options, record: Record) -> list[Task]:
    """The photos of a folder and its subfolders, or the one that is named, and where each goes.

    source: a folder, or one photo. out: a folder, or for one photo the file that is to be written.

    Left out: the output folder, links to folders, and what begins with a dot.

    Raises:
        ProtectionError: no photos, the same folder twice, or an output that would land on an input or outside.
    """
    require(source.exists(), f"the input {source.name!r} does not exist", "check the name")
    out_dir = folder_of(out, source)
    require(not out_dir.exists() or out_dir.is_dir(), f"the output {out_dir.name!r} is no folder", "name a folder")
    if source.is_file():
        in_dir, names = source.parent, [source.name]
        outputs = {source.name: out.name} if _is_one_file(source, out) else _output_names(names, options, record)
    else:
        in_dir = source
        require(
            in_dir.resolve() != out_dir.resolve(),
            "the input and the output folder are the same",
            "name another output folder; the originals are never changed",
        )
        names = sorted(name for name, is_photo in _files_in(in_dir, out_dir.resolve()) if is_photo)
        require(bool(names), f"there are no photos in {in_dir.name!r}", f"they end in one of {', '.join(WRITABLE)}")
        outputs = _output_names(names, options, record)
    made, known = _made_by_us(in_dir), record.photos
    folder = hashlib.sha256(str(in_dir.resolve()).encode()).hexdigest()[:16]
    tasks = [
        Task(name, in_dir / name, outputs[name], out_dir / outputs[name], known.get(name, {}), made=made, folder=folder)
        for name in names
    ]
    _require_inputs_are_safe(tasks, out_dir.resolve())
    return tasks


def passed_over(source: Path, out: Path) -> list[str]:
    """The files of a folder that are no photos as far as can be told, and not plainly something else."""
    if not source.is_dir():
        return []
    return sorted(name for name, is_photo in _files_in(source, folder_of(out, source).resolve()) if not is_photo)


def _files_in(folder: Path, left_out: Path) -> Iterator[tuple[str, bool]]:
    """Each file that may be a photo: its name, and whether it is one by its suffix or by what is in it."""

    def unreadable(error: OSError) -> None:
        raise ProtectionError(
            f"a subfolder of the input cannot be read ({error.strerror})", "give yourself the right to"
        )

    for path, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(path)
        folders[:] = [one for one in folders if not one.startswith(".") and (here / one).resolve() != left_out]
        for file in files:
            suffix = Path(file).suffix.lower()
            if not file.startswith(".") and suffix not in OTHER_SUFFIXES:
                is_photo = suffix in PHOTO_SUFFIXES or is_picture(here / file)
                yield (here / file).relative_to(folder).as_posix(), is_photo


def _made_by_us(folder: Path) -> frozenset[str]:
    """The digests of what earlier runs wrote into the folder, its subfolders or the folders above it."""
    records = [here / RECORD for here in (folder.resolve(), *folder.resolve().parents)] + [*folder.rglob(RECORD)]
    entries = []
    for path in {record.resolve() for record in records if record.is_file()}:
        with contextlib.suppress(ProtectionError):  # damaged, or of another version: nothing is known from it
            entries += Record.read(path.parent).photos.values()
    digests = [entry.get("output_sha256") for entry in entries]
    digests += [one for entry in entries for one in (entry.get("coming") or {}).values()]
    return frozenset(one for one in digests if one)


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

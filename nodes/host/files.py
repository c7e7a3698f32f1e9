"""Model files that the user may choose, the photos that nodes load, and where images are saved; never outside their
folders."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import folder_paths

from ...faceprotect_core.checks import require
from ...faceprotect_core.surrogates import WEIGHTS_SUFFIXES

FACE_RECOGNITION = "face_recognition"  # the folder in models/, and its name in extra_model_paths.yaml


# Where facexlib's users have its ArcFace (PuLID and others, ReActor and others, WanVideoWrapper's Lynx).
FACEXLIB_FOLDERS = ("facexlib", "facedetection", "face_analysis/facexlib/weights")


# What else lies in InsightFace's packs: detectors, landmarks, gender and age. Told by their names, because opening
# hundreds of megabytes for a list is too slow; a stranger among the recognisers is refused when it is loaded.
NO_RECOGNISERS = re.compile(r"(det_|scrfd_|1k3d68|2d106det|genderage).*")


def register_model_folder() -> None:
    """models/face_recognition, and what extra_model_paths.yaml adds to it."""
    folder_paths.add_model_folder_path(FACE_RECOGNITION, os.path.join(folder_paths.models_dir, FACE_RECOGNITION))
    paths, suffixes = folder_paths.folder_names_and_paths[FACE_RECOGNITION]
    folder_paths.folder_names_and_paths[FACE_RECOGNITION] = (paths, {*suffixes, *WEIGHTS_SUFFIXES})


def surrogate_files() -> dict[str, tuple[Path, Path]]:
    """The weights files that the user may choose: the name in the list -> (file, the folder that it lies in).

    Links that lead out of their folder are not among them.
    """
    found = {}
    for folder in map(Path, folder_paths.get_folder_paths(FACE_RECOGNITION)):
        for name in folder_paths.recursive_search(str(folder), excluded_dir_names=[".git"])[0]:
            if Path(name).suffix.lower() in WEIGHTS_SUFFIXES:
                found.setdefault(Path(name).as_posix(), (folder / name, folder))
    for folder in _model_folders("insightface"):
        for file in sorted(folder.glob("models/*/*.onnx")):
            if not NO_RECOGNISERS.fullmatch(file.stem):
                found.setdefault(f"insightface/{file.parent.name}/{file.name}", (file, folder))
    for name in FACEXLIB_FOLDERS:
        for folder in _model_folders(name):
            for file in sorted(folder.glob("recognition_*.pth")):
                found.setdefault(f"{name}/{file.name}", (file, folder))
    return {name: one for name, one in sorted(found.items()) if one[0].resolve().is_relative_to(one[1].resolve())}


def surrogate_file(name: str) -> Path:
    """The file of a name in the list; no other name is taken."""
    files = surrogate_files()
    require(
        name in files,
        f"Load FR Surrogate: there is no file {name!r} in models/{FACE_RECOGNITION}, and no file of InsightFace or "
        "facexlib has this name",
        f"put the file there (for a link name its folder under {FACE_RECOGNITION} in extra_model_paths.yaml), press "
        f"R to refresh the list, and choose it; it has {len(files)} files",
    )
    return files[name][0]


def surrogate_fingerprint(name: str) -> list:
    """Changes when another file lies there under the same name."""
    file, _ = surrogate_files().get(name, (None, None))
    if file is None or not file.exists():
        return [name]
    status = file.stat()
    return [name, status.st_mtime_ns, status.st_size]


def _model_folders(name: str) -> list[Path]:
    """A folder in models/, and where another pack or extra_model_paths.yaml has it."""
    known = folder_paths.get_folder_paths(name) if name in folder_paths.folder_names_and_paths else []
    return [Path(folder) for folder in dict.fromkeys([*known, os.path.join(folder_paths.models_dir, name)])]


def file_of(text: str) -> list[Path]:
    """The file in ComfyUI's input, output or temp folder that a text names as Load Image takes it, or none."""
    path = _in_its_folder(text)
    return [path] if path and os.path.isfile(path) else []


def files_in(text: str) -> list[Path]:
    """The files of the folder in ComfyUI's input folder that a text names, and of its subfolders."""
    folder = _in_its_folder(text)
    if folder is None or not os.path.isdir(folder):
        return []
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.resolve().is_relative_to(folder)]


def _in_its_folder(text: str) -> Path | None:
    """As "a.png", "sub/a.png" or "a.png [output]"; None for what leads out, through a link too."""
    name, folder = folder_paths.annotated_filepath(text)
    root = Path(folder or folder_paths.get_input_directory()).resolve()
    try:
        path = (root / name).resolve()
    except ValueError:  # no name of a file: a zero byte, half a character
        return None
    return path if path.is_relative_to(root) else None


def save_path(prefix: str, width: int, height: int) -> tuple[Path, str, int, str]:
    """Where an image of that many pixels is saved: folder, name, the next free number, and the folder's name for the
    frontend. The folder is made; it is never outside ComfyUI's output folder."""
    wanted = os.path.normpath(prefix)
    require(
        not os.path.isabs(wanted) and not wanted.startswith(os.pardir) and "\0" not in prefix,
        f"Save Protected Image: the prefix {prefix!r} leads out of the output folder",
        'use a name such as "FaceProtect", or a subfolder as in "holiday/FaceProtect"',
    )
    output = folder_paths.get_output_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    return Path(folder), name, counter, subfolder


register_model_folder()


def shown_text(text: str) -> dict:
    """What a node returns to show a text: on the node, and, as a file in ComfyUI's temp folder, in an app, which shows
    no other."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"FaceProtect_report_{uuid.uuid4().hex}.txt"
    path.write_text(text, encoding="utf-8")
    file = {"filename": path.name, "subfolder": "", "type": "temp", "display_name": "Did it work?"}
    return {"text": (text,), "files": [file]}

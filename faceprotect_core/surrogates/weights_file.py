"""A weights file that a user brought -> its tensors. Nothing in the file is ever run.

`read_tensors` opens the file and gives the tensors as they lie in it; `to_float32` makes the network's own copies, and
comes after their shapes were compared with the network's.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checks import ProtectionError, require, require_finite

SAFETENSORS_SUFFIXES = (".safetensors",)
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
# Where training scripts put the state dictionary, and what DataParallel puts before each name.
WRAPPERS = ("state_dict", "model_state_dict", "model")
WRAPPER_DEPTH = 3
PREFIX = "module."
SCRIPT_RECORD = re.compile(r"[^/]+/(constants\.pkl|code/.*)")
# In torch's refusal: what the pickle names that is no tensor's part.
CALLED = re.compile(r"(?:GLOBAL|function|class|type) <?(?:class )?'?([A-Za-z_][\w.]+)")
REASON_LENGTH = 150
LONGEST_NAME = 300  # letters: names stand in messages
CONVERTED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DOWNLOAD_AGAIN = "download the file again, and compare its size with the one on the page that offers it"
PLAIN_STATE_DICT = (
    "use the .safetensors file of the same network where there is one; or, on a machine and with code that you trust, "
    "load the network and save its plain state dict with safetensors.torch.save_file(model.state_dict(), ...)"
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth, .pt or .bin file, on the CPU, by name, as they are in the file.

    Wrappers such as {"state_dict": ...} and the prefix "module." are taken off.

    Raises:
        ProtectionError: the file is missing, broken, wants to run code, or holds something else than tensors.
    """
    _require_weights_file(path)
    with torch.inference_mode(False):
        found = _read_safetensors(path) if path.suffix.lower() in SAFETENSORS_SUFFIXES else _read_pickle(path)
    tensors = _without_prefix(_unwrapped(found, path))
    for name, tensor in tensors.items():
        _require_plain(name, tensor, path)
    _require_stored(tensors, path)
    return tensors


def to_float32(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Copies in float32 that own their memory and may take part in autograd.

    Raises:
        ProtectionError: a tensor is of another dtype than float16, bfloat16, float32 or float64; or not finite.
    """
    copies = {}
    with torch.inference_mode(False):
        for name, tensor in tensors.items():
            require(
                tensor.dtype in CONVERTED,
                f"{path.name}: the tensor {name} is of {_dtype_name(tensor)}",
                "get the weights in float32 or float16; files for mobile phones or with 8 bits cannot be used",
            )
            copies[name] = tensor.detach().to(torch.float32, copy=True).contiguous()
            require_finite(copies[name], f"{path.name}: the tensor {name}", DOWNLOAD_AGAIN)
            require(
                not name.endswith("running_var") or bool((copies[name] >= 0).all()),
                f"{path.name}: the tensor {name} has negative variances",
                DOWNLOAD_AGAIN,
            )
    return copies


def _require_weights_file(path: Path) -> None:
    """It is there, it is not empty, and it does not begin like something else."""
    suffixes = (*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES)
    require(path.is_file(), f"there is no file {path}", "check the name, or choose another file")
    require(
        path.suffix.lower() in suffixes,
        f"{path.name}: {path.suffix or 'no suffix'!r} is not the suffix of a weights file",
        f"use a file that ends with one of {', '.join(suffixes)}",
    )
    with path.open("rb") as file:
        start = file.read(256)
    require(bool(start), f"{path.name} is empty", DOWNLOAD_AGAIN)
    require(
        not start.startswith(b"version https://git-lfs"),
        f"{path.name} is a Git LFS pointer, not the weights themselves",
        "fetch the weights with `git lfs pull`, or download the file in a browser",
    )
    is_text = path.suffix.lower() not in SAFETENSORS_SUFFIXES and re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]+", start)
    is_page = start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
    require(
        not (is_page or (is_text and _is_utf8(start))),
        f"{path.name} is a text, perhaps a web page, and no weights file",
        "download the weights themselves: the page behind a link is not the file",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # whatever a broken file leads to: it cannot be read
        raise _broken(path, str(error) or type(error).__name__) from error


def _read_pickle(path: Path) -> object:
    """torch.load with weights_only: it builds tensors, and refuses all else before it runs."""
    # Before 2.6 a crafted file gets around weights_only (CVE-2025-32434).
    require(
        torch.__version__ >= "2.6",  # as versions, not as text
        f"{path.name}: torch {torch.__version__} cannot open {path.suffix} files safely",
        "update ComfyUI's torch to 2.6 or newer, or convert the file to .safetensors on another machine",
    )
    _require_plain_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Without its cause: torch's own words recommend to load the file with weights_only=False.
        raise _refused(path, str(error)) from None
    except Exception as error:  # whatever a broken file leads to: it cannot be read
        raise _broken(path, str(error) or type(error).__name__) from None


def _require_plain_archive(path: Path) -> None:
    """torch.save's archive, where the file is one: stored, not compressed, without TorchScript's code."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as error:  # as above
        raise _broken(path, str(error)) from error
    require(
        not any(SCRIPT_RECORD.fullmatch(record.filename) for record in records),
        f"{path.name} is a TorchScript archive: a program with its weights, and programs are not run",
        PLAIN_STATE_DICT,
    )
    require(
        all(record.compress_type == zipfile.ZIP_STORED for record in records),
        f"{path.name} is a compressed archive, and torch writes none",
        "unpack it, and choose the weights file inside",
    )


def _refused(path: Path, message: str) -> ProtectionError:
    """What torch refused in a pickle, in words for the owner of the file."""
    wanted = CALLED.search(message)
    if wanted is None:
        return ProtectionError(
            f"{path.name} is damaged, or holds something else than plain tensors. Nothing in it was run",
            f"{DOWNLOAD_AGAIN}; or {PLAIN_STATE_DICT}",
        )
    return ProtectionError(
        f"{path.name} is a pickle that wants to run code when it is loaded ({wanted[1]}): a whole network saved as an "
        "object, or an attack. It was NOT run, and nothing of the file was loaded",
        PLAIN_STATE_DICT,
    )


def _broken(path: Path, reason: str) -> ProtectionError:
    first_line = reason.strip().partition("\n")[0].rstrip(".")[:REASON_LENGTH]
    reason = "" if "weights_only" in first_line else f": {first_line}"
    size = path.stat().st_size
    return ProtectionError(
        f"{path.name} ({size} bytes) is no complete {path.suffix} weights file{reason}", DOWNLOAD_AGAIN
    )


def _unwrapped(found: object, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside {"state_dict": {...}, "epoch": ...} and the like."""
    for _ in range(WRAPPER_DEPTH):
        if not isinstance(found, Mapping):
            break
        inner = next((found[name] for name in WRAPPERS if isinstance(found.get(name), Mapping)), None)
        if inner is None:
            break
        found = inner
    tensors = found if isinstance(found, Mapping) else {}
    require(
        len(tensors) > 0,
        f"{path.name} holds {_described(found)}, not a dictionary of tensors",
        PLAIN_STATE_DICT,
    )
    require_short_names(filter(lambda name: isinstance(name, str), tensors), path.name)
    for name, value in tensors.items():
        require(
            isinstance(name, str) and isinstance(value, Tensor),
            f"{path.name} is not a dictionary of tensors: {str(name)[:80]!r} is {_described(value)}",
            PLAIN_STATE_DICT,
        )
    return dict(tensors)


def first_of(names: Sequence[str], most: int = 8) -> str:
    """The first names, for a message, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def require_short_names(names: Iterable[str], where: str) -> None:
    """Fails on a name that no network has. where: the file's name."""
    longest = max(map(len, names), default=0)
    require(longest <= LONGEST_NAME, f"{where} has a name of {longest} letters in it", DOWNLOAD_AGAIN)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors and all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    return tensors


def _require_plain(name: str, tensor: Tensor, path: Path) -> None:
    """An ordinary tensor in the CPU's memory: not quantised, sparse, nested, without data, or of a class of its own."""
    plain = (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
    )
    require(
        plain,
        f"{path.name}: {name} is no plain tensor, but {_dtype_name(tensor)}, {tensor.layout}, on {tensor.device}",
        "get the weights in float32 or float16; quantised and sparse ones cannot be used",
    )


def _require_stored(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A tensor may claim any size by showing the same few numbers over and over; copying it would fill the memory."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    size = path.stat().st_size
    require(
        claimed <= size,
        f"{path.name} claims {claimed} bytes of tensors, and the file has {size}",
        "do not use this file: it was made to fill the memory, or it is broken",
    )


def _described(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {len(value)} entries"
    return f"a {type(value).__name__}"


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_utf8(start: bytes) -> bool:
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.end >= len(start)  # cut within a character
    return True

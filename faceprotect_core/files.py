"""Files: what is in them, told by a digest, and writing that leaves all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from .checks import ProtectionError


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of_files(files: list[Path]) -> str:
    """The SHA-256 of several files in their order, in hexadecimal."""
    return hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()


def digest_of_tensor(tensor: Tensor | None) -> str | None:
    """The SHA-256 of a tensor's numbers, not of its shape, in hexadecimal; None for None."""
    return None if tensor is None else hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()


def digest_of_json(value) -> str:
    """The SHA-256 of what can be written as JSON, whatever the order of its keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that holds all of the data in the end, or what it held before."""
    with replacing(path) as temporary:
        write_and_flush(temporary, data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, which becomes the file at the end of the block and vanishes on an error."""
    temporary = path.with_name(f".faceprotect-{secrets.token_hex(8)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_and_flush(path: Path, data: bytes) -> None:
    """Writes a new file, which is on the disk when this returns."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def require_writable(folder: Path) -> None:
    """Fails where no file can be made in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        test = folder / f".faceprotect-{secrets.token_hex(8)}.part"
        write_and_flush(test, b"test")
        test.unlink()
    except OSError as error:
        raise ProtectionError(
            f"the output folder {folder.name!r} cannot be written to ({error.strerror})",
            "check the name, the rights and the space on the disk, or name another folder",
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Fails where another process has the folder locked; where the file system knows no locks, none is held."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProtectionError(
                f"another run is at work in the output folder {folder.name!r}",
                "wait until it is done, or name another folder",
            ) from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)

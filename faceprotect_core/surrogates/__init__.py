"""Face recognition surrogates: one file per architecture, loaded by name."""

from pathlib import Path

from .base import FRSurrogate
from .dlib_resnet import load_dlib_resnet

BUILT_IN_SURROGATES = {"dlib_resnet": load_dlib_resnet}


def load_surrogate(name: str | Path) -> FRSurrogate:
    """Load a face recognition network by its built-in name, on the CPU in float32.

    Raises:
        ValueError: no built-in surrogate has this name. Weights files are not read yet.
    """
    if name not in BUILT_IN_SURROGATES:
        what = "a weights file, which is not supported yet" if Path(name).suffix else "not a built-in surrogate"
        known = list(BUILT_IN_SURROGATES)
        raise ValueError(f"load_surrogate: {str(name)!r} is {what}. How to fix: use one of {known}.")
    return BUILT_IN_SURROGATES[name]()


__all__ = ["BUILT_IN_SURROGATES", "FRSurrogate", "load_surrogate"]

"""Errors a user can act on: what, where, which value, and how to fix it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class ProtectionError(ValueError):
    """Protection stopped, and nothing was returned. It reads 'problem. How to fix: fix.'"""

    def __init__(self, problem: str, fix: str):
        super().__init__(problem, fix)  # both, so that copies and pickles are made of both
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        return f"{self.problem}. How to fix: {self.fix}."


@contextmanager
def errors_of(where: str) -> Iterator[None]:
    """Errors in the block say first where they happened."""
    try:
        yield
    except ProtectionError as error:
        raise ProtectionError(f"{where}: {error.problem}", error.fix) from error


def require(condition: bool, problem: str, fix: str) -> None:
    """Raises a ProtectionError unless the condition holds."""
    if not condition:
        raise ProtectionError(problem, fix)


def out_of_memory(error: BaseException) -> bool:
    """PyTorch has no exception of its own for a CPU."""
    said = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA; a CPU on Linux; on Windows
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def given(value: T | None, problem: str, fix: str) -> T:
    """The value itself; None is refused like a condition of `require` that does not hold."""
    require(value is not None, problem, fix)
    assert value is not None  # type checkers do not look into `require`
    return value


def require_finite(tensor: Tensor, where: str, fix: str) -> None:
    """Fails closed on NaN and infinity, which would otherwise spread into a broken or an unprotected image."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return
    smallest, largest = torch.aminmax(tensor.detach())  # NaN in both where there is one; a fortieth of the time
    if bool(smallest.isfinite() & largest.isfinite()):
        return
    bad = tensor.numel() - int(torch.isfinite(tensor).sum())
    require(bad == 0, f"{where} has {bad} of {tensor.numel()} values that are NaN or infinite", fix)


def require_image(image: Tensor, where: str) -> None:
    """An image is [B, 3, H, W] float in [0, 1] (a little over- and undershoot is left to the caller)."""
    require(
        image.ndim == 4 and image.shape[1] == 3 and image.is_floating_point() and image.numel() > 0,
        f"{where} expects an RGB image [batch, 3, height, width] of floats in [0, 1], "
        f"got shape {list(image.shape)}, {image.dtype}",
        "convert grey or RGBA images to RGB first",
    )
    require_finite(image, f"the image given to {where}", "load the photo again; a node before it may have failed")

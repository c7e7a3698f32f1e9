"""The least change that suffices: what went further than it had to is taken back."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..checks import given
from ..pixels import as_saved

STEPS = 6  # of the bisection: the factor is found to 1/64


class Reachable(Protocol):
    """An objective with a goal: how far past its threshold every surrogate should be."""

    margin: float | None

    def past(self, image: Tensor) -> Tensor:
        """[B]: how far the least-fooled surrogate is past its threshold."""
        ...


@torch.no_grad()
def least_change(photo: Tensor, changed: Tensor, objective: Reachable) -> tuple[Tensor, Tensor]:
    """photo + f * (changed - photo) with the smallest f of each image for which the objective is still reached.

    Found by bisection, on pixels rounded to 8 bits, as they are saved; no gradients. An image that does not reach it at
    all keeps its whole change, one that needs none keeps none.

    Args:
        photo, changed: [B, 3, H, W] in [0, 1].
        objective: with a margin.

    Returns:
        The images [B, 3, H, W], and the factors [B] in [0, 1].
    """

    margin = given(objective.margin, "Least Change: the objective has no margin", "make the objective with one")

    def scaled(factor: Tensor) -> Tensor:
        factor = factor[:, None, None, None]
        return torch.where(factor == 1, changed, photo + factor * (changed - photo))

    def suffices(factor: Tensor) -> Tensor:
        return objective.past(as_saved(scaled(factor))) >= margin

    low, high = photo.new_zeros(len(photo)), photo.new_ones(len(photo))
    reached = suffices(high)
    if bool(reached.any()):
        high = torch.where(reached & suffices(low), low, high)
        for _ in range(STEPS):
            middle = (low + high) / 2
            enough = suffices(middle)
            high = torch.where(reached & enough, middle, high)
            low = torch.where(enough, low, middle)
    return scaled(high), high

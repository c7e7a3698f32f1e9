"""The least change that suffices: what went further than it had to is taken back, what fell a little short goes on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...checks import given
from ...pixels import as_saved

LARGEST = 1.5  # factor on a change that falls short: its direction is right before its size is
STEPS = 6  # of the bisection: the factor is found to 1/64


class Reachable(Protocol):
    """An objective with a goal: how far past its threshold every surrogate should be."""

    margin: float | None

    def past(self, image: Tensor) -> Tensor:
        """[B]: how far the least-fooled surrogate is past its threshold."""
        ...


@torch.no_grad()
def least_change(photo: Tensor, changed: Tensor, objective: Reachable) -> tuple[Tensor, Tensor]:
    """photo + f * (changed - photo) with the smallest f of each image, up to 1.5, for which the objective is reached.

    Found by bisection, on pixels rounded to 8 bits, as they are saved; no gradients. An image that does not reach it at
    all keeps its change as it is, one that needs none keeps none.

    Args:
        photo, changed: [B, 3, H, W] in [0, 1].
        objective: with a margin.

    Returns:
        The images [B, 3, H, W] in [0, 1], and the factors [B] in [0, 1.5].
    """

    margin = given(objective.margin, "Least Change: the objective has no margin", "make the objective with one")

    def scaled(factor: Tensor) -> Tensor:
        factor = factor[:, None, None, None]
        return torch.where(factor == 1, changed, (photo + factor * (changed - photo)).clamp(0.0, 1.0))

    def suffices(factor: Tensor) -> Tensor:
        return objective.past(as_saved(scaled(factor))) >= margin

    none, whole = photo.new_zeros(len(photo)), photo.new_ones(len(photo))
    enough = suffices(whole)
    low, high = torch.where(enough, none, whole), torch.where(enough, whole, LARGEST * whole)
    reached = enough if bool(enough.all()) else suffices(high)
    if bool(enough.any()):
        high = torch.where(enough & suffices(none), none, high)
    for _ in range(STEPS if bool(reached.any()) else 0):
        middle = (low + high) / 2
        suffice = suffices(middle)
        low, high = torch.where(suffice, low, middle), torch.where(suffice, middle, high)
    factor = torch.where(reached, high, whole)
    return scaled(factor), factor

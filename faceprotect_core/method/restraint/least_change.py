"""The least change that suffices: what went further than it had to is taken back, what fell a little short goes on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...checks import given
from ...pixels import as_saved

LARGEST = 1.5  # factor on a change that falls short: its direction is right before its size is
EXACT = 1 / 64  # how closely the factor is found
GUESSES, HALVINGS = 3, 6  # along a straight line, which is nearly always enough; then by halves


class Reachable(Protocol):
    """An objective with a goal: how far past its threshold every surrogate should be."""

    margin: float | None

    def past(self, image: Tensor, wanted: float) -> Tensor:
        """[B]: how far the least-fooled surrogate is past its threshold.

        Where no image is past by as much as is wanted, the least-fooled of some of them will do.
        """
        ...


@torch.no_grad()
def least_change(photo: Tensor, changed: Tensor, objective: Reachable) -> tuple[Tensor, Tensor]:
    """photo + f * (changed - photo) with the smallest f of each image, up to 1.5, for which the objective is reached.

    Sought between a factor that suffices and one that does not, on pixels rounded to 8 bits, as they are saved; no
    gradients. An image that does not reach it at all keeps its change as it is, one that needs none keeps none.

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

    def beyond(factor: Tensor) -> Tensor:
        """[B]: 0 and more suffices."""
        return objective.past(as_saved(scaled(factor)), margin) - margin

    whole = photo.new_ones(len(photo))
    at_whole = beyond(whole)
    enough = at_whole >= 0
    other = torch.where(enough, 0.0, LARGEST * whole)
    at_other = beyond(other)
    low, high = torch.where(enough, other, whole), torch.where(enough, whole, other)
    at_low, at_high = torch.where(enough, at_other, at_whole), torch.where(enough, at_whole, at_other)
    reached = at_high >= 0
    high = torch.where(reached & (at_low >= 0), low, high)  # none is needed
    for attempt in range(GUESSES + HALVINGS):
        open_ = reached & (high - low > EXACT)
        if not bool(open_.any()):
            break
        factor = _between(low, high, at_low, at_high) if attempt < GUESSES else (low + high) / 2
        at_factor = beyond(torch.where(open_, factor, high))
        suffices, falls_short = open_ & (at_factor >= 0), open_ & (at_factor < 0)
        high, at_high = torch.where(suffices, factor, high), torch.where(suffices, at_factor, at_high)
        low, at_low = torch.where(falls_short, factor, low), torch.where(falls_short, at_factor, at_low)
    factor = torch.where(reached, high, whole)
    return scaled(factor), factor


def _between(low: Tensor, high: Tensor, at_low: Tensor, at_high: Tensor) -> Tensor:
    """Where a straight line meets 0, but for half of what is exact: so the longer side of the interval goes."""
    met = low - at_low * (high - low) / (at_high - at_low).clamp_min(1e-12)
    longer = torch.where(high - met > met - low, 0.5, -0.5)
    room = torch.minimum((high - low) / 2, torch.full_like(low, EXACT / 2))
    return torch.minimum(torch.maximum(met + longer * EXACT, low + room), high - room)

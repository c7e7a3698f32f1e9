"""Input diversity: what a network's input goes through before it is seen, drawn anew in each iteration.

A change takes the input of a network [B, 3, height, width], with 0 where nothing is, to the same shape.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.objectives import IdentityObjective

Change = Callable[[Tensor], Tensor]


class _Changed(nn.Module):
    """A network whose input is changed first; `ground` is what comes in from outside."""

    def __init__(self, network: Callable[[Tensor], Tensor], change: Change, ground: float):
        super().__init__()
        self.network, self.change, self.ground = network, change, ground

    def forward(self, image: Tensor) -> Tensor:
        return self.network(self.change(image - self.ground) + self.ground)


def at(objective: IdentityObjective, iteration: int) -> Callable[[Tensor], Tensor]:
    """The loss of one iteration, for objectives whose random views change with it."""
    return objective.at(iteration) if hasattr(objective, "at") else objective


def diversified(objective: IdentityObjective, change: Change | None, iteration: int) -> Callable[[Tensor], Tensor]:
    """The loss with a change of what each network sees; of the image itself for an objective without surrogates."""
    if change is None:
        return at(objective, iteration)
    if not hasattr(objective, "surrogates"):
        return lambda image: at(objective, iteration)(change(image))
    changed = copy.copy(objective)
    changed.surrogates = tuple(
        replace(one, module=_Changed(one.module, change, sum(one.value_range) / 2).eval())
        for one in objective.surrogates
    )
    return at(changed, iteration)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number drawn evenly between low and high."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def resize_and_pad(generator: torch.Generator) -> Change:
    """Xie et al. 2019: another size by nearest neighbours, at a random place on mid grey."""
    factor, down, right = uniform(299 / 330, 1, generator), uniform(0, 1, generator), uniform(0, 1, generator)

    def change(image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        small = F.interpolate(image, (max(1, round(height * factor)), max(1, round(width * factor))), mode="nearest")
        free_height, free_width = height - small.shape[2], width - small.shape[3]
        top, left = round(down * free_height), round(right * free_width)
        return F.pad(small, (left, free_width - left, top, free_height - top))

    return change


def random_affine(generator: torch.Generator) -> Change:
    """TIP-IM's: every entry of the map moves by a normal deviate, then a turn, each of a deviation from 0.01 to 0.1.

    What comes in from outside is mid grey here too, where the release has black.
    """
    deviation, turn = uniform(0.01, 0.1, generator), uniform(0.01, 0.1, generator)
    moved = torch.eye(2, 3) + deviation * torch.randn(2, 3, generator=generator)
    angle = turn * torch.randn((), generator=generator)
    rotation = torch.eye(3)
    rotation[0, :2] = torch.stack([angle.cos(), angle.sin()])
    rotation[1, :2] = torch.stack([-angle.sin(), angle.cos()])

    def change(image: Tensor) -> Tensor:
        matrix = (moved @ rotation).to(image).expand(len(image), 2, 3)
        grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)

    return change

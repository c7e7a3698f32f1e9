"""An objective that insists: images that are slow to reach it count more, from look to look."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..objectives import IdentityObjective

EVERY = 3  # iterations between two looks at the images themselves
MORE = 1.35  # times as much, whenever an image is still behind


class Insistent:
    """An IdentityObjective, weighed 1.35 times as much after each look at which it was not reached.

    Beside a fidelity of fixed weight a face that is hard to change would stay the same person, and one that is easy
    would be changed more than it has to be if the fidelity were weighed for the hard ones. Of one run: the weights grow
    with the iterations, which are asked for in their order.

    Args:
        objective: with a margin.
        patience: iterations before the first look.
    """

    def __init__(self, objective: IdentityObjective, patience: int):
        self.objective, self.patience = objective, patience
        self.weights: Tensor | None = None

    def at(self, iteration: int) -> Callable[[Tensor], Tensor]:
        """The loss of one iteration: image [B, 3, H, W] -> [B]."""

        def loss(image: Tensor) -> Tensor:
            if self.weights is None:
                self.weights = image.new_ones(len(image))
            if iteration >= self.patience and (iteration - self.patience) % EVERY == 0:
                behind = ~self.objective.reached(image.detach())
                self.weights = torch.where(behind, self.weights * MORE, self.weights)
            return self.weights * self.objective(image, iteration)

        return loss

    def __call__(self, image: Tensor) -> Tensor:
        return self.objective(image)

    @property
    def weight(self) -> float:
        return self.objective.weight

    def reached(self, image: Tensor) -> Tensor:
        return self.objective.reached(image)

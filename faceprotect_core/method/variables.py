"""What the one loop optimises, and the loop: any value that can be rendered into a photo, differentiably.

The paper's variable is the noisy latent (optimizer.py); light and shade is another (light_and_shade.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..checks import require, require_finite
from ..progress import OnStep, Step
from .adamw import AdamW

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Rendering:
    """What a variable gives: the images, and its own losses.

    Args:
        image: [B, 3, H, W] in about [0, 1], as the surrogates see it.
        losses: the variable's own, by name, each [B], as they are added to the identity loss.
        decoded: for the latent, what it denoises to; None for other variables.
    """

    image: Tensor
    losses: dict[str, Tensor]
    decoded: Tensor | None = None


class Optimizer(Protocol):
    """What takes the steps on a value, which it changes in place."""

    def step(self, gradient: Tensor) -> None:
        """One step down the gradient of the loss, of the value's shape."""
        ...


class Variable(Protocol):
    """What is optimised, and how a photo is made of it."""

    start: Tensor
    """[B, ...]: the value to begin with."""

    losses: tuple[str, ...]
    """Names of the losses of a Rendering, for the history."""

    def render(self, value: Tensor) -> Rendering:
        """[B, ...] like `start` -> the photo, differentiable in the value."""
        ...


@dataclass(frozen=True, eq=False)
class Optimised:
    """Where the optimisation of a variable ended.

    Args:
        value: like the variable's `start`.
        rendering: what it gives.
        history: one entry per iteration for "identity" (before its weight) and each of the variable's losses, [B]
            floats.
    """

    value: Tensor
    rendering: Rendering
    history: dict[str, list[list[float]]]


@torch.enable_grad()
def optimize(
    variable: Variable,
    objective: Objective,
    *,
    iterations: int,
    lr: float,
    objective_weight: float = 1.0,
    start: Tensor | None = None,
    early_stop: bool = False,
    optimizer: Callable[[Tensor], Optimizer] | None = None,
    on_step: OnStep | None = None,
    where: str = "the optimizer",
) -> Optimised:
    """AdamW on a variable: min over its value of objective_weight * identity + the variable's own losses.

    Args:
        objective: image [B, 3, H, W] -> loss [B]; where it has a method `at`, at(iteration) is used instead.
        iterations: at most so many steps; 0 leaves the start as it is.
        start: go on from here instead of the variable's own start.
        early_stop: an image is left as it is once objective.reached(image) says so; the run ends with the last one.
        optimizer: value -> what takes the steps instead of AdamW with `lr`.
        on_step: called after every iteration, with the losses as in the history, and the image.
        where: the block, for messages.

    Raises:
        ProtectionError: a loss or the image becomes NaN; early_stop with an objective that cannot be reached.
    """
    require(
        iterations >= 0 and lr > 0,
        f"{where}: iterations must not be negative and lr must be positive, got {iterations}, {lr}",
        "leave them out, or use 35 iterations with a learning rate of 0.01 for the latent, the paper's values",
    )
    value = (variable.start if start is None else start).detach().clone().requires_grad_()
    stop = _EarlyStop(objective if early_stop else None, value, where)
    descend = _Descent(value, optimizer(value) if optimizer else AdamW(value, lr), stop)
    history = _History(("identity", *variable.losses), iterations, on_step)
    for iteration in range(iterations):
        rendering = variable.render(value)
        if stop(rendering.image):
            break
        identity = _at(objective, iteration)(rendering.image)
        loss = objective_weight * identity
        for own in rendering.losses.values():
            loss = loss + own
        fix = "use lower learning rates and float32 or bfloat16"
        require_finite(loss, f"{where}: the loss of iteration {iteration + 1}", fix)
        descend(loss)
        history.add(rendering.image, identity=identity, **rendering.losses)
    with torch.no_grad():
        rendering = variable.render(value)
    fix = "run the model in float32 or bfloat16, or lower lr"
    require_finite(rendering.image, "the protected image", fix)
    return Optimised(value.detach(), rendering, history.losses)


def weight_of(objective: Objective) -> float:
    """How much all recognisers of an objective count: what a fidelity is weighed against. 1 if it says nothing."""
    return float(getattr(objective, "weight", 1.0))


def _at(objective: Objective, iteration: int) -> Objective:
    return objective.at(iteration) if hasattr(objective, "at") else objective


class _EarlyStop:
    """Remembers which images [B] have reached the objective; None: none ever does."""

    def __init__(self, objective: Objective | None, value: Tensor, where: str):
        self.reached = getattr(objective, "reached", None)
        require(
            objective is None or self.reached is not None,
            f"{where}: early_stop needs an objective that can be reached, got {type(objective)}",
            "switch early_stop off, or give the objective a method reached(image) -> [B] of bool",
        )
        self.stopped = torch.zeros(len(value), dtype=torch.bool, device=value.device)

    def __call__(self, changed: Tensor) -> bool:
        """Whether all images have."""
        if self.reached is None:
            return False
        self.stopped |= self.reached(changed)
        return bool(self.stopped.all())


class _Descent:
    """A step down a loss [B]; the images that have stopped stay as they are."""

    def __init__(self, value: Tensor, optimizer: Optimizer, stop: _EarlyStop):
        self.value, self.stop, self.optimizer = value, stop, optimizer

    def __call__(self, loss: Tensor) -> None:
        (gradient,) = torch.autograd.grad(loss.sum(), self.value)
        stopped = self.stop.stopped
        with torch.no_grad():
            before = self.value[stopped].clone()
            self.optimizer.step(gradient)
            self.value[stopped] = before


class _History:
    """The losses of every iteration, each reported as it comes."""

    def __init__(self, names: tuple[str, ...], iterations: int, on_step: OnStep | None):
        self.iterations, self.on_step = iterations, on_step
        self.losses: dict[str, list[list[float]]] = {name: [] for name in names}

    def add(self, changed: Tensor, **losses: Tensor) -> None:
        now = {name: loss.tolist() for name, loss in losses.items() if name in self.losses}
        for name, values in now.items():
            self.losses[name].append(values)
        if self.on_step:
            self.on_step(Step("protection", len(self.losses["identity"]), self.iterations, now, changed.detach()))

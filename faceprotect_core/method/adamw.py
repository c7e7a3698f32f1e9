"""AdamW on one tensor, without torch.optim, whose first use imports the compiler: seconds in every new process."""

from __future__ import annotations

import torch
from torch import Tensor

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01


class AdamW:
    """torch.optim.AdamW's steps with its defaults, bit for bit on a CPU.

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).

    Args:
        value: changed in place.
        lr: the learning rate.
    """

    def __init__(self, value: Tensor, lr: float):
        self.value, self.lr, self.steps = value, lr, 0
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)  # moments of the gradient

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """One step down the gradient, of the value's shape."""
        self.steps += 1
        of_mean, of_square = (1 - beta**self.steps for beta in BETAS)
        self.value.mul_(1 - self.lr * WEIGHT_DECAY)
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        spread = (self.square.sqrt() / of_square**0.5).add_(EPS)
        self.value.addcdiv_(self.mean, spread, value=-self.lr / of_mean)

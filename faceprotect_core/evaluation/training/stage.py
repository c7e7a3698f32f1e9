"""A model that learns: its optimiser, and a checkpoint from which a run that was stopped goes on as if it had not."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

log = logging.getLogger("faceprotect.demo.train")
WARM_UP = 50  # steps, of a training of 100 or more


def parsed(parser: argparse.ArgumentParser, gpu: bool = False) -> argparse.Namespace:
    """The arguments of a training, with those that each has; gpu: it may run on one. The folder args.out is made."""
    parser.set_defaults(device=torch.device("cpu"))
    parser.add_argument("--seed", type=int, default=0)
    if gpu:
        parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


class Learner:
    """A model, its AdamW, the steps and the seconds spent; every 100 steps a checkpoint in the folder args.out."""

    def __init__(self, name: str, model: nn.Module, lr: float, args: argparse.Namespace):
        self.name, self.model, self.lr, self.seed = name, model.to(args.device), lr, args.seed
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4, betas=(0.9, 0.99))
        self.path, self.step, self.spent = args.out / f"{name}.checkpoint.pt", 0, 0.0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True, map_location=args.device)
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent = state["step"], state.get("spent", 0.0)

    def save(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step, "spent": self.spent}, temporary)
        temporary.replace(self.path)

    def learn(self, loss_of: Callable[[torch.Generator], Tensor], share: float) -> str:
        """One step with a share of the learning rate; the loss, to be shown.

        loss_of(generator) -> scalar loss. The generator hangs on the step alone: resuming changes nothing.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * share
        loss = loss_of(generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.step % 100 == 0:
            self.save()
        return f"{loss.item():.4f}"


class Stage(Learner):
    """Learns for a number of steps; the learning rate falls to zero over them."""

    def __init__(self, name: str, model: nn.Module, steps: int, lr: float, args: argparse.Namespace):
        super().__init__(name, model, lr, args)
        self.steps = steps
        if self.step:
            log.info("%s goes on at step %d", name, self.step)

    def run(self, loss_of: Callable[[int, torch.Generator], Tensor]) -> nn.Module:
        """loss_of(step, generator) -> scalar loss."""
        bar = tqdm(total=self.steps, initial=self.step, desc=self.name, mininterval=5.0)
        warm_up = min(WARM_UP, (self.steps + 1) // 2)
        while self.step < self.steps:
            falling = (self.steps - self.step) / max(self.steps - warm_up, 1)
            loss = self.learn(lambda generator: loss_of(self.step, generator), min((self.step + 1) / warm_up, falling))
            bar.update()
            bar.set_postfix(loss=loss, refresh=False)
        bar.close()
        self.save()
        return self.model.eval()

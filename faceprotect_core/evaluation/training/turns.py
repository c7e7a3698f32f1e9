"""A network of Instant that learns in turns with a remover: what comes back from it should be somebody else, too."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ...faces import FaceCrop
from ...instant.network import ProtectorNetwork
from ...instant.protect import load_protector_network
from ...photos.settings import BUILT_IN_SURROGATES
from ...surrogates import FRSurrogate, load_surrogate
from .protector import ONE_LOOK, Training
from .stage import Learner, Stage
from .ways import left_over, restored

Network = TypeVar("Network", bound=ProtectorNetwork)
STEPS = 400  # of the network, and as many of the remover


class InTurns(Training):
    """The loss of a step, before which the remover has learned to undo what this step gives.

    Args:
        crops, recognisers: see `Training`.
        remover: with its optimiser.
    """

    def __init__(self, crops: Sequence[FaceCrop], recognisers: Mapping[str, FRSurrogate], remover: Learner):
        super().__init__(crops, recognisers, that_ships(ProtectorNetwork()))
        self.remover = remover

    def besides(self, image: Tensor, step: int) -> Tensor:
        """[B]: how well the chosen people are known again after the remover."""
        given, masks, originals = image.detach(), self.masks[self.chosen], self.images[self.chosen]
        remover = self.remover.model.requires_grad_()
        self.remover.learn(lambda _: left_over(remover, given, masks, originals), 1.0)
        back = restored(remover.requires_grad_(False), image, masks)
        return self.known(back, self.chosen, step)


def that_ships(network: Network) -> Network:
    """The network, with the weights that ship."""
    network.load_state_dict(load_protector_network().state_dict())
    return network


def learned_on(name: str, training: Training, args: argparse.Namespace) -> ProtectorNetwork:
    """The network of a training after `STEPS` more of rows of looks."""
    stage = Stage(name, training.network, ONE_LOOK + STEPS, 1e-3, args)
    stage.step = max(stage.step, ONE_LOOK)
    return stage.run(training.loss)


def train_in_turns(crops: Sequence[FaceCrop], args: argparse.Namespace) -> ProtectorNetwork:
    """The network that ships, learned on."""
    recognisers = {name: load_surrogate(name) for name in BUILT_IN_SURROGATES}
    torch.manual_seed(args.seed)
    remover = Learner("remover in turns", ProtectorNetwork(), 1e-3, args)
    return learned_on("protector in turns", InTurns(crops, recognisers, remover), args)

"""A network of Instant with a random input, two draws of which should give changes that have nothing in common."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import given
from ...faces import FaceCrop
from ...faces.crop import cropped_images, cropped_masks
from ...instant.network import GRID, PER_VALUE, ProtectorNetwork
from ...instant.protect import look
from ...photos.batch import Aim
from ...photos.settings import BUILT_IN_SURROGATES
from ...surrogates import FRSurrogate, load_surrogate
from .protector import BATCH, Training
from .turns import learned_on, that_ships

APART = 4.0  # what a look costs whose two draws are the same: as much as the identity loss of a face that is known


class DrawingNetwork(ProtectorNetwork):
    """Its first look sees noise where the others see the value."""

    def forward(
        self, photo: Tensor, mask: Tensor, weight: Tensor, value: Tensor | None = None, gradient: Tensor | None = None
    ) -> Tensor:
        """See `ProtectorNetwork.forward`; without a value it draws one."""
        if value is None:
            value = torch.randn(len(mask), 1, GRID, GRID).to(mask)
        return super().forward(photo, mask, weight, value, gradient)


class WithDraws(Training):
    """The loss of a step, in which every photo is there twice, with two draws. See `Training`."""

    def __init__(self, crops: Sequence[FaceCrop], recognisers: Mapping[str, FRSurrogate]):
        super().__init__(crops, recognisers, that_ships(DrawingNetwork()))

    def choose(self, generator: torch.Generator) -> list[int]:
        """Half as many photos, each twice."""
        return 2 * super().choose(generator)[: BATCH // 2]

    def besides(self, image: Tensor, step: int) -> Tensor:
        """[B]: how much the two draws of each have in common."""
        value = given(self.value, "there is no look whose draws could be compared", "call loss(step, generator)")
        common = alike(*value.chunk(2), self.masks[self.chosen[: BATCH // 2]])
        return APART * common.square().repeat(2)


def alike(first: Tensor, second: Tensor, masks: Tensor) -> Tensor:
    """[B]: the correlation of two values [B, 1, 64, 64], as far as they are seen through masks [B, 1, 256, 256]."""
    seen = F.avg_pool2d(masks, PER_VALUE)
    first, second = (seen * x for x in (first, second))
    return F.cosine_similarity(first.flatten(1), second.flatten(1))


def train_with_draws(crops: Sequence[FaceCrop], args: argparse.Namespace) -> ProtectorNetwork:
    """The network that ships, learned on."""
    recognisers = {name: load_surrogate(name) for name in BUILT_IN_SURROGATES}
    return learned_on("protector with draws", WithDraws(crops, recognisers), args)


def draws_alike(network: ProtectorNetwork, crops: Sequence[FaceCrop], aim: Aim) -> float:
    """The mean correlation of what two draws of a network change in some photos."""
    masks, drawn = cropped_masks(crops), []
    for seed in range(2):
        torch.manual_seed(seed)
        parts = []
        for crop in crops:
            looked = look(
                cropped_images([crop]), cropped_masks([crop]), aim.objective([crop]), aim.settings.light,
                network=network,
            )  # fmt: skip
            parts.append(looked.value)
        drawn.append(torch.cat(parts))
    return alike(*drawn, masks).mean().item()

"""The ways to protect a crop that removers are tried on: the presets, and what might make them harder to undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...checks import given
from ...demo import load_synthetic_target
from ...faces import FaceCrop, load_detector
from ...faces.crop import cropped_images, cropped_masks
from ...instant.network import ProtectorNetwork
from ...instant.protect import look
from ...method.light_and_shade import LightAndShade, LightAndShadeSettings
from ...method.objectives import IdentityObjective
from ...method.restraint.least_change import least_change
from ...photos.batch import Aim, Changed, CropProtector, find_aim
from ...photos.settings import BUILT_IN_SURROGATES, LIGHT, PRESETS
from ...surrogates import load_surrogate

Protector = Callable[[Sequence[FaceCrop]], Sequence[Changed | Exception]]
BASE = "fast"  # the preset that is made harder to undo
ONE_FACE = f"{BASE}, all towards one face"
PAST_A_REMOVER = f"{BASE}, past a remover of it"
IN_TURNS = "instant, learned in turns with a remover"
WAYS = (*PRESETS[LIGHT], ONE_FACE, PAST_A_REMOVER, IN_TURNS)
WEIGHT = 33.0  # the network's other input, the same for all, which says nothing to a remover


@dataclass(frozen=True, eq=False)
class Withstanding(Aim):
    """What comes out should be somebody else after a remover, too. The least change goes by the image alone."""

    remover: ProtectorNetwork | None = None

    def objective(self, crops: Sequence[FaceCrop]) -> IdentityObjective:
        fix = f"train one on {BASE!r} first"
        remover = given(self.remover, "there is no remover to withstand", fix).requires_grad_(False)
        identity, masks = super().objective(crops), cropped_masks(crops)
        return identity.plus(lambda image: identity(restored(remover, image, masks)), 1.0)


def protector_of(way: str, remover: ProtectorNetwork | None = None) -> CropProtector:
    """way: one of WAYS. remover: for `PAST_A_REMOVER`, trained on `BASE`."""
    surrogates = [load_surrogate(name) for name in BUILT_IN_SURROGATES]
    settings = PRESETS[LIGHT].get(way, PRESETS[LIGHT][BASE])
    if way == ONE_FACE:
        target = load_synthetic_target()
        return CropProtector(find_aim("synthetic", surrogates, settings, None, None, target, load_detector()))
    wanted = "dodge", surrogates, settings, None, None, None, None
    return CropProtector(Withstanding(*wanted, remover=remover) if way == PAST_A_REMOVER else Aim(*wanted))


def by_network(network: ProtectorNetwork) -> Protector:
    """What instant's first version would be with another network."""
    aim = protector_of("instant").aim

    def protector(crops: Sequence[FaceCrop]) -> list[Changed]:
        image, mask, objective = cropped_images(crops), cropped_masks(crops), aim.objective(crops)
        lit = look(image, mask, objective, aim.settings.light, network=network)
        images, _ = least_change(image, lit.rendering.image, objective)
        return [Changed(one, value) for one, value in zip(images, lit.value, strict=True)]

    return protector


def restored(remover: ProtectorNetwork, images: Tensor, masks: Tensor) -> Tensor:
    """[B, 3, 256, 256] in [0, 1]: what a remover makes of protected photos; differentiable."""
    plane = remover(images, masks, images.new_full((len(images),), WEIGHT))
    return LightAndShade(images, masks, LightAndShadeSettings()).lit(plane)


def left_over(remover: ProtectorNetwork, images: Tensor, masks: Tensor, originals: Tensor) -> Tensor:
    """The loss of a remover: mean absolute difference to the originals."""
    return F.l1_loss(restored(remover, images, masks), originals)

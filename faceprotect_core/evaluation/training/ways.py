"""The ways to protect a crop that removers are tried on: the presets, and what might make them harder to undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from ...checks import given
from ...demo import load_demo_model, load_synthetic_target
from ...faces import FaceCrop, load_detector
from ...faces.crop import cropped_images, cropped_masks
from ...files import digest_of_json
from ...instant.network import ProtectorNetwork
from ...instant.protect import load_protector_network, look, network_digest
from ...method.light_and_shade import LightAndShade, LightAndShadeSettings
from ...method.objectives import IdentityObjective
from ...method.restraint.least_change import least_change
from ...photos.batch import Aim, Changed, find_aim
from ...photos.settings import BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS
from ...surrogates import load_surrogate

Protector = Callable[[Sequence[FaceCrop]], Sequence[Changed | Exception]]
BASE = "fast"  # the preset that is made harder to undo
ONE_FACE = f"{BASE}, all towards one face"
PAST_A_REMOVER = f"{BASE}, past a remover of it"
AFTER_LOOKS = f"instant, then the iterations of {BASE}"
STRONG_BEGUN, PLAIN_DIFFUSION = "strong, begun by instant", f"{DIFFUSION}, balanced, begun at the photo"
IN_TURNS = "instant, learned in turns with a remover"
DRAWN = "instant, learned with a random input"
BY_DIFFUSION = {f"{DIFFUSION}, {preset}": settings for preset, settings in PRESETS[DIFFUSION].items()}
_BASE = PRESETS[LIGHT][BASE]
STARTS = {
    AFTER_LOOKS: replace(_BASE, head_start=True).tuned(iterations=2 * _BASE.light.iterations),  # of which it takes half
    STRONG_BEGUN: replace(PRESETS[LIGHT]["strong"], head_start=True),
    PLAIN_DIFFUSION: replace(PRESETS[DIFFUSION]["balanced"], head_start=False),
}
WAYS = (*PRESETS[LIGHT], *BY_DIFFUSION, *STARTS, ONE_FACE, PAST_A_REMOVER, IN_TURNS, DRAWN)
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


def aim_of(way: str, remover: ProtectorNetwork | None = None) -> Aim:
    """way: one of WAYS that no network has to learn first. remover: for `PAST_A_REMOVER`, trained on `BASE`."""
    surrogates = [load_surrogate(name) for name in BUILT_IN_SURROGATES]
    settings = (PRESETS[LIGHT] | BY_DIFFUSION | STARTS).get(way, PRESETS[LIGHT][BASE])
    if settings.head_start:
        load_protector_network()  # without it a run would begin at the photo, and a table say that it does not
    if way == ONE_FACE:
        return find_aim("synthetic", surrogates, settings, None, None, load_synthetic_target(), load_detector())
    model = load_demo_model() if settings.way == DIFFUSION else None
    wanted = "dodge", surrogates, settings, model, None, None, None
    return Withstanding(*wanted, remover=remover) if way == PAST_A_REMOVER else Aim(*wanted)


def file_name(way: str) -> str:
    """Of what is kept of a way, which its settings and the network that ships tell from what it was before."""
    made_with = digest_of_json([asdict(aim_of(way).settings), network_digest()])[:8]
    return f"{way.replace(',', '').replace(' ', '_')}_{made_with}"


def by_network(network: ProtectorNetwork) -> Protector:
    """What instant's first version would be with another network."""
    aim = aim_of("instant")

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

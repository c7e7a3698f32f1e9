"""Few looks of the network, as values of Light and Shade: each goes by what recognisers say about the last."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..checks import ProtectionError, out_of_memory, require
from ..files import sha256_of
from ..method.light_and_shade import LightAndShade, LightAndShadeSettings, protect_by_light
from ..method.objectives import IdentityObjective
from ..method.variables import Optimised, Rendering
from ..pixels import as_saved
from ..progress import OnStep
from .network import GRID, SIDE, ProtectorNetwork

WEIGHTS = Path(__file__).parent.parent / "weights" / "instant" / "protector.safetensors"
FIRST_PSNR = 36.0  # dB over the whole crop: the size of the first look's change
MORE = 4  # looks for a face that is still known
LARGEST = 2.5  # of a value: 0.125 of the image's range; without a limit nostrils would become black


def look(
    photo: Tensor,
    mask: Tensor,
    objective: IdentityObjective,
    settings: LightAndShadeSettings,
    on_step: OnStep | None = None,
    network: ProtectorNetwork | None = None,
) -> Optimised:
    """Light and shade by the network: a first look, `settings.iterations` more, and `MORE` where that was not enough.

    The last ones are for the images that have not reached the objective, with half of the fidelity's weight.

    Args:
        photo, mask: see `Looks`.
        objective: with a margin.
        settings: a grid of 64; lr and seed make no difference.
        on_step: called after every look but the first.
        network: see `Looks`.

    Returns:
        As `protect_by_light`.
    """

    def looked(settings: LightAndShadeSettings, start: Tensor | None, before: int) -> Optimised:
        looks = Looks(photo, mask, settings.fidelity_weight, network)
        start = looks.first() if start is None else start
        report = on_step and (lambda event: on_step(replace(event, step=before + event.step, steps=steps)))
        return protect_by_light(photo, objective, settings, mask=mask, start=start, optimizer=looks.on, on_step=report)

    steps = settings.iterations + MORE
    lit = looked(settings, None, 0)
    behind = ~objective.reached(as_saved(lit.rendering.image))[:, None, None, None]
    if not bool(behind.any()):
        return lit
    freer = replace(settings, iterations=MORE, fidelity_weight=settings.fidelity_weight / 2)
    again = looked(freer, lit.value, settings.iterations)
    image = torch.where(behind, again.rendering.image, lit.rendering.image)
    history = {name: losses + again.history[name] for name, losses in lit.history.items()}
    return Optimised(torch.where(behind, again.value, lit.value), Rendering(image, {}), history)


class Looks:
    """The looks of the network at some faces: the first gives the start, each other takes a step of `optimize`.

    Args:
        photo: [B, 3, H, W] in [0, 1], faces as `crop_face` cuts them.
        mask: [1 or B, 1, H, W] in [0, 1], where the photo may change.
        weight: of the fidelity in the loss, 0.3 to 1.4: more is seen less, and protects less.
        network: on the photo's device; None for the one that ships.

    Raises:
        ProtectionError: a weight that is not more than 0, no weights in the package, or damaged ones.
    """

    def __init__(self, photo: Tensor, mask: Tensor, weight: float, network: ProtectorNetwork | None = None):
        require(weight > 0, f"the fidelity's weight of instant is {weight:g}", "use 0.3 to 1.4, with which it learned")
        mask = mask.to(photo).expand(len(photo), -1, -1, -1)
        self.light = LightAndShade(photo, mask, LightAndShadeSettings(GRID))
        self.network = network or _that_ships(photo.device)
        self.seen = _at_its_size(photo), _at_its_size(mask)
        self.weight = photo.new_full((len(photo),), weight, dtype=torch.float32)

    def first(self) -> Tensor:
        """[B, 1, 64, 64]: a value of `LightAndShade`, without a gradient."""
        with torch.no_grad():
            plane = self.network(*self.seen, self.weight)
            return sized(self.light, plane.to(self.light.photo))

    @torch.no_grad()
    def next(self, value: Tensor, gradient: Tensor) -> Tensor:
        """[B, 1, 64, 64]: the value after a look that knows the gradient of the loss by the last one."""
        step = self.network(*self.seen, self.weight, value.float(), gradient.float())
        return further(value, step.to(value))

    def on(self, value: Tensor) -> Steps:
        """For `optimize`, in the place of AdamW."""
        return Steps(self, value)


class Steps:
    """An optimizer of one value, by looks."""

    def __init__(self, looks: Looks, value: Tensor):
        self.looks, self.value = looks, value

    def step(self, gradient: Tensor) -> None:
        self.value.copy_(self.looks.next(self.value, gradient))


def sized(light: LightAndShade, plane: Tensor) -> Tensor:
    """The value [B, 1, g, g] of a first look: as large as gives `FIRST_PSNR`, clamping aside, within `LARGEST`."""
    size = light.change(plane).square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
    return (plane * 10 ** (-FIRST_PSNR / 20) / size).clamp(-LARGEST, LARGEST)


def further(value: Tensor, step: Tensor) -> Tensor:
    """The value of another look."""
    return (value + step).clamp(-LARGEST, LARGEST)


@cache
def load_protector_network() -> ProtectorNetwork:
    """The network that ships, in float32 on the CPU, frozen.

    Raises:
        ProtectionError: its file is missing, or damaged.
    """
    file, fix = f"the file {WEIGHTS.name} of instant", "choose another preset, or install FaceProtect again"
    require(WEIGHTS.is_file(), f"{file} is missing from the package", fix)
    with torch.inference_mode(False):
        network = ProtectorNetwork()
        try:
            network.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
        except Exception as error:  # a damaged file raises what its reader likes
            if out_of_memory(error):
                raise
            raise ProtectionError(f"{file} cannot be read ({type(error).__name__})", fix) from error
        return network.eval().requires_grad_(False)


def network_digest() -> str | None:
    """SHA-256 of the network that ships; None where its file was taken out of the package."""
    return sha256_of(WEIGHTS) if WEIGHTS.is_file() else None


def _that_ships(device: torch.device) -> ProtectorNetwork:
    """On a GPU a copy, which goes with the looks: nothing stays there that ComfyUI does not know of."""
    network = load_protector_network()
    return network if device.type == "cpu" else deepcopy(network).to(device)


def _at_its_size(image: Tensor) -> Tensor:
    image = image.float()
    if image.shape[-2:] == (SIDE, SIDE):
        return image
    return F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)

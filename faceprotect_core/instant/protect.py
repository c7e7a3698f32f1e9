"""What the network says, as a value of Light and Shade: all of the protection, or where the iterations begin."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..method.light_and_shade import LightAndShade, LightAndShadeSettings
from .network import GRID, SIDE, ProtectorNetwork

WEIGHTS = Path(__file__).parent.parent / "weights" / "instant" / "protector.safetensors"
LARGEST = 2.5  # of a value: 0.125 of the image's range; the network alone would make nostrils black
PSNR = 33.0  # dB: how large a change the network is asked for; `least_change` makes it smaller or larger


@torch.no_grad()
def instant_light(photo: Tensor, mask: Tensor, grid: int = GRID, psnr: float = PSNR) -> Tensor:
    """The light and shade that hides a face, by one pass of the network.

    Args:
        photo: [B, 3, H, W] in [0, 1], faces as `crop_face` cuts them.
        mask: [1 or B, 1, H, W] in [0, 1], where the photo may change.
        grid: values along each side of the plane.
        psnr: in dB over the whole crop, 31 to 38: how far the change goes, before each value is limited to `LARGEST`.

    Returns:
        [B, 1, grid, grid]: a value of `LightAndShade`, for its `start`, within `LARGEST`.
    """
    network = load_protector_network().to(photo.device)
    mask = mask.to(photo).expand(len(photo), -1, -1, -1)
    seen = _at_its_size(photo), _at_its_size(mask)
    wanted = photo.new_full((len(photo),), psnr, dtype=torch.float32)
    plane = network(*seen, wanted)
    if grid != GRID:
        plane = F.interpolate(plane, (grid, grid), mode="bicubic", align_corners=False)
    value = scaled_to_psnr(LightAndShade(photo, mask, LightAndShadeSettings(grid)), plane.to(photo), wanted)
    return LARGEST * torch.tanh(value / LARGEST)


def scaled_to_psnr(light: LightAndShade, plane: Tensor, psnr: Tensor) -> Tensor:
    """A value [B, 1, g, g] made as large as gives that PSNR [B], in dB over the whole crop, clamping aside."""
    size = light.change(plane).square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
    return plane * (10 ** (-psnr.to(plane) / 20))[:, None, None, None] / size


@cache
def load_protector_network() -> ProtectorNetwork:
    """The network that ships, in float32, frozen."""
    with torch.inference_mode(False):
        network = ProtectorNetwork()
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
        return network.eval().requires_grad_(False)


def _at_its_size(image: Tensor) -> Tensor:
    image = image.float()
    if image.shape[-2:] == (SIDE, SIDE):
        return image
    return F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)

"""Images as tensors, and the pixels of 8 or 16 bits a channel that files hold of them."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

ROWS = 64  # of an image that are worked on at once


def as_saved(image: Tensor) -> Tensor:
    """An image of any shape, clamped to [0, 1] and rounded to 8 bits a channel."""
    return image.clamp(0, 1).mul_(255).round_().div_(255)


def to_pixels(image: Tensor, dtype: type = np.uint8) -> np.ndarray:
    """[C, H, W], clamped to [0, 1] -> [H, W, C] of 8 or 16 bits; what `from_pixels` gave comes back bit-equal."""
    image, most = image.detach(), np.iinfo(dtype).max
    pixels = np.empty((*image.shape[1:], len(image)), dtype)
    for row in range(0, len(pixels), ROWS):  # a large photo is not copied as floats
        levels = image[:, row : row + ROWS].clamp(0, 1).mul_(most).round_()
        pixels[row : row + ROWS] = rearrange(levels.float().cpu().numpy(), "c h w -> h w c").astype(dtype, order="C")
    return pixels


def from_pixels(pixels: np.ndarray, to: torch.dtype | Tensor = torch.float32) -> Tensor:
    """[H, W, C] of 8 or 16 bits -> [C, H, W] in [0, 1]. to: a dtype, or a tensor whose dtype and device it gets."""
    planes = rearrange(pixels, "h w c -> c h w").astype(np.float32, order="C")
    return torch.from_numpy(planes).to(to).div_(np.iinfo(pixels.dtype).max)

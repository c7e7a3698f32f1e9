"""CIEDE2000, the difference of two colours as people see it (ISO/CIE 11664-6): about 1 is what can just be told apart.

Sharma, Wu, Dalal, "The CIEDE2000 Color-Difference Formula: Implementation Notes, Supplementary Test Data, and
Mathematical Observations" (2005), with all parametric factors 1. In float64, with gradients that are finite everywhere:
0 where there is no difference, and where a colour has no hue.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from .checks import require, require_image

TINY = 1e-30  # squares below it have the root 0


def ciede2000_map(a: Tensor, b: Tensor) -> Tensor:
    """The difference in each pixel of two batches of images, [B, 3, H, W] in [0, 1] (sRGB) -> [B, 1, H, W] in float64.

    Raises:
        ProtectionError: shapes that differ, or no images.
    """
    from kornia.color import rgb_to_lab

    require(
        a.shape == b.shape,
        f"CIEDE2000: the images are {list(a.shape)} and {list(b.shape)}",
        "compare images of the same size",
    )
    for image in (a, b):
        require_image(image, "CIEDE2000")
    return lab_difference(rgb_to_lab(a.double()), rgb_to_lab(b.double()))


def lab_difference(one: Tensor, other: Tensor) -> Tensor:
    """CIEDE2000 between colours in CIELAB, [B, 3, H, W] twice (L* in 0..100) -> [B, 1, H, W]."""
    (l1, a1, b1), (l2, a2, b2) = (lab.split(1, dim=1) for lab in (one, other))
    mean_chroma = (_root(a1**2 + b1**2) + _root(a2**2 + b2**2)) / 2
    stretch = 1.5 - 0.5 * _towards_blue(mean_chroma)
    (c1, h1), (c2, h2) = (_chroma_and_hue(a * stretch, b) for a, b in ((a1, b1), (a2, b2)))

    turn = h2 - h1
    around = turn.abs() > pi  # the shorter way crosses the angle 0
    turn = torch.where(around, turn - 2 * pi * turn.sign(), turn)
    lightness, chroma, hue = l2 - l1, c2 - c1, 2 * _root(c1 * c2) * (turn / 2).sin()

    mean_lightness, mean_chroma, mean_hue = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + h2) / 2
    mean_hue = torch.where(around, mean_hue + torch.where(mean_hue < pi, pi, -pi), mean_hue)
    from_middle = (mean_lightness - 50) ** 2
    lightness = lightness / (1 + 0.015 * from_middle / (20 + from_middle).sqrt())
    chroma = chroma / (1 + 0.045 * mean_chroma)
    hue = hue / (1 + 0.015 * mean_chroma * _hue_weight(mean_hue))
    # In blue, differences of chroma and hue are seen together.
    blue = (-(((torch.rad2deg(mean_hue) - 275) / 25) ** 2)).exp() * (pi / 6)
    rotation = -2 * _towards_blue(mean_chroma) * (2 * blue).sin()
    return _root(lightness**2 + chroma**2 + hue**2 + rotation * chroma * hue)


def _towards_blue(chroma: Tensor) -> Tensor:
    seventh = chroma**7
    return _root(seventh / (seventh + 25.0**7))


def _chroma_and_hue(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The hue in [0, 2 pi); 0 for grey, where it counts for nothing."""
    chroma = _root(a**2 + b**2)
    return chroma, torch.atan2(b, torch.where(chroma > 0, a, 1.0)) % (2 * pi)


def _hue_weight(hue: Tensor) -> Tensor:
    waves = ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6), (-0.20, 4, 63))  # height, waves a turn, degrees
    return 1 + sum(height * (count * hue - pi / 180 * shift).cos() for height, count, shift in waves)


def _root(square: Tensor) -> Tensor:
    """The square root, with the gradient 0 instead of an infinite one at 0."""
    some = square > TINY
    return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)

"""How much of a change people see: the loss that holds every variable close to the photo. Not from the paper."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the loss below, beside a loss of one recogniser that counts 1; chosen in docs/RESULTS.md.
DIFFERENCE, ENERGY, UNLIKENESS = 0.106, 133.0, 6.0
HARDLY_SEEN = 0.1  # colour difference: below it the root is rounded off, which gives it a gradient at 0


class Fidelity:
    """0.106 * colour difference + 133 * squared change + 6 * (1 - SSIM), each a mean.

    The colour difference follows the eye: CIE94's, with CIEDE2000's unit of lightness; 1 is about what can just be told
    apart. It does not care where a change is; the square keeps any pixel from changing much, SSIM smooth skin from
    becoming patchy. The first two are means over where the mask is not 0, SSIM is over the whole image.

    Args:
        photo: [B, 3, H, W] in [0, 1].
        mask: [B, 1, H, W] in [0, 1]; None for the whole image.
    """

    def __init__(self, photo: Tensor, mask: Tensor | None = None):
        from kornia.color import rgb_to_lab

        self.photo, self.lab = photo, rgb_to_lab(photo)
        self.inside = torch.ones_like(photo[:, :1]) if mask is None else (mask > 0).to(photo).expand_as(photo[:, :1])
        from_middle = (self.lab[:, :1] - 50.0).square()
        self.chroma = self.lab[:, 1:].square().sum(1, keepdim=True).sqrt()
        self.towards_chroma = self.lab[:, 1:] / self.chroma.clamp_min(1e-6)
        self.lightness_unit = 1.0 + 0.015 * from_middle / (20.0 + from_middle).sqrt()

    def __call__(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in about [0, 1] -> [B], 0 for the photo itself; differentiable."""
        squared = (image - self.photo).square().mean(1, keepdim=True)
        return (
            DIFFERENCE * self.colour_difference(image)
            + ENERGY * self._mean(squared)
            + UNLIKENESS * unlikeness(self.photo, image)
        )

    def colour_difference(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in about [0, 1] -> [B], its mean where the mask is not 0."""
        from kornia.color import rgb_to_lab

        change = rgb_to_lab(image.clamp(0.0, 1.0)) - self.lab
        lightness, colours = change[:, :1] / self.lightness_unit, change[:, 1:]
        chroma = (colours * self.towards_chroma).sum(1, keepdim=True)
        hue_squared = colours.square().sum(1, keepdim=True) - chroma.square()
        chroma, hue_squared = chroma / (1.0 + 0.045 * self.chroma), hue_squared / (1.0 + 0.015 * self.chroma).square()
        squared = lightness.square() + chroma.square() + hue_squared
        return self._mean((squared + HARDLY_SEEN**2).sqrt() - HARDLY_SEEN)

    def _mean(self, values: Tensor) -> Tensor:
        return (values * self.inside).sum((1, 2, 3)) / self.inside.sum((1, 2, 3)).clamp_min(1.0)


def unlikeness(photo: Tensor, image: Tensor) -> Tensor:
    """1 - SSIM of each pair of images [B, 3, H, W] -> [B], differentiable in the second. See verify/quality.py."""
    from kornia.metrics import ssim

    return 1.0 - ssim(photo, image, 11, padding="valid").flatten(1).mean(1)

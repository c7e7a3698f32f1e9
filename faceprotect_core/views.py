"""Random differentiable views: what may happen to a photo before a recogniser sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("blur", "resize", "jpeg", "noise")
# Ranges of the strengths. Pixels mean pixels of the image that is protected.
SHIFT = 0.01  # of width and height, either way
BLUR_SIGMA = (0.5, 1.5)  # pixels
RESIZE = (0.4, 0.9)  # of width and height
JPEG_QUALITY = (50.0, 95.0)
NOISE = (0.005, 0.03)  # standard deviation


@dataclass(frozen=True)
class RandomViews:
    """Views of an image for the identity loss, so that the protection neither hangs on one alignment nor is lost in
    processing: expectation over transformation (Athalye et al., "Synthesizing Robust Adversarial Examples", 2018) with
    the input diversity of Xie et al., "Improving Transferability of Adversarial Examples" (2019).

    Each view is shifted a little and then blurred, resized down and up, compressed as JPEG or made noisy; the four
    kinds take turns, their strengths are drawn. The same seed and iteration give the same views, for each image of a
    batch and in each run.

    count: views beside the image itself; 0 for none.
    seed: of the strengths, shifts and noise.
    """

    count: int = 0
    seed: int = 0

    def __call__(self, image: Tensor, iteration: int = 0) -> list[Tensor]:
        """The image and its views for one iteration: [B, 3, H, W] in about [0, 1] -> `count` + 1 of the same shape."""
        numbers = range(iteration * self.count, (iteration + 1) * self.count)
        return [image, *(self._view(image, number) for number in numbers)]

    def _view(self, image: Tensor, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        shifted = _shift(image, generator)
        return _CHANGES[KINDS[number % len(KINDS)]](shifted, generator)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _shift(image: Tensor, generator: torch.Generator) -> Tensor:
    """By a part of a pixel or a few; what comes in from outside repeats the border."""
    from kornia.geometry.transform import translate

    height, width = image.shape[-2:]
    by = [_uniform(-SHIFT, SHIFT, generator) * width, _uniform(-SHIFT, SHIFT, generator) * height]
    return translate(image, image.new_tensor([by]).expand(len(image), 2), padding_mode="border", align_corners=True)


def _blur(image: Tensor, generator: torch.Generator) -> Tensor:
    from kornia.filters import gaussian_blur2d

    sigma = _uniform(*BLUR_SIGMA, generator)
    return gaussian_blur2d(image, (7, 7), (sigma, sigma), border_type="replicate")


def _resize(image: Tensor, generator: torch.Generator) -> Tensor:
    size, factor = image.shape[-2:], _uniform(*RESIZE, generator)
    smaller = [max(1, round(side * factor)) for side in size]
    small = F.interpolate(image, smaller, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(small, size, mode="bilinear", align_corners=False)


def _jpeg(image: Tensor, generator: torch.Generator) -> Tensor:
    from kornia.enhance import jpeg_codec_differentiable

    quality = image.new_tensor([_uniform(*JPEG_QUALITY, generator)])
    return jpeg_codec_differentiable(image.clamp(0, 1), quality.expand(len(image)))


def _noise(image: Tensor, generator: torch.Generator) -> Tensor:
    deviation = _uniform(*NOISE, generator)
    return image + deviation * torch.randn(image.shape[1:], generator=generator).to(image)


_CHANGES = {"blur": _blur, "resize": _resize, "jpeg": _jpeg, "noise": _noise}

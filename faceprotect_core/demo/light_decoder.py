"""A light decoder for the demo model's latents: convolutions alone, so that a gradient through it costs little.

Distilled from the autoencoder's decoder by evaluation/training/light_decoder.py. No attention and no norm: what a
latent changes in the image stays where it is, at a seventh of the cost of the autoencoder's decoder.
"""

import torch
from torch import Tensor, nn

WIDTHS = (128, 64, 32)  # channels at 1/8, 1/4 and 1/2 of the image's size
BLOCKS = (3, 3, 2)


class LightDecoder(nn.Sequential):
    """Scaled latent [B, 4, h, w] -> image [B, 3, 8 h, 8 w] in about [0, 1], not clamped; computed in float32."""

    def __init__(self):
        layers: list[nn.Module] = [_convolution(4, WIDTHS[0]), nn.ReLU()]
        for width, blocks, finer in zip(WIDTHS, BLOCKS, (*WIDTHS[1:], 3), strict=True):
            layers += [_Block(width) for _ in range(blocks)]
            layers += [_convolution(width, 4 * finer) if finer == 3 else nn.Conv2d(width, 4 * finer, 1)]
            layers += [nn.PixelShuffle(2)]
        super().__init__(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        return super().forward(latent.float()).to(latent.dtype) / 2.0 + 0.5


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.change = nn.Sequential(_convolution(width, width), nn.ReLU(), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.change(x))


def _convolution(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel_size=3, padding=1)

"""The network of Instant: a photo and where it may change -> the change of its light and shade, in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 64  # values along each side of the plane, as in Light and Shade
SIDE = 256  # pixels of the crop that the network looks at
CHANNELS = (32, 64, 128, 192)  # at 64, 32, 16 and 8 values along each side
PER_VALUE = SIDE // GRID


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))); the second convolution starts at 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class ProtectorNetwork(nn.Module):
    """A U-Net of residual blocks without normalisation, from 256 pixels to a plane of 64 x 64 values.

    What it gives is the direction of a change of `LightAndShade`, not its size; the size is set afterwards
    (`instant/protect.py`).
    """

    def __init__(self):
        super().__init__()
        seen = 4 * PER_VALUE**2 + 1
        self.stem = nn.Conv2d(seen, CHANNELS[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(channels) for channels in CHANNELS)
        self.coarser = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in zip(CHANNELS, CHANNELS[1:], strict=False)
        )
        self.bottom = nn.Sequential(ResidualBlock(CHANNELS[-1]), ResidualBlock(CHANNELS[-1]))
        self.finer = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(CHANNELS, CHANNELS[1:], strict=False)
        )
        self.up = nn.ModuleList(ResidualBlock(channels) for channels in CHANNELS[:-1])
        self.head = nn.Conv2d(CHANNELS[0], 1, 3, padding=1)

    def forward(self, photo: Tensor, mask: Tensor, psnr: Tensor) -> Tensor:
        """The plane.

        Args:
            photo: [B, 3, 256, 256] in [0, 1].
            mask: [B, 1, 256, 256] in [0, 1], where it may change.
            psnr: [B] in dB, how far from the photo the protected photo is wanted: 31 to 39.

        Returns:
            [B, 1, 64, 64], of about unit size.
        """
        seen = F.pixel_unshuffle(torch.cat([photo * 2 - 1, mask], 1), PER_VALUE)
        wanted = ((psnr - 35.0) / 4.0)[:, None, None, None].expand(-1, 1, GRID, GRID)
        x = self.stem(torch.cat([seen, wanted.to(seen)], 1))
        skipped = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.coarser):
                skipped.append(x)
                x = self.coarser[level](x)
        x = self.bottom(x)
        for level in reversed(range(len(self.finer))):
            x = self.finer[level](F.interpolate(x, scale_factor=2.0, mode="nearest")) + skipped[level]
            x = self.up[level](x)
        return self.head(F.silu(x))

"""The network of Instant: a photo, where it may change and what recognisers say so far -> the change of its light."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 64  # values along each side of the plane, as in Light and Shade
SIDE = 256  # pixels of the crop that the network looks at
CHANNELS = (32, 64, 128, 192)  # at 64, 32, 16 and 8 values along each side
PER_VALUE = SIDE // GRID
OF_A_PHOTO = 4 * PER_VALUE**2  # planes of its three channels and the mask
PACE = 0.15  # of the first steps down the gradient
FLAT = 1e-5  # root mean square of a gradient that says nothing; it is about 80 times as large at the first look


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

    It learned to take few large steps where an optimiser takes many small ones (Andrychowicz et al., "Learning to learn
    by gradient descent by gradient descent", 2016): it sees the photo, the value so far, and the loss's gradient there.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(OF_A_PHOTO + 4, CHANNELS[0], 3, padding=1)
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
        self.further = nn.Conv2d(CHANNELS[0], 1, 3, padding=1)
        nn.init.zeros_(self.further.weight)
        nn.init.zeros_(self.further.bias)
        self.pace = nn.Parameter(torch.tensor(PACE))

    def forward(
        self, photo: Tensor, mask: Tensor, weight: Tensor, value: Tensor | None = None, gradient: Tensor | None = None
    ) -> Tensor:
        """One look.

        Args:
            photo: [B, 3, 256, 256] in [0, 1].
            mask: [B, 1, 256, 256] in [0, 1], where it may change.
            weight: [B], of the fidelity in the loss: 0.3 to 1.4.
            value: [B, 1, 64, 64] of `LightAndShade`, where the last look ended; None, or what a network was trained to
                see there, for the first.
            gradient: the same shape, of the loss by the value; None for the first look.

        Returns:
            [B, 1, 64, 64]: the direction of a change for the first look, otherwise a step to be added to the value.
        """
        seen = F.pixel_unshuffle(torch.cat([photo * 2 - 1, mask], 1), PER_VALUE)
        first = gradient is None
        nothing = mask.new_zeros(len(mask), 1, GRID, GRID)
        value, gradient = (nothing if x is None else x for x in (value, gradient))
        steepness = gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(FLAT)
        numbers = torch.stack([weight[:, None, None].log(), (steepness / FLAT).log()[:, 0] / 4], 1)
        slope = gradient / steepness
        seen = [seen, value, slope, numbers.to(seen).expand(-1, -1, GRID, GRID)]
        x = self.stem(torch.cat(seen, 1))
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
        x = F.silu(x)
        return self.head(x) if first else self.further(x) - self.pace * slope

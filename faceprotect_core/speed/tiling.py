"""Decoding tile by tile: of a large image only one tile's activations are held for the backward pass."""

from itertools import product
from math import ceil

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..checks import require
from ..protocols import ImageCodec

PIXELS = 8  # of the image, in height and in width, for one of the latent
WHERE = "TiledCodec"


class TiledCodec:
    """An ImageCodec that decodes in overlapping square tiles and blends them linearly; encoding is the codec's own.

    Each tile is computed again in the backward pass (gradient checkpointing). A decoder sees beyond a tile's edge in
    the whole image, and not in the tile: the result is near the whole decode, not equal to it. An image that is no
    larger than a tile is decoded whole.

    Args:
        codec: any ImageCodec whose latent is 8 times smaller than the image.
        tile: height and width of a tile in pixels, a multiple of 8.
        overlap: how far neighbours overlap at least, in pixels, a multiple of 8, at most half a tile.

    Raises:
        ProtectionError: a tile or an overlap that cannot be.
    """

    def __init__(self, codec: ImageCodec, tile: int = 512, overlap: int = 64):
        require(
            tile >= PIXELS and tile % PIXELS == 0,
            f"{WHERE}: tile must be a positive multiple of {PIXELS}, got {tile}",
            "use 512, or 256 where memory is short",
        )
        require(
            0 <= overlap <= tile // 2 and overlap % PIXELS == 0,
            f"{WHERE}: overlap must be a multiple of {PIXELS} from 0 to {tile // 2}, half a tile, got {overlap}",
            f"use {tile // (8 * PIXELS) * PIXELS}, about an eighth of the tile",
        )
        self.codec, self.tile, self.overlap = codec, tile, overlap

    def encode(self, image: Tensor) -> Tensor:
        return self.codec.encode(image)

    def decode(self, latent: Tensor) -> Tensor:
        height, width = (length * PIXELS for length in latent.shape[2:])
        if max(height, width) <= self.tile:
            return self.codec.decode(latent)
        image = latent.new_zeros(latent.shape[0], 3, height, width)
        for (rows, down), (columns, across) in product(self._windows(height), self._windows(width)):
            part = latent[:, :, _in_latent(rows), _in_latent(columns)]
            # A decoder draws no random numbers, so their state need not be kept.
            tile = checkpoint(self.codec.decode, part, use_reentrant=False, preserve_rng_state=False)
            image[:, :, rows, columns] += tile * (down[:, None] * across).to(tile)
        return image

    def _windows(self, length: int) -> list[tuple[slice, Tensor]]:
        """Along one axis of the image: the pixels of each tile and their weights, which add up to 1 at every pixel."""
        starts = _starts(length // PIXELS, self.tile // PIXELS, self.overlap // PIXELS)
        parts = [slice(start * PIXELS, min(start * PIXELS + self.tile, length)) for start in starts]
        windows = [_feather(part, length, self.overlap) for part in parts]
        total = torch.zeros(length, dtype=torch.float64)
        for part, window in zip(parts, windows, strict=True):
            total[part] += window
        return [(part, window / total[part]) for part, window in zip(parts, windows, strict=True)]


def _in_latent(pixels: slice) -> slice:
    return slice(pixels.start // PIXELS, pixels.stop // PIXELS)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """As few tiles as reach from end to end, spread evenly; in pixels of the latent, on which tiles start."""
    if length <= tile:
        return [0]
    steps = ceil((length - tile) / (tile - overlap))
    return [round(index * (length - tile) / steps) for index in range(steps + 1)]


def _feather(part: slice, length: int, overlap: int) -> Tensor:
    """1, falling linearly over the overlap towards each end where the image goes on; [pixels of the tile]."""
    window = torch.ones(part.stop - part.start, dtype=torch.float64)
    ramp = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    if part.start > 0:
        window[:overlap] = ramp
    if part.stop < length:
        window[len(window) - overlap :] = ramp.flip(0)
    return window

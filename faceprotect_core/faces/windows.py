"""The detector's network, which slides a window over a pyramid of the photo, and which of its windows are kept.

A level of the pyramid that is too large for memory is looked at in overlapping tiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .face import Box

WINDOW = 80  # pixels: the size of face that the network sees
STRIDE = 8  # pixels between neighbouring windows
FIRST_CENTRE = 14  # pixel index of the first window's centre
MARGIN = 11  # pixels of mean colour around each level, as in dlib, for faces at the edge of the photo
LEVEL_GAP = 10  # pixels between the levels where dlib stacks them in one tall image
SMALLEST_LEVEL = WINDOW // 2  # pixels: a face at this level would be twice as large as the photo
PYRAMID_STEP = 5 / 6
SMALLEST_TILE = 512  # pixels: height and width; smaller ones would be margin more than anything else
TILE_MARGIN = 112  # pixels of a level around what a tile answers for: what a window's score depends on, and a little
OVERLAP = 0.338  # intersection over union above which the weaker of two boxes is dropped
MEAN_RGB = (122.782, 117.001, 104.298)
Window = tuple[float, Box]  # score, box


class _RowByRow(nn.Conv2d):
    """A convolution to one channel, as the sum of its kernel's rows: CPUs compute 16 channels in the time of one."""

    def forward(self, x: Tensor) -> Tensor:
        padding, height = (int(self.padding[0]), int(self.padding[1])), x.shape[-2]
        rows = F.conv2d(x, self.weight[0].transpose(0, 1)[:, :, None], padding=padding)
        shifted = (rows[:, row : row + 1, row : row + height] for row in range(self.kernel_size[0]))
        return reduce(torch.add, shifted) + self.get_parameter("bias")[:, None, None]


class WindowScorer(nn.Module):
    """The detector's network: RGB in [0, 1], [1, 3, H, W], and a top margin -> a score per window, [rows, columns]."""

    # (input channels, output channels, kernel, stride, padding)
    LAYERS = (
        (3, 16, 5, 2, 0),
        (16, 32, 5, 2, 0),
        (32, 32, 5, 2, 0),
        (32, 45, 5, 1, 2),
        (45, 45, 5, 1, 2),
        (45, 45, 5, 1, 2),
        (45, 1, 9, 1, 4),
    )

    mean_rgb: Tensor

    def __init__(self):
        super().__init__()
        *layers, last = self.LAYERS
        self.convs = nn.Sequential(*(nn.Conv2d(*layer) for layer in layers), _RowByRow(*last))
        self.register_buffer("mean_rgb", torch.tensor(MEAN_RGB)[:, None, None] / 255, persistent=False)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The detector's file, in which each layer but the last has a scale and a shift of each channel: folded in.

        So is what dlib does to an image before, (255 * image - mean) / 256.
        """
        state = {name: one for name, one in tensors.items() if name.endswith(("weight", "bias"))}
        for layer in range(len(self.LAYERS) - 1):
            scale, shift = (tensors[f"convs.{layer}.{name}"] for name in ("scale", "shift"))
            state[f"convs.{layer}.weight"] = state[f"convs.{layer}.weight"] * scale[:, None, None, None]
            state[f"convs.{layer}.bias"] = state[f"convs.{layer}.bias"] * scale + shift
        weight = state["convs.0.weight"] * (255 / 256)
        state["convs.0.weight"] = weight
        state["convs.0.bias"] = state["convs.0.bias"] - (weight * self.mean_rgb.to(weight)).sum((1, 2, 3))
        self.load_state_dict(state)

    def forward(self, image: Tensor, top: int = MARGIN) -> Tensor:
        (height, width), at = image.shape[-2:], image.device
        # On a CPU channels last takes 0.7 of the time (docs/PERFORMANCE.md).
        layout = torch.channels_last if at.type == "cpu" else torch.contiguous_format
        size = 1, 3, top + height + MARGIN, MARGIN + width + MARGIN
        x = torch.empty(size, dtype=image.dtype, device=at, memory_format=layout)
        x[..., top : top + height, MARGIN : MARGIN + width] = image
        for border in (x[..., :top, :], x[..., top + height :, :], x[..., :MARGIN], x[..., MARGIN + width :]):
            border.copy_(self.mean_rgb)
        *layers, last = self.convs
        for layer in layers:
            x = layer(x).relu_()
        return last(x)[0, 0]


def _pyramid(photo: Tensor, scale: float) -> Iterator[Tensor]:
    """The photo [1, 3, H, W] at ever smaller sizes, from a scale on."""
    size = tuple(int(length * scale) for length in photo.shape[-2:])
    if scale != 1 and min(size) >= SMALLEST_LEVEL:
        photo = F.interpolate(photo, size=size, mode="bilinear", antialias=True)
    while min(size) >= SMALLEST_LEVEL:
        yield photo
        size = (int(photo.shape[-2] * PYRAMID_STEP), int(photo.shape[-1] * PYRAMID_STEP))
        if min(size) >= SMALLEST_LEVEL:
            photo = F.interpolate(photo, size=size, mode="bilinear", align_corners=True)


def score_windows(
    scorer: WindowScorer, photo: Tensor, threshold: float, min_face: float, max_pixels: int
) -> list[Window]:
    """Every window above the threshold as (score, box), in pixel indices of the photo.

    dlib stacks the levels in one tall image, and a window starts at every 8th pixel of that; the top margin puts the
    windows of each level where dlib has them.
    """
    found: list[Window] = []
    stacked, scale = 0, WINDOW / min_face
    height, width = photo.shape[-2:]
    while int(height * scale) * int(width * scale) > max_pixels and min(height, width) * scale >= SMALLEST_LEVEL:
        found += _windows_of_tiles(scorer, photo, threshold, scale, max_pixels)
        scale *= PYRAMID_STEP
    for level in _pyramid(photo[None], scale):
        found += _windows_of(scorer, level, MARGIN + stacked % STRIDE, threshold, (height, width))
        stacked += level.shape[-2] + LEVEL_GAP
    return found


def _windows_of(scorer: WindowScorer, level: Tensor, top: int, threshold: float, size: tuple[int, int]) -> list:
    """Those of one level [1, 3, h, w], in pixel indices of the image of height and width `size` that it shows."""
    scores, found = scorer(level, top), []
    zoom_y, zoom_x = (full / part for full, part in zip(size, level.shape[-2:], strict=True))
    for row, column in (scores > threshold).nonzero().tolist():
        x = (STRIDE * column + FIRST_CENTRE - MARGIN + 0.5) * zoom_x - 0.5
        y = (STRIDE * row + FIRST_CENTRE - top + 0.5) * zoom_y - 0.5
        reach_x, reach_y = (WINDOW - 1) / 2 * zoom_x, (WINDOW - 1) / 2 * zoom_y
        found.append((scores[row, column].item(), (x - reach_x, y - reach_y, x + reach_x, y + reach_y)))
    return found


def _windows_of_tiles(
    scorer: WindowScorer, photo: Tensor, threshold: float, scale: float, max_pixels: int
) -> Iterator[tuple]:
    """The same of a level that is too large for one pass: each tile answers for the windows with their centre in it.

    At the full size every score is that of one pass.
    """
    side = max(math.isqrt(max_pixels), SMALLEST_TILE) - 2 * TILE_MARGIN
    spans = (list(_spans(length, scale, side)) for length in photo.shape[-2:])
    for (rows, above, below), (columns, left, right) in itertools.product(*spans):
        tile = photo[None, :, rows, columns]
        size = tile.shape[-2], tile.shape[-1]
        if scale != 1:
            shape = [int(length * scale) for length in size]
            tile = F.interpolate(tile, size=shape, mode="bilinear", antialias=True)
        for score, box in _windows_of(scorer, tile, MARGIN, threshold, size):
            box = tuple(value + start for value, start in zip(box, (columns.start, rows.start) * 2, strict=True))
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            if left <= x < right and above <= y < below:
                yield score, box


def _spans(length: int, scale: float, side: int) -> Iterator[tuple[slice, float, float]]:
    """Along one axis of the photo: the pixels of each tile, and from where to where it answers for what is found."""
    count, margin = math.ceil(length * scale / side), math.ceil(TILE_MARGIN / scale / STRIDE) * STRIDE
    edges = [round(length * number / count / STRIDE) * STRIDE for number in range(1, count)]
    for start, stop in itertools.pairwise([0, *edges, length]):
        tile = slice(max(0, start - margin), min(length, stop + margin))
        yield tile, start if start else -math.inf, stop if stop < length else math.inf


def strongest(windows: list) -> list:
    """Greedy non-maximum suppression: the best windows that do not overlap a better one, best first."""
    kept: list[Window] = []
    for score, box in sorted(windows, reverse=True):
        if all(overlap(box, better) <= OVERLAP for _, better in kept):
            kept.append((score, box))
    return kept


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), the last pixels inside."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    overlap = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return overlap / (areas - overlap)

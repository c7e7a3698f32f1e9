"""Where a protected photo differs from the photo: how far beyond the outline of the face, and how abruptly at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...faces import Face
from ...faces.mask import convex_hull

RESAMPLED = 2.0  # pixels of the crop: how far a bicubic enlargement carries a change
BAND = 0.15  # of the distance from the outline to the middle: what counts as the edge


@dataclass(frozen=True)
class Edge:
    """The change of one face, against the outline of its mesh.

    Args:
        outside: pixels beyond the outline, by more than `RESAMPLED`, that are not bit-equal: ears, hair, neck,
            background.
        farthest: how far beyond it a pixel is that is not, in pixels of the crop; 0 where none is.
        steepest: the largest difference of the change between neighbours near the outline, in levels of 8 bits.
        place: (x, y) of that.
    """

    outside: int
    farthest: float
    steepest: float
    place: tuple[int, int]


def edge_of(photo: Tensor, finished: Tensor, face: Face, scale: float) -> Edge:
    """Compare a photo [3, H, W] with what came out, of the same size.

    Args:
        face: with a mesh, in the photo's pixels.
        scale: the photo's pixels for each pixel of the crop.
    """
    beyond, radius = beyond_outline(face, *photo.shape[1:])
    changed = (photo != finished).any(0)
    steps = _steps((finished - photo).mean(0).double() * 255)
    steps[(beyond < -BAND * radius) | (beyond > RESAMPLED * scale)] = 0
    row, column = divmod(int(steps.argmax()), steps.shape[1])
    outside = int((changed & (beyond > RESAMPLED * scale)).sum())
    farthest = (beyond[changed].max().item() if changed.any() else 0.0) / scale
    return Edge(outside, max(0.0, farthest), steps.max().item(), (column, row))


def beyond_outline(face: Face, height: int, width: int) -> tuple[Tensor, float]:
    """How far each pixel is beyond the outline, negative inside [height, width]; and the middle's distance to it."""
    assert face.mesh is not None
    corners = convex_hull(face.mesh)
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    beyond, middle = np.full((height, width), -np.inf), -np.inf
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = (end - start) / np.linalg.norm(end - start)
        outwards = np.array([along[1], -along[0]])
        beyond = np.maximum(beyond, (pixels - start) @ outwards)
        middle = max(middle, (corners.mean(0) - start) @ outwards)
    return torch.from_numpy(beyond), float(-middle)


def _steps(plane: Tensor) -> Tensor:
    """[H, W] -> the larger of the differences to the right and to below."""
    across, down = torch.zeros_like(plane), torch.zeros_like(plane)
    across[:, :-1], down[:-1] = plane.diff(dim=1).abs(), plane.diff(dim=0).abs()
    return torch.maximum(across, down)

"""A soft mask over a face: where a protected photo may differ from the original.

A face whose mesh is known is covered to its outline, without hair, ears, neck and background; another by a disc.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .align import TEMPLATES, chip_to_image
from .face import Face, transform_points

TEMPLATE = "dlib_150"


def face_mask(faces: Sequence[Face], height: int, width: int, scale: float = 1.0, feather: float = 0.25) -> Tensor:
    """Where the faces are: 1 inside, falling to 0 towards the outline of the face, never beyond it.

    Args:
        faces: the faces to cover; none gives an empty mask.
        height, width: of the photo, in pixels.
        scale: of the outline around its middle. Of a face without a mesh, of a disc that is turned and scaled with the
            face, and touches the sides of the built-in recogniser's chip.
        feather: share of the way from the outline to the middle (of the disc's radius) over which the mask rises to 1,
            as a cosine does.

    Returns:
        [1, height, width] float32 in [0, 1].
    """
    mask = np.zeros((height, width), dtype=np.float32)
    for face in faces:
        shape = _Disc(face, scale) if face.mesh is None else _Outline(face.mesh, scale)
        rows, columns = shape.window(height, width)
        pixels = np.stack(np.meshgrid(np.arange(width)[columns], np.arange(height)[rows]), axis=-1).astype(np.float64)
        mask[rows, columns] = np.maximum(mask[rows, columns], _rising(shape.depth(pixels), feather))
    return torch.from_numpy(mask)[None]


class _Disc:
    """depth: 1 in the middle, 0 at the rim, negative outside."""

    def __init__(self, face: Face, scale: float):
        self.to_image, self.scale, self.size = chip_to_image(face, TEMPLATE), scale, TEMPLATES[TEMPLATE].size

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        x, y = transform_points(self.to_image, np.full(2, (self.size - 1) / 2))
        reach = math.hypot(self.to_image[0, 0], self.to_image[1, 0]) * self.size / 2 * self.scale
        return _within((x - reach, y - reach), (x + reach, y + reach), height, width)

    def depth(self, pixels: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(np.vstack([self.to_image, [0.0, 0.0, 1.0]]))[:2]
        offset = transform_points(inverse, pixels) - (self.size - 1) / 2
        return 1 - np.linalg.norm(offset, axis=-1) / (self.size / 2) / self.scale


class _Outline:
    """The convex hull of a mesh. depth: 1 as far inside as the middle is from the nearest side, 0 on the outline."""

    def __init__(self, mesh: np.ndarray, scale: float):
        hull = convex_hull(mesh)
        self.middle = hull.mean(0)
        self.hull = self.middle + (hull - self.middle) * scale
        along = np.roll(self.hull, -1, axis=0) - self.hull
        self.inwards = np.column_stack([-along[:, 1], along[:, 0]]) / np.linalg.norm(along, axis=1, keepdims=True)
        self.radius = ((self.middle - self.hull) * self.inwards).sum(1).min()

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        return _within(self.hull.min(0), self.hull.max(0), height, width)

    def depth(self, pixels: np.ndarray) -> np.ndarray:
        nearest = np.full(pixels.shape[:2], np.inf)
        for corner, inwards in zip(self.hull, self.inwards, strict=True):
            nearest = np.minimum(nearest, (pixels - corner) @ inwards)
        return nearest / self.radius


def convex_hull(points: np.ndarray) -> np.ndarray:
    """The corners [M, 2] of the convex hull of points [N, 2], in an order that has the inside at the left of each side
    (y upwards). Andrew's monotone chain (1979)."""
    ordered = sorted(map(tuple, points))

    def chain(points) -> list:
        kept: list = []
        for x, y in points:
            while len(kept) > 1:
                (x0, y0), (x1, y1) = kept[-2:]
                if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return np.array(chain(ordered) + chain(reversed(ordered)))


def _within(low: Sequence[float], high: Sequence[float], height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of the photo between two points: a large photo is not walked through for each face."""
    spans = [
        slice(int(np.clip(math.floor(first) - 1, 0, limit)), int(np.clip(math.ceil(last) + 2, 0, limit)))
        for first, last, limit in zip(low, high, (width, height), strict=True)
    ]
    return spans[1], spans[0]


def _rising(depth: np.ndarray, feather: float) -> np.ndarray:
    if feather <= 0:
        return (depth >= 0).astype(np.float64)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(depth / feather, 0, 1))

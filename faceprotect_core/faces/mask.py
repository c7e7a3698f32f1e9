"""A soft mask over a face: where a protected photo may differ from the original."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .align import TEMPLATES, chip_to_image, transform_points
from .detect import Face

TEMPLATE = "dlib_150"


def face_mask(faces: Sequence[Face], height: int, width: int, scale: float = 1.0, feather: float = 0.25) -> Tensor:
    """A disc around every face, turned and scaled with it, as the built-in recogniser frames a face.

    Args:
        faces: the faces to cover; none gives an empty mask.
        height, width: of the photo, in pixels.
        scale: radius of the disc as a share of half the aligned chip; 1 touches the chip's sides.
        feather: share of the radius over which the mask falls from 1 to 0 (cosine).

    Returns:
        [1, height, width] float32 in [0, 1].
    """
    mask = np.zeros((height, width), dtype=np.float32)
    for face in faces:
        to_image = chip_to_image(face, TEMPLATE)
        rows, columns = _window(to_image, scale, height, width)
        distance = _distance(to_image, np.arange(height)[rows], np.arange(width)[columns])
        mask[rows, columns] = np.maximum(mask[rows, columns], _disc(distance / scale, feather))
    return torch.from_numpy(mask)[None]


def _window(to_image: np.ndarray, scale: float, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of the photo that the disc can touch: a large photo is not walked through for each face."""
    size = TEMPLATES[TEMPLATE].size
    x, y = transform_points(to_image, np.full(2, (size - 1) / 2))
    reach = math.hypot(to_image[0, 0], to_image[1, 0]) * size / 2 * scale + 1

    def span(middle: float, limit: int) -> slice:
        return slice(*(int(np.clip(edge, 0, limit)) for edge in (middle - reach, middle + reach + 2)))

    return span(y, height), span(x, width)


def _distance(to_image: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Distance from the chip's centre in half chip widths, for rows ys and columns xs of the photo."""
    size = TEMPLATES[TEMPLATE].size
    inverse = np.linalg.inv(np.vstack([to_image, [0.0, 0.0, 1.0]]))[:2]
    pixels = np.stack(np.meshgrid(xs, ys), axis=-1).astype(np.float64)
    offset = transform_points(inverse, pixels) - (size - 1) / 2
    return np.linalg.norm(offset, axis=-1) / (size / 2)


def _disc(distance: np.ndarray, feather: float) -> np.ndarray:
    if feather <= 0:
        return (distance <= 1).astype(np.float64)
    edge = np.clip((1 - distance) / feather, 0, 1)
    return 0.5 - 0.5 * np.cos(np.pi * edge)

"""A soft mask over a face: where a protected photo may differ from the original."""

from __future__ import annotations

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
    ys, xs = np.mgrid[0:height, 0:width]
    pixels = np.stack([xs, ys], axis=-1).astype(np.float64)
    mask = np.zeros((height, width))
    for face in faces:
        mask = np.maximum(mask, _disc(_distance(face, pixels) / scale, feather))
    return torch.from_numpy(mask).float()[None]


def _distance(face: Face, pixels: np.ndarray) -> np.ndarray:
    """Distance from the chip's centre in half chip widths, for pixel positions [..., 2] of the photo."""
    size = TEMPLATES[TEMPLATE].size
    to_image = chip_to_image(face, TEMPLATE)
    inverse = np.linalg.inv(np.vstack([to_image, [0.0, 0.0, 1.0]]))[:2]
    offset = transform_points(inverse, pixels) - (size - 1) / 2
    return np.linalg.norm(offset, axis=-1) / (size / 2)


def _disc(distance: np.ndarray, feather: float) -> np.ndarray:
    if feather <= 0:
        return (distance <= 1).astype(np.float64)
    edge = np.clip((1 - distance) / feather, 0, 1)
    return 0.5 - 0.5 * np.cos(np.pi * edge)

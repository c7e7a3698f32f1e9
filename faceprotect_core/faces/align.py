"""Align a face: a differentiable, antialiased warp of the photo onto a recogniser's template.

The warp is the least-squares similarity (rotation, scale, translation) from the template's points to the landmarks,
as in dlib's `get_face_chip_details`; the pixels come from `F.grid_sample`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import given, require
from .face import Face, transform_points
from .landmarks import similarity_transform


@dataclass(frozen=True)
class Template:
    """Where the five landmarks of a face lie in a chip.

    Args:
        points: five (x, y) in pixel indices of the chip at its native size, in the order of `Face.landmarks`.
        size: native width and height in pixels.
        five_points: of `Face.five_points`, in pixel indices; a face whose mesh is known is aligned by them. () for
            none.
    """

    points: tuple[tuple[float, float], ...]
    size: int
    five_points: tuple[tuple[float, float], ...] = ()


# The mean shape of dlib's `get_face_chip_details`: corners of the eye on the right, of the eye on the left, nose base.
_DLIB_SHAPE = np.array(
    [
        (0.8595675, 0.2134981),
        (0.6460605, 0.2289674),
        (0.1205751, 0.2137275),
        (0.3340851, 0.2290642),
        (0.4901123, 0.6277975),
    ]
)
_DLIB_PADDING = 0.25
# ArcFace's template: the eye on the image's left, the eye on its right, the tip of the nose, the corners of the mouth.
_ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


def _dlib_points(size: int) -> np.ndarray:
    """The mean shape in a square that is padded by a quarter of its width on every side, in pixel indices."""
    return (_DLIB_SHAPE + _DLIB_PADDING) / (1 + 2 * _DLIB_PADDING) * size - 0.5


def _arcface_points() -> np.ndarray:
    """dlib's mean shape, laid so that its eye centres are those of the ArcFace template.

    For a face without a mesh: the eyes are what the two have in common.
    """
    eyes = np.stack([_DLIB_SHAPE[2:4].mean(0), _DLIB_SHAPE[0:2].mean(0)])
    return transform_points(similarity_transform(eyes, np.array(_ARCFACE[:2])), _DLIB_SHAPE)


# Median landmarks of the built-in detector in 450 photos of 256 x 256 pixels with FFHQ's framing, made symmetric: the
# framing that face generators, the demo model among them, were trained on.
_FFHQ_POINTS = ((171.7, 120.8), (146.3, 122.5), (83.3, 120.8), (108.7, 122.5), (127.5, 170.3))

TEMPLATES = {
    "dlib_150": Template(tuple(map(tuple, _dlib_points(150).tolist())), 150),
    "arcface_112": Template(tuple(map(tuple, _arcface_points().tolist())), 112, _ARCFACE),
    "ffhq_256": Template(_FFHQ_POINTS, 256),
}


def chip_to_image(face: Face, template: str = "dlib_150", size: int | None = None) -> np.ndarray:
    """The similarity [2, 3] from pixel indices (x, y) of a chip to pixel indices of the photo.

    Args:
        template: a name in `TEMPLATES`, or "box": the detector's box made square, upright (needs `size`).
        size: width and height of the chip in pixels; None takes the template's own. The same part of the photo is cut
            at any size.
    """
    if template == "box":
        return _box_to_image(face, size)
    require(template in TEMPLATES, f"align_face: unknown template {template!r}", f"use one of {[*TEMPLATES, 'box']}")
    native = TEMPLATES[template]
    five_points = face.five_points if native.five_points else None
    points = np.array(native.points if five_points is None else native.five_points)
    if size:
        points = (points + 0.5) * size / native.size - 0.5
    return similarity_transform(points, np.array(face.landmarks) if five_points is None else five_points)


def _box_to_image(face: Face, size: int | None) -> np.ndarray:
    size = given(size or None, "align_face: template 'box' has no size of its own", "pass size= in pixels")
    left, top, right, bottom = face.box_xyxy
    step = (max(right - left, bottom - top) + 1) / size
    reach = step * (size - 1) / 2
    return np.array([[step, 0.0, (left + right) / 2 - reach], [0.0, step, (top + bottom) / 2 - reach]])


def align_face(
    image: Tensor, face: Face | Sequence[Face], template: str = "dlib_150", size: int | None = None
) -> Tensor:
    """Cut a face out of a photo, turned and scaled to a recogniser's template.

    Differentiable in the image. Where the chip is coarser than the photo, a chip pixel is the mean of a grid of
    bilinear samples at most one photo pixel apart, so that the gradient reaches every pixel of the face. Elsewhere it
    is one bilinear sample, as in dlib. Outside the photo is black, as in dlib.

    Args:
        image: [3, H, W] or [B, 3, H, W], RGB in [0, 1] (never clamped), float32 or float64.
        face: one face for the whole batch, or a sequence with one face per image.
        template: "dlib_150", "arcface_112", or "box" (the upright box, which needs `size`).
        size: width and height of the chip in pixels; None takes the template's own (150, 112).

    Returns:
        [3, size, size] or [B, 3, size, size], in the image's dtype and on its device.

    Raises:
        ProtectionError: wrong shape, unknown template, or a number of faces other than the number of images.
    """
    require(
        image.ndim in (3, 4) and image.shape[-3] == 3,
        f"align_face: image has shape {tuple(image.shape)}, expected [3, H, W] or [B, 3, H, W]",
        "pass RGB planes; drop alpha, repeat grey three times",
    )
    if image.ndim == 3:
        return align_face(image[None], face, template, size)[0]
    if isinstance(face, Face):
        transform = chip_to_image(face, template, size)
        return warp(image, transform, size or TEMPLATES[template].size)
    require(
        len(face) == len(image),
        f"align_face: {len(face)} faces for {len(image)} images",
        "pass one face for all images, or one per image",
    )
    return torch.stack([align_face(photo, one, template, size) for photo, one in zip(image, face, strict=True)])


def warp(image: Tensor, transform: np.ndarray, size: int, padding_mode: str = "zeros") -> Tensor:
    """Sample an image where `transform` takes the pixels of a chip; differentiable and antialiased, as `align_face`.

    Args:
        image: [B, C, H, W].
        transform: [2, 3], from pixel indices of the chip to those of the image.
        size: width and height of the chip in pixels.
        padding_mode: what lies outside the image, as in F.grid_sample.

    Returns:
        [B, C, size, size].
    """
    samples = samples_per_pixel(transform)
    steps = (np.arange(size * samples) + 0.5) / samples - 0.5
    grid = sampling_grid(transform, steps, steps, image)
    sampled = F.grid_sample(image, grid.expand(len(image), -1, -1, -1), padding_mode=padding_mode, align_corners=False)
    return F.avg_pool2d(sampled, samples) if samples > 1 else sampled


def samples_per_pixel(transform: np.ndarray) -> int:
    """How many samples a pixel needs along each side, so that they lie at most one source pixel apart."""
    source_pixels_per_pixel = math.hypot(transform[0, 0], transform[1, 0])
    return max(1, math.ceil(source_pixels_per_pixel - 1e-6))


def sampling_grid(transform: np.ndarray, xs: np.ndarray, ys: np.ndarray, image: Tensor) -> Tensor:
    """F.grid_sample's grid [1, len(ys), len(xs), 2] into `image`, for the points (x, y) taken through `transform`."""
    height, width = image.shape[-2:]
    to_grid = np.array([[2 / width], [2 / height]])  # pixel index p -> (2 p + 1) / size - 1
    turn, shift = transform[:, :2] * to_grid, transform[:, 2] * to_grid[:, 0] + to_grid[:, 0] / 2 - 1
    rows = torch.as_tensor(ys[:, None] * turn[:, 1] + shift).to(image)
    columns = torch.as_tensor(xs[:, None] * turn[:, 0]).to(image)
    return (rows[:, None] + columns[None])[None]

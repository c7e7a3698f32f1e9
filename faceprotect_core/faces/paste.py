"""Paste Face Back: carries the change of a crop, not the crop, back into its photo.

photo + strength * mask * upsample(changed crop - crop): the photo keeps its own pixels, whatever its size, and where
nothing changed they stay bit-equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require, require_finite
from .align import samples_per_pixel, sampling_grid
from .crop import FaceCrop, inverse
from .face import transform_points

SAMPLES_AT_ONCE = 2_000_000  # bounds memory: a stripe of the photo's rows at a time


def paste_faces(
    photo: Tensor, crops: Sequence[FaceCrop], changed: Tensor | Sequence[Tensor], strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Add the changes of one or several crops to the photo they were cut from.

    Args:
        photo: [3, H, W] in [0, 1], the untouched photo.
        crops: from `crop_face`, all of this photo.
        changed: the crops after protection, in the same order: [N, 3, size, size], or [3, size, size] each, where
            their sizes differ.
        strength: 1 adds the whole change, 0 none: then every pixel is bit-equal to the photo's.

    Returns:
        The photo [3, H, W], and the mask [1, H, W] in [0, 1] of where it may have changed. Where the mask is 0, and
        where a change is 0, pixels are bit-equal to the photo's.

    Raises:
        ProtectionError: another photo, another number or size of crops, or NaN in them.
    """
    _check(photo, crops, changed, strength)
    image, mask = photo.clone(), photo.new_zeros(1, *photo.shape[-2:])
    for crop, one in zip(crops, changed, strict=True):
        change = (one.to(photo) - crop.image.to(photo)) * strength
        for rows, columns in _stripes(crop):
            weight = _allowed(crop, rows, columns, photo)
            added = _to_photo(change, crop, rows, columns, "bicubic") * weight
            part = image[:, rows, columns]
            image[:, rows, columns] = torch.where(added == 0, part, (part + added).clamp(0, 1))
            mask[:, rows, columns] = torch.maximum(mask[:, rows, columns], weight)
    return image, mask


def _allowed(crop: FaceCrop, rows: slice, columns: slice, photo: Tensor) -> Tensor:
    """The paste mask in the photo's pixels [1, rows, columns]; exactly 0 outside a drawn mask and on kept faces."""
    weight = _to_photo(crop.paste_mask.to(photo), crop, rows, columns, "bilinear").clamp(0, 1)
    if crop.drawn is not None:
        weight = weight * (crop.drawn[rows, columns].to(photo) > 0)
    for face in crop.keep:
        left, top, right, bottom = face.box_xyxy
        x0, x1 = (max(0, math.floor(value) - columns.start) for value in (left, right + 2))
        y0, y1 = (max(0, math.floor(value) - rows.start) for value in (top, bottom + 2))
        weight[:, y0:y1, x0:x1] = 0
    return weight


def _to_photo(plane: Tensor, crop: FaceCrop, rows: slice, columns: slice, mode: str) -> Tensor:
    """[C, size, size] of the crop at the given pixels of the photo -> [C, rows, columns], antialiased, 0 outside."""
    to_crop = inverse(crop.to_photo)
    samples = samples_per_pixel(to_crop)
    ys, xs = ((np.arange(part.start * samples, part.stop * samples) + 0.5) / samples - 0.5 for part in (rows, columns))
    grid = sampling_grid(to_crop, xs, ys, plane)
    sampled = F.grid_sample(plane[None], grid, mode=mode, padding_mode="zeros", align_corners=False)
    return (F.avg_pool2d(sampled, samples) if samples > 1 else sampled)[0]


def _stripes(crop: FaceCrop) -> list[tuple[slice, slice]]:
    """The part of the photo that the crop covers, as rows and columns, in stripes of bounded size."""
    height, width = crop.photo_size
    corners = np.array([(x, y) for x in (0, crop.size - 1) for y in (0, crop.size - 1)])
    points = transform_points(crop.to_photo, corners)
    (left, top), (right, bottom) = np.floor(points.min(0)) - 1, np.ceil(points.max(0)) + 2
    columns = slice(*(int(value) for value in np.clip((left, right), 0, width)))
    first, last = (int(value) for value in np.clip((top, bottom), 0, height))
    samples = samples_per_pixel(inverse(crop.to_photo)) ** 2
    step = max(1, SAMPLES_AT_ONCE // max(1, (columns.stop - columns.start) * samples))
    return [(slice(row, min(row + step, last)), columns) for row in range(first, last, step) if columns.stop > 0]


def _check(photo: Tensor, crops: Sequence[FaceCrop], changed: Tensor | Sequence[Tensor], strength: float) -> None:
    where = "Paste Face Back"
    require(
        len(crops) == len(changed),
        f"{where}: {len(crops)} faces were cut out, and {len(changed)} come back",
        "connect the protected crops of the very same Crop Face, all of them",
    )
    require(strength >= 0, f"{where}: strength is {strength}", "use 1 for the whole change, 0 for none")
    for crop, one in zip(crops, changed, strict=True):
        require(
            tuple(photo.shape[-2:]) == tuple(crop.photo_size),
            f"{where}: the photo is {photo.shape[-1]} x {photo.shape[-2]} pixels, the face was cut from one of "
            f"{crop.photo_size[1]} x {crop.photo_size[0]}",
            "connect the very photo that is connected to Crop Face",
        )
        require(
            one.shape == crop.image.shape,
            f"{where}: the crop was {crop.size} x {crop.size} pixels and comes back as {one.shape[-1]} x "
            f"{one.shape[-2]}",
            "bring it back to the size of Crop Face",
        )
        require_finite(one, f"{where}: the protected crop", "look at the blocks before this one; lower their rates")

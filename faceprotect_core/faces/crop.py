"""Crop Face: a square around one face at the size that a diffusion model works on, and what is needed to go back.

The framing is that of FFHQ (Karras et al., "A Style-Based Generator Architecture", CVPR 2019): upright eyes in the
upper middle, the head with a little room around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require, require_image
from .align import chip_to_image, warp
from .face import Face, transform_points
from .mask import face_mask

TEMPLATE = "ffhq_256"
SMALLEST, STEP = 64, 8  # pixels: of the crop's side
MASK_REACH = 1.35  # of the radius of face_mask: how far the paste mask reaches
KEPT_REACH = 1.2  # of the same radius: what is left alone around a face that is not to be changed, beside its box
MASK_FEATHER = (
    0.2  # of that radius: where the paste mask falls to 0; 1.35 * (1 - 0.2) leaves it at 1 on all of face_mask
)
LIMIT_FEATHER = 1 / 64  # of the crop's side: how fast both fall towards a limit, such as the border of the crop


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """One face, cut from its photo.

    Args:
        image: [3, size, size] in [0, 1]. Outside the photo it is mirrored.
        face: the face in the crop's pixels.
        photo_face: the face in the photo's pixels.
        mask: [1, size, size] in [0, 1], where the crop may be changed; for the optimizer.
        paste_mask: the same, a little wider: 1 wherever `mask` is above 0, so that pasting does not weaken what the
            surrogates have seen, and soft at its edge for a crop that was changed everywhere.
        to_photo: the similarity [2, 3] from pixel indices of the crop to those of the photo.
        photo_size: height and width of the photo in pixels.
        photo_index: which photo of the batch.
        drawn: [H, W], a mask of the photo outside of which nothing may change; None for no such limit.
        keep: faces of the photo that must not be touched.
    """

    image: Tensor
    face: Face
    photo_face: Face
    mask: Tensor
    paste_mask: Tensor
    to_photo: np.ndarray
    photo_size: tuple[int, int]
    photo_index: int = 0
    drawn: Tensor | None = None
    keep: tuple[Face, ...] = ()

    @property
    def size(self) -> int:
        return self.image.shape[-1]

    @property
    def photo_pixels_per_pixel(self) -> float:
        """Above 1 the crop shows less detail than the photo; below 1 it is enlarged."""
        return math.hypot(self.to_photo[0, 0], self.to_photo[1, 0])


def crop_face(
    photo: Tensor,
    face: Face,
    size: int = 256,
    *,
    crop_scale: float = 1.0,
    upright: bool = True,
    mask_scale: float = 1.0,
    keep: Sequence[Face] = (),
    drawn: Tensor | None = None,
    photo_index: int = 0,
) -> FaceCrop:
    """Cut one face from a photo, antialiased.

    Args:
        photo: [3, H, W] in [0, 1], float32, any size.
        face: in the photo's pixels.
        size: width and height of the crop in pixels, a multiple of 8.
        crop_scale: the side of the crop as a multiple of FFHQ's framing.
        upright: turn the crop so that the eyes are level, as FFHQ does; False cuts along the photo's own rows.
        mask_scale: radius of the mask, see `face_mask`.
        keep: other faces of the photo that must stay as they are: both masks are 0 there.
        drawn: [H, W] in [0, 1], a hand-drawn mask instead of the disc around the face.
        photo_index: kept in the crop.

    Raises:
        ProtectionError: a size that is no multiple of 8, a photo with NaN, a mask of another size or too thin.
    """
    _check(photo, size, drawn)
    height, width = photo.shape[-2:]
    to_photo = crop_to_photo(face, size, crop_scale, upright)
    image = warp(photo.detach()[None], to_photo, size, padding_mode="reflection")[0]
    inside = through(face, inverse(to_photo))
    limit = torch.ones(1, size, size) if drawn is None else _cut_mask(drawn, to_photo, size)
    limit = limit * (1 - _kept([through(other, inverse(to_photo)) for other in keep], size))
    paste_mask = _softened(limit)
    mask = _softened((paste_mask == 1).float())
    if drawn is None:
        reach = MASK_REACH * mask_scale
        paste_mask = paste_mask * face_mask([inside], size, size, reach, MASK_FEATHER, everywhere_sure=True)
        mask = mask * face_mask([inside], size, size, mask_scale)
    require(
        bool((mask > 0.5).any()),
        "Crop Face: nothing of the face may be changed, the mask around it is empty",
        "draw a larger mask over the whole face, or choose its neighbour as well when two faces touch",
    )
    masks = mask.to(image), paste_mask.to(image)
    return FaceCrop(image, inside, face, *masks, to_photo, (height, width), photo_index, drawn, tuple(keep))


def crop_to_photo(face: Face, size: int, crop_scale: float = 1.0, upright: bool = True) -> np.ndarray:
    """The similarity [2, 3] from pixel indices of the crop to those of the photo."""
    to_photo = chip_to_image(face, TEMPLATE, size)
    middle = np.full(2, (size - 1) / 2)
    there, turn = transform_points(to_photo, middle), to_photo[:, :2] * crop_scale
    if not upright:
        turn = np.eye(2) * math.hypot(*turn[:, 0])
    return np.column_stack([turn, there - turn @ middle])


def inverse(transform: np.ndarray) -> np.ndarray:
    """The affine transform [2, 3] that undoes another."""
    return np.linalg.inv(np.vstack([transform, [0.0, 0.0, 1.0]]))[:2]


def through(face: Face, transform: np.ndarray) -> Face:
    """The face where a similarity [2, 3] takes it; its box stays upright and keeps its size, scaled."""
    left, top, right, bottom = face.box_xyxy
    x, y = transform_points(transform, np.array([(left + right) / 2, (top + bottom) / 2]))
    scale = math.hypot(transform[0, 0], transform[1, 0]) / 2
    reach_x, reach_y = (right - left) * scale, (bottom - top) * scale
    box = float(x - reach_x), float(y - reach_y), float(x + reach_x), float(y + reach_y)
    return replace(face.transformed(transform), box_xyxy=box)


def _kept(faces: Sequence[Face], size: int) -> Tensor:
    """1 on the faces that must not be touched: their discs and their boxes."""
    kept = face_mask(faces, size, size, KEPT_REACH, feather=0)
    for face in faces:
        left, top, right, bottom = (max(0, round(value)) for value in face.box_xyxy)
        kept[:, top : bottom + 1, left : right + 1] = 1
    return kept


def _cut_mask(drawn: Tensor, to_photo: np.ndarray, size: int) -> Tensor:
    return warp(drawn.detach().float().cpu()[None, None], to_photo, size)[0]


def _softened(limit: Tensor) -> Tensor:
    """[1, size, size] -> the same with a soft edge that lies wholly inside it; the border of the crop is an edge."""
    half = max(1, round(LIMIT_FEATHER * limit.shape[-1] / 2))
    soft = -F.max_pool2d(F.pad(-limit[None], [2 * half] * 4), 4 * half + 1, stride=1)
    for _ in range(2):
        soft = F.avg_pool2d(soft, 2 * half + 1, stride=1, padding=half)
    soft = soft[0].clamp(0, 1)
    return torch.where(soft > 1 - 1e-5, 1.0, soft)  # sums of ones are off by a rounding


def _check(photo: Tensor, size: int, drawn: Tensor | None) -> None:
    require(
        photo.ndim == 3,
        f"Crop Face takes one photo [3, height, width], got shape {list(photo.shape)}",
        "pass the photos of a batch one by one",
    )
    require_image(photo[None], "Crop Face")
    require(
        size >= SMALLEST and size % STEP == 0,
        f"Crop Face: the size of the crop is {size} pixels",
        f"use a multiple of {STEP} from {SMALLEST} on: 256 for the demo model and the paper, 512 for Stable Diffusion",
    )
    require(
        drawn is None or tuple(drawn.shape) == tuple(photo.shape[-2:]),
        f"Crop Face: the mask is {list(getattr(drawn, 'shape', ()))}, the photo {list(photo.shape[-2:])}",
        "draw the mask on the very photo that is connected",
    )


def cropped_images(crops: Sequence[FaceCrop]) -> Tensor:
    """The crops as a batch [N, 3, size, size]."""
    return torch.stack([crop.image for crop in crops])


def cropped_masks(crops: Sequence[FaceCrop]) -> Tensor:
    """Their masks as a batch [N, 1, size, size]."""
    return torch.stack([crop.mask for crop in crops])

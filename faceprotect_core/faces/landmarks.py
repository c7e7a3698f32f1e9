"""Five facial landmarks by an ensemble of regression trees (Kazemi and Sullivan, CVPR 2014), as trained for dlib."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

WEIGHTS = Path(__file__).parent.parent / "weights" / "face_stack" / "landmarks.safetensors"


@dataclass(frozen=True)
class LandmarkPredictor:
    """The trees of dlib's `shape_predictor_5_face_landmarks`.

    Shapes are in units of the face box: 0 at its left and top edge, 1 at its right and bottom edge.

    Args:
        initial_shape: [5, 2], the mean shape.
        anchor_index: [cascades, pixels], the landmark that a sampled pixel lies near.
        anchor_offset: [cascades, pixels, 2], from that landmark to the pixel.
        first_pixel: [cascades, trees, splits]; a split goes left where first - second > threshold. Grey values are
            integers, so that the shipped threshold is rounded down to an integer at no cost.
        second_pixel: the same.
        threshold: the same.
        leaves: [cascades, trees, 2 ** depth, 5, 2], the step that a leaf adds to the shape.
    """

    initial_shape: np.ndarray
    anchor_index: np.ndarray
    anchor_offset: np.ndarray
    first_pixel: np.ndarray
    second_pixel: np.ndarray
    threshold: np.ndarray
    leaves: np.ndarray

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> LandmarkPredictor:
        """Read the trees from a safetensors file (about 5 MB)."""
        tensors = load_file(path)
        return cls(
            initial_shape=tensors["initial_shape"].astype(np.float32),
            anchor_index=tensors["anchor_idx"].astype(np.int64),
            anchor_offset=tensors["anchor_delta"].astype(np.float32),
            first_pixel=tensors["split_idx1"],
            second_pixel=tensors["split_idx2"],
            threshold=tensors["split_threshold"],
            leaves=tensors["leaf_values"],
        )


def predict_landmarks(predictor: LandmarkPredictor, photo: Tensor, box_xyxy: tuple[float, ...]) -> np.ndarray:
    """Find the five landmarks of the face in a box.

    Args:
        photo: [3, H, W], RGB in [0, 1].
        box_xyxy: left, top, right, bottom in pixel indices.

    Returns:
        [5, 2] float64, (x, y) in pixel indices: 0 outer and 1 inner corner of the eye on the image's right, 2 outer
        and 3 inner corner of the eye on its left, 4 the base of the nose.
    """
    corner = np.array(box_xyxy[:2], dtype=np.float64)
    extent = np.array(box_xyxy[2:], dtype=np.float64) - corner
    shape = predictor.initial_shape
    for cascade in range(len(predictor.leaves)):
        turn = similarity_transform(predictor.initial_shape, shape)[:, :2].astype(np.float32)
        anchors = shape[predictor.anchor_index[cascade]] + predictor.anchor_offset[cascade] @ turn.T
        pixels = _grey_levels(photo, anchors * extent + corner)
        shape = shape + _grow(predictor, cascade, pixels)
    return shape * extent + corner


def _grey_levels(photo: Tensor, points: np.ndarray) -> np.ndarray:
    """The nearest pixels of [3, H, W] at points [N, 2], (R + G + B) // 3 of 8-bit values as in dlib; 0 outside."""
    height, width = photo.shape[-2:]
    x, y = np.floor(points + 0.5).astype(np.int64).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows, columns = (torch.from_numpy(one.clip(0, end - 1)).to(photo.device) for one, end in ((y, height), (x, width)))
    levels = (photo[:, rows, columns] * 255).round().long().sum(0) // 3
    return np.where(inside, levels.cpu().numpy(), 0)


def _grow(predictor: LandmarkPredictor, cascade: int, pixels: np.ndarray) -> np.ndarray:
    """The step [5, 2] of one cascade: the sum of the leaves that its trees reach."""
    first, second = predictor.first_pixel[cascade], predictor.second_pixel[cascade]
    goes_left = pixels[first] - pixels[second] > predictor.threshold[cascade]
    trees, splits = goes_left.shape
    every_tree = np.arange(trees)
    node = np.zeros(trees, dtype=np.int64)
    for _ in range(splits.bit_length()):
        node = 2 * node + np.where(goes_left[every_tree, node], 1, 2)
    return predictor.leaves[cascade][every_tree, node - splits].sum(0)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity [2, 3] that maps the points `source` [N, 2] to `target` [N, 2] with the least squared error.

    The closed form in the plane of Umeyama, "Least-squares estimation of transformation parameters" (1991), without
    reflections: points are complex numbers and the rotation with its scale is one complex factor.
    """
    start = source[:, 0] + 1j * source[:, 1]
    end = target[:, 0] + 1j * target[:, 1]
    centred = start - start.mean()
    factor = (centred.conj() * (end - end.mean())).sum() / (abs(centred) ** 2).sum()
    shift = end.mean() - factor * start.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])

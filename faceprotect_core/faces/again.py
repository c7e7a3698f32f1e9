"""The same face in another version of its photo: the pixels around it, and where the detector finds it again."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from .detect import FaceDetector, detect_faces, smallest_in_one_pass
from .face import Face
from .windows import PYRAMID_STEP, WINDOW, overlap

SAME_FACE = 0.3  # intersection over union of the boxes above which a face was found again
SMALLEST_AGAIN = 0.6  # of the face's size: the smallest face to look for in the other version


def window_around(face: Face, photo: Tensor) -> tuple[slice, slice, Face]:
    """The rows and columns of the photo [..., H, W] around a face, and the face in their pixels."""
    height, width = photo.shape[-2:]
    left, top, right, bottom = face.box_xyxy
    reach = max(right - left, bottom - top)
    x, y = max(0, int(left - reach)), max(0, int(top - reach))
    rows, columns = slice(y, min(height, int(bottom + reach) + 1)), slice(x, min(width, int(right + reach) + 1))
    return rows, columns, moved(face, -x, -y)


def moved(face: Face, x: float, y: float) -> Face:
    """The face, that many pixels further right and down."""
    left, top, right, bottom = face.box_xyxy
    shifted = face.transformed(np.array([[1.0, 0.0, x], [0.0, 1.0, y]]))
    return replace(shifted, box_xyxy=(left + x, top + y, right + x, bottom + y))


def find_again(photo: Tensor, face: Face, detector: FaceDetector) -> Face | None:
    """The face that the detector finds in the photo where one was, or None.

    Levels of the detector's pyramid on which only faces much smaller than that one would be found are left out.

    Args:
        photo: [3, H, W] in [0, 1].
        face: where it was, in the photo's pixels.
        detector: of `load_detector`.
    """
    size = max(face.box_xyxy[2] - face.box_xyxy[0], face.box_xyxy[3] - face.box_xyxy[1])
    needed, smallest = max(10.0, SMALLEST_AGAIN * size), max(WINDOW, smallest_in_one_pass(photo))
    if needed > smallest:
        smallest /= PYRAMID_STEP ** math.floor(math.log(needed / smallest, 1 / PYRAMID_STEP))
    else:
        smallest = needed
    found = detect_faces(photo, detector, min_face=smallest, turned=False)
    same = [one for one in found if overlap(one.box_xyxy, face.box_xyxy) > SAME_FACE]
    return max(same, key=lambda one: overlap(one.box_xyxy, face.box_xyxy), default=None)

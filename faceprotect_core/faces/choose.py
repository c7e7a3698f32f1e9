"""Which of a photo's faces: all, the largest, some by number, or those that lie in a mask or in boxes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..checks import require
from .face import Face

Box = tuple[float, float, float, float]


def left_to_right(faces: Sequence[Face]) -> list[Face]:
    """The faces in the order in which `choose_faces` numbers them."""
    return sorted(faces, key=lambda face: centre(face.box_xyxy))


def choose_faces(faces: Sequence[Face], which: str = "all") -> list[Face]:
    """Some of the faces, left to right.

    Args:
        faces: the faces of one photo, in any order.
        which: "all", "largest", or numbers counted from the left, starting at 0, as in "0" or "0, 2".

    Raises:
        ProtectionError: no such face.
    """
    ordered = left_to_right(faces)
    if which == "all" or not ordered:
        return ordered
    if which == "largest":
        return [max(ordered, key=lambda face: _area(face.box_xyxy))]
    return [ordered[number] for number in _numbers(which, len(ordered))]


def faces_in_mask(faces: Sequence[Face], mask: Tensor) -> list[Face]:
    """The faces whose centre lies where the mask [H, W] of their photo is above 0.5."""
    height, width = mask.shape
    chosen = []
    for face in left_to_right(faces):
        x, y = (round(value) for value in centre(face.box_xyxy))
        if 0 <= x < width and 0 <= y < height and mask[y, x] > 0.5:
            chosen.append(face)
    return chosen


def faces_in_boxes(faces: Sequence[Face], boxes: Sequence[Box]) -> list[Face]:
    """The faces whose centre lies in one of the boxes (left, top, right, bottom)."""
    return [face for face in left_to_right(faces) if any(_inside(centre(face.box_xyxy), box) for box in boxes)]


def centre(box: Box) -> tuple[float, float]:
    """The middle (x, y) of a box (left, top, right, bottom)."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _numbers(which: str, count: int) -> list[int]:
    parts = [part.strip() for part in which.split(",")]
    numbers = [int(part) for part in parts if part.isdigit()]
    require(
        bool(numbers) and len(numbers) == len(parts) and max(numbers) < count,
        f"the faces {which!r} were asked for, and the photo has {count}, numbered 0 to {count - 1} from the left",
        'use "all", "largest", or numbers such as "0" or "0, 2"',
    )
    return sorted(set(numbers))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]

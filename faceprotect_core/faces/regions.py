"""Faces that somebody else has found (another detector's boxes, MediaPipe's landmarks, a mask drawn by hand), and which
of all these are meant."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require
from .align import TEMPLATES
from .crop import FaceCrop, crop_face
from .detect import FaceDetector, detect_faces, with_mesh
from .face import Box, Face, as_tuples, transform_points
from .landmarks import predict_landmarks, similarity_transform
from .mesh import LANDMARKS

MEDIAPIPE_COUNTS = (468, 478)  # without and with the irises
# Where the landmarks are sought in a foreign box: squares of these shares of its longer side, moved down by these.
# Measured with boxes from hairline or brow to chin that were off by 20 %: half of the answers may be wrong.
SOUGHT_SCALES, SOUGHT_SHIFTS = (0.6, 0.75, 0.95), (-0.12, 0.0, 0.08)
AGREEING = 4  # answers: the closest group of so many is believed
DETECTOR_BOX = 1.2, 0.1  # side and upward shift of the detector's box, in sides of the landmarks' mean shape
SHAPE_PADDING = 1.5  # side of the dlib chip in sides of the mean shape
COARSE = 256  # pixels: blobs of a mask are told apart at this size
SMALLEST_BLOB = 0.0001  # share of the photo: specks of the brush are no faces


@dataclass(frozen=True, eq=False)
class Selection:
    """The faces of a photo that are meant, and those that are not.

    Args:
        chosen: the faces to protect, left to right.
        keep: the photo's other faces, which must stay as they are.
        drawn: [H, W], a hand-drawn mask that limits the change; None for no such limit.
    """

    chosen: list[Face]
    keep: list[Face]
    drawn: Tensor | None = None


def select_faces(
    photo: Tensor,
    detector: FaceDetector,
    *,
    faces: Sequence[Face] | None = None,
    boxes: Sequence[Box] | None = None,
    mask: Tensor | None = None,
    which: str = "all",
    **knobs,
) -> Selection:
    """The faces of one photo that are meant.

    Known faces (`faces`) are chosen by the boxes and by the mask, where these are given. Without known faces, the boxes
    are the faces; without boxes, every blob of the mask is one, and nothing outside the mask may change; without
    anything, the faces are detected.

    Args:
        photo: [3, H, W] in [0, 1].
        detector: of `load_detector`.
        faces: in the photo's pixels.
        boxes: (left, top, right, bottom) in pixels.
        mask: [H, W] in [0, 1].
        which: of those, see `choose_faces`.
        knobs: of `detect_faces`.

    Raises:
        ProtectionError: nothing is left to choose, a mask of another size, a box outside the photo.
    """
    _require_mask_of(photo, mask)
    if faces is None and boxes is not None:
        chosen = faces_in_regions(photo, boxes, detector)
        require(bool(chosen), "there is no box for this photo", "look at what made the boxes")
        return _chosen(chosen, None, mask, which)
    if faces is None and mask is not None:
        chosen = faces_in_regions(photo, boxes_of_mask(mask), detector)
        require(bool(chosen), "the mask is empty", "draw over the whole face")
        return Selection(choose_faces(chosen, which), [], mask)
    known = list(detect_faces(photo, detector, **knobs) if faces is None else faces)
    require(
        bool(known),
        f"no face found in the photo of {photo.shape[2]} x {photo.shape[1]} pixels",
        "use a photo in which the face is upright and well lit, look for smaller faces (min_face of Detect Faces), or "
        "draw a mask over the face and connect only that",
    )
    return _chosen(known, boxes, mask, which)


def crop_selection(photo: Tensor, selection: Selection, size: int = 256, **options) -> list[FaceCrop]:
    """Cut out the chosen faces, left to right; the photo's other faces will not be touched. Options: of `crop_face`."""
    keep, drawn = selection.keep, selection.drawn
    return [crop_face(photo, face, size, keep=keep, drawn=drawn, **options) for face in selection.chosen]


def _chosen(faces: list[Face], boxes: Sequence[Box] | None, mask: Tensor | None, which: str) -> Selection:
    chosen = faces if boxes is None else faces_in_boxes(faces, boxes)
    chosen = chosen if mask is None else faces_in_mask(chosen, mask)
    require(
        bool(chosen),
        f"none of the photo's {len(faces)} faces has its centre in the mask or boxes",
        "cover the middle of the face; or connect only the mask, without faces: then the mask itself is the face",
    )
    chosen = choose_faces(chosen, which)
    return Selection(chosen, [face for face in faces if face not in chosen])


def require_painted(mask: Tensor) -> None:
    """Core's Load Image gives a mask of 64 x 64 zeros where nothing was painted."""
    require(
        tuple(mask.shape[-2:]) != (64, 64) or bool(mask.any()),
        "nothing is painted in the mask",
        "right-click the photo on Load Image, choose Open in Mask Editor, paint over the face; or disconnect the mask",
    )


def _require_mask_of(photo: Tensor, mask: Tensor | None) -> None:
    if mask is not None:
        require_painted(mask)
    require(
        mask is None or tuple(mask.shape) == tuple(photo.shape[-2:]),
        f"the mask is {list(getattr(mask, 'shape', ()))}, the photo {list(photo.shape[-2:])} (height, width)",
        "draw the mask on the very photo that is connected",
    )


def faces_in_regions(photo: Tensor, boxes: Sequence[Box], detector: FaceDetector) -> list[Face]:
    """Faces from boxes of another detector: their landmarks are found here.

    Args:
        photo: [3, H, W] in [0, 1].
        boxes: (left, top, right, bottom) in pixels; they are made square.
        detector: of `load_detector`.

    Raises:
        ProtectionError: a box outside the photo.
    """
    return [_face_in(photo, box, detector) for box in boxes]


def face_from_mediapipe(points: np.ndarray | Sequence, score: float = 1.0) -> Face:
    """A face from MediaPipe's 468 or 478 landmarks [N, 2 or 3], x and y in pixels."""
    points = np.asarray(points, dtype=np.float64)
    require(
        points.ndim == 2 and points.shape[0] in MEDIAPIPE_COUNTS and points.shape[1] >= 2,
        f"landmarks have shape {list(points.shape)}, expected [478, 2] or [468, 2]",
        "connect the face_landmarks of Detect Face Landmarks (MediaPipe)",
    )
    require(bool(np.isfinite(points).all()), "the landmarks hold NaN or infinite values", "detect them again")
    face = face_from_landmarks(points[list(LANDMARKS), :2], score)
    return replace(face, mesh=points[: MEDIAPIPE_COUNTS[0], :2])


def face_from_landmarks(landmarks: np.ndarray, score: float = 1.0) -> Face:
    """A face from the five landmarks [5, 2] of `Face`; its box is where the built-in detector would put it."""
    shape, size = np.array(TEMPLATES["dlib_150"].points), TEMPLATES["dlib_150"].size
    to_photo = similarity_transform(shape, np.asarray(landmarks, dtype=np.float64))
    side, shift = (share * size / SHAPE_PADDING for share in DETECTOR_BOX)
    x, y = transform_points(to_photo, np.array([(size - 1) / 2, (size - 1) / 2 - shift]))
    reach = np.hypot(*to_photo[:, 0]) * side / 2
    box = float(x - reach), float(y - reach), float(x + reach), float(y + reach)
    return Face(box, score, as_tuples(landmarks))


def boxes_of_mask(mask: Tensor) -> list[Box]:
    """The boxes of the separate blobs of a mask [H, W] in [0, 1], left to right: one for every face drawn over."""
    height, width = mask.shape
    coarse = F.adaptive_max_pool2d(mask.float()[None, None], (min(COARSE, height), min(COARSE, width))) > 0.5
    boxes = []
    for blob in _blobs(coarse[0, 0]):
        rows, columns = blob.nonzero().unbind(1)
        if blob.float().mean() >= SMALLEST_BLOB:
            top, bottom = _span(rows, blob.shape[0], height)
            left, right = _span(columns, blob.shape[1], width)
            boxes.append((left, top, right - 1, bottom - 1))
    return sorted(boxes, key=centre)


def _span(cells: Tensor, count: int, pixels: int) -> tuple[float, float]:
    """From the first of some cells to behind the last, in pixels; `count` cells are all of the `pixels`."""
    return cells.min().item() / count * pixels, (cells.max().item() + 1) / count * pixels


def _face_in(photo: Tensor, box: Box, detector: FaceDetector) -> Face:
    height, width = photo.shape[-2:]
    x, y = centre(box)
    require(
        bool(np.isfinite(box).all()) and box[2] > box[0] and box[3] > box[1] and 0 <= x < width and 0 <= y < height,
        f"the face box {tuple(round(float(value), 1) for value in box)} does not lie in the photo of {width} x {height}"
        " pixels",
        "give left, top, right and bottom in pixels of this very photo",
    )
    side, answers = max(box[2] - box[0], box[3] - box[1]), []
    for scale, shift in itertools.product(SOUGHT_SCALES, SOUGHT_SHIFTS):
        reach, middle = side * scale / 2, y + side * shift
        start = predict_landmarks(detector.landmarks, photo, (x - reach, middle - reach, x + reach, middle + reach))
        answers.append(predict_landmarks(detector.landmarks, photo, face_from_landmarks(start).box_xyxy))
    return with_mesh(photo, face_from_landmarks(_agreed(np.stack(answers)), score=0.0), detector)


def _agreed(answers: np.ndarray) -> np.ndarray:
    """The median of the answers [N, 5, 2] that agree best: wrong ones are far off, each in its own way."""
    distances = np.linalg.norm(answers[:, None] - answers[None], axis=-1).mean(-1)
    nearest = np.argsort(distances, axis=1)[:, :AGREEING]
    spread = np.sort(distances, axis=1)[:, AGREEING - 1]
    return np.median(answers[nearest[spread.argmin()]], axis=0)


def _blobs(mask: Tensor) -> list[Tensor]:
    """The connected parts of a mask [h, w] of bool: the largest number of a part spreads until nothing changes."""
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float32).reshape(mask.shape) * mask.cpu()
    while True:
        spread = F.max_pool2d(labels[None, None], 3, stride=1, padding=1)[0, 0] * mask.cpu()
        if torch.equal(spread, labels):
            break
        labels = spread
    return [labels == label for label in labels.unique().tolist() if label > 0]


# ------------------------------------------------------------------------------------------------ which of them


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
    numbers = [int(part) for part in parts if part.isdecimal()]
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

"""Detect faces: dlib's `mmod_human_face_detector` (King, "Max-Margin Object Detection", arXiv 1502.00046) in torch.

A small fully convolutional network slides an 80 x 80 pixel window over an image pyramid (factor 5/6); where its score
is above 0 there is a face. The best windows survive non-maximum suppression and get five landmarks each. A level of
the pyramid that is too large for memory is looked at in overlapping tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..checks import ProtectionError, require
from .crop import through
from .face import DISAGREEING, Box, Face, as_tuples, quarter_turn_back, transform_points
from .landmarks import LandmarkPredictor, predict_landmarks
from .mesh import FaceMesh, disagreement_of, load_face_mesh, mesh_of
from .windows import SMALLEST_LEVEL, WINDOW, WindowScorer, score_windows, strongest

WEIGHTS = Path(__file__).parent.parent / "weights" / "face_stack" / "detector.safetensors"
LEVEL_PIXELS = 4_000_000  # that go through the network at once
TURNED_FACE = 120  # pixels: the size at which a found face is looked at in quarter turns
TURNED_ROOM = 0.75  # of its box: how much of its surroundings


@dataclass(frozen=True)
class FaceDetector:
    """The loaded models that `detect_faces` needs; load once with `load_detector` to detect in many photos."""

    scorer: WindowScorer
    landmarks: LandmarkPredictor
    mesh: FaceMesh


def load_detector(device: torch.device | str = "cpu") -> FaceDetector:
    """Load the built-in detector and landmark predictor (CC0 1.0) and the face mesh (Apache-2.0); see NOTICE."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        scorer = WindowScorer()
        scorer.load(load_file(WEIGHTS))
        scorer.eval().requires_grad_(False).to(device)
    return FaceDetector(scorer, LandmarkPredictor.load(), load_face_mesh(device))


def detect_faces(
    image: Tensor,
    detector: FaceDetector | None = None,
    *,
    threshold: float = 0.0,
    min_face: float = WINDOW,
    max_pixels: int = LEVEL_PIXELS,
    turned: bool = True,
) -> list[Face]:
    """Find the faces in one photo.

    The pyramid starts at the scale that shows a face of `min_face` pixels as the network's 80 pixels: at the full size
    by default, as dlib does; a smaller `min_face` enlarges the photo first. Levels of more than `max_pixels` pixels are
    looked at in overlapping tiles, which bounds memory: `min_face` holds for photos of any size.

    Args:
        image: [3, H, W], RGB in [0, 1] (values outside are clamped, as when saved), any floating dtype. No gradient.
        detector: from `load_detector`; None loads the built-in one for this call.
        threshold: the lowest score that counts as a face.
        min_face: the size of the smallest face to look for, in pixels of this photo.
        max_pixels: the largest number of pixels that go through the network at once; a tile may have 512 x 512.
        turned: where no face is found, look in the photo turned by 90, 180 and 270 degrees. A turn is right where faces
            that are not doubtful score best; it must show one in a pass without tiles, of 80 * sqrt(H * W / max_pixels)
            pixels or more, 139 in a photo of 4000 x 3000. Then all faces of that turn are found.

    Returns:
        The faces, the best score first; an empty list where there is none.

    Raises:
        ProtectionError: not one RGB image of floats, or NaN or infinite values in it.
    """
    photo = _checked(image, min_face, max_pixels)
    detector = detector or load_detector(image.device)
    faces = _search(photo, detector, threshold, min_face, max_pixels)
    if faces or not turned:
        return faces
    in_one_pass = max(min_face, smallest_in_one_pass(photo, max_pixels))
    views = {turns: _unturned(photo, turns, detector, threshold, in_one_pass, max_pixels) for turns in (1, 2, 3)}
    certain = {turns: sum(face.score for face in found if not face.doubtful) for turns, found in views.items()}
    turns = max(certain, key=lambda one: certain[one])
    if certain[turns] <= 0 or in_one_pass == min_face:
        return views[turns] if certain[turns] > 0 else []
    return _unturned(photo, turns, detector, threshold, min_face, max_pixels)


def find_face(image: Tensor, detector: FaceDetector | None = None, **options) -> Face:
    """The best face in a photo; a ProtectionError where there is none. Arguments as for `detect_faces`."""
    faces = detect_faces(image, detector, **options)
    require(
        bool(faces),
        f"find_face: no face found in the image of {image.shape[-1]}x{image.shape[-2]} pixels",
        "use a photo in which the face is upright and turned to the camera, crop closer, or look for smaller faces "
        "with a lower min_face",
    )
    return faces[0]


def _checked(image: Tensor, min_face: float, max_pixels: int) -> Tensor:
    """The image as it is searched: float32, clamped where that is needed, which large photos are not copied for."""
    require(
        image.ndim == 3 and image.shape[0] == 3 and image.is_floating_point() and image.numel() > 0,
        f"detect_faces: image is {image.dtype} of shape {tuple(image.shape)}, expected floats of shape [3, H, W] in "
        "[0, 1]",
        "pass one image of a batch; drop alpha, repeat grey three times; divide 8-bit values by 255",
    )
    lowest, highest = (extreme.item() for extreme in torch.aminmax(image.detach()))
    if not math.isfinite(lowest) or not math.isfinite(highest):
        broken = ~torch.isfinite(image)
        channel, y, x = broken.nonzero()[0].tolist()
        raise ProtectionError(
            f"detect_faces: image has {image[channel, y, x].item()} at channel {channel}, x {x}, y {y} "
            f"({int(broken.sum())} such values)",
            "find the step before that made it",
        )
    require(
        min_face > 0 and max_pixels > 0,
        f"detect_faces: min_face is {min_face} and max_pixels {max_pixels}, expected both above 0",
        f"leave them out (min_face={WINDOW}, max_pixels=4_000_000)",
    )
    photo = image.detach().float()
    return photo if lowest >= 0 and highest <= 1 else photo.clamp(0, 1)


def smallest_in_one_pass(photo: Tensor, max_pixels: int = LEVEL_PIXELS) -> float:
    """The `min_face` down to which a photo [..., H, W] is searched without tiles, in pixels."""
    return WINDOW * math.sqrt(photo.shape[-2] * photo.shape[-1] / max_pixels)


def _search(photo: Tensor, detector: FaceDetector, threshold: float, min_face: float, max_pixels: int) -> list[Face]:
    with torch.no_grad():
        boxes = strongest(score_windows(detector.scorer, photo, threshold, min_face, max_pixels))
    faces = [_face_at(photo, box, score, detector) for score, box in boxes]
    return [_turned(photo, face, detector) if face.doubtful else face for face in faces]


def _unturned(photo: Tensor, turns: int, detector: FaceDetector, *options) -> list[Face]:
    """The faces in the photo in quarter turns, in pixels of the photo."""
    found = _search(torch.rot90(photo, turns, (1, 2)), detector, *options)
    return [through(face, quarter_turn_back(turns, *photo.shape[-2:])) for face in found]


def with_mesh(photo: Tensor, face: Face, detector: FaceDetector) -> Face:
    """The face with its mesh, and how far that is from its landmarks; photo: [3, H, W] in [0, 1]."""
    mesh = mesh_of(photo, face.box_xyxy, face.landmarks, detector.mesh)
    return replace(face, mesh=mesh, disagreement=disagreement_of(face.landmarks, mesh))


def _face_at(photo: Tensor, box: Box, score: float, detector: FaceDetector) -> Face:
    landmarks = predict_landmarks(detector.landmarks, photo, box)
    return with_mesh(photo, Face(box, score, as_tuples(landmarks)), detector)


def _turned(photo: Tensor, face: Face, detector: FaceDetector) -> Face:
    """A face whose landmarks are doubtful, looked at in quarter turns: the turn where they agree best with the mesh is
    right.

    The detector finds most faces that lie on their side, but the landmarks are made for upright ones.
    """
    left, top, right, bottom = (int(value) for value in _grown(face.box_xyxy, photo.shape[-1], photo.shape[-2]))
    around = photo[None, :, top:bottom, left:right]
    zoom = (face.box_xyxy[2] - face.box_xyxy[0] + 1) / TURNED_FACE
    size = [max(SMALLEST_LEVEL, round(length / zoom)) for length in around.shape[-2:]]
    around = F.interpolate(around, size=size, mode="bilinear", antialias=True)[0]
    views = {}
    for turns in (1, 2, 3):
        view = torch.rot90(around, turns, (1, 2))
        box = _box_in_the_middle(view, detector.scorer)
        if box is not None:
            views[turns] = _face_at(view, box, face.score, detector)
    turns = min(views, key=lambda one: views[one].disagreement, default=0)
    if turns == 0 or views[turns].disagreement > min(DISAGREEING, face.disagreement):
        return face

    def back(points) -> np.ndarray:
        """From pixels of the turned view to pixels of the photo."""
        height, width = around.shape[-2:]
        unturned = transform_points(quarter_turn_back(turns, height, width), np.array(points))
        scale = np.array([(right - left) / width, (bottom - top) / height])
        return (unturned + 0.5) * scale - 0.5 + (left, top)

    corners = back(np.array(views[turns].box_xyxy).reshape(2, 2))
    box = (*corners.min(0).tolist(), *corners.max(0).tolist())
    return with_mesh(photo, Face(box, face.score, as_tuples(back(views[turns].landmarks))), detector)


def _grown(box: Box, width: int, height: int) -> Box:
    """The box and as much around it as a head needs in any turn, within the photo."""
    reach = (box[2] - box[0]) * TURNED_ROOM
    return (
        max(0, box[0] - reach),
        max(0, box[1] - reach),
        min(width, box[2] + reach + 1),
        min(height, box[3] + reach + 1),
    )


def _box_in_the_middle(view: Tensor, scorer: WindowScorer) -> Box | None:
    """The best window of about TURNED_FACE pixels that covers the middle of the view."""
    height, width = view.shape[-2:]
    with torch.no_grad():
        windows = score_windows(scorer, view, -1.0, WINDOW, height * width)
    fitting = [
        (score, box)
        for score, box in windows
        if box[0] < width / 2 < box[2] and box[1] < height / 2 < box[3]
        if TURNED_FACE / 2 < box[2] - box[0] < TURNED_FACE * 2
    ]
    return max(fitting)[1] if fitting else None

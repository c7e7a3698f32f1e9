"""Faces that others have found: foreign boxes, MediaPipe's landmarks, a mask drawn by hand; and which of them count."""

import numpy as np
import pytest
import torch

from faceprotect_core import ProtectionError
from faceprotect_core.faces import (
    Face,
    crop_selection,
    face_from_mediapipe,
    faces_in_regions,
    overlap,
    paste_faces,
    select_faces,
)
from faceprotect_core.faces.face import DISAGREEING
from faceprotect_core.faces.mesh import LANDMARKS
from faceprotect_core.faces.regions import boxes_of_mask

TIGHT = (180, 55, 262, 175)  # forehead to chin, as other detectors frame the astronaut's face


@pytest.fixture(scope="module")
def two(astronaut):
    return torch.cat([astronaut, astronaut.flip(2)], 2)


def eye_distance(face: Face) -> float:
    points = np.array(face.landmarks)
    return np.linalg.norm(points[[0, 1]].mean(0) - points[[2, 3]].mean(0))


def worst_landmark(found: Face, face: Face) -> float:
    """In eye distances."""
    return np.linalg.norm(np.subtract(found.landmarks, face.landmarks), axis=1).max() / eye_distance(face)


# ------------------------------------------------------------------------------------------------ boxes


@pytest.mark.parametrize("shift", [(0, 0), (8, 0), (-8, 0), (0, 8), (0, -8)])
@pytest.mark.parametrize("growth", [0.9, 1, 1.15])
def test_landmarks_are_found_in_another_detectors_box(astronaut, detector, face, shift, growth):
    left, top, right, bottom = TIGHT
    x, y = (left + right) / 2 + shift[0], (top + bottom) / 2 + shift[1]
    width, height = (right - left) / 2 * growth, (bottom - top) / 2 * growth
    (found,) = faces_in_regions(astronaut, [(x - width, y - height, x + width, y + height)], detector)
    assert worst_landmark(found, face) < 0.1


def test_the_detectors_own_box_gives_its_own_face(astronaut, detector, face):
    (found,) = faces_in_regions(astronaut, [face.box_xyxy], detector)
    assert worst_landmark(found, face) < 0.05
    assert found.disagreement < DISAGREEING


def test_a_box_without_a_face_gives_doubtful_landmarks(astronaut, detector):
    """As does a drawn mask over a face that cannot be made out: the verdict on it must not pass as sure."""
    (found,) = faces_in_regions(astronaut, [(300, 250, 420, 400)], detector)
    assert found.disagreement > DISAGREEING


@pytest.mark.parametrize("box", [(600, 50, 700, 150), (10, 10, 10, 20), (0, 0, torch.nan, 20), (30, 30, 10, 50)])
def test_a_box_that_is_none_is_refused(astronaut, detector, box):
    with pytest.raises(ProtectionError, match="does not lie in the photo of 512 x 512.*How to fix"):
        faces_in_regions(astronaut, [box], detector)


# ------------------------------------------------------------------------------------------------ MediaPipe


def mesh(face: Face, count: int = 478) -> np.ndarray:
    """MediaPipe's landmarks, with the five that are used in their places."""
    points = np.full((count, 2), -1e6)
    points[list(LANDMARKS)] = face.landmarks
    return points


@pytest.mark.parametrize("count", [468, 478])
def test_five_of_mediapipes_landmarks_are_the_face(face, count):
    found = face_from_mediapipe(mesh(face, count), 0.9)
    assert np.array(found.landmarks) == pytest.approx(np.array(face.landmarks))
    assert found.score == 0.9
    assert overlap(found.box_xyxy, face.box_xyxy) > 0.6


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((478, 1)), np.zeros(478), np.full((478, 2), np.nan)])
def test_other_landmarks_are_refused(points):
    with pytest.raises(ProtectionError, match="landmarks.*How to fix"):
        face_from_mediapipe(points)


# ------------------------------------------------------------------------------------------------ drawn masks


def ellipse(height: int, width: int, box) -> torch.Tensor:
    left, top, right, bottom = box
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = (xs - (left + right) / 2) / ((right - left) / 2), (ys - (top + bottom) / 2) / ((bottom - top) / 2)
    return (x**2 + y**2 <= 1).float()


def test_each_blob_of_a_mask_is_a_box():
    mask = torch.maximum(ellipse(600, 900, (500, 40, 640, 200)), ellipse(600, 900, (50, 300, 150, 420)))
    mask[5, 5] = 1  # a speck of the brush
    boxes = boxes_of_mask(mask)
    assert len(boxes) == 2
    assert np.abs(np.subtract(boxes, [(50, 300, 150, 420), (500, 40, 640, 200)])).max() < 5


def test_a_drawn_mask_is_a_face_where_no_detector_finds_one(astronaut, detector, face):
    dark = (astronaut * 0.03 * 255).round() / 255
    with pytest.raises(ProtectionError, match="no face found"):
        select_faces(dark, detector)
    drawn = ellipse(512, 512, TIGHT)
    selection = select_faces(dark, detector, mask=drawn)
    (crop,) = crop_selection(dark, selection, 128)
    assert overlap(selection.chosen[0].box_xyxy, face.box_xyxy) > 0.4
    image, mask = paste_faces(dark, [crop], torch.rand(1, 3, 128, 128))
    assert torch.equal(image[:, drawn == 0], dark[:, drawn == 0])
    assert ((mask[0] > 0) & (drawn == 1)).sum() > 0.8 * drawn.sum()


def test_load_images_mask_without_anything_painted_says_so(astronaut, detector):
    with pytest.raises(ProtectionError, match="nothing is painted in the mask.*Mask Editor"):
        select_faces(astronaut, detector, mask=torch.zeros(64, 64))


def test_an_empty_mask_is_refused(astronaut, detector):
    with pytest.raises(ProtectionError, match="mask is empty.*How to fix"):
        select_faces(astronaut, detector, mask=torch.zeros(512, 512))


# ------------------------------------------------------------------------------------------------ selection


def test_without_anything_the_faces_are_detected(two, detector):
    selection = select_faces(two, detector)
    assert len(selection.chosen) == 2 and selection.keep == [] and selection.drawn is None
    assert selection.chosen[0].box_xyxy[0] < 512 < selection.chosen[1].box_xyxy[0]


def test_a_mask_or_boxes_choose_among_known_faces_and_the_others_are_kept(two, detector):
    faces = select_faces(two, detector).chosen
    mask = torch.zeros(512, 1024)
    mask[:, 600:] = 1
    for chooser in ({"mask": mask}, {"boxes": [(600, 0, 1023, 511)]}, {"which": "1"}):
        selection = select_faces(two, detector, faces=faces, **chooser)
        assert (selection.chosen, selection.keep, selection.drawn) == ([faces[1]], [faces[0]], None), chooser


def test_boxes_alone_are_the_faces(two, detector):
    selection = select_faces(two, detector, boxes=[TIGHT])
    assert len(selection.chosen) == 1 and selection.keep == []


def test_choosing_none_is_an_error(two, detector):
    faces = select_faces(two, detector).chosen
    mask = torch.zeros(512, 1024)
    mask[400:, :100] = 1
    with pytest.raises(ProtectionError, match="none of the photo's 2 faces.*How to fix"):
        select_faces(two, detector, faces=faces, mask=mask)
    with pytest.raises(ProtectionError, match="no face found"):
        select_faces(two, detector, faces=[])
    with pytest.raises(ProtectionError, match="no box for this photo"):
        select_faces(two, detector, boxes=[])
    with pytest.raises(ProtectionError, match=r"mask is \[512, 512\], the photo \[512, 1024\]"):
        select_faces(two, detector, mask=torch.ones(512, 512))

"""The built-in detector, landmarks and alignment agree with dlib, and fail with words instead of wrong results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from faceprotect_core.checks import ProtectionError
from faceprotect_core.conversion.face_stack import DlibReader, shrink_landmarks
from faceprotect_core.faces import (
    TEMPLATES,
    Face,
    FaceDetector,
    align_face,
    chip_to_image,
    detect_faces,
    find_face,
)
from faceprotect_core.faces.face import DISAGREEING
from faceprotect_core.faces.landmarks import LandmarkPredictor, similarity_transform

CHECK = json.loads((Path(__file__).parents[2] / "data" / "face_checks.json").read_text())["astronaut_check"]


def test_the_astronaut_is_found_where_dlib_finds_her(astronaut, detector):
    faces = detect_faces(astronaut, detector)
    assert len(faces) == 1
    assert np.abs(np.subtract(faces[0].box_xyxy, CHECK["detection_xyxy"])).max() < 1
    assert np.abs(np.subtract(faces[0].landmarks, CHECK["landmarks_xy"])).max() < 1.5
    assert faces[0].score == pytest.approx(CHECK["detection_score"], abs=1e-4)


def test_the_chip_lies_where_dlib_lays_it():
    box = CHECK["chip_rect_xyxy"]
    transform = chip_to_image(_face(CHECK["landmarks_xy"]))
    centre = transform @ (74.5, 74.5, 1)
    assert centre == pytest.approx([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], abs=1e-3)
    assert np.arctan2(transform[1, 0], transform[0, 0]) == pytest.approx(CHECK["chip_angle"], abs=1e-6)
    assert np.hypot(*transform[:, 0]) * 149 == pytest.approx(box[2] - box[0], abs=0.25)


@pytest.mark.parametrize("turns", [1, 3])
def test_landmarks_of_a_face_that_lies_on_its_side_are_right(astronaut, detector, face, turns):
    """A photo that was not turned upright: without care the landmarks are wrong, and so is every verdict on them."""
    found = detect_faces(torch.rot90(astronaut, turns, (1, 2)), detector)[0]
    x, y = np.array(face.landmarks).T
    expected = np.stack([y, 511 - x] if turns == 1 else [511 - y, x], axis=1)
    assert np.abs(expected - found.landmarks).max() < 4
    assert found.disagreement < DISAGREEING


def test_landmarks_that_are_guessed_are_called_doubtful(astronaut, detector, face):
    assert face.disagreement < DISAGREEING / 2
    covered = astronaut.clone()
    covered[:, 60:180, 155:216] = 0.4  # half of the face
    assert detect_faces(covered, detector, threshold=-1.0)[0].disagreement > DISAGREEING


def test_coordinates_are_those_of_the_photo(astronaut, detector, face):
    canvas = torch.full((3, 700, 900), 0.5)
    canvas[:, 100:612, 300:812] = astronaut
    moved = detect_faces(canvas, detector)[0]
    assert np.abs(np.subtract(moved.landmarks, face.landmarks) - (300, 100)).max() < 4


def test_a_large_photo_goes_through_the_network_in_tiles(astronaut, detector):
    photo = nn.functional.interpolate(astronaut[None], scale_factor=3, mode="bilinear")[0]
    sizes = []
    spy = FaceDetector(_Spy(detector.scorer, sizes), detector.landmarks, detector.mesh)
    found = detect_faces(photo, spy, max_pixels=500_000)[0]
    assert max(sizes) <= 500_000
    assert np.abs(np.subtract(found.landmarks, np.array(CHECK["landmarks_xy"]) * 3)).max() < 12


def test_small_faces_are_found_on_request(astronaut, detector):
    photo = nn.functional.interpolate(astronaut[None], scale_factor=0.5, mode="bilinear", antialias=True)[0]
    assert detect_faces(photo, detector) == []
    assert (
        np.abs(
            np.subtract(detect_faces(photo, detector, min_face=40)[0].landmarks, np.array(CHECK["landmarks_xy"]) / 2)
        ).max()
        < 3
    )


def test_a_higher_threshold_drops_the_face(astronaut, detector):
    assert detect_faces(astronaut, detector, threshold=1.1) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (600, 1), (39, 300), (40, 40), (7, 3)])
def test_images_without_room_for_a_face_have_none(detector, size):
    assert detect_faces(torch.rand(3, *size), detector) == []
    assert detect_faces(torch.rand(3, *size), detector, min_face=5, max_pixels=100_000) == []


def test_no_face_is_an_error_that_says_what_to_do(detector):
    with pytest.raises(ProtectionError, match=r"120x90.*How to fix"):
        find_face(torch.zeros(3, 90, 120), detector)


@pytest.mark.parametrize("shape", [(1, 64, 64), (4, 64, 64), (64, 64, 3), (64, 64), (1, 3, 64, 64), (3, 0, 64)])
def test_other_shapes_are_refused(detector, shape):
    with pytest.raises(ValueError, match=r"expected floats of shape \[3, H, W\].*How to fix"):
        detect_faces(torch.zeros(shape), detector)


def test_bytes_nan_and_senseless_limits_are_refused(detector):
    with pytest.raises(ValueError, match="uint8.*How to fix"):
        detect_faces(torch.zeros(3, 64, 64, dtype=torch.uint8), detector)
    for value in ("nan", "inf", "-inf"):
        image = torch.zeros(3, 64, 64)
        image[1, 20, 30] = float(value)
        with pytest.raises(ValueError, match=rf"{value} at channel 1, x 30, y 20 \(1 such values\).*How to fix"):
            detect_faces(image, detector)
    for limits in ({"min_face": 0}, {"max_pixels": 0}, {"min_face": float("nan")}):
        with pytest.raises(ValueError, match="How to fix"):
            detect_faces(torch.zeros(3, 64, 64), detector, **limits)


def test_detection_needs_no_gradient_mode_and_changes_nothing(astronaut, face):
    image = astronaut.clone().requires_grad_(True)
    assert detect_faces(image) == [face]
    assert torch.equal(image, astronaut)
    with torch.inference_mode():
        assert detect_faces(astronaut.clone()) == [face]


def test_similarity_transform_recovers_rotation_scale_and_shift():
    points = np.random.default_rng(0).normal(size=(5, 2))
    turn = 2.5 * np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    transform = similarity_transform(points, points @ turn.T + (3, -4))
    assert np.allclose(transform, np.column_stack([turn, (3, -4)]), atol=1e-12)


def test_arcface_eyes_are_those_of_its_template():
    points = np.array(TEMPLATES["arcface_112"].points)
    assert points[2:4].mean(0) == pytest.approx([38.2946, 51.6963], abs=1e-4)
    assert points[0:2].mean(0) == pytest.approx([73.5318, 51.5014], abs=1e-4)


@pytest.mark.parametrize("template, size", [("dlib_150", None), ("arcface_112", None), ("arcface_112", 160)])
def test_alignment_brings_the_landmarks_to_the_template(template, size):
    points = np.array(TEMPLATES[template].points)
    turn = 1.7 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    native, wanted = TEMPLATES[template].size, size or TEMPLATES[template].size
    transform = chip_to_image(_face((points @ turn.T + (200, 100)).tolist()), template, size)
    pixels = (points + 0.5) * wanted / native - 0.5
    assert np.allclose(pixels @ transform[:, :2].T + transform[:, 2], points @ turn.T + (200, 100), atol=1e-9)


def test_at_the_photos_own_scale_alignment_copies_pixels():
    image = torch.rand(3, 200, 220, dtype=torch.float64)
    face = _face((np.array(TEMPLATES["dlib_150"].points) + (40, 30)).tolist())
    assert torch.allclose(align_face(image, face), image[:, 30:180, 40:190], atol=1e-12)


def test_box_template_is_the_box():
    image = torch.rand(3, 200, 220, dtype=torch.float64)
    face = Face((40.0, 30.0, 151.0, 141.0), 1.0, _face([(0, 0)] * 5).landmarks)
    assert torch.allclose(align_face(image, face, "box", 112), image[:, 30:142, 40:152], atol=1e-5)
    assert torch.allclose(
        align_face(image, face, "box", 56), nn.functional.avg_pool2d(image[:, 30:142, 40:152], 2), atol=1e-5
    )


def test_a_coarse_chip_is_antialiased_and_its_gradient_reaches_every_pixel():
    image = torch.rand(1, 3, 400, 400, dtype=torch.float64, requires_grad=True)
    points = (np.array(TEMPLATES["dlib_150"].points) - 74.5) * 2.3 @ np.array([[0.9, 0.1], [-0.1, 0.9]]) + 200
    chip = align_face(image, _face(points.tolist()))
    assert chip.shape == (1, 3, 150, 150)
    assert chip.std() < 0.6 * image.std()
    chip.sum().backward()
    assert (image.grad[0, :, 80:320, 80:320] > 0).all()
    assert image.grad.sum().item() == pytest.approx(chip.numel())


def test_alignment_gradient_is_exact():
    face = _face(((np.array(TEMPLATES["dlib_150"].points) - 74.5) * 0.08 + 5.2).tolist())
    image = torch.rand(1, 3, 11, 12, dtype=torch.float64, requires_grad=True)
    for size in (4, 12):
        assert torch.autograd.gradcheck(lambda x, size=size: align_face(x, face, "dlib_150", size), (image,))


def test_a_batch_equals_single_images(astronaut, face):
    batch = torch.stack([astronaut, astronaut.flip(0)])
    other = Face(face.box_xyxy, face.score, tuple((x + 10, y + 5) for x, y in face.landmarks))
    assert torch.equal(align_face(batch, face)[1], align_face(batch[1], face))
    assert torch.equal(align_face(batch, [face, other])[1], align_face(batch[1], other))
    with pytest.raises(ValueError, match="1 faces for 2 images.*How to fix"):
        align_face(batch, [face])


def test_alignment_refuses_unknown_templates_and_shapes(astronaut, face):
    with pytest.raises(ValueError, match="dlib_150.*arcface_112"):
        align_face(astronaut, face, "arcface")
    with pytest.raises(ValueError, match="needs|no size.*How to fix"):
        align_face(astronaut, face, "box")
    with pytest.raises(ValueError, match=r"\(4, 8, 8\).*How to fix"):
        align_face(torch.zeros(4, 8, 8), face)


def test_the_converter_reads_dlibs_numbers():
    reader = DlibReader(
        bytes.fromhex("0105 810a 02f401 030000 80 8118".replace(" ", ""))
        + b"\1\3tag"
        + bytes.fromhex("0102 0101 0102 0101 0101".replace(" ", ""))
        + np.array([0.5, -3], "<f4").tobytes()
    )
    assert reader.integers(3) == [5, -10, 500]
    assert reader.float() == 0x800000 * 2.0**-24
    reader.seek("tag")
    assert reader.tensor().tolist() == [0.5, -3]
    with pytest.raises(ValueError, match="no record 'con_4'.*How to fix"):
        reader.seek("con_4")


def test_whole_thresholds_make_the_same_decisions():
    threshold = torch.linspace(-64, 63.99, 999)
    whole = shrink_landmarks({"anchor_idx": torch.zeros(1), "split_threshold": threshold})["split_threshold"]
    differences = torch.arange(-255, 256)[:, None]
    assert torch.equal(differences > threshold, differences > whole)


def test_only_five_landmarks_are_shipped():
    predictor = LandmarkPredictor.load()
    assert predictor.initial_shape.shape == (5, 2)
    assert predictor.leaves.shape == (15, 500, 16, 5, 2)


def _face(landmarks) -> Face:
    return Face((0.0, 0.0, 1.0, 1.0), 1.0, tuple((float(x), float(y)) for x, y in landmarks))


class _Spy(nn.Module):
    """The scorer, noting the number of pixels of each level."""

    def __init__(self, scorer, sizes):
        super().__init__()
        self.scorer, self.sizes = scorer, sizes

    def forward(self, image, top):
        self.sizes.append(image.shape[-2] * image.shape[-1])
        return self.scorer(image, top)

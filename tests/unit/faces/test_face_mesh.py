"""The face mesh lies on the face, turns with the photo, and says where a face ends and how ArcFace aligns it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from faceprotect_core.faces import (
    TEMPLATES,
    Face,
    align_face,
    chip_to_image,
    crop_face,
    detect_faces,
    face_from_mediapipe,
    face_mask,
    find_face,
)
from faceprotect_core.faces.again import moved, window_around
from faceprotect_core.faces.face import LEFT_EYE, MOUTH, NOSE_TIP, RIGHT_EYE, transform_points
from faceprotect_core.faces.mask import convex_hull
from faceprotect_core.faces.mesh import OVAL, POINTS, mesh_of

LEVEL = 1 / 255


def eye_distance(face: Face) -> float:
    left, right = face.five_points[:2]
    return float(np.linalg.norm(right - left))


def without_mesh(face: Face) -> Face:
    return replace(face, mesh=None)


def turned(photo: torch.Tensor, degrees: float) -> tuple[torch.Tensor, np.ndarray]:
    """[3, H, W] turned about its middle, and where it takes its pixels: a similarity [2, 3]."""
    angle, middle = np.radians(degrees), (photo.shape[-1] - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    there = np.column_stack([turn, np.full(2, middle) - turn @ np.full(2, middle)])
    back = np.column_stack([turn.T, np.full(2, middle) - turn.T @ np.full(2, middle)])
    grid = np.stack(np.meshgrid(*[np.arange(photo.shape[-1], dtype=float)] * 2), -1)
    grid = (2 * transform_points(back, grid) + 1) / photo.shape[-1] - 1
    seen = F.grid_sample(photo[None], torch.from_numpy(grid).float()[None], padding_mode="border", align_corners=False)
    return seen[0], there


# ------------------------------------------------------------------------------------------------ where the points are


def test_a_detected_face_has_468_points_and_they_lie_in_the_face(face):
    assert face.mesh.shape == (POINTS, 2) and np.isfinite(face.mesh).all()
    left, top, right, bottom = face.box_xyxy
    low, high = face.mesh.min(0), face.mesh.max(0)
    # From the hairline to the chin: a little higher and lower than the detector's box, which goes from brow to chin.
    room = 0.2 * (right - left)
    assert (low > (left - room, top - room)).all() and (high < (right + room, bottom + room)).all()
    assert ((high - low) > 0.8 * (right - left)).all()


def test_the_corners_of_the_eyes_are_where_dlib_finds_them(face):
    """dlib: 0 outer and 1 inner corner at the right, 2 outer and 3 inner corner at the left."""
    mesh = face.mesh[[RIGHT_EYE[1], RIGHT_EYE[0], LEFT_EYE[0], LEFT_EYE[1]]]
    distance = np.linalg.norm(mesh - np.array(face.landmarks)[:4], axis=1)
    assert distance.max() < 0.12 * eye_distance(face)
    nose = np.linalg.norm(face.mesh[2] - face.landmarks[4])
    assert nose < 0.12 * eye_distance(face)


def test_the_five_points_are_eyes_nose_and_mouth_left_before_right(face):
    left_eye, right_eye, nose, left_mouth, right_mouth = face.five_points
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    corners = np.array(face.landmarks)
    assert np.linalg.norm(left_eye - corners[2:4].mean(0)) < 0.1 * eye_distance(face)
    assert np.linalg.norm(right_eye - corners[0:2].mean(0)) < 0.1 * eye_distance(face)
    assert np.array_equal(nose, face.mesh[NOSE_TIP]) and np.array_equal(left_mouth, face.mesh[MOUTH[0]])
    assert without_mesh(face).five_points is None


def test_the_outline_goes_round_the_face(face):
    oval = face.mesh[list(OVAL)]
    inside = face.five_points
    for start, end in zip(oval, np.roll(oval, -1, axis=0), strict=True):
        along = end - start
        assert (along[0] * (inside[:, 1] - start[1]) - along[1] * (inside[:, 0] - start[0]) > 0).all()
    assert oval[0][1] < inside[:, 1].min() and oval[len(OVAL) // 2][1] > inside[:, 1].max()  # forehead, chin


@pytest.mark.parametrize("degrees", [-20, 20])
def test_the_mesh_turns_with_the_photo(astronaut, detector, face, degrees):
    photo, there = turned(astronaut, degrees)
    found = find_face(photo, detector)
    away = np.linalg.norm(found.mesh - transform_points(there, face.mesh), axis=1)
    assert away.mean() < 0.06 * eye_distance(face) and away.max() < 0.2 * eye_distance(face)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_mesh_of_a_face_that_lies_on_its_side_is_that_of_the_upright_one(astronaut, detector, face, turns):
    """Exactly turned pixels: what differs is where the detector and its landmarks looked first."""
    x, y = face.mesh.T
    expected = {1: (y, 511 - x), 2: (511 - x, 511 - y), 3: (511 - y, x)}[turns]
    landmarks = np.array(face.landmarks)
    lx, ly = landmarks.T
    known = np.stack({1: (ly, 511 - lx), 2: (511 - lx, 511 - ly), 3: (511 - ly, lx)}[turns], axis=1)
    left, top, right, bottom = face.box_xyxy
    corners = {
        1: (top, 511 - right, bottom, 511 - left),
        2: (511 - right, 511 - bottom, 511 - left, 511 - top),
        3: (511 - bottom, left, 511 - top, right),
    }
    found = mesh_of(torch.rot90(astronaut, turns, (1, 2)), corners[turns], known, detector.mesh)
    assert np.linalg.norm(found - np.stack(expected, axis=1), axis=1).max() < 0.01 * eye_distance(face)


def test_a_detected_face_that_lies_on_its_side_has_its_mesh_there(astronaut, detector, face):
    found = detect_faces(torch.rot90(astronaut, 1, (1, 2)), detector)[0]
    x, y = face.mesh.T
    away = np.linalg.norm(found.mesh - np.stack([y, 511 - x], axis=1), axis=1)
    assert away.mean() < 0.06 * eye_distance(face)


# ------------------------------------------------------------------------------------------------ alignment


@pytest.mark.parametrize("size", [None, 160])
def test_an_arcface_chip_has_the_five_points_where_its_template_says(astronaut, detector, face, size):
    """What is left over is how this face differs from the template's: no similarity can lay five points on five."""
    template = TEMPLATES["arcface_112"]
    wanted = (np.array(template.five_points) + 0.5) * (size or 112) / 112 - 0.5
    to_photo = chip_to_image(face, "arcface_112", size)
    inverse = np.linalg.inv(np.vstack([to_photo, [0, 0, 1]]))[:2]
    there = transform_points(inverse, face.five_points)
    assert np.abs(there - wanted).max() < 0.08 * (size or 112)  # she smiles: the mouth is wide, the nose long
    assert np.abs((there - wanted).mean(0)).max() < 1e-6  # the least squares have no shift left

    def error(transform: np.ndarray) -> float:
        return float(np.square(transform_points(transform, wanted) - face.five_points).sum())

    for factor, shift in ((1.02, 0), (0.98, 0), (1, 1), (1, -1)):
        assert error(to_photo * factor + (factor == 1) * np.array([[0, 0, shift]] * 2)) > error(to_photo)


def test_the_mesh_that_is_found_in_an_arcface_chip_lies_on_the_template(astronaut, detector, face):
    chip = align_face(astronaut, face, "arcface_112", 224)
    points = (np.array(TEMPLATES["arcface_112"].points) + 0.5) * 2 - 0.5
    found = replace(face, mesh=mesh_of(chip, (30.0, 50.0, 190.0, 210.0), points, detector.mesh)).five_points
    wanted = (np.array(TEMPLATES["arcface_112"].five_points) + 0.5) * 2 - 0.5
    assert np.abs(found - wanted).max() < 0.06 * 224


def test_a_face_without_a_mesh_is_aligned_by_its_eyes(face):
    by_mesh, by_landmarks = (chip_to_image(one, "arcface_112") for one in (face, without_mesh(face)))
    assert np.abs(by_mesh - by_landmarks).max() > 0.01
    eyes = np.array([[38.2946, 51.6963], [73.5318, 51.5014]])
    assert np.abs(transform_points(by_mesh, eyes) - transform_points(by_landmarks, eyes)).max() < 0.15 * eye_distance(
        face
    )
    for template in ("dlib_150", "ffhq_256"):
        assert np.array_equal(*(chip_to_image(one, template) for one in (face, without_mesh(face))))


# ------------------------------------------------------------------------------------------------ the mask


def pixels_inside(hull: np.ndarray, size: int = 512) -> np.ndarray:
    """[size, size] of bool: the pixels that lie on the inner side of every side."""
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(float)
    along = np.roll(hull, -1, axis=0) - hull
    sides = [a[0] * (grid[..., 1] - p[1]) - a[1] * (grid[..., 0] - p[0]) for a, p in zip(along, hull, strict=True)]
    return np.min(sides, axis=0) >= 0


def test_the_mask_covers_the_face_to_its_outline_and_never_goes_beyond(face):
    mask = face_mask([face], 512, 512)[0].numpy()
    inside = pixels_inside(convex_hull(face.mesh))
    assert (mask[~inside] == 0).all()
    assert (mask[inside] > 0).mean() > 0.97  # but for those that lie on the outline itself, as good as
    hard = face_mask([face], 512, 512, feather=0)[0].numpy()
    assert np.array_equal(hard > 0, inside)


def test_the_features_are_covered_whole_and_hair_ear_and_background_are_not(face):
    mask = face_mask([face], 512, 512)[0].numpy()
    for x, y in face.five_points.round().astype(int):
        assert mask[y, x] > 0.9
    left, top, right, bottom = (round(float(value)) for value in (*face.mesh.min(0), *face.mesh.max(0)))
    assert (mask[: top - 1] == 0).all()  # the hair over her forehead
    assert (mask[:, : left - 1] == 0).all() and (mask[:, right + 2 :] == 0).all()  # the ears
    assert (mask[bottom + 2 :] == 0).all()  # the neck and the suit
    # A disc would cover what lies beside the face.
    disc = face_mask([without_mesh(face)], 512, 512)[0].numpy()
    assert (disc[mask == 0] > 0).sum() > 0.3 * (mask > 0).sum()


def test_a_larger_mask_has_a_larger_outline_and_a_smaller_a_smaller(face):
    small, whole, large = (face_mask([face], 512, 512, scale)[0] for scale in (0.7, 1.0, 1.35))
    assert (whole[small > 0] > 0).all() and (large[whole > 0] > 0).all()
    areas = [float((one > 0).sum()) for one in (small, whole, large)]
    assert areas[0] / areas[1] == pytest.approx(0.7**2, rel=0.03)
    assert areas[2] / areas[1] == pytest.approx(1.35**2, rel=0.03)


def test_a_face_without_a_mesh_gets_the_disc(face):
    mask = face_mask([without_mesh(face)], 512, 512)[0].numpy()
    chip = chip_to_image(face, "dlib_150")
    x, y = transform_points(chip, np.full(2, 74.5))
    radius = np.hypot(*chip[:, 0]) * 75
    distance = np.hypot(np.arange(512)[None] - x, np.arange(512)[:, None] - y)
    assert (mask[distance > radius] == 0).all() and (mask[distance < 0.74 * radius] == 1).all()


def test_the_mask_of_two_faces_has_both(face):
    other = moved(face, 150, 200)
    both, one, two = (face_mask(faces, 512, 512) for faces in ([face, other], [face], [other]))
    assert torch.equal(both, torch.maximum(one, two)) and float(two.sum()) == pytest.approx(float(one.sum()), rel=1e-4)


def test_the_hull_of_a_square_has_its_corners_alone():
    points = np.array([(0, 0), (2, 0), (2, 2), (0, 2), (1, 1), (1, 0), (0.5, 1.5)], dtype=float)
    hull = convex_hull(points)
    assert sorted(map(tuple, hull)) == [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert pixels_inside(hull, 4)[:3, :3].all() and not pixels_inside(hull, 4)[3].any()


# ------------------------------------------------------------------------------------------------ carried along


def test_the_mesh_goes_where_the_face_goes(face):
    shifted = moved(face, 12.5, -7.0)
    assert np.allclose(shifted.mesh, face.mesh + (12.5, -7.0)) and shifted.box_xyxy[0] == face.box_xyxy[0] + 12.5
    turn = np.array([[0.0, -2.0, 5.0], [2.0, 0.0, 1.0]])
    there = face.transformed(turn)
    assert np.allclose(there.mesh[1], (5 - 2 * face.mesh[1, 1], 1 + 2 * face.mesh[1, 0]))
    assert np.allclose(there.five_points, transform_points(turn, face.five_points))
    assert without_mesh(face).transformed(turn).mesh is None


def test_the_mesh_goes_into_the_window_and_into_the_crop(astronaut, face):
    rows, columns, here = window_around(face, astronaut)
    assert np.allclose(here.mesh, face.mesh - (columns.start, rows.start))
    crop = crop_face(astronaut, face, 256)
    assert np.allclose(transform_points(crop.to_photo, crop.face.mesh), face.mesh, atol=1e-6)
    # The recogniser's chip is the same, whether it is cut from the photo or from the crop.
    chips = [align_face(image, one, "arcface_112") for image, one in ((astronaut, face), (crop.image, crop.face))]
    assert (chips[0] - chips[1]).abs().mean() < 4 * LEVEL


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("count", [468, 478])
def test_mediapipes_own_points_give_the_same_five(face, count, columns):
    """FACE_LANDMARKS, as another pack's detector hands them over, with and without the irises and depths."""
    random = np.random.default_rng(0)
    points = random.normal(size=(count, columns))
    points[:POINTS, :2] = face.mesh
    found = face_from_mediapipe(points)
    assert np.array_equal(found.five_points, face.five_points) and found.mesh.shape == (POINTS, 2)
    assert np.array_equal(chip_to_image(found, "arcface_112"), chip_to_image(face, "arcface_112"))
    assert torch.equal(face_mask([found], 512, 512), face_mask([face], 512, 512))

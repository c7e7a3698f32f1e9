"""The detector's evaluation lays faces into scenes: the same every time, with the faces where they are said to be."""

import pytest
import torch
from skimage.data import astronaut

from faceprotect_core.evaluation.faces.scenes import Subject, lay_face, natural_scene
from faceprotect_core.faces import crop_face, detect_faces, find_face, overlap
from faceprotect_core.pixels import from_pixels

WIDTH, HEIGHT = 900, 700
PLACES = (((200, 220), 200, 10), ((620, 200), 120, -12), ((520, 520), 66, 0))  # centre, size of the box, degrees


def scene(seed: int = 0) -> torch.Tensor:
    return natural_scene(HEIGHT, WIDTH, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def subject(detector):
    """NASA's portrait of Eileen Collins with FFHQ's framing."""
    photo = from_pixels(astronaut())
    crop = crop_face(photo, find_face(photo, detector), 256)
    return Subject("astronaut_a", crop.image, crop.face)


def compose(subject, seed: int = 0):
    image, faces = scene(seed), []
    for place in PLACES:
        image, face = lay_face(image, subject, *place)
        faces.append(face)
    return image, faces


def test_the_same_seed_makes_the_same_photo(subject):
    image, faces = compose(subject)
    again, same_faces = compose(subject)
    assert torch.equal(again, image) and same_faces == faces
    assert not torch.equal(compose(subject, seed=4)[0], image)


def test_the_faces_are_where_the_boxes_say(subject, detector):
    image, faces = compose(subject)
    found = detect_faces(image, detector, min_face=40)
    best = [max(found, key=lambda face, true=true: overlap(face.box_xyxy, true.box_xyxy)) for true in faces]
    assert len(found) == len({face.box_xyxy for face in best}) == 3
    for face, true in zip(best, faces, strict=True):
        assert overlap(face.box_xyxy, true.box_xyxy) > 0.5
        points, expected = torch.tensor(face.landmarks), torch.tensor(true.landmarks)
        eyes = torch.dist(expected[0], expected[2])
        assert (points - expected).norm(dim=1).mean() < 0.06 * eyes


def test_a_scene_has_no_face(detector):
    assert detect_faces(scene(), detector) == []


def test_outside_the_head_the_scene_stays(subject):
    image, face = lay_face(scene(), subject, (400, 300), 150, degrees=20)
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    changed = (image != scene()).any(0).nonzero()
    assert changed.min(0).values.ge(torch.tensor([top - 90, left - 90])).all()
    assert changed.max(0).values.le(torch.tensor([bottom + 90, right + 90])).all()
    assert (face.box_xyxy[0] + face.box_xyxy[2]) / 2 == pytest.approx(400)

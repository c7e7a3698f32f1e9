"""The evaluation's composed photos: the same every time, with the faces where they are said to be."""

import pytest
import torch
from skimage.data import astronaut

from faceprotect_core.evaluation.faces import whole_photos
from faceprotect_core.evaluation.faces.scenes import Subject, lay_face, natural_scene
from faceprotect_core.evaluation.faces.whole_photos import (
    LARGEST_BOX,
    LAYOUTS,
    THRESHOLD,
    Evaluation,
    box_sizes,
    compose,
)
from faceprotect_core.faces import crop_face, detect_faces, find_face, overlap
from faceprotect_core.photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, LIGHT, PRESETS, PhotoSettings
from faceprotect_core.pixels import as_saved, from_pixels

WIDTH, HEIGHT = 900, 700


@pytest.fixture(scope="module")
def subject(detector):
    """NASA's portrait of Eileen Collins with FFHQ's framing."""
    photo = from_pixels(astronaut())
    crop = crop_face(photo, find_face(photo, detector), 256)
    return Subject("astronaut_a", crop.image, crop.face)


@pytest.fixture(scope="module")
def photo(subject):
    return compose([subject] * 3, WIDTH, HEIGHT, seed=3)


def test_the_same_seed_makes_the_same_photo(subject, photo):
    again = compose([subject] * 3, WIDTH, HEIGHT, seed=3)
    assert torch.equal(again.image, photo.image) and again.faces == photo.faces
    assert not torch.equal(compose([subject] * 3, WIDTH, HEIGHT, seed=4).image, photo.image)


def test_a_photo_holds_8_bit_values(photo):
    assert photo.image.shape == (3, HEIGHT, WIDTH)
    assert torch.equal(as_saved(photo.image), photo.image)


def test_the_faces_are_where_the_boxes_say(photo, detector):
    found = detect_faces(photo.image, detector, min_face=40)
    best = [max(found, key=lambda face, true=true: overlap(face.box_xyxy, true.box_xyxy)) for true in photo.faces]
    assert len(found) == len({face.box_xyxy for face in best}) == 3
    for face, true in zip(best, photo.faces, strict=True):
        assert overlap(face.box_xyxy, true.box_xyxy) > 0.5
        points, expected = torch.tensor(face.landmarks), torch.tensor(true.landmarks)
        eyes = torch.dist(expected[0], expected[2])
        assert (points - expected).norm(dim=1).mean() < 0.06 * eyes


def test_a_scene_has_no_face(detector):
    scene = natural_scene(HEIGHT, WIDTH, torch.Generator().manual_seed(0))
    assert detect_faces(scene, detector) == []


def test_outside_the_head_the_scene_stays(subject):
    scene = natural_scene(HEIGHT, WIDTH, torch.Generator().manual_seed(0))
    image, face = lay_face(scene, subject, (400, 300), 150, degrees=20)
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    changed = (image != scene).any(0).nonzero()
    assert changed.min(0).values.ge(torch.tensor([top - 90, left - 90])).all()
    assert changed.max(0).values.le(torch.tensor([bottom + 90, right + 90])).all()
    assert (face.box_xyxy[0] + face.box_xyxy[2]) / 2 == pytest.approx(400)


@pytest.mark.parametrize(("width", "height", "count"), LAYOUTS)
def test_faces_are_of_very_different_sizes(width, height, count):
    sizes = box_sizes(count, width, height, torch.Generator().manual_seed(0))
    assert len(sizes) == count and sizes == sorted(sizes, reverse=True)
    assert 60 <= sizes[-1] < 70 and 300 < sizes[0] * 6 / 5 and sizes[0] <= LARGEST_BOX


def test_the_threshold_of_the_tables_is_the_judges(recognizer):
    assert recognizer.name == BUILT_IN_JUDGE and recognizer.threshold() == THRESHOLD


def test_a_photo_is_measured_by_the_judge_alone_and_outside_the_mask_nothing_changed(monkeypatch, tmp_path, detector):
    """Of light and shade with hardly any iterations: she is known still, and the verdict says so."""
    monkeypatch.setitem(PRESETS[LIGHT], "fast", PhotoSettings(tries=1).tuned(iterations=1, strength=11.0))
    evaluation = Evaluation(tmp_path, "fast")
    assert evaluation.model is None and [one.name for one in evaluation.surrogates] == list(BUILT_IN_SURROGATES)
    entry, finished = evaluation.run(whole_photos.astronaut(detector))
    assert entry["outside_bit_equal"] and entry["claimed_protected"] is False
    assert torch.equal(as_saved(finished), finished)
    (face,) = entry["faces"]
    assert face["detected"] and face["found_again"] and 20 < face["psnr"] < 50
    judge = face["verdict"]["scores"][0]
    assert (judge["recogniser"], judge["role"], judge["reached"]) == (BUILT_IN_JUDGE, "judge", False)
    assert 0.1 < face["distance_to_original"] < THRESHOLD
    # The verdict looks for the face around its place, the evaluation in the whole photo: other steps of the pyramid.
    assert judge["after"] == pytest.approx(face["distance_to_original"], abs=0.02)
    table = whole_photos.summarize({"astronaut": entry})
    assert f"past {THRESHOLD:.2f}" in table and "| 1 of 1 |" in table and "| yes |" in table

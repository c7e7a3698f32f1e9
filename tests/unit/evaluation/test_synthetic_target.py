"""The built-in target face: one good face, which is nobody that can be asked here."""

import pytest
import torch
from skimage.data import astronaut

from faceprotect_core import ProtectionError, load_surrogate
from faceprotect_core.demo import SYNTHETIC_TARGET, load_synthetic_target
from faceprotect_core.evaluation.training.synthetic_target import blend, lookalikes
from faceprotect_core.faces import detect_faces, find_face
from faceprotect_core.pixels import from_pixels


@pytest.fixture(scope="module")
def target():
    return load_synthetic_target()


def test_it_is_a_small_picture_in_range(target):
    assert target.shape == (1, 3, 256, 256) and target.dtype == torch.float32
    assert 0 <= target.min() < 0.3 and 0.7 < target.max() <= 1
    assert SYNTHETIC_TARGET.stat().st_size <= 120_000


def test_there_is_one_good_face_in_it(target):
    (face,) = detect_faces(target[0], threshold=-0.5)
    assert face.score > 0.9


def test_it_is_not_the_astronaut(target):
    recogniser = load_surrogate("dlib_resnet")
    photo = from_pixels(astronaut())[None]
    pair = (recogniser.embed(image, find_face(image[0])) for image in (target, photo))
    assert recogniser.distance(*pair).item() > recogniser.threshold()


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ProtectionError, match="synthetic_target.png is missing.*How to fix: "):
        load_synthetic_target(tmp_path / "synthetic_target.png")


def test_a_blend_is_of_those_who_look_alike():
    """Two kinds of people, told apart by their grey values: brightness alone makes no likeness."""
    ramp = torch.linspace(0, 0.5, 256).expand(3, 256, 256)
    people = torch.stack([ramp, ramp.flip(-1), ramp + 0.3, ramp.flip(-1) + 0.1])
    assert sorted(lookalikes(people, person=0, count=2).tolist()) == [0, 2]
    assert torch.equal(blend(people[[0, 0]]), blend(people[[0]]))

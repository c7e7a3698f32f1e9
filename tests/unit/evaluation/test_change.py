"""A change scaled to what is seen of it: over the face, without what makeup is meant to change."""

import pytest
import torch

from faceprotect_core.evaluation.protocol.change import LARGEST_FACTOR, Subject, to_ciede2000
from faceprotect_core.faces import crop_face, face_mask, face_regions, find_face
from faceprotect_core.pixels import as_saved
from faceprotect_core.verify.quality import ciede2000


@pytest.fixture(scope="module")
def subject(astronaut) -> Subject:
    crop = crop_face(astronaut, find_face(astronaut), 256)
    return Subject(None, crop.image[None], crop.face)


@pytest.fixture(scope="module")
def parts(subject) -> tuple[torch.Tensor, torch.Tensor]:
    """Lips and eyes, and the rest of the face: each [1, 256, 256] of bool."""
    regions = face_regions(subject.face, 256, 256)
    made_up = regions["lips"] + regions["eyes"] >= 0.5
    return made_up, (face_mask([subject.face], 256, 256) > 0.5) & ~made_up


@pytest.mark.parametrize("wanted", [1.0, 3.0])
@pytest.mark.parametrize("size", [0.02, 0.2])
def test_it_is_as_visible_as_was_wanted_on_the_rest_of_the_face(subject, parts, wanted, size):
    made_up, rest = parts
    noise = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    changed = as_saved(subject.photo + size * noise * rest + 0.3 * made_up)
    scaled = to_ciede2000(subject, changed, wanted)
    mean, _ = ciede2000(as_saved(subject.photo), scaled, rest[None])
    assert mean.item() == pytest.approx(wanted, abs=0.1) and mean.item() <= wanted
    assert (scaled - subject.photo).abs().mul(made_up).max() > 0.02  # lips and eyes are scaled along


def test_a_change_of_lips_and_eyes_alone_grows_to_the_largest_factor(subject, parts):
    made_up, _ = parts
    changed = subject.photo + 0.02 * made_up
    assert torch.allclose(
        to_ciede2000(subject, changed, 1.0), as_saved(subject.photo + 0.02 * LARGEST_FACTOR * made_up), atol=1.01 / 255
    )

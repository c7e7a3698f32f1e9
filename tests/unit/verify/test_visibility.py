"""How visible a change is, in words that follow the numbers, and nothing for a face that cannot be measured."""

import json
import math
from dataclasses import replace

import pytest
import torch

from faceprotect_core.faces import Face, face_mask, find_face
from faceprotect_core.pixels import as_saved
from faceprotect_core.verify.quality import ciede2000, ms_ssim, psnr
from faceprotect_core.verify.visibility import Visibility, visibility_of

NONE = Visibility(0.0, 0.0, math.inf, 1.0)


@pytest.fixture(scope="module")
def photo(astronaut):
    return as_saved(torch.nn.functional.interpolate(astronaut[None, :, :300, 80:400], scale_factor=2)[0])


@pytest.fixture(scope="module")
def face(photo, detector):
    return find_face(photo, detector)


@pytest.mark.parametrize(
    ("mean", "worst", "words"),
    [
        (0.0, 0.0, "not changed"),
        (0.4, 1.0, "hardly visible"),
        (2.0, 3.5, "hardly visible"),
        (2.1, 3.5, "visible when compared"),
        (2.0, 3.6, "visible when compared"),
        (3.5, 7.0, "visible when compared"),
        (3.6, 7.0, "clearly visible"),
        (1.0, 7.1, "clearly visible"),  # a patch, which the mean over the face does not show
    ],
)
def test_the_words_follow_the_mean_and_the_most_changed_part(mean, worst, words):
    assert replace(NONE, ciede2000=mean, ciede2000_95=worst).words == words


def test_it_is_measured_over_the_face_alone(photo, face):
    changed = photo.clone()
    changed[:, :20] = 0  # above the face
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    assert top > 20
    assert visibility_of(photo, changed, face) == replace(NONE, ms_ssim=pytest.approx(1))
    changed = as_saved(changed + 0.02)
    found, mask = visibility_of(photo, changed, face), face_mask([face], *photo.shape[1:])[None] > 0.5
    mean, worst = ciede2000(photo[None], changed[None], mask)
    assert (found.ciede2000, found.ciede2000_95) == (mean.item(), worst.item())
    assert found.psnr == psnr(photo[None], changed[None], mask).item()
    box = (image[None, :, top:bottom, left:right] for image in (photo, changed))
    assert found.ms_ssim == ms_ssim(*box).item()
    assert found.words == "hardly visible" and visibility_of(photo, as_saved(photo * 0.8), face).words[:7] == "clearly"


def test_a_small_face_has_no_ms_ssim_and_says_why(photo, face):
    half = torch.nn.functional.avg_pool2d(photo, 2)
    small = face.transformed(torch.tensor([[0.5, 0, 0], [0, 0.5, 0]]).double().numpy())
    small = replace(small, box_xyxy=tuple(value / 2 for value in face.box_xyxy))
    found = visibility_of(half, as_saved(half + 0.02), small)
    assert found.ms_ssim is None and "MS-SSIM - (below 161 pixels)" in found.numbers
    assert found.ciede2000 > 0.5


def test_a_face_outside_the_photo_is_not_measured(photo):
    outside = Face((-90.0, -90.0, -20.0, -20.0), 1.0, ((-60.0, -60.0), (-40.0, -60.0), (-50.0, -50.0),
                   (-60.0, -40.0), (-40.0, -40.0)))  # fmt: skip
    assert visibility_of(photo, photo, outside) is None


def test_json_holds_no_infinity(photo, face):
    text = json.dumps(visibility_of(photo, photo, face).to_dict(), allow_nan=False)
    assert json.loads(text)["psnr"] is None and json.loads(text)["visible"] == "not changed"

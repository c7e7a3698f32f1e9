"""A whole photo: one call protects its faces, leaves the rest alone, and says the truth about the result."""

from dataclasses import replace

import pytest
import torch

from faceprotect_core import FRSurrogate, IdentityObjective, ProtectionError, protect
from faceprotect_core.demo import load_demo_model
from faceprotect_core.faces import crop_face, detect_faces, find_face, paste_faces
from faceprotect_core.judge import judge_photo
from faceprotect_core.photo import PRESETS, protect_photo

# Enough to see that it works, not enough to be protected: the claims about protection have tests of their own.
QUICK = replace(PRESETS["balanced"], depth=1, null_text_iterations=1, iterations=2)


@pytest.fixture(scope="module")
def models():
    return load_demo_model()


@pytest.fixture(scope="module")
def two(astronaut):
    return torch.cat([astronaut[:, :300, 80:400], astronaut[:, :300, 80:400].flip(2)], 2)


def test_every_preset_is_named_and_says_when_a_photo_counts_as_protected():
    assert list(PRESETS) == ["fast", "balanced", "strong"]
    for settings in PRESETS.values():
        assert settings.margin > settings.wanted_margin > 0


@pytest.mark.slow
def test_the_fast_preset_protects_a_photo_that_is_no_multiple_of_8(models, recognizer, astronaut):
    photo = astronaut[:, :301, 60:395]
    result = protect_photo(*models, photo, [recognizer], PRESETS["fast"])
    assert result.protected and result.faces[0].found_again
    assert result.image.shape == photo.shape
    outside = (result.mask == 0).expand_as(photo)
    assert torch.equal(result.image[outside], photo[outside])
    assert (photo - result.image).abs().max() < 0.5
    again = find_face(result.image.mul(255).round().div(255))
    away = recognizer.margin(
        recognizer.embed(result.image[None], again), recognizer.embed(photo[None], find_face(photo))
    )
    assert away > 0.05


def test_it_is_the_same_call_as_the_blocks(models, recognizer, astronaut):
    denoiser, codec, context = models
    face = find_face(astronaut)
    crop = crop_face(astronaut, face, QUICK.size)
    image = crop.image[None]
    objective = IdentityObjective(
        [recognizer], source=image, face=crop.face, source_face=crop.face, margin=QUICK.margin
    )
    by_hand = protect(
        denoiser,
        codec,
        image,
        context,
        objective,
        depth=QUICK.depth,
        pairing=QUICK.pairing,
        null_text_iterations=QUICK.null_text_iterations,
        iterations=QUICK.iterations,
        lr=QUICK.lr,
        output="detail",
        mask=crop.mask[None],
        fidelity_weight=QUICK.fidelity_weight,
    )
    expected, _ = paste_faces(astronaut, [crop], by_hand.image)
    result = protect_photo(denoiser, codec, context, astronaut, [recognizer], QUICK)
    assert torch.equal(result.image, expected)
    assert not torch.equal(result.image, astronaut)


def test_faces_to_keep_stay_bit_equal_and_the_others_do_not(models, recognizer, two, detector):
    left, right = sorted(detect_faces(two, detector), key=lambda face: face.box_xyxy)
    result = protect_photo(*models, two, [recognizer], QUICK, faces=[right], keep=[left])
    assert torch.equal(result.image[..., :320], two[..., :320])
    assert not torch.equal(result.image[..., 320:], two[..., 320:])
    assert len(result.faces) == 1 and result.faces[0].face == right
    assert result.crops[0].keep == (left,)


def test_all_faces_are_protected_by_default_and_reported_from_left_to_right(models, recognizer, two):
    events = []
    result = protect_photo(*models, two, [recognizer], QUICK, on_step=events.append)
    boxes = [verdict.face.box_xyxy for verdict in result.faces]
    assert len(boxes) == 2 and boxes == sorted(boxes)
    assert [event["face"] for event in events if event["stage"] == "protection"] == [1, 1, 2, 2]
    assert {event["faces"] for event in events} == {2}


def test_a_photo_that_was_not_protected_enough_is_not_called_protected(models, recognizer, astronaut):
    result = protect_photo(*models, astronaut, [recognizer], replace(QUICK, iterations=0))
    assert not result.protected
    (score,) = result.faces[0].scores.values()
    assert score["before"] == 0 and score["after"] < 0.05 and not score["reached"]
    assert (score["threshold"], score["wanted"]) == (0.6, pytest.approx(0.7))


def test_the_verdict_is_about_the_photo_as_it_is_saved(recognizer, astronaut, detector):
    """A face that is gone is past the threshold, and the verdict says that no face was found there."""
    face = find_face(astronaut, detector)
    painted = astronaut.clone()
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    painted[:, top:bottom, left:right] = 0.5
    (verdict,) = judge_photo(astronaut, painted, [face], [recognizer], QUICK, detector=detector)
    assert not verdict.found_again and verdict.protected
    (same,) = judge_photo(astronaut, astronaut, [face], [recognizer], QUICK, detector=detector)
    assert same.found_again and not same.protected


def test_misled_landmarks_do_not_count_as_protection(recognizer, astronaut, detector, monkeypatch):
    """The same face, aligned wrongly, is far from itself: that must not pass, nor count as somebody matched."""
    face = find_face(astronaut, detector)
    wrong = replace(face, landmarks=face.landmarks[::-1])
    monkeypatch.setattr("faceprotect_core.judge.find_again", lambda *_: wrong)
    for goal, protected in (("dodge", False), ("impersonate", False)):
        arguments = (astronaut, astronaut, [face], [recognizer], QUICK, goal, astronaut)
        (verdict,) = judge_photo(*arguments, detector=detector)
        assert verdict.protected == protected, goal


def test_a_verdict_on_doubtful_landmarks_says_so(recognizer, astronaut, detector):
    face = find_face(astronaut, detector)
    for one, doubtful in ((face, False), (replace(face, unsteadiness=0.2), True)):
        (verdict,) = judge_photo(astronaut, astronaut, [one], [recognizer], QUICK, detector=detector)
        assert verdict.doubtful == verdict.to_dict()["doubtful"] == doubtful


def test_to_impersonate_is_to_match_the_target(recognizer, astronaut, detector):
    face = find_face(astronaut, detector)
    arguments = (astronaut, astronaut, [face], [recognizer], QUICK, "impersonate")
    (herself,) = judge_photo(*arguments, astronaut, detector=detector)
    assert herself.protected, "she matches herself"


def test_to_impersonate_does_not_push_away_from_the_photo(models, recognizer, two):
    """The objective is that of FR Surrogate Loss in the mode impersonate: the target alone."""
    denoiser, codec, context = models
    left, target = two[..., :320], two[..., 320:]
    crop, target_face = crop_face(left, find_face(left), QUICK.size), find_face(target)
    objective = IdentityObjective(
        [recognizer], target=target[None], face=crop.face, target_face=target_face, margin=QUICK.margin
    )
    by_hand = protect(
        denoiser, codec, crop.image[None], context, objective, depth=1, pairing="exact", null_text_iterations=1,
        iterations=2, lr=QUICK.lr, output="detail", mask=crop.mask[None], fidelity_weight=QUICK.fidelity_weight,
    )  # fmt: skip
    expected, _ = paste_faces(left, [crop], by_hand.image)
    result = protect_photo(*models, left, [recognizer], QUICK, goal="impersonate", target=target)
    assert torch.equal(result.image, expected)


def brightness(metric: str) -> FRSurrogate:
    """A recogniser that sees a face's mean colour: distances are what the test makes them."""

    def embed(image):
        mean = (image.mean((2, 3)) + 1) / 2
        return mean if metric == "euclidean" else torch.stack([mean[:, 0], 1 - mean[:, 0]], 1)

    return FRSurrogate(embed, 32, name="brightness", metric=metric, default_threshold=0.5, template="dlib_150")


@pytest.mark.parametrize(("change", "protected"), [(0.2, False), (0.32, False), (0.36, True)])
def test_a_face_counts_as_protected_only_beyond_the_wanted_margin(astronaut, detector, change, protected):
    """The threshold is 0.5 and the wanted margin 0.1; three channels that change by x are x * sqrt(3) apart."""
    face = find_face(astronaut, detector)
    grey = torch.full_like(astronaut, 0.4)
    (verdict,) = judge_photo(grey, grey + change, [face], [brightness("euclidean")], QUICK, detector=detector)
    (score,) = verdict.scores.values()
    assert score["after"] == pytest.approx(round((0.4 + change) * 255) / 255 * 3**0.5 - 102 / 255 * 3**0.5, abs=1e-4)
    assert (verdict.protected, score["wanted"]) == (protected, pytest.approx(0.6))


def test_with_a_cosine_protected_means_below_the_threshold(astronaut, detector):
    face = find_face(astronaut, detector)
    dark, bright = torch.full_like(astronaut, 0.1), torch.full_like(astronaut, 0.9)
    for finished, protected in ((bright, True), (dark, False)):
        (verdict,) = judge_photo(dark, finished, [face], [brightness("cosine")], QUICK, detector=detector)
        (score,) = verdict.scores.values()
        assert (verdict.protected, score["wanted"]) == (protected, pytest.approx(0.4))


def test_a_change_that_8_bits_do_not_hold_is_none(astronaut, detector):
    face = find_face(astronaut, detector)
    grey = torch.full_like(astronaut, 102 / 255)
    (verdict,) = judge_photo(grey, grey + 0.001, [face], [brightness("euclidean")], QUICK, detector=detector)
    assert next(iter(verdict.scores.values()))["after"] < 1e-5


def test_no_face_is_an_error(models, recognizer):
    with pytest.raises(ProtectionError, match="no face found in the photo of 200 x 100 pixels.*How to fix"):
        protect_photo(*models, torch.full((3, 100, 200), 0.5), [recognizer], QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": "impersonate"}, "'impersonate' needs a face to look like"),
        ({"goal": "hide"}, "the goal is 'hide'"),
        ({"goal": "synthetic", "target": torch.rand(3, 99, 98)}, "no face found in the target photo of 98 x 99"),
        ({"photo": torch.zeros(1, 3, 64, 64)}, "takes one photo"),
        ({"photo": torch.full((3, 64, 64), torch.nan)}, "NaN"),
    ],
)
def test_what_cannot_work_is_refused(models, recognizer, astronaut, change, message):
    with pytest.raises(ProtectionError, match=f"{message}.*How to fix"):
        protect_photo(*models, **{"photo": astronaut, "surrogates": [recognizer], "settings": QUICK} | change)

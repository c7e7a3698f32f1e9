"""A whole photo: one call protects its faces, leaves the rest alone, and says the truth about the result."""

from dataclasses import replace

import pytest
import torch

from faceprotect_core import AlignmentJitter, IdentityObjective, ProtectionError, load_surrogate, protect
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.evaluation.painted import painted
from faceprotect_core.faces import crop_face, detect_faces, find_face, paste_faces
from faceprotect_core.method.light_and_shade import protect_by_light
from faceprotect_core.method.peers.makeup import MakeupLoss
from faceprotect_core.method.restraint.least_change import least_change
from faceprotect_core.photos.photo import protect_photo
from faceprotect_core.photos.settings import (
    BUILT_IN_SURROGATES,
    DIFFUSION,
    FURTHER_MARGIN,
    LIGHT,
    PRESETS,
    WEIGHTS,
    PhotoSettings,
)
from faceprotect_core.pixels import as_saved
from faceprotect_core.verify.verdict import JUDGE, LOSS

# Enough to see that it works, not enough to be protected: the claims about protection have tests of their own.
# All that the presets tune is said here.
QUICK = PhotoSettings(margin=0.0, tries=1).tuned(iterations=2, lr=0.25, fidelity_weight=0.2)
DIFFUSED = replace(PRESETS[DIFFUSION]["balanced"], tries=1, head_start=False).tuned(
    depth=1, null_text_iterations=1, iterations=2
)


@pytest.fixture(scope="module")
def mobileface():
    return load_surrogate("mobileface")


@pytest.fixture(scope="module")
def easy():
    """A recogniser that is fooled before the first iteration: what it takes is less than the whole change."""
    return load_surrogate("mobileface", threshold=0.9)


@pytest.fixture(scope="module")
def hard():
    """A recogniser that nothing fools so far: the whole change is kept."""
    return load_surrogate("mobileface", threshold=-0.99)


@pytest.fixture(scope="module")
def two(astronaut):
    return torch.cat([astronaut[:, :300, 80:400], astronaut[:, :300, 80:400].flip(2)], 2)


# ------------------------------------------------------------------------------------------------ settings


def test_every_preset_is_named_in_both_ways_and_wants_every_surrogate_past_its_threshold():
    assert list(PRESETS) == [LIGHT, DIFFUSION]
    for way, presets in PRESETS.items():
        assert list(presets) == ["instant"] * (way == LIGHT) + ["fast", "balanced", "strong"]
        for name, settings in presets.items():
            assert settings.way == way and settings.margin >= 0
            assert settings.network == (name == "instant") and settings.tries == 3 + settings.network
        iterations = [one.method.iterations for one in presets.values()]
        assert iterations == sorted(set(iterations))
        assert presets["strong"].margin > presets["balanced"].margin
    assert PhotoSettings() == PRESETS[LIGHT]["balanced"]


@pytest.mark.parametrize("way", [LIGHT, DIFFUSION])
def test_a_further_try_may_change_more_and_must_go_further(way):
    settings = PRESETS[way]["balanced"]
    further = settings.further
    assert further.margin == pytest.approx(settings.margin + FURTHER_MARGIN) and FURTHER_MARGIN > 0
    for one, before in ((further.light, settings.light), (further.diffusion, settings.diffusion)):
        assert one.fidelity_weight < 0.7 * before.fidelity_weight
    assert 1 <= further.method.iterations <= settings.method.iterations
    assert further.insists and not settings.insists
    light, diffusion = settings.light, settings.diffusion
    light = replace(further.light, fidelity_weight=light.fidelity_weight, iterations=light.iterations)
    diffusion = replace(further.diffusion, fidelity_weight=diffusion.fidelity_weight, iterations=diffusion.iterations)
    same = {"margin": settings.margin, "insists": False, "light": light, "diffusion": diffusion}
    assert replace(further, **same) == settings, "nothing else"


# ------------------------------------------------------------------------------------------------ the real thing


@pytest.mark.slow
def test_the_fast_preset_protects_from_a_recogniser_that_was_not_used(recognizer, astronaut):
    surrogates = [load_surrogate(name) for name in BUILT_IN_SURROGATES]
    result = protect_photo(astronaut, surrogates, PRESETS[LIGHT]["fast"], judge=recognizer)
    (verdict,) = result.faces
    assert result.protected and verdict.evidence and verdict.found_again and not verdict.doubtful
    assert [(score.recogniser, score.role) for score in verdict.scores] == [
        ("dlib_resnet", JUDGE), *((name, LOSS) for name in BUILT_IN_SURROGATES)
    ]  # fmt: skip
    saved = as_saved(result.image)[None]
    before = recognizer.embed(astronaut[None], find_face(astronaut))
    assert not recognizer.is_match(recognizer.embed(saved, find_face(saved[0])), before)
    assert not recognizer.is_match(recognizer.embed(saved, verdict.face), before)


@pytest.mark.slow
def test_the_fast_preset_of_diffusion_protects_a_photo_that_is_no_multiple_of_8(demo, recognizer, astronaut):
    photo = astronaut[:, :301, 60:395]
    result = protect_photo(photo, [recognizer], PRESETS[DIFFUSION]["fast"], model=demo)
    assert result.protected and result.faces[0].found_again
    assert result.image.shape == photo.shape
    outside = (result.mask == 0).expand_as(photo)
    assert torch.equal(result.image[outside], photo[outside])
    assert (photo - result.image).abs().max() < 0.5
    again = find_face(as_saved(result.image))
    away = recognizer.margin(
        recognizer.embed(result.image[None], again), recognizer.embed(photo[None], find_face(photo))
    )
    assert away > 0.05


def test_without_a_diffusion_model_a_photo_is_protected_from_what_was_used(easy, astronaut):
    (verdict,) = protect_photo(astronaut, [easy], replace(QUICK, margin=0.1)).faces
    (score,) = verdict.scores
    assert verdict.protected and (score.role, score.recogniser, score.knew) == (LOSS, "mobileface", True)
    assert not verdict.evidence, "no judge was asked"


# ------------------------------------------------------------------------------------------------ the blocks


def by_hand(photo, surrogates, settings, model=None, target=None):
    """The photo with its one face protected by the blocks' own calls, and how much of the change was kept."""
    crop = crop_face(photo, find_face(photo), settings.size)
    image, mask = crop.image[None], crop.mask[None]
    target_face = None if target is None else find_face(target)
    objective = IdentityObjective(
        surrogates,
        source=image if target is None else None,
        target=None if target is None else target[None],
        face=crop.face,
        source_face=None if target is not None else crop.face,
        target_face=target_face,
        margin=settings.margin,
        steepness=settings.steepness,
        jitter=AlignmentJitter(1),
        weights=[WEIGHTS.get(one.name, 1.0) for one in surrogates],
    )
    if settings.way == LIGHT:
        changed = protect_by_light(image, objective, settings.light, mask=mask).rendering.image
    else:
        denoiser, codec, context = model
        names = ("depth", "pairing", "null_text_iterations", "iterations", "lr", "fidelity_weight", "keep_colours")
        options = {name: getattr(settings.diffusion, name) for name in names}
        changed = protect(denoiser, codec, image, context, objective, output="detail", mask=mask, **options).image
    changed, kept = least_change(image, changed, objective)
    pasted, _ = paste_faces(photo, [crop], changed)
    return pasted, kept.item()


@pytest.mark.parametrize("name, parts", [("hard", False), ("easy", True)])
def test_it_is_the_same_call_as_the_blocks(request, recognizer, astronaut, name, parts):
    """With a face that keeps the whole change, and with one of which a part is taken back."""
    surrogates = [request.getfixturevalue(name), replace(recognizer, default_threshold=0.01)]
    expected, kept = by_hand(astronaut, surrogates, QUICK)
    assert (0 < kept < 1) if parts else kept == 1
    result = protect_photo(astronaut, surrogates, QUICK)
    assert torch.equal(result.image, expected) and not torch.equal(result.image, astronaut)


def test_through_diffusion_it_is_the_same_call_as_the_blocks(demo, recognizer, astronaut):
    expected, kept = by_hand(astronaut, [recognizer], DIFFUSED, demo)
    result = protect_photo(astronaut, [recognizer], DIFFUSED, model=demo)
    assert torch.equal(result.image, expected) and kept == 1
    assert not torch.equal(result.image, astronaut)


@pytest.mark.parametrize("settings", [QUICK, DIFFUSED], ids=[LIGHT, DIFFUSION])
def test_to_impersonate_does_not_push_away_from_the_photo(demo, mobileface, astronaut, settings):
    """The objective is that of FR Surrogate Loss in the mode impersonate: the target alone."""
    target = load_synthetic_target()[0]
    expected, _ = by_hand(astronaut, [mobileface], settings, demo, target)
    result = protect_photo(astronaut, [mobileface], settings, model=demo, goal="impersonate", target=target)
    assert torch.equal(result.image, expected) and not torch.equal(result.image, astronaut)


def test_whoever_is_taken_for_the_target_already_is_left_as_it_is(mobileface, two):
    left, target = two[..., :320], two[..., 320:]
    result = protect_photo(left, [mobileface], QUICK, goal="impersonate", target=target)
    assert torch.equal(result.image, left) and result.protected


# ------------------------------------------------------------------------------------------------ what changes


def test_outside_the_mask_every_pixel_is_bit_equal_and_on_the_face_hardly_any_is(mobileface, astronaut):
    result = protect_photo(astronaut, [mobileface], QUICK)
    outside = (result.mask == 0).expand_as(astronaut)
    assert torch.equal(result.image[outside], astronaut[outside]) and 0.5 < outside.float().mean() < 1
    left, top, right, bottom = (round(value) for value in result.faces[0].face.box_xyxy)
    before, after = (one[:, top:bottom, left:right] for one in (astronaut, result.image))
    assert (before != after)[(before > 0.2) & (before < 0.8)].float().mean() > 0.8, "where nothing is clipped"
    assert result.image.min() >= 0 and result.image.max() <= 1


def test_the_same_photo_comes_out_the_same(mobileface, astronaut, detector):
    settings = replace(QUICK, tries=2)
    state, photo = torch.get_rng_state(), astronaut.clone()
    first = protect_photo(photo, [mobileface], settings, detector=detector)
    assert torch.equal(photo, astronaut) and torch.equal(torch.get_rng_state(), state)
    torch.rand(3)  # other random numbers make no difference
    again = protect_photo(photo, [mobileface], settings, detector=detector)
    assert torch.equal(first.image, again.image) and torch.equal(first.mask, again.mask)
    assert first.faces == again.faces


def test_grey_stays_grey(mobileface, astronaut):
    grey = astronaut.mean(0, keepdim=True).expand_as(astronaut).contiguous()
    image = protect_photo(grey, [mobileface], QUICK).image
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    assert not torch.equal(image, grey)


def test_a_surrogate_that_is_fooled_early_leaves_more_of_the_photo(hard, easy, astronaut):
    whole, part = (protect_photo(astronaut, [network], QUICK).image - astronaut for network in (hard, easy))
    assert part.square().mean() < 0.7 * whole.square().mean()


def test_with_a_reference_it_comes_closer_to_its_makeup_and_no_other_pixel_changes(hard, astronaut, face):
    reference = painted(astronaut, face)
    makeup = MakeupLoss(astronaut[None], [face], reference[None], face)
    settings = QUICK.tuned(iterations=6)
    plain, made_up = (protect_photo(astronaut, [hard], settings, makeup=one) for one in (None, reference))
    assert makeup(made_up.image[None]).item() < 0.9 * makeup(plain.image[None]).item()
    outside = (made_up.mask == 0).expand_as(astronaut)
    assert torch.equal(made_up.mask, plain.mask) and torch.equal(made_up.image[outside], astronaut[outside])


def test_faces_to_keep_stay_bit_equal_and_the_others_do_not(mobileface, two, detector):
    left, right = sorted(detect_faces(two, detector), key=lambda face: face.box_xyxy)
    result = protect_photo(two, [mobileface], QUICK, faces=[right], keep=[left])
    assert torch.equal(result.image[..., :320], two[..., :320])
    assert not torch.equal(result.image[..., 320:], two[..., 320:])
    assert len(result.faces) == 1 and result.faces[0].face == right
    assert result.crops[0].keep == (left,)


def test_all_faces_are_protected_by_default_and_reported_from_left_to_right(mobileface, two):
    events = []
    result = protect_photo(two, [mobileface], QUICK, on_step=events.append)
    boxes = [verdict.face.box_xyxy for verdict in result.faces]
    assert len(boxes) == 2 and boxes == sorted(boxes)
    assert [event.face for event in events if event.stage == "protection"] == [1, 1, 2, 2]
    assert {(event.faces, event.attempt, event.photos) for event in events} == {(2, 1, 1)}


def test_a_photo_that_was_not_protected_enough_is_not_called_protected(demo, recognizer, astronaut):
    result = protect_photo(astronaut, [recognizer], DIFFUSED.tuned(iterations=0), model=demo)
    assert not result.protected
    (score,) = result.faces[0].scores
    assert score.before == 0 and score.after < 0.05 and not score.reached
    assert score.threshold == 0.6476


# ------------------------------------------------------------------------------------------------ refusals


def test_no_face_is_an_error(mobileface):
    with pytest.raises(ProtectionError, match="no face found in the photo of 200 x 100 pixels.*How to fix"):
        protect_photo(torch.full((3, 100, 200), 0.5), [mobileface], QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": "impersonate"}, "'impersonate' needs a face to look like"),
        ({"goal": "hide"}, "the goal is 'hide'"),
        ({"goal": "synthetic", "target": torch.rand(3, 99, 98)}, "no face found in the target photo of 98 x 99"),
        ({"makeup": torch.rand(3, 99, 98)}, "no face found in the makeup reference of 98 x 99"),
        ({"photo": torch.zeros(1, 3, 64, 64)}, "takes one photo"),
        ({"photo": torch.full((3, 64, 64), torch.nan)}, "NaN"),
        ({"settings": DIFFUSED}, "those of diffusion, and there is no diffusion model"),
        ({"settings": QUICK.tuned(fidelity_weight=-1.0)}, "fidelity_weight is -1"),
        ({"surrogates": []}, "no surrogate"),
    ],
)
def test_what_cannot_work_is_refused(mobileface, astronaut, change, message):
    with pytest.raises(ProtectionError, match=f"{message}.*How to fix"):
        protect_photo(**{"photo": astronaut, "surrogates": [mobileface], "settings": QUICK} | change)

"""While a preset works that takes long there is something to look at: what instant would give."""

from dataclasses import replace

import pytest
import torch

from faceprotect_core import ProtectionError, load_surrogate
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.faces import crop_face, detect_faces
from faceprotect_core.photos.batch import Aim, CropProtector
from faceprotect_core.photos.photo import CutPhoto, protect_photos
from faceprotect_core.photos.settings import DIFFUSION, LIGHT, PRESETS

QUICK = replace(PRESETS[DIFFUSION]["fast"], size=128, tries=1).tuned(null_text_iterations=1, iterations=1)


@pytest.fixture(scope="module")
def portrait(astronaut):
    return astronaut[:, :300, 80:400]


@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "not wanted"])
def test_before_diffusion_works_there_is_what_instant_would_give(demo, portrait, wanted):
    surrogates, settings = [load_surrogate("mobileface")], QUICK
    crop = crop_face(portrait, detect_faces(portrait)[0], settings.size)
    events = []
    options = {"model": demo, "preview": wanted, "on_step": events.append}
    (result,) = protect_photos([CutPhoto(portrait, (crop,))], surrogates, settings, **options)
    previews = [event for event in events if event.stage == "preview"]
    assert not isinstance(result, Exception) and previews == events[: int(wanted)]
    if wanted:
        alone = Aim("dodge", surrogates, replace(PRESETS[LIGHT]["instant"], size=settings.size), None, None, None, None)
        assert torch.equal(previews[0].image[0], CropProtector(alone)([crop])[0].image)
        assert not torch.equal(previews[0].image[0], crop.image)


def test_without_the_network_of_instant_diffusion_works_and_instant_says_why(demo, portrait, no_network):
    surrogates, events = [load_surrogate("mobileface")], []
    cut = CutPhoto(portrait, (crop_face(portrait, detect_faces(portrait)[0], 128),))
    options = {"model": demo, "preview": True, "on_step": events.append}
    (result,) = protect_photos([cut], surrogates, QUICK, **options)
    assert not isinstance(result, Exception) and all(e.image is None for e in events if e.stage == "preview")
    with pytest.raises(ProtectionError, match=no_network):
        next(protect_photos([cut], surrogates, PRESETS[LIGHT]["instant"]))


def test_of_light_and_shade_those_have_a_preview_that_take_longer_than_fast(portrait):
    surrogates = [load_surrogate("mobileface")]
    cut = CutPhoto(portrait, (crop_face(portrait, detect_faces(portrait)[0], 128),))
    for name, settings in PRESETS[LIGHT].items():
        events, settings = [], replace(settings, size=128, tries=1)
        results = [*protect_photos([cut, cut], surrogates, settings, preview=True, on_step=events.append)]
        previews = [event.image is not None for event in events if event.stage == "preview"]
        assert previews == ([True, False] if name in ("balanced", "strong") else []), "of the first face"
        assert (events[0].stage == "preview") == bool(previews)
        if previews:
            (plain,) = protect_photos([cut], surrogates, settings)
            assert all(torch.equal(plain.image, result.image) for result in results), "the run is the same"


def test_another_goal_has_no_preview(demo, portrait):
    events = []
    cut = CutPhoto(portrait, (crop_face(portrait, detect_faces(portrait)[0], 128),))
    options = {"model": demo, "goal": "synthetic", "target": load_synthetic_target(), "preview": True}
    next(protect_photos([cut], [load_surrogate("mobileface")], QUICK, on_step=events.append, **options))
    assert {event.stage for event in events} == {"inversion", "null_text", "capture", "protection"}

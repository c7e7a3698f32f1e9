"""While diffusion works there is something to look at: what instant would give."""

from dataclasses import replace

import pytest
import torch

from faceprotect_core import load_surrogate
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.faces import crop_face, detect_faces
from faceprotect_core.instant import protect
from faceprotect_core.instant.protect import load_protector_network
from faceprotect_core.photos import batch
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


def test_without_the_network_of_instant_diffusion_works_and_instant_says_what_is_missing(demo, portrait, monkeypatch):
    nowhere = protect.WEIGHTS.with_name("nowhere.safetensors")
    monkeypatch.setattr(batch, "NETWORK", nowhere)
    monkeypatch.setattr(protect, "WEIGHTS", nowhere)
    load_protector_network.cache_clear()
    surrogates, events = [load_surrogate("mobileface")], []
    cut = CutPhoto(portrait, (crop_face(portrait, detect_faces(portrait)[0], 128),))
    options = {"model": demo, "preview": True, "on_step": events.append}
    (result,) = protect_photos([cut], surrogates, QUICK, **options)
    assert not isinstance(result, Exception) and "preview" not in {event.stage for event in events}
    (result,) = protect_photos([cut], surrogates, PRESETS[LIGHT]["instant"])
    assert isinstance(result, Exception) and "nowhere.safetensors of instant is missing" in str(result)


def test_light_and_shade_and_other_goals_have_no_preview(demo, portrait):
    surrogates, events = [load_surrogate("mobileface")], []
    crop = crop_face(portrait, detect_faces(portrait)[0], 128)
    options = {"preview": True, "on_step": events.append}
    next(
        protect_photos([CutPhoto(portrait, (crop,))], surrogates, PRESETS[LIGHT]["fast"].tuned(iterations=2), **options)
    )
    options |= {"model": demo, "goal": "synthetic", "target": load_synthetic_target()}
    next(protect_photos([CutPhoto(portrait, (crop,))], surrogates, QUICK, **options))
    assert {event.stage for event in events} == {"inversion", "null_text", "capture", "protection"}

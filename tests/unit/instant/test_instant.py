"""One look of the network: what it gives, how large, and what becomes of it in the product."""

from dataclasses import replace

import pytest
import torch

from faceprotect_core import ProtectionError, load_surrogate
from faceprotect_core.faces import crop_face
from faceprotect_core.instant.network import GRID, ProtectorNetwork
from faceprotect_core.instant.protect import LARGEST, WEIGHTS, instant_light, load_protector_network, scaled_to_psnr
from faceprotect_core.method.light_and_shade import LightAndShade, LightAndShadeSettings
from faceprotect_core.photos import words
from faceprotect_core.photos.photo import protect_photo
from faceprotect_core.photos.settings import BUILT_IN_SURROGATES, LIGHT, PRESETS
from faceprotect_core.verify.quality import psnr

INSTANT = PRESETS[LIGHT]["instant"]


@pytest.fixture(scope="module")
def crop(astronaut, face):
    return crop_face(astronaut, face)


def lit(crop, value):
    light = LightAndShade(crop.image[None], crop.mask[None], LightAndShadeSettings(value.shape[-1]))
    return light.lit(value)


def test_the_weights_are_those_of_the_network_and_no_larger_than_promised():
    assert WEIGHTS.stat().st_size <= 6_000_000
    network = load_protector_network()
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    assert load_protector_network() is network


@pytest.mark.parametrize("decibels", [31.0, 33.0, 37.0])
def test_the_change_is_no_larger_than_was_asked_for_anywhere_and_within_the_mask(crop, decibels):
    value = instant_light(crop.image[None], crop.mask[None], psnr=decibels)
    image = lit(crop, value)
    assert value.shape == (1, 1, GRID, GRID) and value.abs().max() <= LARGEST
    assert psnr(crop.image[None], image).item() > decibels - 0.1  # what was too large is cut
    outside = (crop.mask == 0).expand(3, -1, -1)
    assert torch.equal(image[0][outside], crop.image[outside])


def test_a_larger_crop_and_a_finer_plane_get_the_same_light(astronaut, face, crop):
    large = crop_face(astronaut, face, 512)
    small = instant_light(crop.image[None], crop.mask[None])
    same = instant_light(large.image[None], large.mask[None])
    fine = instant_light(crop.image[None], crop.mask[None], grid=128)
    assert fine.shape[-1] == 128
    for other in (same, torch.nn.functional.avg_pool2d(fine, 2)):
        assert torch.corrcoef(torch.stack([small.flatten(), other.flatten()]))[0, 1] > 0.9


def test_each_of_a_batch_gets_what_it_gets_alone(crop):
    images = torch.stack([crop.image, crop.image.flip(2)])
    masks = torch.stack([crop.mask, crop.mask.flip(2)])
    both = instant_light(images, masks)
    for k in range(2):
        torch.testing.assert_close(
            both[k : k + 1], instant_light(images[k : k + 1], masks[k : k + 1]), atol=1e-4, rtol=0
        )


def test_a_fresh_network_has_a_change_for_every_strength():
    torch.manual_seed(0)
    network, photo, mask = ProtectorNetwork(), torch.rand(1, 3, 256, 256), torch.ones(1, 1, 256, 256)
    weak, strong = (network(photo, mask, torch.tensor([decibels])) for decibels in (38.0, 31.0))
    assert weak.shape == (1, 1, GRID, GRID) and not torch.equal(weak, strong)


def test_a_plane_without_any_size_is_no_division_by_zero(crop):
    light = LightAndShade(crop.image[None], crop.mask[None], LightAndShadeSettings())
    assert torch.equal(scaled_to_psnr(light, torch.zeros(1, 1, 8, 8), torch.tensor([33.0])), torch.zeros(1, 1, 8, 8))


@pytest.mark.slow
def test_the_preset_protects_from_a_recogniser_that_was_not_used(recognizer, astronaut):
    surrogates = [load_surrogate(name) for name in BUILT_IN_SURROGATES]
    result = protect_photo(astronaut, surrogates, INSTANT, judge=recognizer)
    (verdict,) = result.faces
    assert result.protected and verdict.evidence and verdict.network
    assert (words.BY_NETWORK in words.verdict(verdict)) == (verdict.asked == 1)


def test_a_face_that_is_still_known_becomes_what_fast_makes_of_it_and_says_so(astronaut, face):
    network = load_surrogate("mobileface", threshold=-0.99)  # never fooled
    once = replace(INSTANT, tries=1)
    (alone,) = protect_photo(astronaut, [network], once, faces=[face]).faces
    assert alone.network and alone.asked == 1 and not alone.protected
    events = []
    settings = replace(INSTANT, tries=2)
    result = protect_photo(astronaut, [network], settings, faces=[face], on_step=events.append)
    (further,) = result.faces
    fast = replace(PRESETS[LIGHT]["fast"], tries=1)
    assert torch.equal(result.image, protect_photo(astronaut, [network], fast, faces=[face]).image)
    assert further.network and further.asked == 2 and words.NOT_BY_NETWORK in words.verdict(further)
    assert [event.attempt for event in events] == [2] * PRESETS[LIGHT]["fast"].light.iterations


def test_it_is_no_way_to_look_like_somebody_or_to_wear_makeup(astronaut):
    for options in ({"goal": "synthetic", "target": astronaut}, {"makeup": astronaut}):
        with pytest.raises(ProtectionError, match=r"instant .*How to fix: use fast"):
            protect_photo(astronaut, [load_surrogate("mobileface")], INSTANT, **options)

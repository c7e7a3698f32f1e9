"""The looks of the network: what they give, how large, and what becomes of it in the product."""

from dataclasses import replace

import pytest
import torch

from faceprotect_core import ProtectionError, load_surrogate
from faceprotect_core.demo import load_demo_model
from faceprotect_core.faces import crop_face
from faceprotect_core.instant.network import GRID, ProtectorNetwork
from faceprotect_core.instant.protect import (
    FIRST_PSNR,
    LARGEST,
    MORE,
    WEIGHTS,
    Looks,
    load_protector_network,
    look,
    sized,
)
from faceprotect_core.method.light_and_shade import LightAndShade, LightAndShadeSettings
from faceprotect_core.photos import words
from faceprotect_core.photos.photo import protect_photo
from faceprotect_core.photos.settings import BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS
from faceprotect_core.verify.quality import psnr

INSTANT = PRESETS[LIGHT]["instant"]


@pytest.fixture(scope="module")
def crop(astronaut, face):
    return crop_face(astronaut, face)


def looks_at(*crops, weight=0.7):
    return Looks(torch.stack([one.image for one in crops]), torch.stack([one.mask for one in crops]), weight)


def test_the_weights_are_those_of_the_network_and_no_larger_than_promised():
    assert WEIGHTS.stat().st_size <= 6_000_000
    network = load_protector_network()
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    assert load_protector_network() is network


def test_on_another_device_it_is_a_copy_and_the_one_that_is_kept_stays(crop):
    photo, mask = crop.image[None].to("meta"), crop.mask[None].to("meta")
    assert all(p.is_meta for p in Looks(photo, mask, 0.7).network.parameters())
    assert not any(p.is_meta for p in load_protector_network().parameters())
    assert looks_at(crop).network is load_protector_network(), "on the CPU no copy"


def test_the_first_look_needs_no_gradient_and_has_its_size_within_the_mask(crop):
    looks = looks_at(crop)
    value = looks.first()
    image = looks.light.lit(value)
    assert value.shape == (1, 1, GRID, GRID) and value.abs().max() <= LARGEST
    assert psnr(crop.image[None], image).item() > FIRST_PSNR - 0.1  # what was too large is cut
    outside = (crop.mask == 0).expand(3, -1, -1)
    assert torch.equal(image[0][outside], crop.image[outside])


def test_a_larger_crop_gets_the_same_light(astronaut, face, crop):
    small, large = (looks_at(one).first() for one in (crop, crop_face(astronaut, face, 512)))
    assert torch.corrcoef(torch.stack([small.flatten(), large.flatten()]))[0, 1] > 0.9


def test_each_of_a_batch_gets_what_it_gets_alone(crop):
    other = replace(crop, image=crop.image.flip(2), mask=crop.mask.flip(2))
    values, gradients = torch.randn(2, 2, 1, GRID, GRID, generator=torch.Generator().manual_seed(0))
    both = looks_at(crop, other)
    for k, one in enumerate((crop, other)):
        alone = looks_at(one)
        torch.testing.assert_close(both.first()[k : k + 1], alone.first(), atol=1e-4, rtol=0)
        expected = alone.next(values[k : k + 1], 1e-3 * gradients[k : k + 1])
        torch.testing.assert_close(both.next(values, 1e-3 * gradients)[k : k + 1], expected, atol=1e-4, rtol=0)


def test_another_look_goes_by_the_gradient_and_stays_within_the_limit(crop):
    looks = looks_at(crop)
    gradient = torch.randn(1, 1, GRID, GRID, generator=torch.Generator().manual_seed(0))
    value = looks.first()
    there, back = (looks.next(value, sign * 1e-3 * gradient) for sign in (1, -1))
    assert ((back - there) * gradient).sum() > 0
    assert looks.next(torch.full_like(value, LARGEST), -gradient).abs().max() <= LARGEST
    optimizer = looks.on(value.clone())
    optimizer.step(1e-3 * gradient)
    assert torch.equal(optimizer.value, there)


def test_a_fresh_network_has_a_direction_and_then_goes_down_the_gradient():
    torch.manual_seed(0)
    network, photo, mask = ProtectorNetwork(), torch.rand(1, 3, 256, 256), torch.ones(1, 1, 256, 256)
    value, gradient = torch.randn(2, 1, 1, GRID, GRID)
    faithful, free = (network(photo, mask, torch.tensor([weight])) for weight in (1.4, 0.3))
    assert faithful.shape == (1, 1, GRID, GRID) and not torch.equal(faithful, free)
    step = network(photo, mask, torch.tensor([0.7]), value, gradient)
    assert torch.corrcoef(torch.stack([step.flatten(), gradient.flatten()]))[0, 1] < -0.999
    flat = network(photo, mask, torch.tensor([0.7]), value, torch.zeros_like(gradient))
    assert torch.isfinite(flat).all()


def test_a_smooth_plane_gets_its_size(crop):
    light = LightAndShade(crop.image[None], crop.mask[None], LightAndShadeSettings())
    size = light.change(sized(light, torch.ones(1, 1, 8, 8))).square().mean().sqrt()
    assert size.item() == pytest.approx(10 ** (-FIRST_PSNR / 20), rel=1e-4)


def test_a_plane_without_any_size_is_no_division_by_zero(crop):
    light = LightAndShade(crop.image[None], crop.mask[None], LightAndShadeSettings())
    assert torch.equal(sized(light, torch.zeros(1, 1, 8, 8)), torch.zeros(1, 1, 8, 8))


class Brightness:
    """An objective that is reached where an image got brighter by as much as was asked of it."""

    weight, margin = 1.0, 0.0

    def __init__(self, photo, brighter):
        self.before, self.brighter = photo.mean((1, 2, 3)), torch.tensor(brighter)

    def __call__(self, image):
        return -100 * image.mean((1, 2, 3))

    def reached(self, image):
        return image.mean((1, 2, 3)) - self.before >= self.brighter


def test_who_is_still_known_after_the_looks_gets_more_of_them_and_the_others_stay(crop):
    photo, mask = torch.stack([crop.image] * 2), torch.stack([crop.mask] * 2)
    events = {}
    results = {}
    for name, brighter in {"enough": (-1.0, -1.0), "one": (-1.0, 1.0), "both": (1.0, 1.0)}.items():
        seen = events[name] = []
        results[name] = look(photo, mask, Brightness(photo, brighter), INSTANT.light, seen.append)
    few = INSTANT.light.iterations
    assert [len(events[name]) for name in results] == [few, few + MORE, few + MORE]
    enough, one, both = (result.rendering.image for result in results.values())
    assert torch.equal(one[0], enough[0]) and torch.equal(one[1], both[1]) and not torch.equal(both, enough)
    assert torch.equal(results["one"].value[0], results["enough"].value[0])
    assert [len(result.history["identity"]) for result in results.values()] == [few, few + MORE, few + MORE]


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
    looks, steps = INSTANT.light.iterations + MORE, PRESETS[LIGHT]["fast"].light.iterations
    assert [event.step for event in events[:looks]] == list(range(1, looks + 1)) and events[0].steps == looks
    assert [event.attempt for event in events] == [1] * looks + [2] * steps


def test_a_weight_of_nothing_and_a_network_for_diffusion_are_refused(astronaut, crop):
    with pytest.raises(ProtectionError, match="weight of instant is 0"):
        looks_at(crop, weight=0.0)
    settings = replace(PRESETS[DIFFUSION]["fast"], network=True)
    with pytest.raises(ProtectionError, match="gives light and shade, and the settings are those of diffusion"):
        protect_photo(astronaut, [load_surrogate("mobileface")], settings, model=load_demo_model())


def test_it_is_no_way_to_look_like_somebody_or_to_wear_makeup(astronaut):
    for options in ({"goal": "synthetic", "target": astronaut}, {"makeup": astronaut}):
        with pytest.raises(ProtectionError, match=r"instant .*How to fix: use fast"):
            protect_photo(astronaut, [load_surrogate("mobileface")], INSTANT, **options)

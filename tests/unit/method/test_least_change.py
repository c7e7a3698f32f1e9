"""The least change that suffices: the smallest part of a change that still reaches the objective, on 8-bit pixels."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from faceprotect_core import IdentityObjective
from faceprotect_core.method.restraint.least_change import EXACT, GUESSES, least_change
from faceprotect_core.pixels import as_saved
from tiny import random_image, tiny_surrogate

STEP = EXACT
LEVEL = 0.5 / 255 / 0.2  # half a level of a change of 0.2 is rounded away: a factor may be so far from the exact one
PHOTO = 0.3 + 0.4 * as_saved(random_image(size=24))


@dataclass
class Brighter:
    """Reached by an image whose mean is at least `wanted` [B] brighter than the photo's. Keeps what it was shown."""

    photo: Tensor
    wanted: Tensor
    margin: float = 0.0
    shown: list[Tensor] = field(default_factory=list)

    def past(self, image: Tensor, wanted: float = float("-inf")) -> Tensor:
        self.shown.append(image)
        return (image - self.photo).flatten(1).mean(1) - self.wanted


def photos(count: int) -> Tensor:
    images = [0.3 + 0.4 * random_image(size=24, seed=seed) for seed in range(count)]
    return as_saved(torch.cat(images))


@pytest.mark.parametrize("part", [0.03, 0.2, 0.5, 0.77, 0.95])
def test_the_factor_is_the_smallest_that_suffices_to_a_64th(part):
    photo, wanted = photos(1), torch.tensor([0.2 * part], dtype=torch.float64)
    objective = Brighter(photo, wanted)
    image, (factor,) = least_change(photo, photo + 0.2, objective)
    assert part - LEVEL <= factor <= part + STEP + LEVEL
    torch.testing.assert_close(image, photo + factor * 0.2, rtol=0, atol=1e-12)
    eight_bits = as_saved(image)
    assert objective.past(eight_bits) >= 0
    if factor < 1:
        less = as_saved(photo + (factor - STEP) * 0.2)
        assert objective.past(less) < 0, "a 64th less would not have sufficed"


@pytest.mark.parametrize("part", [1.1, 1.3, 1.45])
def test_a_change_that_falls_short_goes_on_in_its_direction(part):
    photo, wanted = photos(1), torch.tensor([0.2 * part], dtype=torch.float64)
    image, (factor,) = least_change(photo, photo + 0.2, Brighter(photo, wanted))
    assert part - LEVEL <= factor <= part + STEP + LEVEL
    torch.testing.assert_close(image, photo + factor * 0.2, rtol=0, atol=1e-12)


def test_what_goes_on_stays_an_image():
    photo = photos(1)
    image, (factor,) = least_change(photo, photo + 0.25, Brighter(photo, torch.tensor([0.34])))
    assert factor > 1 and image.amax() == 1.0


def test_the_margin_counts():
    photo = photos(1)
    without, with_margin = (
        least_change(photo, photo + 0.2, Brighter(photo, torch.tensor([0.05]), margin))[1] for margin in (0.0, 0.1)
    )
    assert without == pytest.approx(0.25, abs=2 * STEP) and with_margin == pytest.approx(0.75, abs=2 * STEP)


def test_an_image_that_does_not_reach_it_keeps_its_whole_change_bit_by_bit():
    photo = photos(1)
    changed = photo + 0.1 * random_image(size=24, seed=7)
    image, (factor,) = least_change(photo, changed, Brighter(photo, torch.tensor([1.0])))
    assert torch.equal(image, changed) and factor == 1


def test_an_image_that_needs_no_change_keeps_none_bit_by_bit():
    photo = photos(1)
    image, (factor,) = least_change(photo, photo + 0.1, Brighter(photo, torch.tensor([-0.1])))
    assert torch.equal(image, photo) and factor == 0


def test_where_nothing_was_changed_nothing_is():
    photo = photos(1) + 1e-9  # no 8-bit value: what is returned is not rounded
    changed = photo.clone()
    changed[..., :12] += 0.2
    image, (factor,) = least_change(photo, changed, Brighter(photo, torch.tensor([0.05])))
    assert 0 < factor < 1 and torch.equal(image[..., 12:], photo[..., 12:])
    assert not torch.equal(image[..., :12], photo[..., :12])


def test_each_image_of_a_batch_gets_its_own_factor_the_one_it_has_alone():
    photo, wanted = photos(4), torch.tensor([0.05, 0.15, 1.0, -1.0])
    changed = photo + 0.2
    images, factors = least_change(photo, changed, Brighter(photo, wanted))
    assert len(set(factors.tolist())) == 4 and factors[2:].tolist() == [1.0, 0.0]
    for k in range(4):
        one = slice(k, k + 1)
        image, factor = least_change(photo[one], changed[one], Brighter(photo[one], wanted[one]))
        assert torch.equal(images[one], image) and torch.equal(factors[one], factor)


def test_only_8_bit_values_are_asked_about_and_seldom():
    photo = photos(2)
    objective = Brighter(photo, torch.tensor([0.05, 0.1]))
    least_change(photo, photo + 0.2, objective)
    assert len(objective.shown) <= 5
    for image in objective.shown:
        assert torch.equal(image, as_saved(image))
    unreached = Brighter(photo, torch.tensor([1.0, 1.0]))
    least_change(photo, photo + 0.2, unreached)
    assert len(unreached.shown) == 2


@dataclass
class Steep(Brighter):
    """Falls from nearly enough to far too little within a hair: a straight line misses it by much."""

    def past(self, image: Tensor, wanted: float = float("-inf")) -> Tensor:
        return super().past(image).sign() * torch.where(super().past(image) > 0, 1e-6, 1.0)


def test_where_a_straight_line_misleads_it_is_halved():
    photo, wanted = photos(1), torch.tensor([0.2 * 0.3])
    objective = Steep(photo, wanted)
    _, (factor,) = least_change(photo, photo + 0.2, objective)
    assert 0.3 - 0.02 <= factor <= 0.3 + STEP + 0.02 and len(objective.shown) <= 2 * (2 + GUESSES + 6)


def test_neither_input_is_changed_and_no_gradient_is_kept():
    photo = photos(1)
    changed = (photo + 0.2).requires_grad_()
    kept = photo.clone(), changed.detach().clone()
    image, factor = least_change(photo, changed, Brighter(photo, torch.tensor([0.05])))
    assert not image.requires_grad and not factor.requires_grad and changed.grad is None
    assert torch.equal(photo, kept[0]) and torch.equal(changed, kept[1])


def test_every_surrogate_still_has_to_be_fooled():
    """Of two recognisers the one that takes longer decides, and less would leave it unfooled."""
    photo = PHOTO
    changed = (photo + 0.4 * (random_image(size=24, seed=3) - 0.5)).clamp(0, 1)
    networks = [tiny_surrogate(seed=seed) for seed in (0, 1)]
    cosines = [one.cosine(one.embed(changed), one.embed(photo)).item() for one in networks]
    networks = [
        tiny_surrogate(seed=seed, default_threshold=1 - share * (1 - cosine))
        for seed, cosine, share in zip((0, 1), cosines, (0.1, 0.6), strict=True)
    ]
    alone = [least_change(photo, changed, IdentityObjective([one], source=photo, margin=0.0))[1] for one in networks]
    objective = IdentityObjective(networks, source=photo, margin=0.0)
    image, factor = least_change(photo, changed, objective)
    assert factor == max(alone) > min(alone) and factor < 1
    assert objective.reached(as_saved(image))

"""An objective that insists: what is behind at a look counts more from then on, what has arrived does not."""

import pytest
import torch

from faceprotect_core import IdentityObjective
from faceprotect_core.method.restraint.insistent import EVERY, MORE, Insistent
from faceprotect_core.method.variables import Rendering, optimize
from tiny import random_image, tiny_surrogate

PHOTOS = torch.cat([random_image(size=24, seed=seed) for seed in (0, 1)])
OTHER = torch.cat([PHOTOS[:1], random_image(size=24, seed=5)])  # the first is still the photo, the second is far away
NETWORK = tiny_surrogate(seed=0, thresholds={0.01: 0.9})


def objective() -> IdentityObjective:
    found = IdentityObjective([NETWORK], source=PHOTOS, margin=0.0)
    assert found.reached(OTHER).tolist() == [False, True]
    return found


def test_only_what_is_behind_counts_more_from_look_to_look():
    plain, insistent = objective(), Insistent(objective(), patience=4)
    for iteration in range(4 + 2 * EVERY + 1):
        looks = 0 if iteration < 4 else 1 + (iteration - 4) // EVERY
        expected = plain(OTHER) * torch.tensor([MORE**looks, 1.0], dtype=OTHER.dtype)
        torch.testing.assert_close(insistent.at(iteration)(OTHER), expected)


def test_what_counts_more_has_as_much_more_gradient():
    insistent = Insistent(objective(), patience=0)
    image = OTHER.clone().requires_grad_()
    (more,) = torch.autograd.grad(insistent.at(0)(image).sum(), image)
    (plain,) = torch.autograd.grad(objective()(image).sum(), image)
    torch.testing.assert_close(more[0], MORE * plain[0])
    torch.testing.assert_close(more[1], plain[1])


class Held:
    """The image itself, held close to the photos."""

    losses = ("held",)
    start = PHOTOS + 0.01

    def render(self, value):
        return Rendering(value, {"held": 1000 * (value - PHOTOS).square().flatten(1).mean(1)})


def test_with_it_an_image_is_reached_that_is_held_too_close_otherwise():
    network = tiny_surrogate(seed=0, thresholds={0.01: 0.99})
    plain = IdentityObjective([network], source=PHOTOS, margin=0.0, steepness=6.0)
    options = {"iterations": 60, "lr": 0.01}
    without = optimize(Held(), plain, **options).rendering.image
    found = optimize(Held(), Insistent(plain, patience=10), **options).rendering.image
    assert not plain.reached(without).any()
    assert plain.reached(found).all()


def test_reached_and_the_loss_itself_are_the_objectives():
    assert torch.equal(Insistent(objective(), 0).reached(OTHER), objective().reached(OTHER))
    assert Insistent(objective(), 0)(OTHER).tolist() == pytest.approx(objective()(OTHER).tolist())

"""Random views: repeatable, the same for every image of a batch, differentiable, and like what they stand for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from faceprotect_core import RandomViews
from faceprotect_core.views import KINDS, SHIFT
from tiny import random_image


def test_without_views_there_is_the_image_alone():
    image = random_image()
    (only,) = RandomViews()(image, iteration=3)
    assert only is image


def test_the_image_comes_first_and_each_view_has_its_shape():
    image = random_image(2, size=50)  # no multiple of 8 or 16
    first, *views = RandomViews(4)(image)
    assert first is image
    assert [view.shape for view in views] == [image.shape] * 4


def test_the_same_seed_and_iteration_give_the_same_views_and_others_give_others():
    image = random_image()

    def third(seed, iteration):
        return RandomViews(4, seed)(image, iteration)[3]

    assert torch.equal(third(0, 1), third(0, 1))
    assert not torch.equal(third(0, 1), third(0, 2))
    assert not torch.equal(third(0, 1), third(1, 1))


def test_drawing_views_leaves_torchs_own_random_numbers_alone():
    state = torch.get_rng_state()
    RandomViews(4)(random_image())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_sees_the_views_that_single_images_see():
    images = random_image(3)
    together = RandomViews(4, seed=5)(images, iteration=2)
    for index in range(3):
        alone = RandomViews(4, seed=5)(images[index : index + 1], iteration=2)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[index], rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", range(4), ids=KINDS)
def test_every_kind_lets_the_gradient_through_to_the_whole_image(number):
    image = random_image().requires_grad_()
    view = RandomViews(4)(image)[1 + number]
    assert not torch.equal(view, image)
    (gradient,) = torch.autograd.grad(view.square().sum(), image)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize("number", range(4), ids=KINDS)
def test_a_view_is_still_the_same_picture(number):
    """Far less changed than another picture would be; and not only rounded."""
    image, other = random_image(size=128), random_image(size=128, seed=1)
    change = (RandomViews(4)(image)[1 + number] - image).square().mean()
    assert 1e-7 < change < 0.05 * (other - image).square().mean()


def test_one_view_at_a_time_goes_through_all_kinds():
    """Noise alone is rough: the second difference of a smooth picture shows it, every fourth iteration."""
    image, views = random_image(size=128), RandomViews(1)
    rough = [views(image, iteration)[1].diff(n=2, dim=-1).std().item() for iteration in range(8)]
    others = [rough[i] for i in range(8) if i % 4 != KINDS.index("noise")]
    assert min(rough[3], rough[7]) > 2 * max(others)


def test_the_jpeg_view_is_like_a_real_jpeg(astronaut, monkeypatch):
    monkeypatch.setattr("faceprotect_core.views.JPEG_QUALITY", (75.0, 75.0))
    monkeypatch.setattr("faceprotect_core.views.SHIFT", 0.0)
    photo = astronaut[:, :256, 100:356]
    view = RandomViews(4)(photo[None])[1 + KINDS.index("jpeg")][0]
    file = io.BytesIO()
    Image.fromarray(photo.mul(255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
    real = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
    assert (view - real).square().mean() < 0.25 * (real - photo).square().mean()


def test_the_shift_is_small():
    image = torch.zeros(1, 3, 200, 200)
    image[..., 100, 100] = 1.0
    for iteration in range(8):
        blurred = RandomViews(1)(image, 4 * iteration)[1]  # each fourth is a blur, which keeps the middle
        weights = blurred[0, 0] / blurred[0, 0].sum()
        axis = torch.arange(200.0)
        x, y = (weights.sum(0) * axis).sum(), (weights.sum(1) * axis).sum()
        assert max(abs(x - 100), abs(y - 100)) <= SHIFT * 200 + 0.05

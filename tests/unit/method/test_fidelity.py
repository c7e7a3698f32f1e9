"""Fidelity: 0 for the photo itself, the sum that it says, and it counts what people see."""

import pytest
import torch

from faceprotect_core.ciede2000 import ciede2000_map
from faceprotect_core.method.restraint.fidelity import DIFFERENCE, ENERGY, HARDLY_SEEN, UNLIKENESS, Fidelity, unlikeness
from faceprotect_core.verify.quality import ssim
from tiny import random_image

PHOTO = 0.25 + 0.5 * random_image(size=32)
MASK = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
MASK[:, :, 8:24, 6:26] = 0.7


def test_the_photo_itself_has_none_and_a_finite_gradient():
    image = PHOTO.clone().requires_grad_()
    loss = Fidelity(PHOTO, MASK)(image)
    assert loss.item() == pytest.approx(0.0, abs=1e-7)
    (gradient,) = torch.autograd.grad(loss.sum(), image)
    assert gradient.isfinite().all()


def test_it_is_the_sum_that_it_says_over_where_the_mask_is_not_0():
    image = (PHOTO + 0.03 * torch.randn(PHOTO.shape, dtype=PHOTO.dtype, generator=torch.manual_seed(0))).clamp(0, 1)
    inside = (MASK > 0)[0, 0]
    squared = (image - PHOTO).square().mean(1)[0][inside].mean()
    fidelity = Fidelity(PHOTO, MASK)
    only_inside = torch.where(MASK > 0, image, PHOTO)
    seen = Fidelity(PHOTO).colour_difference(only_inside) / inside.to(PHOTO).mean()
    expected = DIFFERENCE * seen + ENERGY * squared + UNLIKENESS * unlikeness(PHOTO, image)
    torch.testing.assert_close(fidelity(image), expected)


def test_the_likeness_is_the_ssim_of_the_reports():
    image = (PHOTO + 0.1 * random_image(size=32, seed=3)).clamp(0, 1)
    torch.testing.assert_close(unlikeness(PHOTO, image), 1 - ssim(PHOTO, image), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shift", [(0.02, 0.02, 0.02), (-0.03, -0.03, -0.03), (0.02, 0.0, -0.01), (0.0, 0.015, 0.0)])
def test_the_colour_difference_goes_with_ciede2000_on_skin(shift):
    """Not the whole formula (chroma and hue are CIE94's): within a third on skin's colours."""
    skin = torch.tensor([[0.85, 0.65, 0.55], [0.55, 0.38, 0.30], [0.35, 0.24, 0.19]], dtype=torch.float64)
    photo = skin[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    image = photo + torch.tensor(shift, dtype=torch.float64)[:, None, None]
    found = Fidelity(photo).colour_difference(image) + HARDLY_SEEN
    expected = ciede2000_map(photo, image).mean((1, 2, 3))
    assert (found / expected).log().abs().max() < 0.29


def test_a_cast_of_colour_costs_more_than_as_large_a_change_of_light():
    """Of the same root mean square."""
    photo = torch.full((1, 3, 32, 32), 0.6, dtype=torch.float64)
    lighter = photo + 0.02
    redder = photo + 0.02 * torch.tensor([2.0, -1.0, -1.0], dtype=torch.float64)[:, None, None] / 2**0.5
    fidelity = Fidelity(photo)
    assert fidelity(redder) > 1.3 * fidelity(lighter)


def test_each_image_of_a_batch_counts_alone():
    photos = torch.cat([PHOTO, PHOTO.flip(3)])
    masks = torch.cat([MASK, MASK.flip(2)])
    images = (photos + 0.02).clamp(0, 1)
    together = Fidelity(photos, masks)(images)
    for k in range(2):
        alone = Fidelity(photos[k : k + 1], masks[k : k + 1])(images[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone)


def test_it_is_differentiable_to_the_last_digit():
    photo, mask = PHOTO[..., :12, :12].contiguous(), MASK[..., 4:16, 4:16].contiguous()
    fidelity = Fidelity(photo, mask)
    image = (photo + 0.05 * random_image(size=12, seed=9)).requires_grad_()
    assert torch.autograd.gradcheck(fidelity, (image,))

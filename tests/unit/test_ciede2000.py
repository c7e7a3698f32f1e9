"""CIEDE2000 against the authors' own pairs and skimage, and as a loss."""

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab

from faceprotect_core import ProtectionError
from faceprotect_core.ciede2000 import ciede2000_map, lab_difference
from tiny import random_image

# Sharma, Wu, Dalal (2005), table 1: L*, a*, b* of two colours, and their difference to four places.
PUBLISHED = torch.tensor(
    [
        [50.0000, 2.6772, -79.7751, 50.0000, 0.0000, -82.7485, 2.0425],
        [50.0000, 3.1571, -77.2803, 50.0000, 0.0000, -82.7485, 2.8615],
        [50.0000, 2.8361, -74.0200, 50.0000, 0.0000, -82.7485, 3.4412],
        [50.0000, -1.3802, -84.2814, 50.0000, 0.0000, -82.7485, 1.0000],
        [50.0000, -1.1848, -84.8006, 50.0000, 0.0000, -82.7485, 1.0000],
        [50.0000, -0.9009, -85.5211, 50.0000, 0.0000, -82.7485, 1.0000],
        [50.0000, 0.0000, 0.0000, 50.0000, -1.0000, 2.0000, 2.3669],
        [50.0000, -1.0000, 2.0000, 50.0000, 0.0000, 0.0000, 2.3669],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0009, 7.1792],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0010, 7.1792],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0011, 7.2195],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0012, 7.2195],
        [50.0000, -0.0010, 2.4900, 50.0000, 0.0009, -2.4900, 4.8045],
        [50.0000, -0.0010, 2.4900, 50.0000, 0.0010, -2.4900, 4.8045],
        [50.0000, -0.0010, 2.4900, 50.0000, 0.0011, -2.4900, 4.7461],
        [50.0000, 2.5000, 0.0000, 50.0000, 0.0000, -2.5000, 4.3065],
        [50.0000, 2.5000, 0.0000, 73.0000, 25.0000, -18.0000, 27.1492],
        [50.0000, 2.5000, 0.0000, 61.0000, -5.0000, 29.0000, 22.8977],
        [50.0000, 2.5000, 0.0000, 56.0000, -27.0000, -3.0000, 31.9030],
        [50.0000, 2.5000, 0.0000, 58.0000, 24.0000, 15.0000, 19.4535],
        [50.0000, 2.5000, 0.0000, 50.0000, 3.1736, 0.5854, 1.0000],
        [50.0000, 2.5000, 0.0000, 50.0000, 3.2972, 0.0000, 1.0000],
        [50.0000, 2.5000, 0.0000, 50.0000, 1.8634, 0.5757, 1.0000],
        [50.0000, 2.5000, 0.0000, 50.0000, 3.2592, 0.3350, 1.0000],
        [60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644],
        [63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630],
        [61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731],
        [35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645],
        [22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373],
        [36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146],
        [90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441],
        [90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381],
        [6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377],
        [2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082],
    ],
    dtype=torch.float64,
)
PHOTO = random_image(2, 48, dtype=torch.float32)


def test_the_published_pairs():
    one, other = (PUBLISHED[:, columns, None, None] for columns in ([0, 1, 2], [3, 4, 5]))
    for found in (lab_difference(one, other), lab_difference(other, one)):
        torch.testing.assert_close(found.flatten(), PUBLISHED[:, 6], rtol=0, atol=5e-5 + 1e-9)


@pytest.mark.parametrize("deviation", [0.005, 0.05, 0.5])
def test_the_map_is_that_of_skimage(deviation):
    noise = torch.randn(PHOTO.shape, generator=torch.Generator().manual_seed(0))
    changed = (PHOTO + deviation * noise).clamp(0, 1)
    first, second = (rgb2lab(image.permute(0, 2, 3, 1).double().numpy()) for image in (PHOTO, changed))
    found = ciede2000_map(PHOTO, changed)
    assert found.shape == (2, 1, 48, 48) and found.dtype == torch.float64
    np.testing.assert_allclose(found[:, 0].numpy(), deltaE_ciede2000(first, second), rtol=0, atol=1e-4)


def test_as_a_loss_it_has_a_finite_gradient_for_equal_colours_greys_black_and_white():
    greys = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 3, 4, 16)
    for photo in (greys, PHOTO[:1].double()):
        changed = photo.clone().requires_grad_()
        found = ciede2000_map(photo, changed)
        found.sum().backward()
        assert torch.equal(found, torch.zeros_like(found)) and torch.equal(changed.grad, torch.zeros_like(photo))
    lab = torch.tensor([50.0, 0.0, 0.0], dtype=torch.float64)[None, :, None, None]
    chroma = (lab + torch.tensor([0.0, 3.0, 0.0])[None, :, None, None]).requires_grad_()
    lab.requires_grad_()
    lab_difference(lab, chroma).sum().backward()
    assert torch.isfinite(lab.grad).all() and chroma.grad[0, 1] > 0


def test_its_gradient_is_that_of_the_formula():
    one, other = (image.double()[..., :4, :4].clamp(0.1, 0.9).requires_grad_() for image in PHOTO.split(1))
    assert torch.autograd.gradcheck(ciede2000_map, (one, other))


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ProtectionError, match="same size"):
        ciede2000_map(PHOTO, PHOTO[..., 1:])

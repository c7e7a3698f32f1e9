"""What may happen to a photo on its way to a recogniser."""

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter, uniform_filter

from faceprotect_core.verify.robustness import as_saved, ddim_round_trip, jpeg, processings, vae_round_trip
from tiny import random_image

WEAK = {"none", "jpeg 90", "jpeg 75", "jpeg 50", "4 bit", "noise"}


def photo(size: int = 64) -> torch.Tensor:
    """Smooth, with fine grain, so that every filter has something to take away."""
    grain = 0.05 * torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    return as_saved(random_image(size=size, dtype=torch.float32) * 0.6 + 0.2 + grain)


@pytest.mark.parametrize("name", processings())
@pytest.mark.parametrize("size", [(64, 64), (37, 53), (1, 1)])
def test_processing_keeps_size_range_and_8_bits_and_changes_no_input(name, size):
    image = photo()[..., : size[0], : size[1]].contiguous()
    before = image.clone()
    processed = processings()[name](image)
    assert processed.shape == image.shape and torch.equal(image, before)
    assert torch.equal(processed, as_saved(processed)) and processed.dtype == image.dtype
    assert torch.equal(processed, processings()[name](image))
    assert (processed - image).abs().mean() < 0.08
    if size == (64, 64):
        assert (name == "none") == torch.equal(processed, image)


def test_the_filters_are_those_of_scipy():
    image = photo()
    plane = image[0, 0].numpy()
    for name, expected in {
        "mean 3x3": uniform_filter(plane, 3, mode="nearest"),
        "mean 5x5": uniform_filter(plane, 5, mode="nearest"),
        "median 3x3": median_filter(plane, 3, mode="nearest"),
    }.items():
        found = processings()[name](image)[0, 0].numpy()
        assert np.abs(found - expected).max() <= 0.5 / 255 + 1e-5, name


def test_a_lower_jpeg_quality_changes_more():
    changes = [(jpeg(photo()[0], quality) - photo()[0]).square().mean().item() for quality in (90, 75, 50)]
    assert changes[0] < changes[1] < changes[2]


def test_four_bits_leave_sixteen_levels():
    ramp = as_saved(torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64))
    assert len(processings()["4 bit"](ramp).unique()) == 16


def test_purification_is_offered_only_with_a_model(demo):
    denoiser, codec, context = demo
    assert not {"vae", "ddim"} & set(processings())
    assert set(processings(codec)) - set(processings()) == {"vae"}
    assert set(processings(codec, denoiser, context)) - set(processings()) == {"vae", "ddim"}


def test_the_round_trip_through_the_autoencoder_is_its_reconstruction(demo):
    _, codec, _ = demo
    image = photo(128)
    with torch.no_grad():
        expected = as_saved(codec.decode(codec.encode(image)))
    assert torch.equal(vae_round_trip(image, codec), expected)


def test_any_size_goes_through_the_model(demo):
    denoiser, codec, context = demo
    image = photo(128)[..., :100, :77]
    for processed in (vae_round_trip(image, codec), ddim_round_trip(image, codec, denoiser, context)):
        assert processed.shape == image.shape
        assert (processed - image).abs().mean() < 0.2


def test_the_model_sees_a_large_photo_reduced():
    class Codec:
        def encode(self, image):
            self.seen = tuple(image.shape[-2:])
            return image

        def decode(self, latent):
            return latent

    codec = Codec()
    assert vae_round_trip(photo(64).repeat(1, 1, 1, 32), codec).shape == (1, 3, 64, 2048)
    assert codec.seen == (64, 1024)

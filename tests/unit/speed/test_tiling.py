"""Decoding tile by tile: near the whole decode, with its exact gradient, at one tile's memory."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from benchmarks.count import held_bytes, peak_bytes
from faceprotect_core import ProtectionError
from faceprotect_core.diffusers_backend import DiffusersCodec
from faceprotect_core.speed import tiling
from faceprotect_core.speed.tiling import TiledCodec
from golden import load_golden


class LocalCodec:
    """Every pixel of the latent becomes 8 x 8 pixels of the image, and nothing else matters to them."""

    def __init__(self):
        self.sizes = []

    def encode(self, image):
        return nn.functional.avg_pool2d(image, 8).repeat(1, 2, 1, 1)[:, :4]

    def decode(self, latent):
        self.sizes.append(tuple(latent.shape[2:]))
        return nn.functional.interpolate(latent[:, :3].tanh() + latent[:, 3:] ** 2, scale_factor=8, mode="nearest")


def random_latent(height, width, batch=1):
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def codec():
    return load_golden("impersonation").codec


SIZES = [(8, 8), (16, 16), (9, 8), (8, 23), (17, 31), (40, 21)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 8, 16, 32])
def test_a_local_decoder_decodes_the_same_tile_by_tile(size, overlap):
    latent = random_latent(*size, batch=2)
    local = LocalCodec()
    tiled = TiledCodec(local, tile=64, overlap=overlap).decode(latent)
    torch.testing.assert_close(tiled, LocalCodec().decode(latent), rtol=0, atol=1e-6)
    assert set(local.sizes) == {tuple(min(length, 8) for length in size)}, "no tile is smaller than it could be"


def test_neighbours_overlap_at_least_as_far_as_asked():
    for length in range(9, 100):
        for overlap in (0, 1, 4):
            starts = tiling._starts(length, 8, overlap)
            assert (starts[0], starts[-1]) == (0, length - 8)
            assert all(0 < after - before <= 8 - overlap for before, after in pairwise(starts))


def test_seams_are_blended_linearly():
    """Two tiles of which one is 0 and the other 1 meet in a straight line."""

    class Constant(LocalCodec):
        def decode(self, latent):
            return torch.full((1, 3, 64, 64), float(latent[0, 0, 0, 0] > 0), dtype=latent.dtype)

    latent = torch.zeros(1, 4, 8, 14, dtype=torch.float64)
    latent[..., 6:] = 1.0  # where the second tile starts
    row = TiledCodec(Constant(), tile=64, overlap=16).decode(latent)[0, 0, 30]
    expected = torch.cat([torch.zeros(48), (torch.arange(16) + 0.5) / 16, torch.ones(48)]).double()
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)


def test_an_image_that_fits_a_tile_is_decoded_whole(codec):
    latent = random_latent(8, 6, batch=2)
    assert torch.equal(TiledCodec(codec, tile=64, overlap=16).decode(latent), codec.decode(latent))


def test_encoding_is_the_codecs_own(codec):
    image = torch.rand(1, 3, 96, 64, dtype=torch.float64)
    assert torch.equal(TiledCodec(codec, tile=64, overlap=8).encode(image), codec.encode(image))


def test_a_batch_equals_single_images(codec):
    tiled, latents = TiledCodec(codec, tile=64, overlap=16), random_latent(12, 9, batch=3)
    singles = torch.cat([tiled.decode(latent[None]) for latent in latents])
    torch.testing.assert_close(tiled.decode(latents), singles, rtol=0, atol=1e-12)


@pytest.mark.parametrize("low_memory", [False, True])
def test_image_and_gradient_equal_those_without_checkpointing(codec, monkeypatch, low_memory):
    """Also where the codec computes its own blocks again, inside a tile that is computed again."""
    latent = random_latent(13, 11, batch=2).requires_grad_()
    weights = torch.linspace(-1, 1, 2 * 3 * 104 * 88, dtype=torch.float64).reshape(2, 3, 104, 88)

    def result(inner):
        image = TiledCodec(inner, tile=64, overlap=24).decode(latent)
        return image, *torch.autograd.grad((image * weights).sum(), latent)

    tiled = result(DiffusersCodec(codec.vae, low_memory=low_memory))
    monkeypatch.setattr(tiling, "checkpoint", lambda function, *args, **kwargs: function(*args))
    plain = result(codec)
    assert tiled[1].abs().max() > 0
    assert all(torch.equal(ours, other) for ours, other in zip(tiled, plain, strict=True))


def test_one_tile_is_held_at_a_time(codec):
    """Forward, nothing of a tile is held; backward, one is, whatever the number of tiles."""

    def decoding(decoder, side):
        latent = random_latent(side, side).requires_grad_()
        return lambda: (decoder.decode(latent).square().sum(), latent)

    weights = list(codec.vae.parameters())
    tiled = TiledCodec(codec, tile=64, overlap=0)
    image = 3 * 256 * 256 * 8  # of 16 tiles, in float64
    one_tile, whole = (peak_bytes(decoding(codec, side)) for side in (8, 32))
    assert held_bytes(decoding(tiled, 32), weights) < 2 * image
    assert peak_bytes(decoding(tiled, 32)) < one_tile + 4 * image < whole / 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tile": 0}, "tile must be a positive multiple of 8, got 0"),
        ({"tile": 100}, "tile must be a positive multiple of 8, got 100"),
        ({"tile": 64, "overlap": 40}, "from 0 to 32, half a tile, got 40. How to fix: use 8"),
        ({"tile": 64, "overlap": 4}, "overlap must be a multiple of 8"),
        ({"tile": 64, "overlap": -8}, "got -8"),
    ],
)
def test_settings_that_cannot_be_are_refused(codec, settings, said):
    with pytest.raises(ProtectionError, match=said) as error:
        TiledCodec(codec, **settings)
    assert "How to fix" in str(error.value)

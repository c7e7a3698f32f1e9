"""A full decoder for the image, a small one for its gradient."""

import pytest
import torch
from torch import nn

from faceprotect_core import ddim_invert, optimize_latent
from faceprotect_core.checks import ProtectionError
from faceprotect_core.speed.gradient_codec import StraightThroughCodec
from golden import load_golden


class Decoder:
    """4 -> 3 channels, 8 times larger."""

    def __init__(self, seed: int):
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.ConvTranspose2d(4, 3, 8, 8), nn.Tanh()).double()
        self.decodes = 0

    def encode(self, image):
        return nn.functional.avg_pool2d(image, 8).repeat(1, 2, 1, 1)[:, :4]

    def decode(self, latent):
        self.decodes += 1
        return self.network(latent)


@pytest.fixture
def full():
    return Decoder(seed=0)


@pytest.fixture
def small():
    return Decoder(seed=1)


@pytest.fixture
def latent():
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def gradient_of(codec, latent):
    image = codec.decode(latent)
    weights = torch.linspace(-1, 1, image.numel(), dtype=image.dtype).reshape(image.shape)
    return torch.autograd.grad((image * weights).sum(), latent)[0]


def test_the_image_is_the_full_decoders_bit_for_bit_and_the_gradient_the_small_ones(full, small, latent):
    codec = StraightThroughCodec(full, small)
    assert torch.equal(codec.decode(latent), full.decode(latent))
    assert torch.equal(gradient_of(codec, latent), gradient_of(small, latent))
    assert not torch.allclose(gradient_of(codec, latent), gradient_of(full, latent))


def test_it_encodes_with_the_full_encoder(full, small):
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(StraightThroughCodec(full, small).encode(image), full.encode(image))


def test_the_small_decoder_runs_only_where_a_gradient_is_wanted(full, small, latent):
    codec = StraightThroughCodec(full, small)
    with torch.no_grad():
        codec.decode(latent)
    codec.decode(latent.detach())
    assert (full.decodes, small.decodes) == (2, 0)


def test_a_broken_small_decoder_does_not_pass_unnoticed(small):
    golden = load_golden("impersonation")
    with torch.no_grad():
        small.network[0].bias.fill_(float("nan"))
    codec = StraightThroughCodec(golden.codec, small)
    trajectory = ddim_invert(golden.denoiser, golden.latent, golden.context, golden.schedule)
    embeddings = golden.context.expand(3, 1, -1, -1)
    with pytest.raises(ProtectionError, match="NaN"):
        optimize_latent(golden.denoiser, codec, trajectory, embeddings, golden.objective(), iterations=1)

"""Tiny random networks for claims about equality: an analytic denoiser and codec, and the golden ones."""

import torch
from torch import Tensor, nn

from faceprotect_core import FRSurrogate


class CountingDenoiser:
    """A Denoiser that counts its sample-passes, with and without a gradient."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.timesteps: list[int] = []
        self.batches: list[int] = []
        self.with_attention = 0

    def __call__(self, latent, timestep, context, self_attention=None) -> Tensor:
        self.timesteps.append(timestep)
        self.batches.append(latent.shape[0])
        self.with_attention += self_attention is not None
        return self.denoiser(latent, timestep, context, self_attention)


class CountingCodec:
    def __init__(self, codec):
        self.codec, self.decodes = codec, 0

    def encode(self, image):
        return self.codec.encode(image)

    def decode(self, latent):
        self.decodes += 1
        return self.codec.decode(latent)


class BrokenDenoiser:
    """Returns NaN from the given call on."""

    def __init__(self, denoiser, good_calls: int):
        self.denoiser, self.left = denoiser, good_calls

    def __call__(self, *args) -> Tensor:
        self.left -= 1
        noise = self.denoiser(*args)
        return noise if self.left >= 0 else noise * float("nan")


def tiny_surrogate(size: int = 16, seed: int = 0, dtype=torch.float64, **kwargs) -> FRSurrogate:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 5, 2, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 12))
    return FRSurrogate(net.to(dtype), input_size=size, **kwargs)


def random_image(batch: int = 1, size: int = 64, seed: int = 0, dtype=torch.float64) -> Tensor:
    """Smooth noise in [0, 1]."""
    noise = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.interpolate(noise, size=(size, size), mode="bilinear").to(dtype)

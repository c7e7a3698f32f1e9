"""The ways that are compared: each prepares the networks, and says how the method runs on them."""

import copy

import torch
from torch import Tensor

from faceprotect_core import protect
from faceprotect_core.diffusers_backend import DiffusersCodec, DiffusersDenoiser

from .measure import CountingCodec, CountingDenoiser
from .models import Setup
from .release import protect_as_released

# Way -> the number format of U-Net and autoencoder, and the adapters' options. Latents, losses, surrogates and
# optimiser have the format of the image in all of them.
WAYS = {
    "release": (None, {}),
    "exact": (None, {}),
    "small": (None, {"low_memory": True}),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16 small": (torch.bfloat16, {"low_memory": True}),
}


class Way:
    """One way on one setup; `run` may be called repeatedly, the counts are of all calls since `reset`."""

    def __init__(self, name: str, setup: Setup):
        dtype, options = WAYS[name]
        unet, vae = setup.unet, setup.vae
        if dtype is not None:
            unet, vae = (copy.deepcopy(network).to(dtype) for network in (unet, vae))
        self.name, self.setup = name, setup
        self.networks = DiffusersDenoiser(unet, **options), DiffusersCodec(vae, **options)
        self.reset()

    def reset(self) -> None:
        self.denoiser, self.codec = CountingDenoiser(self.networks[0]), CountingCodec(self.networks[1])

    def run(self, null_text_iterations: int, iterations: int) -> Tensor:
        """The published settings -> the protected image [1, 3, H, W] in [0, 1]."""
        setup = self.setup
        arguments = (self.denoiser, self.codec, setup.image, setup.context, setup.objective)
        if self.name == "release":
            return protect_as_released(*arguments, setup.schedule, null_text_iterations, iterations)
        settings = {"null_text_iterations": null_text_iterations, "iterations": iterations}
        return protect(*arguments, schedule=setup.schedule, **settings).image

"""The ways that are compared: each says how the networks are prepared, which options the adapters have, and how the
method runs on them. All have the published settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from faceprotect_core import ProtectionResult, protect
from faceprotect_core.diffusers_backend import DiffusersCodec, DiffusersDenoiser
from faceprotect_core.inversion import OnStep
from faceprotect_core.model import Denoiser, ImageCodec

from .models import Setup
from .release import protect_as_released


@dataclass(frozen=True)
class Way:
    """prepare: changes U-Net and autoencoder in place, which are copies then; None leaves them as they are.

    denoiser, codec: options of DiffusersDenoiser and DiffusersCodec. released: the release's formulation, not the core.
    """

    prepare: Callable[[nn.Module], nn.Module] | None = None
    denoiser: dict = field(default_factory=dict)
    codec: dict = field(default_factory=dict)
    released: bool = False


def bfloat16(network: nn.Module) -> nn.Module:
    return network.bfloat16()


LOW_MEMORY = {"denoiser": {"low_memory": True}, "codec": {"low_memory": True}}
# Latents, losses, surrogates and optimiser are in the number format of the photo in all of them.
WAYS = {
    "release": Way(released=True),
    "exact": Way(),
    "small": Way(**LOW_MEMORY),
    "bfloat16": Way(bfloat16),
    "bfloat16 small": Way(bfloat16, **LOW_MEMORY),
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A way on its networks; call it as often as you like."""

    way: Way
    setup: Setup
    unet: nn.Module
    vae: nn.Module
    denoiser: Denoiser
    codec: ImageCodec

    def __call__(self, null_text_iterations: int, iterations: int, on_step: OnStep | None = None) -> ProtectionResult:
        setup = self.setup
        arguments = self.denoiser, self.codec, setup.image, setup.context, setup.objective
        settings = {"schedule": setup.schedule, "null_text_iterations": null_text_iterations, "iterations": iterations}
        run = protect_as_released if self.way.released else protect
        return run(*arguments, **settings, on_step=on_step)


def prepare(way: Way, setup: Setup) -> Prepared:
    unet, vae = setup.unet, setup.vae
    if way.prepare:
        unet, vae = (way.prepare(copy.deepcopy(network)) for network in (unet, vae))
    denoiser, codec = DiffusersDenoiser(unet, **way.denoiser), DiffusersCodec(vae, **way.codec)
    return Prepared(way, setup, unet, vae, denoiser, codec)

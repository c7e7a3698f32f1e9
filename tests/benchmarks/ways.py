"""The ways that are compared: each says how the networks are prepared, which options the adapters have, and how the
method runs on them. All have the published settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from faceprotect_core import IdentityObjective, ProtectionResult, protect
from faceprotect_core.diffusers_backend import DiffusersCodec, DiffusersDenoiser
from faceprotect_core.photos.settings import DIFFUSION, PRESETS
from faceprotect_core.progress import OnStep
from faceprotect_core.protocols import Denoiser, ImageCodec
from faceprotect_core.speed.checkpointing import blocks_of
from faceprotect_core.speed.cuda_graphs import Recorder
from faceprotect_core.speed.gradient_codec import StraightThroughCodec
from faceprotect_core.speed.tiling import TiledCodec

from .models import Setup
from .release import protect_as_released


@dataclass(frozen=True)
class Way:
    """prepare: changes U-Net and autoencoder in place, which are copies then; None leaves them as they are.

    denoiser, codec: options of DiffusersDenoiser and DiffusersCodec. tile: pixels of a tile of the decoder.
    tiny: the gradient goes through a decoder of TAESD's shape. released: the release's formulation, not the core.
    countable: `--count` can run it on the meta device.
    """

    prepare: Callable[[nn.Module], nn.Module] | None = None
    denoiser: dict = field(default_factory=dict)
    codec: dict = field(default_factory=dict)
    tile: int | None = None
    tiny: bool = False
    released: bool = False
    graphs: bool = False
    preset: str | None = None
    countable: bool = True


def bfloat16(network: nn.Module) -> nn.Module:
    return network.bfloat16()


def channels_last(network: nn.Module) -> nn.Module:
    return network.bfloat16().to(memory_format=torch.channels_last)


def compiled(network: nn.Module) -> nn.Module:
    """The residual blocks and the feed-forward parts of the transformers: what is between the attentions, which change
    from one call to the next. Compiling takes minutes, which are in the warm-up."""
    # A graph for every shape and with and without a gradient; torch's 8 would leave most as they are.
    torch._dynamo.config.recompile_limit = 128
    for block in blocks_of(network):
        getattr(block, "ff", block).compile()
    return network


def compiled_bfloat16(network: nn.Module) -> nn.Module:
    return compiled(network.bfloat16())


LOW_MEMORY = {"denoiser": {"low_memory": True}, "codec": {"low_memory": True}}
# Latents, losses, surrogates and optimiser are in the number format of the photo in all of them.
WAYS = {
    "release": Way(released=True),
    "exact": Way(),
    "small": Way(**LOW_MEMORY),
    "bfloat16": Way(bfloat16),
    "bfloat16 small": Way(bfloat16, **LOW_MEMORY),
    "channels last": Way(channels_last),
    "compiled": Way(compiled, countable=False),
    "graphs": Way(graphs=True, countable=False),
    "bfloat16 graphs": Way(bfloat16, graphs=True, countable=False),
    "channels last graphs": Way(channels_last, graphs=True, countable=False),
    "compiled graphs": Way(compiled_bfloat16, graphs=True, countable=False),
    "bfloat16 graphs fast": Way(bfloat16, graphs=True, preset="fast", countable=False),
    "channels last graphs fast": Way(channels_last, graphs=True, preset="fast", countable=False),
    "channels last graphs balanced": Way(channels_last, graphs=True, preset="balanced", countable=False),
    "bfloat16 graphs tiny decoder": Way(bfloat16, graphs=True, tiny=True, countable=False),
    "tiled": Way(tile=256),
    "small tiled": Way(**LOW_MEMORY, tile=256),
    "bfloat16 small tiled": Way(bfloat16, **LOW_MEMORY, tile=256),
    "tiny decoder": Way(tiny=True),
    "small tiny decoder": Way(**LOW_MEMORY, tiny=True),
    "bfloat16 small tiny decoder": Way(bfloat16, **LOW_MEMORY, tiny=True),
}


@dataclass(eq=False)
class Prepared:
    """A way on its networks; call it as often as you like. tiny: the decoder for the gradient, where there is one.

    recorded_bytes: what its CUDA graphs hold, once that is known.
    """

    way: Way
    setup: Setup
    unet: nn.Module
    vae: nn.Module
    denoiser: Denoiser
    codec: ImageCodec
    objective: IdentityObjective
    tiny: nn.Module | None
    recorded_bytes: int = 0

    def weights(self) -> list[Tensor]:
        """Of all networks: parameters and buffers."""
        networks = [self.unet, self.vae, *(surrogate.module for surrogate in self.setup.surrogates)]
        networks += [self.tiny] if self.tiny else []
        return [weight for network in networks for weight in (*network.parameters(), *network.buffers())]

    def __call__(self, null_text_iterations: int, iterations: int, on_step: OnStep | None = None) -> ProtectionResult:
        setup = self.setup
        arguments = self.denoiser, self.codec, setup.image, setup.context, self.objective
        settings = {"schedule": setup.schedule, "null_text_iterations": null_text_iterations, "iterations": iterations}
        if self.way.preset:
            preset = PRESETS[DIFFUSION][self.way.preset]
            settings |= {
                name: getattr(preset.diffusion, name) for name in ("depth", "null_text_iterations", "iterations")
            }
        run = protect_as_released if self.way.released else protect
        return run(*arguments, **settings, on_step=on_step)


def prepare(way: Way, setup: Setup) -> Prepared:
    unet, vae = setup.unet, setup.vae
    if way.prepare:
        unet, vae = (way.prepare(copy.deepcopy(network)) for network in (unet, vae))
    denoiser = DiffusersDenoiser(unet, **way.denoiser, pooled=setup.pooled)
    codec = DiffusersCodec(vae, **way.codec)
    if way.tile:
        codec = TiledCodec(codec, way.tile)
    tiny = _tiny_like(vae) if way.tiny else None
    if tiny:
        codec = StraightThroughCodec(codec, DiffusersCodec(tiny))
    recorder = Recorder("cuda" if way.graphs else None)
    denoiser, codec = recorder.denoiser(denoiser), recorder.codec(codec)
    objective = recorder.objective(setup.objective)
    return Prepared(way, setup, unet, vae, denoiser, codec, objective, tiny)


def _tiny_like(vae: nn.Module) -> nn.Module:
    """Random weights in TAESD's shape, the same at every call."""
    with torch.random.fork_rng(devices=[]), torch.device(vae.device if vae.device.type == "meta" else "cpu"):
        torch.manual_seed(0)
        tiny = AutoencoderTiny()
    return nn.Module.to(tiny, vae.device, vae.dtype).eval().requires_grad_(False)

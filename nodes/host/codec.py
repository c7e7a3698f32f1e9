"""VAE -> the core's ImageCodec, with the gradient of the VAE itself, of a tiny one, or of tiles."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import comfy.latent_formats
import torch
from einops import rearrange
from torch import Tensor, nn

from ...faceprotect_core.speed.checkpointing import blocks_of, recomputed
from ...faceprotect_core.speed.gradient_codec import StraightThroughCodec
from ...faceprotect_core.speed.memory import decoder_bytes, tiny_decoder_bytes
from ...faceprotect_core.speed.tiling import TiledCodec
from .models import plain_patcher
from .settings import LIGHT_DECODER, compute_dtype, is_taesd, plain_taesd, settings_of
from .supported import require_supported, require_supported_vae


class ComfyCodec:
    """An ImageCodec over ComfyUI's VAE, for use inside `gradients`; decode is differentiable and not clamped. Without a
    model it is for round trips only: all formats that it takes have the scale of Stable Diffusion 1.x.

    low_memory: decoding computes its blocks again in the backward pass; the result is the same. light: of the demo
    model, see `decoder_of_changes`.
    """

    def __init__(self, vae, model=None, low_memory: bool = False):
        require_supported_vae(vae)
        if model is not None:
            require_supported(model)
        self.vae = plain_taesd(vae) if is_taesd(vae) and vae.patcher.is_dynamic() else vae
        self.patcher = plain_patcher(self.vae.patcher)
        self.patchers = (self.patcher,)
        self.latent_format = comfy.latent_formats.SD15() if model is None else model.model.latent_format
        self.settings = settings_of(vae.patcher)
        light = vae.patcher.model_options.get(LIGHT_DECODER)
        self.light = light and partial(_decode_where_it_is, light)
        self.low_memory = low_memory

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and not vae_dtype: a VAE of the dynamic loader has its file's, and casts as it goes."""
        return compute_dtype(next(self.patcher.model.parameters()).dtype, self.settings.precision)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """What VAE Encode does, in the memory layout of an IMAGE: another layout rounds otherwise. Not by VAE.encode
        itself, which loads models, and would move the weights that `gradients` has replaced."""
        pixels = self.vae.vae_encode_crop_pixels(rearrange(image, "b c h w -> b h w c").contiguous())
        pixels = rearrange(pixels, "b h w c -> b c h w")
        latent = self.patcher.model.encode(self.vae.process_input(pixels).to(self.patcher.load_device, self.dtype))
        return self.latent_format.process_in(latent.to(image).contiguous())  # as VAE.encode returns it

    def decode(self, latent: Tensor) -> Tensor:
        network = self.patcher.model
        with recomputed(blocks_of(network)) if self.low_memory else nullcontext():
            image = network.decode(self.latent_format.process_out(latent).to(self.patcher.load_device, self.dtype))
        return image.to(latent) / 2.0 + 0.5

    def decode_bytes(self, latent_shape, low: bool) -> float:
        """The peak of decoding and of its backward pass."""
        if is_taesd(self.vae):
            return tiny_decoder_bytes(latent_shape, self.dtype.itemsize, low)
        width = getattr(getattr(self.patcher.model, "decoder", None), "ch", 128)
        return decoder_bytes(latent_shape, self.dtype.itemsize, width, low)


class ComfyGradientCodec(StraightThroughCodec):
    """The images of a VAE with the gradient of a tiny one, or of its own tiles.

    near: decodes for the gradient. tile: in tiles of that many pixels; 0: whole.
    """

    def __init__(self, full: ComfyCodec, near: ComfyCodec, tile: int = 0):
        super().__init__(full, TiledCodec(near, tile) if tile else near)
        self.near, self.tile = near, tile
        self.patchers = full.patchers if near is full else (*full.patchers, *near.patchers)
        self.settings = full.settings

    @property
    def low_memory(self) -> bool:
        return self.near.low_memory

    @low_memory.setter
    def low_memory(self, low: bool) -> None:
        self.near.low_memory = low

    def decode_bytes(self, latent_shape, low: bool) -> float:
        """The full decoder holds nothing: ComfyUI's own estimate of its memory, which is for one image."""
        full = self.full.vae.memory_used_decode(latent_shape, self.full.dtype) * latent_shape[0]
        size = [min(length, self.tile // 8) if self.tile else length for length in latent_shape[2:]]
        return max(full, self.near.decode_bytes((*latent_shape[:2], *size), low))


def _decode_where_it_is(decoder: nn.Module, latent: Tensor) -> Tensor:
    """The decoder is too small for ComfyUI to look after: it goes where the latent is."""
    with torch.inference_mode(False):
        decoder.to(latent.device)
    return decoder(latent)


def codec_of(vae, model) -> ComfyCodec | ComfyGradientCodec:
    """The ImageCodec of a VAE with its Performance Settings."""
    full = ComfyCodec(vae, model)
    tiny, tile = full.settings.gradient_vae, full.settings.gradient_tile
    if tiny is None and not tile:
        return full
    return ComfyGradientCodec(full, full if tiny is None else ComfyCodec(tiny, model), tile)

"""Denoiser and ImageCodec over diffusers' UNet2DConditionModel and AutoencoderKL: the library without ComfyUI.

Needs the package diffusers, which the caller has imported to build the models.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .checks import require, require_image
from .model import SelfAttention
from .schedule import scaled_linear_alphas_cumprod


class DiffusersDenoiser:
    """A Denoiser over UNet2DConditionModel. The model is left as it was found after every call.

    prediction_type: "epsilon" or "v_prediction" (then alphas_cumprod, [T], converts to epsilon).
    The model may be bfloat16; latents, losses and the returned noise keep the latent's dtype.
    """

    def __init__(self, unet: nn.Module, prediction_type: str = "epsilon", alphas_cumprod: Tensor | None = None):
        require(
            prediction_type in ("epsilon", "v_prediction"),
            f"DiffusersDenoiser: prediction_type {prediction_type!r} is not supported",
            'use a model with "epsilon" or "v_prediction" (scheduler_config.json says which)',
        )
        self.unet = unet
        self.prediction_type = prediction_type
        self.alphas_cumprod = scaled_linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
        self._self_attentions = {name: m for name, m in unet.named_modules() if name.endswith(".attn1")}

    def __call__(
        self, latent: Tensor, timestep: int, context: Tensor, self_attention: SelfAttention | None = None
    ) -> Tensor:
        dtype = self.unet.dtype
        with self._computed_by(self_attention):
            output = self.unet(latent.to(dtype), timestep, encoder_hidden_states=context.to(dtype)).sample
        output = output.to(latent.dtype)
        if self.prediction_type == "epsilon":
            return output
        alpha = self.alphas_cumprod[timestep].item()
        return alpha**0.5 * output + (1.0 - alpha) ** 0.5 * latent

    @contextmanager
    def _computed_by(self, self_attention: SelfAttention | None) -> Iterator[None]:
        """Every self-attention layer is computed by the given function, and restored afterwards."""
        if self_attention is None:
            yield
            return
        original = {name: module.processor for name, module in self._self_attentions.items()}
        try:
            for name, module in self._self_attentions.items():
                module.processor = _Processor(name, self_attention)
            yield
        finally:
            for name, module in self._self_attentions.items():
                module.processor = original[name]


class _Processor:
    """diffusers' attention processor that hands query, key and value to a SelfAttention function."""

    def __init__(self, layer: str, self_attention: SelfAttention):
        self.layer, self.self_attention = layer, self_attention

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        def split_heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key, value = (split_heads(project(hidden_states)) for project in (attn.to_q, attn.to_k, attn.to_v))
        output = self.self_attention(self.layer, query, key, value)
        return attn.to_out[1](attn.to_out[0](output.transpose(1, 2).flatten(2)))


class DiffusersCodec:
    """An ImageCodec over AutoencoderKL.

    posterior_seed: None encodes to the posterior's mode; a number samples the posterior with that seed (the release
    samples with a fixed seed).
    """

    def __init__(self, vae: nn.Module, posterior_seed: int | None = None):
        self.vae, self.posterior_seed = vae, posterior_seed

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        require_image(image, "DiffusersCodec.encode")
        require(
            image.shape[2] % 8 == 0 and image.shape[3] % 8 == 0,
            f"the image's height and width must be multiples of 8, got {image.shape[2]} x {image.shape[3]}",
            "crop or resize the photo to a multiple of 8",
        )
        posterior = self.vae.encode((2.0 * image - 1.0).to(self.vae.dtype)).latent_dist
        if self.posterior_seed is None:
            latent = posterior.mode()
        else:
            generator = torch.Generator(image.device).manual_seed(self.posterior_seed)
            noise = torch.randn(
                posterior.mean[:1].shape, generator=generator, device=image.device, dtype=self.vae.dtype
            )
            latent = (
                posterior.mean + posterior.std * noise
            )  # the same noise for every image: a batch equals single runs
        return latent.to(image.dtype) * self.vae.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        image = self.vae.decode((latent / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return image.to(latent.dtype) / 2.0 + 0.5

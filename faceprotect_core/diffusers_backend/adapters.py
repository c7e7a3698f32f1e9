"""Denoiser and ImageCodec over diffusers' UNet2DConditionModel and AutoencoderKL."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from einops import rearrange
from torch import Tensor, nn

from ..checks import require, require_image
from ..method.schedule import scaled_linear_alphas_cumprod
from ..protocols import Bottleneck, SelfAttention
from ..replaced import replaced
from ..speed.checkpointing import blocks_of, recomputed, recomputed_attending


class DiffusersDenoiser:
    """A BottleneckDenoiser over UNet2DConditionModel. The model is left as it was found after every call.

    The model may be bfloat16; latents, losses and the returned noise keep the latent's dtype.

    Args:
        unet: a UNet2DConditionModel.
        prediction_type: "epsilon" or "v_prediction" (then alphas_cumprod converts to epsilon).
        alphas_cumprod: [T]; None for those of Stable Diffusion.
        low_memory: the blocks are computed again in the backward pass; the result is the same.
        pooled: of SDXL, what its second text encoder gives of the whole prompt, [1, dim]. It stays as it is, and so do
            the sizes that SDXL is given with it: the picture's own, uncropped.

    Raises:
        ProtectionError: another prediction_type.
    """

    def __init__(
        self,
        unet: nn.Module,
        prediction_type: str = "epsilon",
        alphas_cumprod: Tensor | None = None,
        low_memory: bool = False,
        pooled: Tensor | None = None,
    ):
        require(
            prediction_type in ("epsilon", "v_prediction"),
            f"DiffusersDenoiser: prediction_type {prediction_type!r} is not supported",
            'use a model with "epsilon" or "v_prediction" (scheduler_config.json says which)',
        )
        self.unet = unet
        self.prediction_type = prediction_type
        self.alphas_cumprod = scaled_linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
        self.low_memory, self.pooled = low_memory, pooled
        self._sizes: dict[tuple[int, int], Tensor] = {}
        self._self_attentions = {name: m for name, m in unet.named_modules() if name.endswith(".attn1")}

    def __call__(
        self,
        latent: Tensor,
        timestep: int,
        context: Tensor,
        self_attention: SelfAttention | None = None,
        bottleneck: Bottleneck | None = None,
    ) -> Tensor:
        dtype = self.unet.dtype
        at = torch.full((), timestep, device=latent.device)  # a number would be copied to a GPU, which waits for it
        with self._computed_by(self_attention), self._recomputed(self_attention), self._changed_by(bottleneck):
            output = self.unet(latent.to(dtype), at, context.to(dtype), **self._besides(latent)).sample
        output = output.to(latent.dtype)
        if self.prediction_type == "epsilon":
            return output
        alpha = self.alphas_cumprod[timestep].item()
        return alpha**0.5 * output + (1.0 - alpha) ** 0.5 * latent

    def _besides(self, latent: Tensor) -> dict[str, dict[str, Tensor]]:
        """SDXL's pooled text [B, dim] and sizes [B, 6], made once for a size of picture: they come from the CPU."""
        if self.pooled is None:
            return {}
        size = (latent.shape[2] * 8, latent.shape[3] * 8)
        if size not in self._sizes:
            self._sizes[size] = latent.new_tensor([[*size, 0, 0, *size]]).to(self.unet.dtype)
        added = {"text_embeds": self.pooled.to(self.unet.dtype), "time_ids": self._sizes[size]}
        return {"added_cond_kwargs": {name: one.expand(latent.shape[0], -1) for name, one in added.items()}}

    def _recomputed(self, self_attention: SelfAttention | None) -> AbstractContextManager[None]:
        if not self.low_memory:
            return nullcontext()
        return recomputed_attending(self.unet, self._computed_by, self_attention)

    @contextmanager
    def _computed_by(self, self_attention: SelfAttention | None) -> Iterator[None]:
        """Every self-attention layer is computed by the given function, and restored afterwards."""
        if self_attention is None:
            yield
            return
        with ExitStack() as stack:
            for name, module in self._self_attentions.items():
                stack.enter_context(replaced(module, "processor", _Processor(name, self_attention)))
            yield

    @contextmanager
    def _changed_by(self, bottleneck: Bottleneck | None) -> Iterator[None]:
        """The middle block gives what the function makes of its output."""
        if bottleneck is None:
            yield
            return
        hook = self.unet.mid_block.register_forward_hook(lambda _block, _inputs, output: bottleneck(output))
        try:
            yield
        finally:
            hook.remove()


class _Processor:
    """diffusers' attention processor that hands query, key and value to a SelfAttention function."""

    def __init__(self, layer: str, self_attention: SelfAttention):
        self.layer, self.self_attention = layer, self_attention

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        projected = (project(hidden_states) for project in (attn.to_q, attn.to_k, attn.to_v))
        heads = (rearrange(x, "b n (h d) -> b h n d", h=attn.heads) for x in projected)
        output = rearrange(self.self_attention(self.layer, *heads), "b h n d -> b n (h d)")
        return attn.to_out[1](attn.to_out[0](output))


class DiffusersCodec:
    """An ImageCodec over AutoencoderKL.

    Args:
        vae: an AutoencoderKL.
        posterior_seed: None encodes to the posterior's mode; a number samples the posterior with that seed (the release
            samples with a fixed seed).
        low_memory: decoding computes its blocks again in the backward pass; the result is the same.

    light: None, or what `decoder_of_changes` gives instead of `decode`.
    """

    light: nn.Module | None = None

    def __init__(self, vae: nn.Module, posterior_seed: int | None = None, low_memory: bool = False):
        self.vae, self.posterior_seed, self.low_memory = vae, posterior_seed, low_memory

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
            shape = posterior.mean[:1].shape  # the same noise for every image: a batch equals single runs
            noise = torch.randn(shape, generator=generator, device=image.device, dtype=self.vae.dtype)
            latent = posterior.mean + posterior.std * noise
        return latent.to(image.dtype) * self.vae.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        with recomputed(blocks_of(self.vae.decoder)) if self.low_memory else nullcontext():
            image = self.vae.decode((latent / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return image.to(latent.dtype) / 2.0 + 0.5

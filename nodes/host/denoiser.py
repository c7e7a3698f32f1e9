"""MODEL -> the core's Denoiser, whose bottleneck can be changed, too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import comfy.ldm.modules.attention
import comfy.model_patcher
import comfy.patcher_extension
import torch
from einops import rearrange
from torch import Tensor

from ...faceprotect_core.protocols import Bottleneck, SelfAttention
from ...faceprotect_core.replaced import replaced
from ...faceprotect_core.speed.checkpointing import recomputed_attending
from ...faceprotect_core.speed.memory import unet_bytes
from .models import plain_patcher
from .settings import compute_dtype, settings_of
from .supported import is_sdxl, require_supported

WITHOUT_GRADIENT = ("attention_sage", "attention3_sage", "attention_flash")  # of ComfyUI's ways to compute attention
AFTER_MIDDLE = "middle_block_after_patch"  # ComfyUI's name for what changes the middle block's output


class ComfyDenoiser:
    """A BottleneckDenoiser over ComfyUI's MODEL. Patches, LoRAs and wrappers on the MODEL are honoured; it is never
    changed.

    fixed: what SDXL is given besides the context and stays as it is, of `fixed_conditioning`; None for the others.
    low_memory: the blocks are computed again in the backward pass; the result is the same. What self_attention collects
    is collected in the forward pass alone: while a block is computed again, a copy of self_attention takes its place.
    """

    def __init__(self, model, low_memory: bool = False, fixed: dict | None = None):
        require_supported(model)
        self.patcher = plain_patcher(model)
        self.patchers = (self.patcher,)
        self.base = self.patcher.model
        self.settings = settings_of(model)
        self.low_memory = low_memory
        self.fixed = fixed
        self._vectors: dict[tuple[int, int], Tensor] = {}
        self._self_attention: SelfAttention | None = None
        sampling = self.patcher.get_model_object("model_sampling")
        self.sigmas = sampling.sigmas.detach().to("cpu", torch.float64).clone()
        self.options = comfy.model_patcher.create_model_options_clone(self.patcher.model_options)
        transformer_options = self.options.setdefault("transformer_options", {})
        for kind in ("wrappers", "callbacks"):
            comfy.patcher_extension.merge_nested_dicts(
                transformer_options.setdefault(kind, {}), getattr(self.patcher, kind), copy_dict1=False
            )

    def __call__(
        self,
        latent: Tensor,
        timestep: int,
        context: Tensor,
        self_attention: SelfAttention | None = None,
        bottleneck: Bottleneck | None = None,
    ) -> Tensor:
        here, latent, context = latent.device, latent.to(self.patcher.load_device), context.to(self.patcher.load_device)
        level = self.sigmas[timestep].item()
        alpha = 1.0 / (1.0 + level**2)
        sigma = latent.new_full((latent.shape[0],), level)  # made on the GPU: a copy would wait for it
        arguments = {
            "c_crossattn": context,
            "transformer_options": self._transformer_options(sigma, latent.shape[0], self_attention, bottleneck),
        }
        if self.fixed:
            arguments["y"] = self._vector(latent)
        noisy = latent / alpha**0.5
        wrapper = self.options.get("model_function_wrapper")
        with self._attending(self_attention), self._recomputed(self_attention):
            if wrapper:
                call = {"input": noisy, "timestep": sigma, "c": arguments, "cond_or_uncond": [1]}
                denoised = wrapper(self.base.apply_model, call)
            else:
                denoised = self.base.apply_model(noisy, sigma, **arguments)
        return ((latent - alpha**0.5 * denoised.to(latent.dtype)) / (1.0 - alpha) ** 0.5).to(here)

    def _vector(self, latent: Tensor) -> Tensor:
        """SDXL's pooled text and sizes, [B, 2816]; made once for a size of picture, because it comes from the CPU."""
        size = tuple(length * 8 for length in latent.shape[2:])
        if size not in self._vectors:
            known = {"height": size[0], "width": size[1]} | self.fixed
            self._vectors[size] = self.base.encode_adm(device=latent.device, **known).to(latent.device)
        return self._vectors[size].expand(latent.shape[0], -1)

    def _transformer_options(
        self, sigma: Tensor, batch: int, self_attention: SelfAttention | None, bottleneck: Bottleneck | None
    ) -> dict:
        options = comfy.patcher_extension.merge_nested_dicts({}, self.options["transformer_options"], copy_dict1=False)
        options |= {"cond_or_uncond": [1], "sigmas": sigma, "uuids": [None]}
        if self_attention:
            patches = dict(options.get("patches_replace", {}))
            patches["attn1"] = dict.fromkeys(self._transformer_blocks(), self._attention_patch)
            options["patches_replace"] = patches
        override = options.get("optimized_attention_override")
        if override or comfy.ldm.modules.attention.optimized_attention.__name__ in WITHOUT_GRADIENT:
            options["optimized_attention_override"] = partial(_differentiable, override)
        if bottleneck:
            patches = dict(options.get("patches", {}))
            patches[AFTER_MIDDLE] = [*patches.get(AFTER_MIDDLE, ()), lambda now: {"h": bottleneck(now["h"])}]
            options["patches"] = patches
        return options

    def _attention_patch(self, query: Tensor, key: Tensor, value: Tensor, extra: dict) -> Tensor:
        """ComfyUI's attn1 replace patch over the SelfAttention function in force."""
        layer = ".".join(str(part) for part in (*extra["block"], extra["block_index"]))
        heads = (rearrange(x, "b n (h d) -> b h n d", h=extra["n_heads"]) for x in (query, key, value))
        return rearrange(self._self_attention(layer, *heads), "b h n d -> b n (h d)")

    def _attending(self, self_attention: SelfAttention | None) -> AbstractContextManager[None]:
        return replaced(self, "_self_attention", self_attention)

    def _recomputed(self, self_attention: SelfAttention | None) -> AbstractContextManager[None]:
        if not self.low_memory:
            return nullcontext()
        return recomputed_attending(self.base.diffusion_model, self._attending, self_attention)

    def step_bytes(self, latent_shape, low: bool) -> float:
        """What one step holds for the backward pass."""
        dtype = compute_dtype(self.base.get_dtype_inference(), self.settings.precision)
        width = self.base.model_config.unet_config["model_channels"]
        return unet_bytes(latent_shape, dtype.itemsize, width, low, sdxl=is_sdxl(self.patcher))

    def _transformer_blocks(self) -> list[tuple[str, int]]:
        unet = self.base.diffusion_model
        sizes = (("input", len(unet.input_blocks)), ("middle", 1), ("output", len(unet.output_blocks)))
        return [(name, index) for name, size in sizes for index in range(size)]


def _differentiable(
    override: Callable | None, func: Callable, query: Tensor, key: Tensor, value: Tensor, *more, **named
):
    """Attention as it was chosen, and PyTorch's where a gradient is wanted and the chosen one has none."""
    plain = comfy.ldm.modules.attention.attention_pytorch
    wanted = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if wanted and not override and func.__name__ in WITHOUT_GRADIENT:
        return plain(query, key, value, *more, **named)
    out = override(func, query, key, value, *more, **named) if override else func(query, key, value, *more, **named)
    return plain(query, key, value, *more, **named) if wanted and not out.requires_grad else out

"""Denoiser and ImageCodec over diffusers' UNet2DConditionModel and AutoencoderKL: the library without ComfyUI.

Needs the package diffusers, which the caller has imported to build the models; `load_diffusers` imports it itself.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from .checks import ProtectionError, require, require_image
from .method.schedule import scaled_linear_alphas_cumprod
from .protocols import Bottleneck, SelfAttention
from .speed.checkpointing import blocks_of, recomputed

PARTS = ("unet", "vae", "text_encoder")  # the networks of a Stable Diffusion in diffusers' format, a folder each
# The noise schedule of Stable Diffusion 1.x and 2.x, which DDIMSchedule.scaled_linear() is.
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


class DiffusersDenoiser:
    """A BottleneckDenoiser over UNet2DConditionModel. The model is left as it was found after every call.

    The model may be bfloat16; latents, losses and the returned noise keep the latent's dtype.

    Args:
        unet: a UNet2DConditionModel.
        prediction_type: "epsilon" or "v_prediction" (then alphas_cumprod converts to epsilon).
        alphas_cumprod: [T]; None for those of Stable Diffusion.
        low_memory: the blocks are computed again in the backward pass; the result is the same.

    Raises:
        ProtectionError: another prediction_type.
    """

    def __init__(
        self,
        unet: nn.Module,
        prediction_type: str = "epsilon",
        alphas_cumprod: Tensor | None = None,
        low_memory: bool = False,
    ):
        require(
            prediction_type in ("epsilon", "v_prediction"),
            f"DiffusersDenoiser: prediction_type {prediction_type!r} is not supported",
            'use a model with "epsilon" or "v_prediction" (scheduler_config.json says which)',
        )
        self.unet = unet
        self.prediction_type = prediction_type
        self.alphas_cumprod = scaled_linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
        self.low_memory = low_memory
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
            output = self.unet(latent.to(dtype), at, encoder_hidden_states=context.to(dtype)).sample
        output = output.to(latent.dtype)
        if self.prediction_type == "epsilon":
            return output
        alpha = self.alphas_cumprod[timestep].item()
        return alpha**0.5 * output + (1.0 - alpha) ** 0.5 * latent

    def _recomputed(self, self_attention: SelfAttention | None) -> AbstractContextManager:
        """The blocks keep copies of self_attention and not itself: it holds the loss, thereby the graph, thereby the
        blocks, and such a circle through autograd is never freed where the backward pass does not come."""
        if not self.low_memory:
            return nullcontext()
        untouched = copy.copy(self_attention)
        return recomputed(blocks_of(self.unet), lambda: self._computed_by(copy.copy(untouched)))

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


def load_diffusers(folder: Path | str, device: torch.device | str = "cpu"):
    """Stable Diffusion 1.x or 2.x from a folder in diffusers' format, in float32; nothing is fetched.

    Only safetensors are read: other weights files can run code.

    Returns:
        DiffusersDenoiser, DiffusersCodec, and the empty prompt's embedding [1, tokens, dim].

    Raises:
        ProtectionError: a part or a package is missing, a damaged file, another kind of model or noise schedule.
    """
    folder = Path(folder)
    prediction_type = _prediction_type(folder)
    classes = _model_classes()
    networks = {part: _load_part(classes[part], folder, part).to(device) for part in PARTS}
    unet, vae = networks["unet"], networks["vae"]
    context = _empty_prompt(classes["tokenizer"], folder, networks["text_encoder"])
    require(
        unet.config.in_channels == 4
        and unet.config.get("addition_embed_type") is None
        and unet.config.cross_attention_dim == context.shape[-1]
        and vae.config.latent_channels == 4,
        f"{folder.name!r} is not a plain Stable Diffusion 1.x or 2.x (U-Net of {unet.config.in_channels} channels, "
        f"context {unet.config.cross_attention_dim}, text encoder {context.shape[-1]})",
        "use a plain SD 1.5 or SD 2 model (not SDXL, SD 3, inpainting)",
    )
    return DiffusersDenoiser(unet, prediction_type), DiffusersCodec(vae), context


def load_vae(folder: Path | str, device: torch.device | str = "cpu") -> DiffusersCodec:
    """The vae of a model in diffusers' format alone, in float32; see `load_diffusers`."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ProtectionError(
            "a model in diffusers' format needs the package diffusers", "pip install diffusers"
        ) from error
    return DiffusersCodec(_load_part(AutoencoderKL, Path(folder), "vae").to(device))


def _model_classes() -> dict:
    try:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise ProtectionError(
            f"a model in diffusers' format needs the packages diffusers and transformers ({error.name} is missing)",
            "pip install diffusers transformers",
        ) from error
    networks = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    return networks | {"tokenizer": CLIPTokenizer}


def _prediction_type(folder: Path) -> str:
    """From the scheduler's config; another noise schedule than Stable Diffusion's is refused."""
    path = folder / "scheduler" / "scheduler_config.json"
    require(
        path.is_file(),
        f"{folder.name!r} has no scheduler/scheduler_config.json",
        "name a folder with a Stable Diffusion in diffusers' format: unet, vae, text_encoder, tokenizer, scheduler",
    )
    with _or_download_again(f"the scheduler_config.json of {folder.name!r} is damaged"):
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    other = {name: config.get(name) for name, value in SCHEDULE.items() if config.get(name) != value}
    other |= {name: config[name] for name in ("trained_betas", "rescale_betas_zero_snr") if config.get(name)}
    require(
        not other,
        f"{folder.name!r} has another noise schedule than Stable Diffusion 1.x and 2.x ({other})",
        f"use a model whose scheduler has {SCHEDULE}; an inversion with the wrong schedule would not find the photo",
    )
    return config.get("prediction_type", "epsilon")


@contextmanager
def _or_download_again(problem: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file raises what its reader likes
        raise ProtectionError(f"{problem} ({type(error).__name__})", "download the model again") from error


def _load_part(kind, folder: Path, part: str) -> nn.Module:
    weights = sorted((folder / part).glob("*.safetensors"))
    require(
        (folder / part / "config.json").is_file() and bool(weights),
        f"{folder.name!r} has no {part} with config.json and safetensors weights",
        "download the model's safetensors; .bin and .ckpt files are not read, because they can run code",
    )
    variant = "fp16" if all(".fp16" in path.name for path in weights) else None
    with _or_download_again(f"the {part} of {folder.name!r} cannot be loaded"):
        network = kind.from_pretrained(
            folder / part, local_files_only=True, use_safetensors=True, variant=variant, low_cpu_mem_usage=False
        )
    return network.float().eval().requires_grad_(False)


@torch.no_grad()
def _empty_prompt(kind, folder: Path, text_encoder: nn.Module) -> Tensor:
    require(
        (folder / "tokenizer").is_dir(), f"{folder.name!r} has no tokenizer folder", "download the whole model again"
    )
    with _or_download_again(f"the tokenizer of {folder.name!r} cannot be loaded"):
        tokenizer = kind.from_pretrained(folder / "tokenizer", local_files_only=True)
        length = text_encoder.config.max_position_embeddings
        tokens = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return text_encoder(tokens.input_ids.to(text_encoder.device))[0].float()

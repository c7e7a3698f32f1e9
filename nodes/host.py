"""The only file that touches ComfyUI's internals: MODEL, VAE, CONDITIONING and IMAGE become the core's Denoiser,
ImageCodec, context and image tensors; gradients inside the server's inference mode; progress, preview, cancel."""

import copy
import dataclasses
import logging
import os
import re
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sd
import comfy.supported_models
import comfy.taesd.taesd
import comfy.utils
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer
from torch import Tensor, nn

from ..faceprotect_core import DDIMSchedule, FRSurrogate, SelfAttentionReference, Trajectory
from ..faceprotect_core.checks import require
from ..faceprotect_core.cuda_graphs import Recorder
from ..faceprotect_core.faces import FaceCrop
from ..faceprotect_core.gradient_codec import StraightThroughCodec
from ..faceprotect_core.memory import blocks_of, recomputed
from ..faceprotect_core.model import SelfAttention
from ..faceprotect_core.surrogates import WEIGHTS_SUFFIXES
from ..faceprotect_core.tiling import TiledCodec
from . import gradient_memory

PREVIEW_SIZE = 512
# Fields of the core's dataclasses that hold tensors.
MOVED = {"latents", "queries_and_keys", "latent", "image", "mask", "paste_mask"}
EXACT_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


# ------------------------------------------------------------------------------------------------ tensors


def to_core_image(image: Tensor, where: str) -> Tensor:
    """IMAGE [B, H, W, C] -> a new [B, 3, H, W] float32 on the compute device; alpha is dropped, grey repeated."""
    require(
        image.ndim == 4 and image.shape[-1] in (1, 3, 4) and image.numel() > 0,
        f"{where} expects an IMAGE [batch, height, width, channels], got {list(image.shape)}",
        "connect an image with at least one pixel and 1, 3 or 4 channels",
    )
    planes = image[..., :3].movedim(-1, 1).to(comfy.model_management.get_torch_device(), torch.float32, copy=True)
    return planes.expand(-1, 3, -1, -1).contiguous()


def to_comfy_image(image: Tensor, like: Tensor | None = None) -> Tensor:
    """[B, 3, H, W] -> IMAGE [B, H, W, 3] where ComfyUI keeps results; with the alpha of an IMAGE that has one."""
    device = comfy.model_management.intermediate_device()
    planes = image.detach().movedim(1, -1).contiguous().to(device, torch.float32)
    if like is None or like.shape[-1] != 4:
        return planes
    return torch.cat([planes, like[..., 3:].to(planes)], dim=-1)


def to_core_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """MASK [B, H, W] or [H, W] in [0, 1] -> [B, 1, H, W] of the photo's size on the compute device."""
    planes = to_device(mask.reshape(-1, 1, mask.shape[-2], mask.shape[-1]))
    require(
        planes.shape[2:] == (height, width),
        f"Latent Optimizer: the mask is {planes.shape[2]} x {planes.shape[3]}, the photo {height} x {width}",
        "draw the mask on the very image that is connected",
    )
    return planes.clamp(0.0, 1.0)


def to_core_latent(model, latent: dict) -> Tensor:
    """LATENT -> the scaled latent [B, 4, h, w] float32 on the compute device."""
    samples = latent["samples"]
    require(
        samples.ndim == 4 and samples.shape[1] == 4 and samples.numel() > 0,
        f"DDIM Inversion expects a latent [batch, 4, height, width] of Stable Diffusion 1.x or 2.x, "
        f"got {list(samples.shape)}",
        "connect VAE Encode with the VAE of the same checkpoint",
    )
    return model.model.process_latent_in(to_device(samples))


def to_comfy_latent(model, latent: Tensor) -> dict:
    """The scaled latent -> LATENT."""
    return {"samples": model.model.process_latent_out(latent.detach()).to(comfy.model_management.intermediate_device())}


def to_device(tensor: Tensor) -> Tensor:
    """A float32 copy on the compute device; the copy may take part in autograd if made outside inference mode."""
    return tensor.to(comfy.model_management.get_torch_device(), torch.float32, copy=True)


def at_rest(data):
    """Tensors of a core dataclass, moved to where ComfyUI keeps results between nodes."""
    return _moved(data, comfy.model_management.intermediate_device())


def at_work(data):
    """The same, back on the compute device."""
    return _moved(data, comfy.model_management.get_torch_device())


def _moved(data, device):
    if isinstance(data, Tensor):
        return data.to(device)
    if isinstance(data, tuple):
        return tuple(_moved(part, device) for part in data)
    if isinstance(data, dict):
        return {name: _moved(part, device) for name, part in data.items()}
    if isinstance(data, (Trajectory, SelfAttentionReference, FaceCrop)):
        tensors = MOVED & {field.name for field in dataclasses.fields(data)}
        return dataclasses.replace(data, **{name: _moved(getattr(data, name), device) for name in tensors})
    return data


def null_context(model, conditioning: list, where: str = "DDIM Inversion") -> Tensor:
    """The embedding of the empty prompt [1 or B, tokens, dim] from a CONDITIONING."""
    require(
        len(conditioning) == 1,
        f"{where}: the conditioning has {len(conditioning)} parts, one is expected",
        "connect one CLIP Text Encode with an empty text",
    )
    context, expected = conditioning[0][0], model.model.model_config.unet_config.get("context_dim")
    require(
        context.shape[-1] == expected,
        f"{where}: the conditioning has {context.shape[-1]} channels, the model's U-Net expects {expected}",
        "encode the empty prompt with the CLIP of the same checkpoint",
    )
    return to_device(context)


# ------------------------------------------------------------------------------------------------ models


def require_supported(model, vae=None) -> None:
    """SD 1.x and 2.x only: a U-Net with self-attention maps on a 4-channel latent."""
    base = model.model
    unet = getattr(base, "diffusion_model", None)
    config = getattr(base.model_config, "unet_config", {})
    supported = (
        isinstance(base.latent_format, comfy.latent_formats.SD15)
        and hasattr(unet, "input_blocks")
        and config.get("in_channels") == 4
        and not base.adm_channels
        and base.model_type in (comfy.model_base.ModelType.EPS, comfy.model_base.ModelType.V_PREDICTION)
    )
    require(
        supported,
        f"FaceProtect works on Stable Diffusion 1.x and 2.x; the connected MODEL is {type(base.model_config).__name__}"
        f" with {config.get('in_channels', 'unknown')} input channels",
        "load a plain SD 1.5 or SD 2 checkpoint (not SDXL, Flux, SD 3, inpainting or unCLIP)",
    )
    if vae is not None:
        require_supported_vae(vae)


def require_supported_vae(vae) -> None:
    """A VAE of SD 1.x and 2.x."""
    require(
        vae.latent_channels == 4 and vae.latent_dim == 2,
        f"FaceProtect needs the VAE of Stable Diffusion 1.x or 2.x; the connected one has "
        f"{getattr(vae, 'latent_channels', '?')} latent channels",
        "connect the VAE output of the same checkpoint",
    )


def identity_of(model) -> tuple:
    """Which weights, with which patches and which model sampling: two nodes must work on the same."""
    replaced = {name: id(part) for name, part in model.object_patches.items()}
    return (weakref.ref(model.model), model.patches_uuid, replaced)


def require_same_model(model, identity: tuple, where: str) -> None:
    weights, *patches = identity_of(model)
    require(
        identity[0]() is weights() and list(identity[1:]) == patches,
        f"{where}: the trajectory was made with another model, with other LoRAs or with another model sampling",
        "connect the same MODEL to all FaceProtect blocks",
    )


def schedule_of(model, num_inference_steps: int, steps_offset: int) -> DDIMSchedule:
    """The model's own noise schedule: sigma^2 = (1 - a) / a."""
    sigmas = model.get_model_object("model_sampling").sigmas.double()
    return DDIMSchedule.from_alphas_cumprod(1.0 / (1.0 + sigmas**2), num_inference_steps, steps_offset)


def surrogate_patcher(surrogate: FRSurrogate):
    """Lets ComfyUI move the FR network between devices and free it."""
    return comfy.model_patcher.ModelPatcher(
        surrogate.module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=torch.device("cpu"),
    )


def model_from_diffusers(weights: dict[str, Tensor], unet_config: dict):
    """A MODEL from a small diffusers-format U-Net of Stable Diffusion's kind (epsilon prediction), in float32."""
    config = comfy.supported_models.SD15(dict(unet_config))
    config.unet_config |= unet_config  # SD 1.5 forces its own number of heads
    config.set_inference_dtype(torch.float32, None)
    names = comfy.utils.unet_to_diffusers(unet_config)
    base = config.get_model({}, "")
    base.diffusion_model.load_state_dict({names[name]: tensor for name, tensor in weights.items()})
    base.eval()
    return comfy.model_patcher.ModelPatcher(
        base, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    )


def vae_from_diffusers(weights: dict[str, Tensor], vae_config: dict):
    """A VAE from a small diffusers-format AutoencoderKL, in float32."""
    config = {"params": {"embed_dim": vae_config["z_channels"], "ddconfig": dict(vae_config)}}
    return comfy.sd.VAE(sd=dict(weights), config=config, dtype=torch.float32)


def plain_patcher(patcher):
    """A clone whose weights lie still; on a GPU ComfyUI pages them in and out by default, which autograd cannot follow.

    The plain twin of a paged model is made by ComfyUI, once per MODEL, from the file it was loaded from.
    """
    if not patcher.is_dynamic():
        return patcher.clone()
    require(
        patcher.cached_patcher_init is not None,
        "the connected model or VAE comes from a loader that cannot load it again without dynamic paging",
        "load it with one of ComfyUI's own loaders (Load Checkpoint, Load Diffusion Model, Load VAE)",
    )
    return patcher.get_non_dynamic_delegate()


class ComfyDenoiser:
    """A Denoiser over ComfyUI's MODEL. Patches, LoRAs and wrappers on the MODEL are honoured; it is never changed.

    low_memory: the blocks are computed again in the backward pass; the result is the same. What self_attention collects
    is collected in the forward pass alone: while a block is computed again, a copy of self_attention takes its place.
    """

    def __init__(self, model, low_memory: bool = False):
        require_supported(model)
        self.patcher = plain_patcher(model)
        self.patchers = (self.patcher,)
        self.base = self.patcher.model
        self.settings = settings_of(model)
        self.low_memory = low_memory
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
        self, latent: Tensor, timestep: int, context: Tensor, self_attention: SelfAttention | None = None
    ) -> Tensor:
        level = self.sigmas[timestep].item()
        alpha = 1.0 / (1.0 + level**2)
        sigma = latent.new_full((latent.shape[0],), level)  # made on the GPU: a copy would wait for it
        arguments = {
            "c_crossattn": context,
            "transformer_options": self._transformer_options(sigma, latent.shape[0], self_attention),
        }
        noisy = latent / alpha**0.5
        wrapper = self.options.get("model_function_wrapper")
        with self._attending(self_attention), self._recomputed(self_attention):
            if wrapper:
                call = {"input": noisy, "timestep": sigma, "c": arguments, "cond_or_uncond": [1]}
                denoised = wrapper(self.base.apply_model, call)
            else:
                denoised = self.base.apply_model(noisy, sigma, **arguments)
        return (latent - alpha**0.5 * denoised.to(latent.dtype)) / (1.0 - alpha) ** 0.5

    def _transformer_options(self, sigma: Tensor, batch: int, self_attention: SelfAttention | None) -> dict:
        options = comfy.patcher_extension.merge_nested_dicts({}, self.options["transformer_options"], copy_dict1=False)
        options |= {"cond_or_uncond": [1], "sigmas": sigma, "uuids": [None]}
        if self_attention:
            patches = dict(options.get("patches_replace", {}))
            patches["attn1"] = dict.fromkeys(self._transformer_blocks(), self._attention_patch)
            options["patches_replace"] = patches
        return options

    def _attention_patch(self, query: Tensor, key: Tensor, value: Tensor, extra: dict) -> Tensor:
        """ComfyUI's attn1 replace patch over the SelfAttention function in force."""

        def split_heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2)

        layer = ".".join(str(part) for part in (*extra["block"], extra["block_index"]))
        output = self._self_attention(layer, split_heads(query), split_heads(key), split_heads(value))
        return output.transpose(1, 2).flatten(2)

    @contextmanager
    def _attending(self, self_attention: SelfAttention | None) -> Iterator[None]:
        before, self._self_attention = self._self_attention, self_attention
        try:
            yield
        finally:
            self._self_attention = before

    def _recomputed(self, self_attention: SelfAttention | None):
        """The blocks keep copies of self_attention and not itself: it holds the loss, thereby the graph, thereby the
        blocks, and such a circle through autograd is never freed where the backward pass does not come."""
        if not self.low_memory:
            return nullcontext()
        untouched = copy.copy(self_attention)
        return recomputed(blocks_of(self.base.diffusion_model), around=lambda: self._attending(copy.copy(untouched)))

    def step_bytes(self, latent_shape, low: bool) -> float:
        """What one step holds for the backward pass."""
        dtype = compute_dtype(self.base.get_dtype_inference(), self.settings.precision)
        width = self.base.model_config.unet_config["model_channels"]
        return gradient_memory.unet_bytes(latent_shape, dtype.itemsize, width, low)

    def _transformer_blocks(self) -> list[tuple[str, int]]:
        unet = self.base.diffusion_model
        sizes = (("input", len(unet.input_blocks)), ("middle", 1), ("output", len(unet.output_blocks)))
        return [(name, index) for name, size in sizes for index in range(size)]


class ComfyCodec:
    """An ImageCodec over ComfyUI's VAE, for use inside `gradients`; decode is differentiable and not clamped. Without a
    model it is for round trips only: all formats that it takes have the scale of Stable Diffusion 1.x.

    low_memory: decoding computes its blocks again in the backward pass; the result is the same.
    """

    def __init__(self, vae, model=None, low_memory: bool = False):
        require_supported_vae(vae)
        if model is not None:
            require_supported(model)
        self.vae, self.patcher = vae, plain_patcher(vae.patcher)
        self.patchers = (self.patcher,)
        self.latent_format = comfy.latent_formats.SD15() if model is None else model.model.latent_format
        self.settings = settings_of(vae.patcher)
        self.low_memory = low_memory

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and not vae_dtype: a VAE of the dynamic loader has its file's, and casts as it goes."""
        return compute_dtype(next(self.patcher.model.parameters()).dtype, self.settings.precision)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """What VAE Encode does, in the memory layout of an IMAGE: another layout rounds otherwise. Not by VAE.encode
        itself, which loads models, and would move the weights that `gradients` has replaced."""
        pixels = self.vae.vae_encode_crop_pixels(image.movedim(1, -1).contiguous()).movedim(-1, 1)
        latent = self.patcher.model.encode(self.vae.process_input(pixels).to(self.dtype))
        return self.latent_format.process_in(latent.to(image.dtype).contiguous())  # as VAE.encode returns it

    def decode(self, latent: Tensor) -> Tensor:
        network = self.patcher.model
        with recomputed(blocks_of(network)) if self.low_memory else nullcontext():
            image = network.decode(self.latent_format.process_out(latent).to(self.dtype))
        return image.to(latent.dtype) / 2.0 + 0.5

    def decode_bytes(self, latent_shape, low: bool) -> float:
        """The peak of decoding and of its backward pass."""
        if is_taesd(self.vae):
            return gradient_memory.tiny_decoder_bytes(latent_shape, self.dtype.itemsize, low)
        width = getattr(getattr(self.patcher.model, "decoder", None), "ch", 128)
        return gradient_memory.decoder_bytes(latent_shape, self.dtype.itemsize, width, low)


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


def codec_of(vae, model) -> ComfyCodec | ComfyGradientCodec:
    """The ImageCodec of a VAE with its Performance Settings."""
    full = ComfyCodec(vae, model)
    tiny, tile = full.settings.gradient_vae, full.settings.gradient_tile
    if tiny is None and not tile:
        return full
    return ComfyGradientCodec(full, full if tiny is None else ComfyCodec(tiny, model), tile)


# ------------------------------------------------------------------------------------------------ settings

SETTINGS = "faceprotect"  # their name in a patcher's model_options, which its clones inherit: LoRAs keep them
MOST_FACES_AT_ONCE = 8  # that are chosen without being set
TAESD_SCALE = 0.18215  # what ComfyUI's Load VAE gives "taesd", the one for SD 1.x and 2.x


@dataclasses.dataclass(frozen=True)
class PerformanceSettings:
    """precision: of the U-Net and the VAE. memory: whether blocks are computed again in the backward pass.

    gradient_vae: a VAE whose decoder gives the gradient, from `gradient_vae_of`. gradient_tile: the gradient comes from
    tiles of that many pixels; 0: from the whole image. faces_at_once: of Protect Photo; 0: automatic.
    cuda_graphs: networks are recorded and replayed on a GPU.
    """

    precision: str = "as loaded"
    memory: str = "automatic"
    gradient_vae: Any = None
    gradient_tile: int = 0
    faces_at_once: int = 0
    cuda_graphs: bool = False


def settings_of(patcher) -> PerformanceSettings:
    return patcher.model_options.get(SETTINGS, PerformanceSettings())


def with_settings(model, vae, settings: PerformanceSettings) -> tuple:
    """Clones of MODEL and VAE that carry the settings; the weights are shared."""
    require_supported(model, vae)
    model, vae = model.clone(), copy.copy(vae)
    vae.patcher = vae.patcher.clone()
    for patcher in (model, vae.patcher):
        patcher.model_options[SETTINGS] = settings
    return model, vae


def is_taesd(vae) -> bool:
    return isinstance(vae.first_stage_model, comfy.taesd.taesd.TAESD)


def gradient_vae_of(vae, precision: str, where: str):
    """A copy of a TAESD for Stable Diffusion 1.x and 2.x, in a plain patcher (there is no file from which ComfyUI could
    make one, and it is small)."""
    network = vae.first_stage_model
    scale = network.vae_scale.item() if is_taesd(vae) else None
    require(
        scale is not None and vae.latent_channels == 4 and abs(scale - TAESD_SCALE) < 1e-3,
        f"{where}: the gradient_vae must be TAESD for Stable Diffusion 1.x and 2.x; the connected one is "
        f"{type(network).__name__} with {vae.latent_channels} latent channels and scale {scale}",
        "put taesd_encoder and taesd_decoder into models/vae_approx and choose taesd in Load VAE (not taesdxl, taesd3, "
        "taef1), or disconnect gradient_vae",
    )
    tiny, twin = copy.copy(vae), comfy.taesd.taesd.TAESD(latent_channels=4)
    twin.load_state_dict(network.state_dict())
    tiny.first_stage_model = twin.to(vae.vae_dtype).eval()
    tiny.patcher = comfy.model_patcher.ModelPatcher(twin, vae.patcher.load_device, vae.patcher.offload_device)
    tiny.patcher.model_options[SETTINGS] = PerformanceSettings(precision)
    return tiny


def compute_dtype(dtype: torch.dtype, precision: str = "as loaded") -> torch.dtype:
    """What is computed in. As loaded, but float16, which overflows in this optimisation: float32 instead."""
    if precision != "as loaded":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    return dtype if dtype in EXACT_DTYPES else torch.float32


# ------------------------------------------------------------------------------------------------ gradients


@contextmanager
def gradients(*patchers, needed: float = 0, needed_at_least: float | None = None) -> Iterator[None]:
    """Loads the models of the patchers and lets autograd work through them inside the server's inference mode.

    Weights loaded in inference mode cannot be saved for a backward pass. For the time of the block every weight and
    buffer is replaced by a normal tensor over the same storage: nothing is copied and nothing is changed. (The
    exceptions are float16 weights and those of another precision than Performance Settings say: they are computed in
    float32, or in that precision, from a copy that lives as long as the block.) Cancelling is noticed within one layer,
    forwards and backwards.

    needed: bytes beside the weights, for which ComfyUI unloads other models. needed_at_least: for which it leaves
    weights in main memory.
    """
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        comfy.model_management.load_models_gpu(
            list(patchers), memory_required=needed, minimum_memory_required=needed_at_least
        )
        stack.enter_context(_own_tensor_for_every_cast())
        for patcher in patchers:
            precision = settings_of(patcher).precision
            patcher.pre_run()
            stack.callback(patcher.cleanup)
            stack.enter_context(_aliased(patcher.model, precision))
            stack.enter_context(_interruptible(patcher.model))
        yield


@contextmanager
def no_gradients(*patchers) -> Iterator[None]:
    """As gradients, for what needs none; its tensors may still be used in a later optimisation."""
    with gradients(*patchers), torch.no_grad():
        yield


@contextmanager
def optimization(denoiser: ComfyDenoiser, codec, latent_shape, steps: int, *others) -> Iterator[Recorder]:
    """As gradients, for an optimisation through that many steps and then the codec, if there is one. ComfyUI is told
    how much memory it takes; where that is short, blocks are computed again in the backward pass (low_memory).

    Yields what records the networks as CUDA graphs, if it is to be done; it must not be used after the block.

    codec: from codec_of, or None. latent_shape: [B, 4, h, w]. others: patchers that are needed too.
    """
    patchers = [patcher for part in _parts(denoiser, codec) for patcher in part.patchers]
    copies = sum(map(_copied_bytes, patchers))
    ample, low = (_optimization_bytes(denoiser, codec, latent_shape, steps, low) for low in (False, True))
    most, least = {"low": (low, low), "ample": (ample, ample)}.get(denoiser.settings.memory, (ample, low))
    with gradients(*patchers, *others, needed=most + copies, needed_at_least=least + copies):
        fit_memory(denoiser, codec, latent_shape, steps)
        yield _recorder(denoiser)


def _recorder(denoiser: ComfyDenoiser) -> Recorder:
    """Weights that come from main memory lie elsewhere in each pass, and blocks that are computed again save what a
    recording holds."""
    if not denoiser.settings.cuda_graphs:
        return Recorder(device=None)
    if denoiser.low_memory:
        logging.warning("FaceProtect: no CUDA graphs, which need ample memory")
    return Recorder(device=None if denoiser.low_memory else "cuda")


def faces_at_once(denoiser: ComfyDenoiser, codec, latent_shape, steps: int) -> int:
    """How many faces to optimize together: as set, or on a GPU as many as fit without computing blocks again.

    latent_shape: of one face. Free is what the weights that ComfyUI has still to load leave.
    """
    settings, device = denoiser.settings, denoiser.patcher.load_device
    if settings.faces_at_once:
        return settings.faces_at_once
    if comfy.model_management.is_device_cpu(device) or settings.memory == "low":
        return 1
    patchers = [patcher for part in _parts(denoiser, codec) for patcher in part.patchers]
    loading = sum(patcher.model_size() - patcher.loaded_size() + _copied_bytes(patcher) for patcher in patchers)
    free = comfy.model_management.get_free_memory(device) - comfy.model_management.minimum_inference_memory() - loading
    each = _optimization_bytes(denoiser, codec, latent_shape, steps, low=False)
    return min(max(int(free // each), 1), MOST_FACES_AT_ONCE)


def fit_memory(denoiser: ComfyDenoiser, codec, latent_shape, steps: int) -> None:
    """Chooses low_memory, inside `gradients`, by what ComfyUI says is free, and says in the log what was chosen."""
    parts = _parts(denoiser, codec)
    needed = _optimization_bytes(denoiser, codec, latent_shape, steps, low=False)
    device = denoiser.patcher.load_device
    free = comfy.model_management.get_free_memory(device) - comfy.model_management.minimum_inference_memory()
    offloaded = any(patcher.model.model_lowvram for part in parts for patcher in part.patchers)
    for part in parts:
        part.low_memory = {"low": True, "ample": False}.get(part.settings.memory, offloaded or free < needed)
    logging.info(
        f"FaceProtect: {'low' if any(part.low_memory for part in parts) else 'ample'} memory "
        f"(setting {denoiser.settings.memory!r}): gradients take about {needed / 2**20:.0f} MB, "
        f"{max(free, 0) / 2**20:.0f} MB are free, the weights are loaded {'in part' if offloaded else 'completely'}"
    )


def _optimization_bytes(denoiser: ComfyDenoiser, codec, latent_shape, steps: int, low: bool) -> float:
    decoding = codec.decode_bytes(latent_shape, low) if codec else denoiser.base.memory_required(latent_shape)
    needed = steps * denoiser.step_bytes(latent_shape, low) + decoding
    return needed * gradient_memory.CUDA_GRAPHS if denoiser.settings.cuda_graphs and not low else needed


def _parts(denoiser: ComfyDenoiser, codec) -> list:
    return [denoiser] if codec is None else [denoiser, codec]


def _copied_bytes(patcher) -> int:
    """What the copies take that _aliased makes of a patcher's weights."""
    precision, total = settings_of(patcher).precision, 0
    for weight in patcher.model.parameters():
        dtype = compute_dtype(weight.dtype, precision)
        total += weight.numel() * dtype.itemsize if dtype != weight.dtype else 0
    return total


@contextmanager
def _own_tensor_for_every_cast() -> Iterator[None]:
    """Weights that ComfyUI left in main memory are cast into a few buffers that it uses again and again (asynchronous
    offloading): autograd would find another layer's weights in them. Without streams each cast makes a tensor."""
    streams, comfy.model_management.NUM_STREAMS = comfy.model_management.NUM_STREAMS, 0
    try:
        yield
    finally:
        comfy.model_management.NUM_STREAMS = streams


@contextmanager
def _aliased(model: nn.Module, precision: str) -> Iterator[None]:
    """Buffers keep their precision: a U-Net's are the noise schedule."""
    originals = []
    try:
        for module in model.modules():
            for tensors, wanted in ((module._parameters, precision), (module._buffers, "as loaded")):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        originals.append((tensors, name, tensor))
                        tensors[name] = _alias(tensor, wanted)
        with _inference_dtype(model, precision):
            yield
    finally:
        for tensors, name, tensor in originals:
            tensors[name] = tensor


def _alias(tensor: Tensor, precision: str) -> Tensor:
    if tensor.is_floating_point():
        dtype = compute_dtype(tensor.dtype, precision)
        if dtype != tensor.dtype:
            return tensor.detach().to(dtype)
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextmanager
def _inference_dtype(model: nn.Module, precision: str) -> Iterator[None]:
    """Makes a U-Net compute in the precision of its weights' aliases."""
    if not isinstance(model, comfy.model_base.BaseModel):
        yield
        return
    before = model.manual_cast_dtype
    model.manual_cast_dtype = compute_dtype(model.get_dtype_inference(), precision)
    try:
        yield
    finally:
        model.manual_cast_dtype = before


@contextmanager
def _interruptible(model: nn.Module) -> Iterator[None]:
    """Raises ComfyUI's own interrupt between two layers, in the forward and in the backward pass."""

    def check(*_) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def after_layer(_module, _inputs, output) -> None:
        check()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(check)

    handles = [m.register_forward_hook(after_layer) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------------------ model files

FACE_RECOGNITION = "face_recognition"  # the folder in models/, and its name in extra_model_paths.yaml
# Where facexlib's users have its ArcFace (PuLID and others, ReActor and others, WanVideoWrapper's Lynx).
FACEXLIB_FOLDERS = ("facexlib", "facedetection", "face_analysis/facexlib/weights")
# What else lies in InsightFace's packs: detectors, landmarks, gender and age. Told by their names, because opening
# hundreds of megabytes for a list is too slow; a stranger among the recognisers is refused when it is loaded.
NO_RECOGNISERS = re.compile(r"(det_|scrfd_|1k3d68|2d106det|genderage).*")


def register_model_folder() -> None:
    """models/face_recognition, and what extra_model_paths.yaml adds to it."""
    folder_paths.add_model_folder_path(FACE_RECOGNITION, os.path.join(folder_paths.models_dir, FACE_RECOGNITION))
    paths, suffixes = folder_paths.folder_names_and_paths[FACE_RECOGNITION]
    folder_paths.folder_names_and_paths[FACE_RECOGNITION] = (paths, {*suffixes, *WEIGHTS_SUFFIXES})


def surrogate_files() -> dict[str, tuple[Path, Path]]:
    """The weights files that the user may choose: the name in the list -> (file, the folder that it must lie in)."""
    found = {}
    for folder in map(Path, folder_paths.get_folder_paths(FACE_RECOGNITION)):
        for name in folder_paths.recursive_search(str(folder), excluded_dir_names=[".git"])[0]:
            if Path(name).suffix.lower() in WEIGHTS_SUFFIXES:
                found.setdefault(Path(name).as_posix(), (folder / name, folder))
    for folder in _model_folders("insightface"):
        for file in sorted(folder.glob("models/*/*.onnx")):
            if not NO_RECOGNISERS.fullmatch(file.stem):
                found.setdefault(f"insightface/{file.parent.name}/{file.name}", (file, folder))
    for name in FACEXLIB_FOLDERS:
        for folder in _model_folders(name):
            for file in sorted(folder.glob("recognition_*.pth")):
                found.setdefault(f"{name}/{file.name}", (file, folder))
    return dict(sorted(found.items()))


def surrogate_file(name: str) -> Path:
    """The file of a name in the list. No other name is taken, and no link that leads out of the file's folder."""
    files = surrogate_files()
    require(
        name in files,
        f"Load FR Surrogate: there is no file {name!r} in models/{FACE_RECOGNITION}, and no file of InsightFace or "
        "facexlib has this name",
        f"put the file there, press R to refresh the list, and choose it; the list has {len(files)} files",
    )
    file, folder = files[name]
    require(
        file.resolve().is_relative_to(folder.resolve()),
        f"Load FR Surrogate: {name!r} is a link that leads out of the folder {folder}",
        f"copy the file, or name its folder under {FACE_RECOGNITION} in extra_model_paths.yaml",
    )
    return file


def surrogate_fingerprint(name: str) -> list:
    """Changes when another file lies there under the same name."""
    file, _ = surrogate_files().get(name, (None, None))
    if file is None or not file.exists():
        return [name]
    status = file.stat()
    return [name, status.st_mtime_ns, status.st_size]


def _model_folders(name: str) -> list[Path]:
    """A folder in models/, and where another pack or extra_model_paths.yaml has it."""
    known = folder_paths.get_folder_paths(name) if name in folder_paths.folder_names_and_paths else []
    return [Path(folder) for folder in dict.fromkeys([*known, os.path.join(folder_paths.models_dir, name)])]


register_model_folder()


# ------------------------------------------------------------------------------------------------ progress


class Progress:
    """An on_step callback that moves ComfyUI's progress bar and shows the current image."""

    def __init__(self, total: int):
        self.bar = comfy.utils.ProgressBar(max(total, 1))

    def __call__(self, event: dict) -> None:
        preview = _preview(event["image"]) if "image" in event else None
        self.bar.update_absolute(event["step"], event["steps"], preview)


def nothing() -> ExecutionBlocker:
    """As an output: the nodes after this one do not run for it, and the rest of the workflow goes on."""
    return ExecutionBlocker(None)


def show_on_node(node_id: str, text: str) -> None:
    """Writes a text on the node itself, in the frontend that runs the workflow."""
    PromptServer.instance.send_progress_text(text, node_id)


def save_path(prefix: str, width: int, height: int) -> tuple[Path, str, int, str]:
    """Where an image of that many pixels is saved: folder, name, the next free number, and the folder's name for the
    frontend. The folder is made; it is never outside ComfyUI's output folder."""
    wanted = os.path.normpath(prefix)
    require(
        not os.path.isabs(wanted) and not wanted.startswith(os.pardir) and "\0" not in prefix,
        f"Save Protected Image: the prefix {prefix!r} leads out of the output folder",
        'use a name such as "FaceProtect", or a subfolder as in "holiday/FaceProtect"',
    )
    output = folder_paths.get_output_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    return Path(folder), name, counter, subfolder


def _preview(image: Tensor) -> tuple:
    from PIL import Image

    pixels = image[0].detach().clamp(0, 1).mul(255).round().byte().movedim(0, -1).cpu().numpy()
    return ("JPEG", Image.fromarray(pixels), PREVIEW_SIZE)

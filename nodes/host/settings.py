"""Performance Settings: what a MODEL and a VAE carry to every block."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import comfy.model_patcher
import comfy.taesd.taesd
import torch

from ...faceprotect_core.checks import require
from .supported import require_supported

EXACT_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


SETTINGS = "faceprotect"  # their name in a patcher's model_options, which its clones inherit: LoRAs keep them


LIGHT_DECODER = "faceprotect_light_decoder"  # the same, of a VAE that has one: for changes, see decoder_of_changes


TAESD = {0.18215: "taesd", 0.13025: "taesdxl"}  # scale of the latents: its name in Load VAE


MOST_FACES_AT_ONCE = 8  # that are chosen without being set


@dataclasses.dataclass(frozen=True)
class PerformanceSettings:
    """precision: of the U-Net and the VAE. memory: whether blocks are computed again in the backward pass.

    gradient_vae: a VAE whose decoder gives the gradient, from `gradient_vae_of`. gradient_tile: the gradient comes from
    tiles of that many pixels; 0: from the whole image. faces_at_once: of Protect Photo; 0: automatic.
    cuda_graphs: networks are recorded and replayed on a GPU. taesd_if_installed: see `with_installed_taesd`.
    """

    precision: str = "as loaded"
    memory: str = "automatic"
    gradient_vae: Any = None
    gradient_tile: int = 0
    faces_at_once: int = 0
    cuda_graphs: bool = False
    taesd_if_installed: bool = True


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


def plain_taesd(vae):
    """A copy of a TAESD in a plain patcher: there is no file from which ComfyUI could make one, and it is small."""
    tiny, twin = copy.copy(vae), comfy.taesd.taesd.TAESD(latent_channels=4)
    twin.load_state_dict(vae.first_stage_model.state_dict())
    tiny.first_stage_model = twin.to(vae.vae_dtype).eval()
    tiny.patcher = comfy.model_patcher.ModelPatcher(twin, vae.patcher.load_device, vae.patcher.offload_device)
    tiny.patcher.model_options = vae.patcher.model_options
    return tiny


def gradient_vae_of(vae, model, precision: str, where: str):
    """A copy of the TAESD for the latents of the model, in a plain patcher."""
    require_supported(model)
    network, expected = vae.first_stage_model, model.model.latent_format.scale_factor
    scale = network.vae_scale.item() if is_taesd(vae) else None
    require(
        scale is not None and vae.latent_channels == 4 and abs(scale - expected) < 1e-3,
        f"{where}: the gradient_vae must be TAESD for the connected MODEL, of scale {expected}; the connected one is "
        f"{type(network).__name__} with {vae.latent_channels} latent channels and scale {scale}",
        "put taesd_encoder and taesd_decoder (for SDXL taesdxl_encoder and taesdxl_decoder) into models/vae_approx and "
        "choose taesd (taesdxl) in Load VAE, or disconnect gradient_vae",
    )
    tiny = plain_taesd(vae)
    tiny.patcher.model_options = tiny.patcher.model_options | {SETTINGS: PerformanceSettings(precision)}
    return tiny


def with_installed_taesd(models: tuple, where: str) -> tuple[tuple, str]:
    """For Protect Photo: MODEL, VAE and more with the gradient of the TAESD in models/vae_approx, and its name or "".

    So where the settings allow it and choose no other gradient. The demo model's changes have a decoder of their own.
    """
    if not models:
        return models, ""
    from nodes import VAELoader  # ComfyUI's, which is slow to import and there by then

    model, vae, *more = models
    settings, scale = settings_of(vae.patcher), model.model.latent_format.scale_factor
    name = next((name for near, name in TAESD.items() if abs(near - scale) < 1e-3), "")
    chosen = settings.gradient_vae is not None or settings.gradient_tile or is_taesd(vae)
    own = LIGHT_DECODER in vae.patcher.model_options
    if chosen or own or not settings.taesd_if_installed or name not in VAELoader.vae_list(VAELoader):
        return models, ""
    (installed,) = VAELoader().load_vae(name)
    tiny = gradient_vae_of(installed, model, settings.precision, where)
    return (*with_settings(model, vae, dataclasses.replace(settings, gradient_vae=tiny)), *more), name


def compute_dtype(dtype: torch.dtype, precision: str = "as loaded") -> torch.dtype:
    """What is computed in. As loaded, but float16, which overflows in this optimisation: float32 instead."""
    if precision != "as loaded":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    return dtype if dtype in EXACT_DTYPES else torch.float32

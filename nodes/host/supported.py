"""Which MODEL and VAE can be used, and why another cannot."""

from __future__ import annotations

from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import comfy.quant_ops

from ...faceprotect_core.checks import require
from ...faceprotect_core.models import SDXL_SIZE, distilled_warning

PLAIN = "load a plain checkpoint: SD 1.5 (v1-5-pruned-emaonly), SD 2.1 (v2-1_512-ema-pruned) or SDXL (sd_xl_base_1.0)"
SIZE = 256  # of a crop in pixels, where none is chosen and the model is not SDXL


def is_sdxl(model) -> bool:
    """SDXL and its smaller relatives: the U-Net is given a pooled text vector and sizes besides the context."""
    return isinstance(model.model, comfy.model_base.SDXL)


def crop_size(size: int, model, where: str) -> int:
    """As chosen, or for 0 what fits the model, or light and shade, where there is none."""
    require(size == 0 or size >= 64, f"{where}: the size is {size}", "use 64 or more pixels, or 0 for what fits")
    return size or (SDXL_SIZE if model is not None and is_sdxl(model) else SIZE)


def require_supported(model, vae=None) -> None:
    """U-Nets of Stable Diffusion 1.x, 2.x and SDXL with a 4-channel latent, on the noise levels that DDIM inverts."""
    base, name = model.model, type(model.model.model_config).__name__
    require(
        hasattr(getattr(base, "diffusion_model", None), "input_blocks"),
        f"FaceProtect works on the U-Nets of Stable Diffusion 1.x, 2.x and SDXL; the connected MODEL is {name}, which "
        "has neither a U-Net's self-attention layers nor noise levels that DDIM inversion walks through",
        PLAIN,
    )
    channels = base.model_config.unet_config.get("in_channels")
    wants = {9: " (inpainting: it wants a mask and a masked picture)", 8: " (pix2pix: it wants the picture to edit)"}
    require(
        channels == 4,
        f"the connected MODEL is {name} with {channels} input channels{wants.get(channels, '')}; FaceProtect has the 4 "
        "of the photo's latent alone",
        PLAIN,
    )
    plain = not base.adm_channels and isinstance(base.latent_format, comfy.latent_formats.SD15)
    require(
        plain or (is_sdxl(model) and isinstance(base.latent_format, comfy.latent_formats.SDXL)),
        f"FaceProtect works on Stable Diffusion 1.x, 2.x and SDXL; the connected MODEL is {name}, whose U-Net is made "
        "for another latent or wants more than a text (a refiner, unCLIP, an upscaler)",
        PLAIN,
    )
    require(
        not any(isinstance(one, comfy.quant_ops.QuantizedTensor) for one in base.diffusion_model.parameters()),
        f"the weights of the connected MODEL ({name}) are quantised, and no gradient goes through these",
        "load the same model in float16 or bfloat16, or in plain fp8",
    )
    _require_discrete_levels(model.get_model_object("model_sampling"))
    if vae is not None:
        require_supported_vae(vae)


def _require_discrete_levels(sampling) -> None:
    """Noise or v at 1000 levels; zero terminal SNR is such a row of levels too."""
    sampled = " and ".join(one.__name__ for one in type(sampling).__bases__)
    kinds = comfy.model_sampling
    require(
        isinstance(sampling, kinds.ModelSamplingDiscrete)
        and isinstance(sampling, kinds.EPS)
        and not isinstance(sampling, (kinds.ModelSamplingDiscreteEDM, kinds.EDM, kinds.X0))
        and len(sampling.sigmas) == 1000,
        f"the connected MODEL samples by {sampled}; DDIM inversion needs a model that predicts noise or v "
        "at each of 1000 noise levels (a distilled model, as of LCM, has a few levels; EDM and flow have others)",
        f"leave out the node that sets the model's sampling (ModelSamplingDiscrete: eps or v_prediction), or {PLAIN}",
    )


def require_supported_vae(vae) -> None:
    """A VAE of SD 1.x, 2.x or SDXL."""
    require(
        vae.latent_channels == 4 and vae.latent_dim == 2,
        f"FaceProtect needs the VAE of Stable Diffusion 1.x, 2.x or SDXL; the connected one has "
        f"{getattr(vae, 'latent_channels', '?')} latent channels",
        "connect the VAE output of the same checkpoint",
    )


def warning_of(model) -> str:
    """A sentence for the user where the MODEL's file seems to be a distilled model; empty otherwise."""
    path = _path_of_model(model)
    return distilled_warning(path) if path else ""


def file_of_model(model) -> str:
    """The name of the file that one of ComfyUI's loaders made the MODEL from; empty if unknown."""
    path = _path_of_model(model)
    return path.name if path else ""


def _path_of_model(model) -> Path | None:
    loader = model.cached_patcher_init
    return Path(loader[1][0]) if loader and loader[1] and isinstance(loader[1][0], (str, Path)) else None

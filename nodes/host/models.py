"""Whether two nodes mean the same MODEL, its schedule, and patchers of MODEL and VAE."""

from __future__ import annotations

import weakref

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...faceprotect_core import DDIMSchedule, FRSurrogate
from ...faceprotect_core.checks import require
from ...faceprotect_core.replaced import replaced


def identity_of(model) -> tuple:
    """Which weights, with which patches and which model sampling: two nodes must work on the same."""
    replaced = {name: id(part) for name, part in model.object_patches.items()}
    return (weakref.ref(model.model), model.patches_uuid, replaced)


def require_same_model(model, identity: tuple, where: str) -> None:
    weights, *patches = identity_of(model)
    require(
        identity[0]() is weights() and list(identity[1:]) == patches,
        f"{where}: the trajectory was made with another model, with other LoRAs or with another model sampling",
        "connect the same MODEL to all FaceProtect blocks; if it is the same, ComfyUI has loaded it again since: free "
        "its models and node cache, and run again",
    )


def schedule_of(model, num_inference_steps: int = 20, steps_offset: int = 1) -> DDIMSchedule:
    """The model's own noise schedule: sigma^2 = (1 - a) / a."""
    sigmas = model.get_model_object("model_sampling").sigmas.detach().cpu().double()  # Apple's GPUs have no float64
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
    """A VAE from a small diffusers-format AutoencoderKL, in float32, whose weights lie still: ComfyUI has no file from
    which it could page them in."""
    config = {"params": {"embed_dim": vae_config["z_channels"], "ddconfig": dict(vae_config)}}
    with replaced(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher):
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

"""IMAGE, MASK, LATENT and CONDITIONING become the core's tensors, and back; where they rest between nodes."""

from __future__ import annotations

import dataclasses

import comfy.model_management
import torch
from einops import rearrange
from torch import Tensor

from ...faceprotect_core import SelfAttentionReference, Trajectory
from ...faceprotect_core.checks import require
from ...faceprotect_core.faces import FaceCrop
from ...faceprotect_core.faces.regions import require_painted
from ...faceprotect_core.photos.file import over_white, under_alpha
from .supported import is_sdxl

# Of a CONDITIONING: a result would look as if they had been used.
NOT_USED = {"control", "area", "mask", "hooks", "gligen", "start_percent", "end_percent"}
POOLED = 1280  # channels of the second text encoder, which SDXL's pooled output comes from
# What CLIPTextEncodeSDXL writes into a CONDITIONING, in pixels.
SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")


def to_core_image(image: Tensor, where: str) -> Tensor:
    """IMAGE [B, H, W, C] -> a new [B, 3, H, W] float32 on the compute device; over white, grey repeated."""
    is_image = isinstance(image, Tensor)
    require(
        is_image and image.ndim == 4 and image.shape[-1] in (1, 3, 4) and image.numel() > 0,
        f"{where} expects an IMAGE [batch, height, width, channels], got "
        f"{list(image.shape) if is_image else type(image).__name__}",
        "connect an image with at least one pixel and 1, 3 or 4 channels",
    )
    planes = rearrange(image, "b h w c -> b c h w").to(
        comfy.model_management.get_torch_device(), torch.float32, copy=True
    )
    if planes.shape[1] == 4:
        return over_white(planes[:, :3], planes[:, 3:]).contiguous()
    return planes.expand(-1, 3, -1, -1).contiguous()


class PhotosAtWork:
    """The photos of an IMAGE, each [3, H, W] as by `to_core_image` when it is needed: a batch may not fit on a GPU."""

    def __init__(self, image: Tensor, where: str):
        self.image, self.where, self.last = image, where, (-1, torch.empty(0))
        self.device = comfy.model_management.get_torch_device()
        to_core_image(image[:1] if isinstance(image, Tensor) else image, where)  # what is no IMAGE is refused at once

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Tensor:
        if self.last[0] != index:
            self.last = index, to_core_image(self.image[index : index + 1], self.where)[0]
        return self.last[1]


def to_comfy_image(image: Tensor, like: Tensor | None = None) -> Tensor:
    """[B, 3, H, W] -> IMAGE [B, H, W, 3] where ComfyUI keeps results; with the alpha of an IMAGE that has one.

    What an alpha of nearly 0 hides is white: it may be what nobody should see.
    """
    device = comfy.model_management.intermediate_device()
    planes = image.detach().to(device, torch.float32)
    if like is not None and like.shape[-1] == 4:
        before = rearrange(like, "b h w c -> b c h w").to(planes)
        colours, alpha = before[:, :3], before[:, 3:]
        planes = torch.cat([under_alpha(planes, over_white(colours, alpha), colours, alpha), alpha], 1)
    return rearrange(planes, "b c h w -> b h w c").contiguous()


def to_core_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """MASK [B, H, W] or [H, W] in [0, 1] -> [B, 1, H, W] of the photo's size on the compute device."""
    require_painted(mask)
    planes = to_device(rearrange(mask, "... h w -> (...) 1 h w"))
    require(
        planes.shape[2:] == (height, width),
        f"Latent Optimizer: the mask is {planes.shape[2]} x {planes.shape[3]}, the photo {height} x {width}",
        "draw the mask on the very image that is connected",
    )
    return require_room(planes.clamp(0.0, 1.0), "Latent Optimizer")


def require_room(mask: Tensor, where: str) -> Tensor:
    """The mask [B, 1, H, W]; one that is empty would give the photo back as it is."""
    problem = f"{where}: the mask is empty, so nothing may change"
    require(bool((mask.flatten(1).amax(1) > 0).all()), problem, "draw over the whole face, or disconnect the mask")
    return mask


def to_core_latent(model, latent: dict) -> Tensor:
    """LATENT -> the scaled latent [B, 4, h, w] float32 on the compute device."""
    samples = latent["samples"]
    require(
        samples.ndim == 4 and samples.shape[1] == 4 and samples.numel() > 0,
        f"DDIM Inversion expects a latent [batch, 4, height, width] of Stable Diffusion 1.x, 2.x or SDXL, "
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
        parts = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
        return dataclasses.replace(data, **_moved(parts, device))  # what is in other dataclasses stays where it is
    return data


def null_context(model, conditioning: list, where: str = "DDIM Inversion") -> Tensor:
    """The prompt's embedding [1 or B, tokens, dim] from a CONDITIONING; the paper's prompt is empty."""
    require(
        len(conditioning) == 1,
        f"{where}: the conditioning has {len(conditioning)} parts, one is expected",
        "connect one CLIP Text Encode with an empty text",
    )
    besides = sorted(NOT_USED & conditioning[0][1].keys())
    require(
        not besides,
        f"{where}: the conditioning has {' and '.join(besides)}, which no block of FaceProtect uses",
        "connect CLIP Text Encode itself, without Apply ControlNet, areas, masks, timestep ranges or hooks behind it",
    )
    context, expected = conditioning[0][0], model.model.model_config.unet_config.get("context_dim")
    require(
        context.shape[-1] == expected,
        f"{where}: the conditioning has {context.shape[-1]} channels, the model's U-Net expects {expected}",
        "encode the empty prompt with the CLIP of the same checkpoint",
    )
    return to_device(context)


def fixed_conditioning(model, conditioning: list, where: str) -> dict:
    """What SDXL is given besides the context: "pooled_output" [1 or B, 1280], and of `SIZES` those that are set;
    without them the picture's own are taken. Empty for the other models."""
    if not is_sdxl(model):
        return {}
    found = conditioning[0][1]
    pooled = found.get("pooled_output")
    require(
        isinstance(pooled, Tensor) and pooled.shape[-1] == POOLED,
        f"{where}: the conditioning has no pooled output of {POOLED} channels, which SDXL needs beside its text",
        "encode the empty prompt with the CLIP of the same checkpoint",
    )
    return {"pooled_output": to_device(pooled)} | {name: found[name] for name in SIZES if name in found}

"""Networks in the real shapes with random weights: what they cost does not depend on what they know."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from faceprotect_core import DDIMSchedule, FRSurrogate, IdentityObjective
from faceprotect_core.surrogates.inception_resnet import InceptionResnetV1
from faceprotect_core.surrogates.ir import IR
from faceprotect_core.surrogates.mobile_facenet import MobileFaceNet

# What differs from UNet2DConditionModel's and AutoencoderKL's defaults. "reduced" has the structure of SD 2 base.
UNETS = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "reduced": {
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2, 4, 4),
        "use_linear_projection": True,
        "block_out_channels": (64, 128, 256, 256),
    },
}
VAE_CHANNELS = {"sd15": (128, 256, 512, 512), "sd2": (128, 256, 512, 512), "reduced": (32, 64, 64, 64)}
# The paper's surrogates; the release puts three of its four into the loss.
SURROGATES = {
    "irse50": (lambda: IR(50, se=True), 112),
    "facenet": (InceptionResnetV1, 160),
    "mobile_face": (MobileFaceNet, 112),
    "ir152": (lambda: IR(152), 112),
}
IN_THE_LOSS = {"sd15": ("irse50", "facenet", "mobile_face"), "sd2": ("irse50", "facenet", "mobile_face")}
IN_THE_LOSS["reduced"] = ("mobile_face",)


@dataclass
class Setup:
    """What every way works on. image: [1, 3, size, size] in [0, 1]; context: [1, 77, dim]."""

    unet: nn.Module
    vae: nn.Module
    context: Tensor
    image: Tensor
    objective: IdentityObjective
    schedule: DDIMSchedule


def build(model: str, size: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Setup:
    """model: a name of UNETS. The same weights and the same image at every call."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, **UNETS[model])
    blocks = len(VAE_CHANNELS[model])
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        block_out_channels=VAE_CHANNELS[model],
        layers_per_block=2,
        latent_channels=4,
    )
    surrogates = [_surrogate(name, device, dtype) for name in IN_THE_LOSS[model]]
    unet, vae = (network.to(device, dtype).eval().requires_grad_(False) for network in (unet, vae))
    context = torch.randn(1, 77, UNETS[model]["cross_attention_dim"]).to(device, dtype)
    source, target = (_image(size).to(device, dtype) for _ in range(2))
    objective = IdentityObjective(surrogates, target=target, source=source)
    return Setup(unet, vae, context, source, objective, DDIMSchedule.scaled_linear())


def _surrogate(name: str, device: str, dtype: torch.dtype) -> FRSurrogate:
    network, size = SURROGATES[name]
    return FRSurrogate(network().to(device, dtype).eval(), input_size=size, name=name)


def _image(size: int) -> Tensor:
    return nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(size, size), mode="bilinear")

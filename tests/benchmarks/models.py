"""Networks in the real shapes with random weights: what they cost does not depend on what they know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from faceprotect_core import DDIMSchedule, FRSurrogate, IdentityObjective
from faceprotect_core.surrogates.networks.inception_resnet import InceptionResnetV1
from faceprotect_core.surrogates.networks.ir import IR
from faceprotect_core.surrogates.networks.mobile_facenet import MobileFaceNet

TOKENS = 77
FACES_TO_CALIBRATE = 4


@dataclass(frozen=True)
class Shape:
    """The shapes of a diffusion model, and which surrogates are in the loss.

    unet, vae: what differs from the defaults of UNet2DConditionModel and AutoencoderKL. surrogates: of SURROGATES.
    """

    unet: dict
    vae: dict
    surrogates: tuple[str, ...] = ("irse50", "facenet", "mobile_face")


def vae_of(*channels: int, layers_per_block: int = 2, norm_num_groups: int = 32) -> dict:
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": layers_per_block,
        "norm_num_groups": norm_num_groups,
        "latent_channels": 4,
    }


# For U-Nets of Stable Diffusion diffusers' attention_head_dim is the number of heads. "reduced" is SD 2 base at a tenth
# of its channels.
MODELS = {
    "sd15": Shape({"cross_attention_dim": 768, "attention_head_dim": 8}, vae_of(128, 256, 512, 512)),
    "sd2": Shape(
        {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        vae_of(128, 256, 512, 512),
    ),
    "sdxl": Shape(
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae_of(128, 256, 512, 512),
    ),
    "reduced": Shape(
        {
            "block_out_channels": (32, 64, 128, 128),
            "cross_attention_dim": 128,
            "attention_head_dim": (1, 2, 4, 4),
            "use_linear_projection": True,
        },
        vae_of(8, 16, 32, 32, norm_num_groups=8),
        ("small", "smaller"),
    ),
}


def _small(channels: int) -> nn.Module:
    """[B, 3, size, size] -> [B, 128]."""
    layers: list[nn.Module] = []
    for narrow, wide in ((3, channels), (channels, 2 * channels), (2 * channels, 4 * channels)):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.PReLU(wide)]
    layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * channels, 128), nn.BatchNorm1d(128)]
    return nn.Sequential(*layers)


# Network, and the width and height of its input. The first four are the paper's: three in the loss, ir152 left out.
SURROGATES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "irse50": (partial(IR, 50, se=True, normalise=True), 112),
    "facenet": (InceptionResnetV1, 160),
    "mobile_face": (MobileFaceNet, 112),
    "ir152": (partial(IR, 152), 112),
    "small": (partial(_small, 16), 112),
    "smaller": (partial(_small, 8), 160),
}


@dataclass(frozen=True, eq=False)
class Setup:
    """What every way works on.

    context: [1, 77, dim]. image: [1, 3, size, size] in [0, 1].
    """

    unet: nn.Module
    vae: nn.Module
    surrogates: Sequence[FRSurrogate]
    context: Tensor
    image: Tensor
    objective: IdentityObjective
    schedule: DDIMSchedule = field(default_factory=DDIMSchedule.scaled_linear)

    @property
    def pooled(self) -> Tensor | None:
        """What SDXL is given of the whole prompt, [1, 1280]; its values change nothing of what it costs."""
        if self.unet.config.addition_embed_type is None:
            return None
        sizes = 6 * self.unet.config.addition_time_embed_dim
        return self.context.new_zeros(1, self.unet.config.projection_class_embeddings_input_dim - sizes)

    def of_size(self, size: int) -> Setup:
        """The same networks with another photo."""
        image, target = (smooth_noise(1, size, seed).to(self.image) for seed in (0, 1))
        return replace(self, image=image, objective=IdentityObjective(self.surrogates, target=target))


def build(
    shape: Shape,
    size: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    surrogates: Sequence[str] | None = None,
) -> Setup:
    """The same weights and photos at every call and on every device; the caller's random numbers stay as they are.

    surrogates: names of SURROGATES instead of the shape's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet, vae = UNet2DConditionModel(sample_size=64, **shape.unet), AutoencoderKL(**shape.vae)
        # nn.Module's own `to`: diffusers' warns of layers that should stay in float32, of which these have none.
        unet, vae = (nn.Module.to(one, device, dtype).eval().requires_grad_(False) for one in (unet, vae))
        networks = [surrogate(name).to(device, dtype) for name in surrogates or shape.surrogates]
        context = torch.randn(1, TOKENS, unet.config.cross_attention_dim).to(device, dtype)
    image, target = (smooth_noise(1, size, seed).to(device, dtype) for seed in (0, 1))
    return Setup(unet, vae, networks, context, image, IdentityObjective(networks, target=target))


def surrogate(name: str) -> FRSurrogate:
    """A name of SURROGATES -> the network with random weights, in float32 on the CPU."""
    make, size = SURROGATES[name]
    network = make().eval().requires_grad_(False)
    _calibrate(network, size)
    return FRSurrogate(network, size, name=name)


@torch.no_grad()
def _calibrate(network: nn.Module, size: int) -> None:
    """Gives the batch normalisations the statistics of a few images: with the initial ones (mean 0, variance 1) random
    layers shrink their input from one to the next, until all images have one embedding."""
    normalisations = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [part.momentum for part in normalisations]
    for part in normalisations:
        part.train()
        part.momentum = 1.0
    network(smooth_noise(FACES_TO_CALIBRATE, size, seed=2) * 2 - 1)
    for part, momentum in zip(normalisations, momenta, strict=True):
        part.eval()
        part.momentum = momentum


def smooth_noise(count: int, size: int, seed: int) -> Tensor:
    """[count, 3, size, size] in [0, 1]."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, size=(size, size), mode="bilinear")

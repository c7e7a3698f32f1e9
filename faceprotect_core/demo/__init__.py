"""The demo diffusion model: small weights in the package, so that everything runs before any download.

Research use only; demo/weights/README.md says why and where they come from.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checks import require
from ..pixels import from_pixels
from .light_decoder import LightDecoder

WEIGHTS = Path(__file__).parent / "weights"
SYNTHETIC_TARGET = WEIGHTS / "synthetic_target.png"


@dataclass(frozen=True, eq=False)
class DemoWeights:
    """State dictionaries in diffusers' names, float32, the light decoder's, and the null context [1, tokens, dim]."""

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    decoder: dict[str, Tensor]
    null_context: Tensor


def load_demo_weights(folder: Path = WEIGHTS) -> DemoWeights:
    """Reads the weights (stored as float16) from the package; nothing is fetched."""
    from safetensors.torch import load_file

    def read(name: str) -> dict[str, Tensor]:
        path = _packaged(folder / f"{name}.safetensors")
        return {key: tensor.float() for key, tensor in load_file(path).items()}

    return DemoWeights(read("unet"), read("vae"), read("decoder"), read("null_context")["null_context"])


def light_decoder(weights: DemoWeights) -> LightDecoder:
    """The light decoder, frozen, in float32; channels last, in which a CPU is a tenth faster."""
    with torch.inference_mode(False):
        decoder = LightDecoder()
        decoder.load_state_dict(weights.decoder)
        return decoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def load_demo_model(folder: Path = WEIGHTS):
    """The demo model over diffusers: (DiffusersDenoiser, DiffusersCodec, null context [1, tokens, dim]).

    The codec is the autoencoder's; its `light` decodes changes, see `decoder_of_changes`.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from ..diffusers_backend import DiffusersCodec, DiffusersDenoiser
    from .architecture import UNET_CONFIG, VAE_CONFIG

    weights = load_demo_weights(folder)
    unet, vae = UNet2DConditionModel(**UNET_CONFIG), AutoencoderKL(**VAE_CONFIG)
    unet.load_state_dict(weights.unet)
    vae.load_state_dict(weights.vae)
    for model in (unet, vae):
        model.eval().requires_grad_(False)
    codec = DiffusersCodec(vae)
    codec.light = light_decoder(weights)
    return DiffusersDenoiser(unet), codec, weights.null_context


def load_synthetic_target(path: Path = SYNTHETIC_TARGET) -> Tensor:
    """A face that is nobody's, to pull a face towards: [1, 3, 256, 256] RGB in [0, 1]; see synthetic_target.py."""
    import numpy as np
    from PIL import Image

    with Image.open(_packaged(path)) as file:
        pixels = np.array(file.convert("RGB"))
    return from_pixels(pixels)[None]


def _packaged(path: Path) -> Path:
    require(path.is_file(), f"the file {path.name} is missing from the package", "install FaceProtect again")
    return path

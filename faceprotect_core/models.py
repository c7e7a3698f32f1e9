"""Loading a diffusion model for the library and the command: the demo model, or Stable Diffusion from a folder or a
file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .files import digest_of_files
from .method.schedule import DDIMSchedule
from .protocols import BottleneckDenoiser, ImageCodec

DEMO = "demo"
SDXL_SIZE = 768  # of a crop: SDXL was made for 1024, which takes twice the memory


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A diffusion model as the method needs it.

    Args:
        denoiser: the U-Net.
        codec: the autoencoder.
        context: the empty prompt's embedding [1, tokens, dim].
        size: of the square picture to give it, in pixels.
        sha256: of its weights.
        schedule: its noise levels, in 20 steps.
    """

    denoiser: BottleneckDenoiser
    codec: ImageCodec
    context: Tensor
    size: int
    sha256: str
    schedule: DDIMSchedule


def load_model(name: str = DEMO, device: str = "cpu") -> LoadedModel:
    """The demo model, Stable Diffusion 1.x, 2.x or SDXL from a folder in diffusers' format, or 1.x or SDXL from a file.

    Args:
        name: "demo", or the path of the folder or of the .safetensors file.
        device: where the networks and the context go.

    Raises:
        ProtectionError: there is no such model, see `load_diffusers` and `load_single_file`.
    """
    if name == DEMO:
        from .demo import WEIGHTS, load_demo_model

        denoiser, codec, context = load_demo_model()
        files = sorted(WEIGHTS.glob("*.safetensors"))
        for network in (denoiser.unet, codec.vae, codec.light):
            network.to(device)
        return LoadedModel(denoiser, codec, context.to(device), 256, digest_of_files(files), _schedule(denoiser))
    from .diffusers_backend import load_diffusers, load_single_file, weights_files

    path = Path(name)
    if path.is_file() or path.suffix == ".safetensors":
        (denoiser, codec, context), files = load_single_file(path, device), [path]
    else:
        (denoiser, codec, context), files = load_diffusers(path, device), weights_files(path)
    pixels = denoiser.unet.config.sample_size * 2 ** (len(codec.vae.config.block_out_channels) - 1)
    size = pixels if denoiser.pooled is None else min(pixels, SDXL_SIZE)
    return LoadedModel(denoiser, codec, context, size, digest_of_files(files), _schedule(denoiser))


def _schedule(denoiser) -> DDIMSchedule:
    return DDIMSchedule.from_alphas_cumprod(denoiser.alphas_cumprod)

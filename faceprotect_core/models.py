"""Loading a diffusion model for the library and the command: the demo model, or Stable Diffusion from a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .files import digest_of_files
from .protocols import BottleneckDenoiser, ImageCodec

DEMO = "demo"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A diffusion model as the method needs it.

    Args:
        denoiser: the U-Net.
        codec: the autoencoder.
        context: the empty prompt's embedding [1, tokens, dim].
        size: of the square picture it was made for, in pixels.
        sha256: of its weights.
    """

    denoiser: BottleneckDenoiser
    codec: ImageCodec
    context: Tensor
    size: int
    sha256: str


def load_model(name: str = DEMO, device: str = "cpu") -> LoadedModel:
    """The demo model, or Stable Diffusion 1.x or 2.x from a folder in diffusers' format.

    Args:
        name: "demo", or the path of the folder.
        device: where the networks and the context go.

    Raises:
        ProtectionError: the folder holds no such model, see `load_diffusers`.
    """
    if name == DEMO:
        from .demo import WEIGHTS, load_demo_model

        denoiser, codec, context = load_demo_model()
        files = sorted(WEIGHTS.glob("*.safetensors"))
        for network in (denoiser.unet, codec.vae, codec.light):
            network.to(device)
        return LoadedModel(denoiser, codec, context.to(device), 256, digest_of_files(files))
    from .diffusers_backend import PARTS, load_diffusers

    folder = Path(name)
    denoiser, codec, context = load_diffusers(folder, device)
    files = sorted(path for part in PARTS for path in (folder / part).glob("*.safetensors"))
    pixels = denoiser.unet.config.sample_size * 2 ** (len(codec.vae.config.block_out_channels) - 1)
    return LoadedModel(denoiser, codec, context, pixels, digest_of_files(files))

"""Loading a diffusion model for the library and the command: the demo model, or Stable Diffusion from a folder or a
file."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .files import digest_of_files
from .method.schedule import DDIMSchedule
from .protocols import BottleneckDenoiser, ImageCodec

DEMO = "demo"
SDXL_SIZE = 768  # of a crop: SDXL was made for 1024, which takes twice the memory
# Of the names of models that were distilled to a few steps; nothing in their tensors tells them.
DISTILLED = re.compile(r"turbo|lightning|lcm|hyper[-_ ]?sd|dmd|[248][-_ ]?steps?(?![a-z])|schnell", re.IGNORECASE)
FEW_STEPS = ("LCMScheduler", "TCDScheduler")
log = logging.getLogger("faceprotect.models")


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

    A model that seems to be distilled is loaded with a warning in the log, see `distilled_warning`.

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
    if warning := distilled_warning(path):
        log.warning("%s", warning)
    pixels = denoiser.unet.config.sample_size * 2 ** (len(codec.vae.config.block_out_channels) - 1)
    size = pixels if denoiser.pooled is None else min(pixels, SDXL_SIZE)
    return LoadedModel(denoiser, codec, context, size, digest_of_files(files), _schedule(denoiser))


def distilled_warning(path: Path) -> str:
    """A sentence for the user where a checkpoint seems to be distilled to a few steps; empty otherwise.

    A file says so by its name or by the title in its header (modelspec.title), a folder in diffusers' format by its
    name or by its scheduler.
    """
    sign = _sign_of_distillation(path)
    if not sign:
        return ""
    return (
        f"Warning: {path.name!r} {sign} a distilled model (Turbo, Lightning, Hyper, LCM). Those were trained at a few "
        "high noise levels only, and FaceProtect works at the lowest: protection and picture can be worse than with "
        "the plain checkpoint."
    )


def _sign_of_distillation(path: Path) -> str:
    if DISTILLED.search(path.name):
        return "sounds like"
    if DISTILLED.search(title := _title(path)):
        return f"has the title {title!r}, which sounds like"
    return "has the scheduler of" if _samples_in_few_steps(path) else ""


def _title(path: Path) -> str:
    """Of a file's header, by the standard ModelSpec; empty where it has none."""
    from safetensors import safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return ""
    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("modelspec.title", "")


def _samples_in_few_steps(folder: Path) -> bool:
    """Whether the scheduler begins at the last timestep, as Turbo's and Lightning's do, or is one for consistency
    models. Models of zero terminal SNR, which begin there too, are not distilled."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    trailing = config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
    return trailing or config.get("_class_name") in FEW_STEPS


def _schedule(denoiser) -> DDIMSchedule:
    return DDIMSchedule.from_alphas_cumprod(denoiser.alphas_cumprod)

"""Loading Stable Diffusion from a folder in diffusers' format; nothing is fetched."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checks import ProtectionError, out_of_memory, require
from ..method.schedule import scaled_linear_alphas_cumprod, zero_terminal_snr
from .adapters import DiffusersCodec, DiffusersDenoiser
from .prompt import encode_prompt

# The networks, a folder each; only SDXL has a second text encoder.
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
# The noise schedule of Stable Diffusion 1.x, 2.x and SDXL, which DDIMSchedule.scaled_linear() is.
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
PLAIN = "use a plain SD 1.5, SD 2 or SDXL model (not a refiner, SD 3, Flux, inpainting)"


def load_diffusers(folder: Path | str, device: torch.device | str = "cpu"):
    """Stable Diffusion 1.x, 2.x or SDXL from a folder in diffusers' format, in float32; nothing is fetched.

    Only safetensors are read: other weights files can run code.

    Returns:
        DiffusersDenoiser, DiffusersCodec, and the empty prompt's embedding [1, tokens, dim].

    Raises:
        ProtectionError: a part or a package is missing, a damaged file, another kind of model or noise schedule.
    """
    folder = Path(folder)
    prediction_type, alphas_cumprod = _levels(folder)
    classes = model_classes()
    parts = [part for part in PARTS if part != "text_encoder_2" or (folder / part).is_dir()]
    networks = {part: _load_part(classes[part], folder, part).to(device) for part in parts}
    unet, vae = networks["unet"], networks["vae"]
    encoders = [networks[part] for part in parts[2:]]
    names = ["tokenizer", "tokenizer_2"][: len(encoders)]
    tokens = [_empty_tokens(classes["tokenizer"], folder, *one) for one in zip(names, encoders, strict=True)]
    context, pooled = encode_prompt(encoders, tokens)
    require_plain(unet, vae, context, pooled, folder.name)
    return DiffusersDenoiser(unet, prediction_type, alphas_cumprod, pooled=pooled), DiffusersCodec(vae), context


def load_vae(folder: Path | str, device: torch.device | str = "cpu") -> DiffusersCodec:
    """The vae of a model in diffusers' format alone, in float32; see `load_diffusers`."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ProtectionError(
            "a model in diffusers' format needs the package diffusers", "pip install diffusers"
        ) from error
    return DiffusersCodec(_load_part(AutoencoderKL, Path(folder), "vae").to(device))


def weights_files(folder: Path) -> list[Path]:
    """The files that `load_diffusers` reads weights from."""
    return sorted(path for part in PARTS for path in (folder / part).glob("*.safetensors"))


def model_classes() -> dict:
    """The class of each part, of diffusers and transformers."""
    try:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    except ImportError as error:
        raise ProtectionError(
            f"a Stable Diffusion model needs the packages diffusers and transformers ({error.name} is missing)",
            "pip install diffusers transformers",
        ) from error
    networks = (UNet2DConditionModel, AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection)
    return dict(zip(PARTS, networks, strict=True)) | {"tokenizer": CLIPTokenizer}


def require_plain(unet: nn.Module, vae: nn.Module, context: Tensor, pooled: Tensor | None, name: str) -> None:
    """Refuses a U-Net that wants more than a latent and a text, or another text; the others: see `load_diffusers`."""
    added = unet.config.get("addition_embed_type")
    wants = unet.config.get("projection_class_embeddings_input_dim")
    sizes = 6 * (unet.config.get("addition_time_embed_dim") or 0)
    require(
        unet.config.in_channels == 4
        and added == (None if pooled is None else "text_time")
        and (pooled is None or wants == pooled.shape[-1] + sizes)
        and unet.config.cross_attention_dim == context.shape[-1]
        and vae.config.latent_channels == 4,
        f"{name!r} is not a plain Stable Diffusion 1.x, 2.x or SDXL (U-Net of {unet.config.in_channels} channels, "
        f"context {unet.config.cross_attention_dim}, text encoder {context.shape[-1]}, besides {added})",
        PLAIN,
    )


def _levels(folder: Path) -> tuple[str, Tensor]:
    """What is predicted, and alphas_cumprod: from the scheduler's config. Other noise schedules are refused."""
    path = folder / "scheduler" / "scheduler_config.json"
    require(
        path.is_file(),
        f"{folder.name!r} has no scheduler/scheduler_config.json",
        "name a folder with a Stable Diffusion in diffusers' format: unet, vae, text_encoder, tokenizer, scheduler",
    )
    with or_download_again(f"the scheduler_config.json of {folder.name!r} is damaged"):
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    other = {name: config.get(name) for name, value in SCHEDULE.items() if config.get(name) != value}
    other |= {name: config[name] for name in ("trained_betas",) if config.get(name)}
    require(
        not other,
        f"{folder.name!r} has another noise schedule than Stable Diffusion 1.x, 2.x and SDXL ({other})",
        f"use a model whose scheduler has {SCHEDULE}; an inversion with the wrong schedule would not find the photo",
    )
    alphas = scaled_linear_alphas_cumprod()
    alphas = zero_terminal_snr(alphas) if config.get("rescale_betas_zero_snr") else alphas
    return config.get("prediction_type", "epsilon"), alphas


@contextmanager
def or_download_again(problem: str) -> Iterator[None]:
    """Turns whatever a reader raises of a damaged file into a ProtectionError; too little memory damages none."""
    try:
        yield
    except Exception as error:  # a damaged file raises what its reader likes
        if out_of_memory(error):
            raise
        raise ProtectionError(f"{problem} ({type(error).__name__})", "download the model again") from error


def _load_part(kind, folder: Path, part: str) -> nn.Module:
    weights = sorted((folder / part).glob("*.safetensors"))
    require(
        (folder / part / "config.json").is_file() and bool(weights),
        f"{folder.name!r} has no {part} with config.json and safetensors weights",
        "download the model's safetensors; .bin and .ckpt files are not read, because they can run code",
    )
    variant = "fp16" if all(".fp16" in path.name for path in weights) else None
    with or_download_again(f"the {part} of {folder.name!r} cannot be loaded"):
        network = kind.from_pretrained(
            folder / part, local_files_only=True, use_safetensors=True, variant=variant, low_cpu_mem_usage=False
        )
    return network.float().eval().requires_grad_(False)


def _empty_tokens(kind, folder: Path, part: str, encoder: nn.Module) -> Tensor:
    """[1, tokens]."""
    require((folder / part).is_dir(), f"{folder.name!r} has no {part} folder", "download the whole model again")
    with or_download_again(f"the {part} of {folder.name!r} cannot be loaded"):
        tokenizer = kind.from_pretrained(folder / part, local_files_only=True)
        length = encoder.config.max_position_embeddings
        tokens = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids.to(encoder.device)

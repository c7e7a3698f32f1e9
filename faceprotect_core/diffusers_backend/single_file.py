"""Loading Stable Diffusion 1.x or SDXL from one .safetensors file, as ComfyUI's checkpoints are; nothing is fetched.

The file holds tensors alone: their shapes say how the networks are built. The empty prompt needs no tokenizer.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checks import require
from ..method.schedule import scaled_linear_alphas_cumprod, zero_terminal_snr
from .adapters import DiffusersCodec, DiffusersDenoiser
from .folder import PLAIN, model_classes, or_download_again, require_plain
from .prompt import encode_prompt

Tensors = dict[str, Tensor]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_L, SDXL_CLIP_L, SDXL_CLIP_G = (
    "cond_stage_model.transformer.text_model.",
    "conditioner.embedders.0.transformer.text_model.",
    "conditioner.embedders.1.model.",
)
START, END, PADDING = 49406, 49407, 0  # tokens of CLIP; SDXL's second encoder is padded with another than the first
SD1_SCALE, SDXL_SCALE = 0.18215, 0.13025  # of their latents
POSITIONS = "position_ids"  # of CLIP's tokens, 0 to 76: some versions of transformers keep them in files
SD1_HEADS, CHANNELS_OF_A_HEAD = 8, 64  # SD 1.x has as many heads everywhere, SDXL heads of one size


def load_single_file(file: Path | str, device: torch.device | str = "cpu"):
    """Stable Diffusion 1.x or SDXL from a checkpoint in one .safetensors file, in float32; nothing is fetched.

    SDXL files that predict v say so themselves, by tensors named v_pred and, with zero terminal SNR, ztsnr.

    Returns:
        DiffusersDenoiser, DiffusersCodec, and the empty prompt's embedding [1, tokens, dim].

    Raises:
        ProtectionError: no safetensors file, a damaged one, a package is missing, another kind of model.
    """
    file = Path(file)
    require(
        file.suffix == ".safetensors" and file.is_file(),
        f"{file.name!r} is no .safetensors file",
        "name a checkpoint in safetensors, or a folder in diffusers' format; .ckpt files can run code",
    )
    with or_download_again(f"{file.name!r} cannot be read"):
        tensors = load_file(file)
    _require_known(tensors, file.name)
    with or_download_again(f"the networks in {file.name!r} are not as those of Stable Diffusion 1.x or SDXL"):
        unet, vae = (network.to(device) for network in networks_of(tensors))
        encoders = [encoder.to(device) for encoder in text_encoders_of(tensors)]
    context, pooled = encode_prompt(encoders, [ids.to(device) for ids in _empty_tokens(encoders)])
    require_plain(unet, vae, context, pooled, file.name)
    return denoiser_of(unet, tensors, pooled), DiffusersCodec(vae), context


def denoiser_of(unet: nn.Module, tensors: Tensors, pooled: Tensor | None) -> DiffusersDenoiser:
    """By what the checkpoint says of how it predicts. pooled: see `encode_prompt`."""
    alphas = scaled_linear_alphas_cumprod()
    alphas = zero_terminal_snr(alphas) if "ztsnr" in tensors else alphas
    return DiffusersDenoiser(unet, "v_prediction" if "v_pred" in tensors else "epsilon", alphas, pooled=pooled)


def _require_known(tensors: Tensors, name: str) -> None:
    widths = {one.shape[1] for key, one in tensors.items() if key.endswith("attn2.to_k.weight")}
    require(
        any(key.startswith(UNET + "input_blocks.") for key in tensors) and widths <= {768, 2048},
        f"{name!r} is no checkpoint of Stable Diffusion 1.x or SDXL (its text has {sorted(widths)} channels)",
        f"{PLAIN}; Stable Diffusion 2.x as a folder in diffusers' format, which says whether it predicts noise or v",
    )
    missing = [part for part in (VAE, CLIP_L if 768 in widths else SDXL_CLIP_G) if not _under(tensors, part)]
    strange = {"edm_mean", "edm_vpred.sigma_max"} & tensors.keys()
    require(
        not missing and not strange,
        f"{name!r} has {f'no {missing}' if missing else f'other noise levels ({sorted(strange)})'}",
        "name a whole checkpoint: U-Net, autoencoder and text encoders in one file, of a plain SD 1.5 or SDXL",
    )


def networks_of(tensors: Tensors) -> tuple[nn.Module, nn.Module]:
    """The U-Net and the autoencoder, in float32 on the CPU."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    classes, unet = model_classes(), unet_config(_under(tensors, UNET))
    vae = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": SDXL_SCALE if "addition_embed_type" in unet else SD1_SCALE,
    }
    convert = {"unet": convert_ldm_unet_checkpoint, "vae": convert_ldm_vae_checkpoint}
    networks = []
    for part, config in (("unet", unet), ("vae", vae)):
        network = _without_weights(lambda part=part, config=config: classes[part](**config))
        network.load_state_dict(convert[part](tensors, config))  # which casts, without a copy
        networks.append(network.eval().requires_grad_(False))
    return networks[0], networks[1]


def _without_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` gives, on the CPU, to be filled from a file: random weights first take longer than all the rest.

    What is in no file is there: CLIP's positions. Where a network keeps anything else, it is built as it comes.
    """
    with torch.device("meta"):
        network = build()
    in_files = network.state_dict()
    if not all(name in in_files or name.endswith(POSITIONS) for name, _ in network.named_buffers()):
        return build()
    network = network.to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        if name.endswith(POSITIONS):
            buffer.copy_(torch.arange(buffer.shape[-1]))
    return network


def unet_config(tensors: Tensors) -> dict:
    """UNet2DConditionModel's settings, read off the shapes; tensors without their prefix."""
    levels: list[list[tuple[int, int]]] = [[]]  # of each level's blocks: channels, transformer blocks
    for block in range(1, 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("input_blocks."))):
        if f"input_blocks.{block}.0.op.weight" in tensors:
            levels.append([])
            continue
        channels = tensors[f"input_blocks.{block}.0.out_layers.3.weight"].shape[0]
        pattern = re.compile(rf"input_blocks\.{block}\.1\.transformer_blocks\.(\d+)\.norm1\.weight")
        levels[-1].append((channels, sum(bool(pattern.fullmatch(key)) for key in tensors)))
    channels, depths = zip(*(level[0] for level in levels), strict=True)
    linear = any(key.endswith("1.proj_in.weight") and one.ndim == 2 for key, one in tensors.items())
    text = next(one.shape[1] for key, one in tensors.items() if key.endswith("attn2.to_k.weight"))
    config = {
        "sample_size": 128 if linear else 64,
        "in_channels": tensors["input_blocks.0.0.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)),
        "transformer_layers_per_block": tuple(max(depth, 1) for depth in depths),
        "cross_attention_dim": text,
        "use_linear_projection": linear,
        # diffusers calls the number of heads so.
        "attention_head_dim": tuple(width // CHANNELS_OF_A_HEAD if linear else SD1_HEADS for width in channels),
    }
    if "label_emb.0.0.weight" in tensors:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": tensors["label_emb.0.0.weight"].shape[1],
        }
    return config


def text_encoders_of(tensors: Tensors) -> list[nn.Module]:
    """The one of SD 1.x, or both of SDXL."""
    if (first := _under(tensors, CLIP_L)) or not (second := _under(tensors, SDXL_CLIP_G)):
        return [_text_encoder("text_encoder", first, "quick_gelu")]
    first, second = _under(tensors, SDXL_CLIP_L), openclip_in_transformers_names(second)
    return [_text_encoder("text_encoder", first, "quick_gelu"), _text_encoder("text_encoder_2", second, "gelu")]


def _text_encoder(part: str, tensors: Tensors, activation: str) -> nn.Module:
    """transformers' network from tensors in its names, without the prefix text_model."""
    from transformers import CLIPTextConfig

    width = tensors["embeddings.token_embedding.weight"].shape[1]
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("encoder.layers.")),
        num_attention_heads=max(width // CHANNELS_OF_A_HEAD, 1),
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=START,
        eos_token_id=END,
    )
    network = _without_weights(lambda: model_classes()[part](config))
    wanted = [key for key in network.state_dict() if not key.endswith(POSITIONS)]
    found = {key: tensors[key.removeprefix("text_model.")] for key in wanted}
    network.load_state_dict(found, strict=False)
    return network.eval().requires_grad_(False)


def openclip_in_transformers_names(tensors: Tensors) -> Tensors:
    """OpenCLIP's text encoder in the names of transformers' CLIP, without the prefix text_model."""
    names = {
        "token_embedding": "embeddings.token_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final": "final_layer_norm",
        "transformer.resblocks": "encoder.layers",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn": "self_attn",
        "c_fc": "fc1",
        "c_proj": "fc2",
    }
    found = {}
    for key, one in tensors.items():
        for old, new in names.items():
            key = re.sub(rf"(^|\.){re.escape(old)}(?=\.|$)", rf"\g<1>{new}", key)
        if key == "text_projection":
            found["text_projection.weight"] = one.T.contiguous()
        elif ".in_proj_" in key:
            layer, kind = key.split("in_proj_")
            found |= {f"{layer}{name}_proj.{kind}": part for name, part in zip("qkv", one.chunk(3), strict=True)}
        else:
            found[key] = one
    return found


def _empty_tokens(encoders: Sequence[nn.Module]) -> list[Tensor]:
    """[1, tokens] of each."""
    length = encoders[0].config.max_position_embeddings
    return [torch.tensor([[START, END, *[padding] * (length - 2)]]) for padding in (END, PADDING)[: len(encoders)]]


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}

"""Model files with random weights that ComfyUI takes for the real thing: the path users take, without a download.

    write_checkpoint(server.models_dir, SD1)     # -> "sd1.safetensors", for CheckpointLoaderSimple
    write_lora(server.models_dir, SD1)           # -> "sd1_lora.safetensors", for LoraLoaderModelOnly
    write_vae(server.models_dir)                 # -> "other_vae.safetensors", for VAELoader
    stored_as(path, torch.bfloat16)              # the same file in another precision

ComfyUI reads a U-Net's kind off its tensors: 320 channels at the first layer, the width of the text it attends to
(768: SD 1.x, 1024: SD 2.x, 2048: SDXL), proj_in as a convolution (SD 1.x) or a linear layer (SD 2.x). Depth and
channel multipliers are read off too, so two levels with one block each are enough. The autoencoder and the text
encoders have fixed sizes in ComfyUI, so they come in full, the text encoders with norms and biases that count.
An SD 2.x file is taken for epsilon-prediction; for v-prediction add the node ModelSamplingDiscrete. SDXL files say it
themselves, by the tensors v_pred and ztsnr.
"""

import math
import tempfile
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_tensors

CHANNELS, TIME = 320, 1280
POOL, STARTS = 1_000_003, 4096  # a prime, so that no row of a weight repeats another
Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, np.ndarray]
FILES = tempfile.TemporaryDirectory(prefix="checkpoints_")  # goes when the process ends


@dataclass(frozen=True)
class Family:
    """What tells one kind of Stable Diffusion from another."""

    name: str
    context: int
    linear_projection: bool
    depths: tuple[tuple[int, ...], ...]  # transformer blocks of each input block, level by level
    vector: int | None = None
    text_encoder: str | None = None
    channels_in: int = 4
    marks: tuple[str, ...] = ()  # tensors by whose names ComfyUI knows how the model predicts


SD1 = Family("sd1", 768, False, ((1,), (1,)), text_encoder="clip_l")
SD2 = Family("sd2", 1024, True, ((1,), (1,)), text_encoder="clip_h")
SDXL = Family("sdxl", 2048, True, ((0, 0), (2, 2), (10, 10)), vector=2816, text_encoder="clip_l_and_g")
# SDXL's smallest relative that ComfyUI knows (Segmind Vega): the same in all that matters here, and three times faster.
VEGA = Family("vega", 2048, True, ((0, 0), (1, 1), (2, 2)), vector=2816, text_encoder="clip_l_and_g")
VEGA_V = replace(VEGA, name="vega_v", marks=("v_pred",))
VEGA_ZSNR = replace(VEGA, name="vega_zsnr", marks=("v_pred", "ztsnr"))  # as NoobAI's
# To be refused.
INPAINTING, PIX2PIX = replace(SD1, name="inpainting", channels_in=9), replace(SD1, name="pix2pix", channels_in=8)
SDXL_INPAINTING = replace(VEGA, name="sdxl_inpainting", channels_in=9)
PLAYGROUND = replace(VEGA, name="playground", marks=("edm_mean", "edm_std"))


def write_checkpoint(models_dir: Path, family: Family, text_encoder: bool = True, seed: int = 0) -> str:
    """Gives models_dir a link checkpoints/<family>.safetensors to a file in float16, and returns its name.

    Each file is written once in a process: SDXL's text encoders alone take as long as many tests.
    """
    path = Path(models_dir) / "checkpoints" / f"{family.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(_written(family, text_encoder, seed))
    return path.name


@cache
def _written(family: Family, text_encoder: bool, seed: int) -> Path:
    pool = np.random.default_rng(seed).standard_normal(POOL + STARTS, np.float32)
    tensors = _random(unet_shapes(family), "model.diffusion_model.", pool)
    tensors |= _random(vae_shapes(), "first_stage_model.", pool)
    tensors |= {mark: np.zeros(1, np.float16) for mark in family.marks}
    if text_encoder and family.text_encoder:
        tensors |= TEXT_ENCODERS[family.text_encoder](pool)
    path = Path(tempfile.mkdtemp(dir=FILES.name)) / "checkpoint.safetensors"
    save_file(tensors, path)
    return path


def write_vae(models_dir: Path, seed: int = 2) -> str:
    """Writes models_dir/vae/other_vae.safetensors, an autoencoder in a file of its own, and returns its name."""
    pool = np.random.default_rng(seed).standard_normal(POOL + STARTS, np.float32)
    return _save(_random(vae_shapes(), "", pool), Path(models_dir) / "vae" / "other_vae.safetensors")


def stored_as(path: Path, dtype: torch.dtype) -> str:
    """Writes the same checkpoint beside it, its U-Net's weights in another precision, and returns the file's name."""
    copy = path.with_stem(f"{path.stem}_{str(dtype).removeprefix('torch.')}")
    tensors = load_file(path)
    stored = {key: one.to(dtype) if key.startswith("model.diffusion_model.") else one for key, one in tensors.items()}
    save_tensors(stored, copy)
    return copy.name


def write_lora(models_dir: Path, family: Family, rank: int = 2, seed: int = 1) -> str:
    """Writes models_dir/loras/<family>_lora.safetensors, strong enough to change the picture, and returns its name."""
    random = np.random.default_rng(seed)
    tensors = {}
    for key, shape in unet_shapes(family).items():
        if not key.endswith(("attn1.to_q.weight", "attn2.to_k.weight", "ff.net.2.weight")):
            continue
        name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        tensors[name + ".lora_down.weight"] = _normal(random, (rank, shape[1]))
        tensors[name + ".lora_up.weight"] = _normal(random, (shape[0], rank))
        tensors[name + ".alpha"] = np.array(rank, np.float16)
    return _save(tensors, Path(models_dir) / "loras" / f"{family.name}_lora.safetensors")


def _normal(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (random.standard_normal(shape, np.float32) / 8).astype(np.float16)


def _save(tensors: Tensors, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path.name


def _random(shapes: Shapes, prefix: str, pool: np.ndarray) -> Tensors:
    return {prefix + key: _weight(key, shape, pool) for key, shape in shapes.items()}


def _weight(key: str, shape: tuple[int, ...], pool: np.ndarray) -> np.ndarray:
    """Norms that do nothing, no biases, and weights that keep the variance: a deep net stays finite in float16."""
    if len(shape) == 1:
        return (np.zeros if key.endswith("bias") else np.ones)(shape, np.float16)
    return _noise(key, shape, math.prod(shape[1:]) ** -0.5, pool)


def _noise(key: str, shape: tuple[int, ...], scale: float, pool: np.ndarray) -> np.ndarray:
    """Normal numbers from the pool, each key starting elsewhere: drawing all anew takes ten times as long."""
    count, start = math.prod(shape), zlib.crc32(key.encode()) % STARTS
    numbers = (pool[start : start + min(count, POOL)] * scale).astype(np.float16)
    return np.resize(numbers, shape)


# The U-Net, in the key names of ComfyUI's UNetModel


def unet_shapes(family: Family) -> Shapes:
    shapes = _linear("time_embed.0", TIME, CHANNELS) | _linear("time_embed.2", TIME, TIME)
    if family.vector:
        shapes |= _linear("label_emb.0.0", TIME, family.vector) | _linear("label_emb.0.2", TIME, TIME)
    shapes |= _conv("input_blocks.0.0", CHANNELS, family.channels_in) | _unet_levels(family)
    shapes |= _resblock("middle_block.0", CHANNELS) | _transformer("middle_block.1", family, family.depths[-1][-1])
    shapes |= _resblock("middle_block.2", CHANNELS)
    return shapes | _norm("out.0", CHANNELS) | _conv("out.2", 4, CHANNELS)


def _unet_levels(family: Family) -> Shapes:
    """Down: per level its blocks and a downsampling. Up: per level one block more and an upsampling."""
    shapes, last = {}, len(family.depths) - 1
    block = 1
    for level, depths in enumerate(family.depths):
        for depth in depths:
            shapes |= _unet_block(f"input_blocks.{block}", CHANNELS, family, depth)
            block += 1
        if level < last:
            shapes |= _conv(f"input_blocks.{block}.0.op", CHANNELS, CHANNELS)
            block += 1
    block = 0
    for level in reversed(range(last + 1)):
        depths = (family.depths[level][0], *family.depths[level])
        for index, depth in enumerate(depths):
            name = f"output_blocks.{block}"
            shapes |= _unet_block(name, 2 * CHANNELS, family, depth)
            if level > 0 and index == len(depths) - 1:
                shapes |= _conv(f"{name}.{2 if depth else 1}.conv", CHANNELS, CHANNELS)
            block += 1
    return shapes


def _unet_block(name: str, channels_in: int, family: Family, depth: int) -> Shapes:
    return _resblock(f"{name}.0", channels_in) | _transformer(f"{name}.1", family, depth)


def _resblock(name: str, channels_in: int) -> Shapes:
    shapes = _norm(f"{name}.in_layers.0", channels_in) | _conv(f"{name}.in_layers.2", CHANNELS, channels_in)
    shapes |= _linear(f"{name}.emb_layers.1", CHANNELS, TIME)
    shapes |= _norm(f"{name}.out_layers.0", CHANNELS) | _conv(f"{name}.out_layers.3", CHANNELS, CHANNELS)
    return shapes | (_conv(f"{name}.skip_connection", CHANNELS, channels_in, 1) if channels_in != CHANNELS else {})


def _transformer(name: str, family: Family, depth: int) -> Shapes:
    if depth == 0:
        return {}
    project = _linear if family.linear_projection else _conv1x1
    shapes = _norm(f"{name}.norm", CHANNELS)
    shapes |= project(f"{name}.proj_in", CHANNELS, CHANNELS) | project(f"{name}.proj_out", CHANNELS, CHANNELS)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        shapes |= _attention(f"{block}.attn1", CHANNELS) | _attention(f"{block}.attn2", family.context)
        shapes |= _linear(f"{block}.ff.net.0.proj", 8 * CHANNELS, CHANNELS)
        shapes |= _linear(f"{block}.ff.net.2", CHANNELS, 4 * CHANNELS)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= _norm(f"{block}.{norm}", CHANNELS)
    return shapes


def _attention(name: str, context: int) -> Shapes:
    shapes = {f"{name}.to_q.weight": (CHANNELS, CHANNELS)}
    shapes |= {f"{name}.to_{part}.weight": (CHANNELS, context) for part in "kv"}
    return shapes | _linear(f"{name}.to_out.0", CHANNELS, CHANNELS)


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _linear(name: str, out: int, channels_in: int) -> Shapes:
    return {f"{name}.weight": (out, channels_in), f"{name}.bias": (out,)}


def _conv(name: str, out: int, channels_in: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (out, channels_in, size, size), f"{name}.bias": (out,)}


def _conv1x1(name: str, out: int, channels_in: int) -> Shapes:
    return _conv(name, out, channels_in, 1)


# The autoencoder: AutoencoderKL f8 with 4 latent channels, the only size ComfyUI takes from a checkpoint


def vae_shapes(widths: tuple[int, ...] = (128, 256, 512, 512)) -> Shapes:
    shapes = _conv("encoder.conv_in", widths[0], 3) | _conv("decoder.conv_in", widths[-1], 4)
    before = widths[0]
    for level, width in enumerate(widths):
        shapes |= _vae_level(f"encoder.down.{level}", before, width, blocks=2)
        before = width
        if level < len(widths) - 1:
            shapes |= _conv(f"encoder.down.{level}.downsample.conv", width, width)
    for level, width in reversed(list(enumerate(widths))):
        shapes |= _vae_level(f"decoder.up.{level}", before, width, blocks=3)
        before = width
        if level > 0:
            shapes |= _conv(f"decoder.up.{level}.upsample.conv", width, width)
    for coder, width, out in (("encoder", widths[-1], 8), ("decoder", widths[0], 3)):
        shapes |= _vae_middle(f"{coder}.mid", widths[-1])
        shapes |= _norm(f"{coder}.norm_out", width) | _conv(f"{coder}.conv_out", out, width)
    return shapes | _conv1x1("quant_conv", 8, 8) | _conv1x1("post_quant_conv", 4, 4)


def _vae_level(name: str, channels_in: int, width: int, blocks: int) -> Shapes:
    shapes = _vae_block(f"{name}.block.0", channels_in, width)
    for index in range(1, blocks):
        shapes |= _vae_block(f"{name}.block.{index}", width, width)
    return shapes


def _vae_middle(name: str, width: int) -> Shapes:
    shapes = _vae_block(f"{name}.block_1", width, width) | _vae_block(f"{name}.block_2", width, width)
    shapes |= _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= _conv1x1(f"{name}.attn_1.{part}", width, width)
    return shapes


def _vae_block(name: str, channels_in: int, width: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", channels_in) | _conv(f"{name}.conv1", width, channels_in)
    shapes |= _norm(f"{name}.norm2", width) | _conv(f"{name}.conv2", width, width)
    return shapes | (_conv1x1(f"{name}.nin_shortcut", width, channels_in) if channels_in != width else {})


# The text encoders, in full size


def _text_weight(key: str, shape: tuple[int, ...], pool: np.ndarray) -> np.ndarray:
    """As `_weight`, but with norms and biases that show where one was taken for another."""
    return _weight(key, shape, pool) if len(shape) > 1 else _weight(key, shape, pool) + _noise(key, shape, 0.1, pool)


def _clip_l(pool: np.ndarray) -> Tensors:
    """SD 1.x: OpenAI's ViT-L/14 in transformers' key names."""
    width, prefix = 768, "cond_stage_model.transformer.text_model."
    shapes = _norm("final_layer_norm", width)
    for layer in range(12):
        block = f"encoder.layers.{layer}"
        shapes |= _norm(f"{block}.layer_norm1", width) | _norm(f"{block}.layer_norm2", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{block}.self_attn.{part}", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * width, width) | _linear(f"{block}.mlp.fc2", width, 4 * width)
    tensors = {prefix + key: _text_weight(key, shape, pool) for key, shape in shapes.items()}
    tensors[prefix + "embeddings.token_embedding.weight"] = _noise("tokens", (49408, width), 1.0, pool)
    tensors[prefix + "embeddings.position_embedding.weight"] = _noise("positions", (77, width), 1.0, pool)
    return tensors


def _open_clip(prefix: str, width: int, layers: int, pool: np.ndarray) -> Tensors:
    """In OpenCLIP's own key names."""
    shapes = _norm("ln_final", width)
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}"
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= _linear(f"{block}.attn.out_proj", width, width)
        shapes |= _linear(f"{block}.mlp.c_fc", 4 * width, width) | _linear(f"{block}.mlp.c_proj", width, 4 * width)
    tensors = {prefix + key: _text_weight(key, shape, pool) for key, shape in shapes.items()}
    tensors[prefix + "token_embedding.weight"] = _noise("tokens", (49408, width), 1.0, pool)
    tensors[prefix + "positional_embedding"] = _noise("positions", (77, width), 1.0, pool)
    return tensors


def _clip_h(pool: np.ndarray) -> Tensors:
    """SD 2.x: ViT-H/14."""
    return _open_clip("cond_stage_model.model.", 1024, 24, pool)


def _clip_l_and_g(pool: np.ndarray) -> Tensors:
    """SDXL: SD 1.x's, and ViT-bigG/14, which the pooled output comes from."""
    sd1, embedder = "cond_stage_model.transformer.", "conditioner.embedders."
    tensors = {key.replace(sd1, f"{embedder}0.transformer."): one for key, one in _clip_l(pool).items()}
    tensors |= _open_clip(f"{embedder}1.model.", 1280, 32, pool)
    projection = _noise("projection", (1280, 1280), 1280**-0.5, pool)
    return tensors | {f"{embedder}1.model.text_projection": projection}


TEXT_ENCODERS = {"clip_l": _clip_l, "clip_h": _clip_h, "clip_l_and_g": _clip_l_and_g}

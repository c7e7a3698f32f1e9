"""Stable Diffusion in diffusers' format with random weights, a few numbers wide: made in a second."""

import json

import torch

from faceprotect_core.diffusers_backend import SCHEDULE

WIDTH = 32


def write_tiny_diffusers(folder, prediction_type: str = "epsilon", sdxl: bool = False):
    """Writes a folder as `load_diffusers` reads them, for crops of 64 pixels."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 2 * WIDTH}
    more["projection_class_embeddings_input_dim"] = WIDTH + 6 * 8
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **more if sdxl else {"cross_attention_dim": WIDTH},
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=10,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=WIDTH,
    )  # fmt: skip
    parts = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text)}
    if sdxl:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(text)
        _write_tokenizer(folder / "tokenizer_2", padding="a</w>")
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    DDIMScheduler(**SCHEDULE, prediction_type=prediction_type, steps_offset=1).save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer")
    return folder


def _write_tokenizer(folder, padding: str = "<|endoftext|>"):
    folder.mkdir(parents=True)
    words = ["<|startoftext|>", "<|endoftext|>", *"abcd", *(f"{letter}</w>" for letter in "abcd")]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": padding}
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | special))

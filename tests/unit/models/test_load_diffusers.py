"""Stable Diffusion from a folder in diffusers' format: tiny random ones, made here."""

import json
import shutil

import pytest
import torch

from faceprotect_core.checks import ProtectionError
from faceprotect_core.diffusers_backend import SCHEDULE, load_diffusers

WIDTH = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_tiny_diffusers(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny")


def write_tiny_diffusers(folder, prediction_type: str = "epsilon"):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=WIDTH, norm_num_groups=8,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=10,
        max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    parts = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text)}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    DDIMScheduler(**SCHEDULE, prediction_type=prediction_type, steps_offset=1).save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer")
    return folder


def _write_tokenizer(folder):
    folder.mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", *"abcd", *(f"{letter}</w>" for letter in "abcd")]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | special))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_loaded_model_denoises_encodes_and_decodes(made):
    denoiser, codec, context = load_diffusers(made)
    assert context.shape == (1, 77, WIDTH) and context.dtype == torch.float32
    latent = codec.encode(torch.rand(1, 3, 64, 64))
    assert denoiser(latent, 51, context).shape == latent.shape == (1, 4, 8, 8)
    assert codec.decode(latent).shape == (1, 3, 64, 64)
    assert not any(parameter.requires_grad for parameter in denoiser.unet.parameters())


def test_the_context_is_the_one_of_diffusers_own_pipeline(made):
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

    denoiser, codec, context = load_diffusers(made)
    text = CLIPTextModel.from_pretrained(made / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(made / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(made / "scheduler")
    pipeline = StableDiffusionPipeline(
        codec.vae, text, tokenizer, denoiser.unet, scheduler, None, None, requires_safety_checker=False
    )
    expected, _ = pipeline.encode_prompt("", "cpu", 1, False)
    torch.testing.assert_close(context, expected)


def test_v_prediction_comes_from_the_schedulers_config(folder):
    epsilon = load_diffusers(folder)[0]
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    velocity = load_diffusers(folder)[0]
    assert (epsilon.prediction_type, velocity.prediction_type) == ("epsilon", "v_prediction")


def test_weights_of_half_precision_are_computed_in_full(folder):
    from diffusers import UNet2DConditionModel

    UNet2DConditionModel.from_pretrained(folder / "unet").half().save_pretrained(folder / "half", variant="fp16")
    shutil.rmtree(folder / "unet")
    (folder / "half").rename(folder / "unet")
    assert load_diffusers(folder)[0].unet.dtype == torch.float32


def pickled(folder):
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


BROKEN = {
    "no such folder": (shutil.rmtree, "scheduler_config.json"),
    "no U-Net": (lambda folder: shutil.rmtree(folder / "unet"), "no unet"),
    "no VAE": (lambda folder: shutil.rmtree(folder / "vae"), "no vae"),
    "no text encoder": (lambda folder: shutil.rmtree(folder / "text_encoder"), "no text_encoder"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "no tokenizer"),
    "a pickle": (pickled, "can run code"),
    "damaged weights": (
        lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 100),
        "the vae .* cannot be loaded",
    ),
    "another schedule": (
        lambda folder: edit(folder / "scheduler" / "scheduler_config.json", beta_schedule="linear"),
        "another noise schedule .*'linear'",
    ),
    "zero terminal SNR": (
        lambda folder: edit(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True),
        "rescale_betas_zero_snr",
    ),
    "a damaged config": (
        lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"),
        "damaged",
    ),
    "another prediction": (
        lambda folder: edit(folder / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "'sample' is not supported",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_with_a_reason_and_no_path(folder, name):
    break_it, said = BROKEN[name]
    break_it(folder)
    with pytest.raises(ProtectionError, match=said) as caught:
        load_diffusers(folder)
    assert "How to fix: " in str(caught.value) and str(folder) not in str(caught.value)


def test_without_transformers_the_error_says_what_to_install(made, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ProtectionError, match="pip install diffusers transformers"):
        load_diffusers(made)


def test_the_protector_takes_the_models_own_size_and_names_its_weights(made):
    from faceprotect_core.folders.protector import Choice, load_protector

    protector = load_protector(Choice(model=str(made)))
    assert protector.photo_settings.size == 64
    assert protector.settings["model"] == "tiny" and len(protector.settings["model_sha256"]) == 64
    assert str(made) not in json.dumps(protector.settings)

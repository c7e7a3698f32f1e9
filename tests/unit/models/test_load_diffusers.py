"""Stable Diffusion from a folder in diffusers' format: tiny random ones, made here."""

import json
import shutil

import pytest
import torch

from faceprotect_core.checks import ProtectionError
from faceprotect_core.diffusers_backend import load_diffusers
from tiny_diffusers import WIDTH, write_tiny_diffusers


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_tiny_diffusers(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return write_tiny_diffusers(tmp_path_factory.mktemp("models") / "tiny_xl", sdxl=True)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny")


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


def test_sdxls_context_and_pooled_text_are_those_of_diffusers_own_pipeline(sdxl):
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    denoiser, codec, context = load_diffusers(sdxl)
    texts = (
        CLIPTextModel.from_pretrained(sdxl / "text_encoder"),
        CLIPTextModelWithProjection.from_pretrained(sdxl / "text_encoder_2"),
    )
    tokenizers = [CLIPTokenizer.from_pretrained(sdxl / name) for name in ("tokenizer", "tokenizer_2")]
    scheduler = DDIMScheduler.from_pretrained(sdxl / "scheduler")
    pipeline = StableDiffusionXLPipeline(codec.vae, *texts, *tokenizers, denoiser.unet, scheduler)
    expected, _, pooled, _ = pipeline.encode_prompt("", device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(denoiser.pooled, pooled)


def test_sdxls_u_net_is_given_the_pooled_text_and_the_pictures_size(sdxl):
    denoiser, _, context = load_diffusers(sdxl)
    latent = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    both = context.expand(2, -1, -1)
    added = {"text_embeds": denoiser.pooled.expand(2, -1), "time_ids": torch.tensor([[64.0, 128, 0, 0, 64, 128]] * 2)}
    with torch.no_grad():
        expected = denoiser.unet(latent, 51, both, added_cond_kwargs=added).sample
        assert torch.equal(denoiser(latent, 51, both), expected)


def test_zero_terminal_snr_comes_from_the_schedulers_config(folder):
    plain = load_diffusers(folder)[0].alphas_cumprod
    edit(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    rescaled = load_diffusers(folder)[0].alphas_cumprod
    betas = 1 - plain / torch.cat([plain.new_ones(1), plain[:-1]])
    expected = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
    torch.testing.assert_close(rescaled[:-1], expected[:-1], rtol=0, atol=1e-9)
    assert 0 < rescaled[-1] < 1e-7 < 1e-3 < plain[-1]


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

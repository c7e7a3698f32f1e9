"""One SDXL checkpoint, two backends: ComfyUI's loader, and our reading of the file, give the same result."""

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import VEGA_ZSNR, write_checkpoint
from comfyui_models import conditioning, core_module, load
from tiny import random_image

WIDTH = 2048


@pytest.fixture(scope="module")
def file(pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return folder / "checkpoints" / write_checkpoint(folder, VEGA_ZSNR, text_encoder=False)


@pytest.fixture(scope="module")
def backends(pack, file):
    """((denoiser, codec) over ComfyUI, (denoiser, codec) over diffusers), with one pooled text."""
    single_file = core_module(pack, "diffusers_backend.single_file")
    tensors, prompt = load_file(file), conditioning()
    model, vae = load(file)
    fixed = pack.host.tensors.fixed_conditioning(model, prompt, "here")
    ours = pack.host.ComfyDenoiser(model, fixed=fixed), pack.host.codec_of(vae, model)
    unet, autoencoder = single_file.networks_of(tensors)
    denoiser = single_file.denoiser_of(unet, tensors, prompt[0][1]["pooled_output"])
    return ours, (denoiser, pack.backend.DiffusersCodec(autoencoder))


@pytest.fixture
def in_comfyui(pack, backends):
    (denoiser, codec), _ = backends
    with torch.inference_mode(), pack.host.gradients(denoiser.patcher, codec.patcher):
        yield


def noise(batch: int = 1, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(0))


def close(mine, other, share: float = 1e-5) -> None:
    """To a share of the largest number."""
    torch.testing.assert_close(mine, other, rtol=0, atol=share * other.abs().max().item())


def test_the_u_net_is_read_off_the_file(backends):
    config = backends[1][0].unet.config
    assert tuple(config.transformer_layers_per_block) == (1, 1, 2)
    assert config.down_block_types == ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    assert (config.cross_attention_dim, config.projection_class_embeddings_input_dim) == (WIDTH, 2816)
    assert tuple(config.attention_head_dim) == (5, 5, 5)
    assert backends[1][0].prediction_type == "v_prediction"


@pytest.mark.parametrize("timestep", [1, 951])
def test_both_predict_the_same_noise_of_any_shape(backends, in_comfyui, timestep):
    (ours, _), (theirs, _) = backends
    context = conditioning()[0][0]
    for shape in ((1, 8, 8), (2, 8, 16)):
        latent, null = noise(*shape), context.expand(shape[0], -1, -1)
        with torch.no_grad():
            close(ours(latent, timestep, null), theirs(latent, timestep, null))


def test_both_differentiate_alike_in_the_latent_and_the_joined_context(backends, in_comfyui):
    (ours, _), (theirs, _) = backends
    gradients = []
    for denoiser in (ours, theirs):
        latent, null = noise().requires_grad_(), conditioning()[0][0].clone().requires_grad_()
        gradients.append(torch.autograd.grad(denoiser(latent, 101, null).square().sum(), [latent, null]))
    for mine, other in zip(*gradients, strict=True):
        close(mine, other, 5e-5)


def test_both_encode_and_decode_alike(backends, in_comfyui):
    (_, ours), (_, theirs) = backends
    with torch.no_grad():
        latent = theirs.encode(random_image(1, 64, dtype=torch.float32))
        close(ours.encode(random_image(1, 64, dtype=torch.float32)), latent)
        close(ours.decode(latent), theirs.decode(latent))


def test_both_have_the_same_noise_levels(pack, backends):
    ours = pack.host.schedule_of(backends[0][0].patcher).alphas_cumprod
    torch.testing.assert_close(ours, backends[1][0].alphas_cumprod, rtol=0, atol=2e-7)


def test_both_invert_and_learn_alike(pack, backends, in_comfyui):
    """By the schedule of each; the null text by steps that follow the loss, so that rounding does not grow."""
    found = []
    for denoiser, _ in backends:
        schedule = pack.core.DDIMSchedule.from_alphas_cumprod(backends[1][0].alphas_cumprod)
        path = pack.core.ddim_invert(denoiser, noise(), conditioning()[0][0], schedule, depth=2)
        losses = []
        pack.core.learn_null_text(
            denoiser, path, conditioning()[0][0], iterations=1, lr=0.01,
            on_step=lambda event, losses=losses: losses.append(event.losses["null_text"][0]),
        )  # fmt: skip
        found.append((path.latents[-1], torch.tensor(losses)))
    for mine, other in zip(*found, strict=True):
        close(mine, other, 1e-4)

"""SDXL in ComfyUI: what its U-Net is given, how it predicts, its autoencoder, and the protection through all blocks."""

import pytest
import torch

from checkpoints import SDXL, VEGA, VEGA_V, VEGA_ZSNR, stored_as, write_checkpoint
from comfyui_models import (
    LATENT_SHAPE,
    assert_untouched,
    conditioning,
    context,
    darkness,
    fixed_of,
    latent,
    load,
    load_tiny_vae,
    protect,
    state,
)

WIDTH = 2048
FAMILIES = {"plain": VEGA, "v": VEGA_V, "zero terminal SNR": VEGA_ZSNR}


@pytest.fixture(scope="module")
def files(pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: folder / "checkpoints" / write_checkpoint(folder, family, text_encoder=False)
        for name, family in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def loaded(files):
    return {name: load(file) for name, file in files.items()}


@pytest.fixture(scope="module")
def vega(loaded):
    return loaded["plain"]


@pytest.fixture(autouse=True)
def in_a_node(pack):
    """As the server runs every node."""
    with torch.inference_mode():
        yield


def denoiser_of(pack, model, prompt=None):
    fixed = pack.host.tensors.fixed_conditioning(model, prompt or conditioning(), "here")
    return pack.host.ComfyDenoiser(model, fixed=fixed)


def sampled(model, prompt, timestep: int, cells: tuple[int, int] = (8, 8)) -> torch.Tensor:
    """The noise that ComfyUI's own sampling finds in a latent: its conversion of conditionings, its apply_model."""
    import comfy.sampler_helpers
    import comfy.samplers

    z = torch.randn(1, 4, *cells, generator=torch.Generator().manual_seed(0))
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigmas[timestep][None]
    alpha = 1 / (1 + sigma.item() ** 2)
    conds = comfy.sampler_helpers.convert_cond(prompt)
    conds = comfy.samplers.process_conds(model.model, z, {"positive": conds}, z.device, z, None)["positive"]
    (denoised,) = comfy.samplers.calc_cond_batch(model.model, [conds], z / alpha**0.5, sigma, model.model_options)
    return (z - alpha**0.5 * denoised) / (1 - alpha) ** 0.5


# What goes into the U-Net


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("cells", [(8, 8), (8, 16)], ids=["square", "wide"])
def test_the_noise_is_the_one_that_comfyuis_own_sampler_finds(pack, loaded, name, cells):
    """The pooled text, the sizes in pixels, and noise or v: all as a KSampler gives and takes them."""
    model, prompt = loaded[name][0], conditioning()
    denoiser = denoiser_of(pack, model, prompt)
    z = torch.randn(1, 4, *cells, generator=torch.Generator().manual_seed(0))
    for timestep in (1, 101, 951):
        with pack.host.no_gradients(denoiser.patcher):
            ours = denoiser(z, timestep, prompt[0][0])
            expected = sampled(model, prompt, timestep, cells)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_sizes_that_are_set_are_used_and_change_the_result(pack, vega):
    model, plain = vega[0], conditioning()
    sized = [[plain[0][0], plain[0][1] | {"width": 1024, "height": 512, "crop_w": 8, "target_width": 768}]]
    found = []
    for prompt in (plain, sized):
        denoiser = denoiser_of(pack, model, prompt)
        with pack.host.no_gradients(denoiser.patcher):
            found.append(denoiser(latent(), 101, prompt[0][0]))
            torch.testing.assert_close(found[-1], sampled(model, prompt, 101), rtol=0, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_one_prompt_is_for_all_images_of_a_batch(pack, vega):
    denoiser = denoiser_of(pack, vega[0])
    z = torch.cat([latent(), -latent()])
    with pack.host.no_gradients(denoiser.patcher):
        both = denoiser(z, 101, context(WIDTH).expand(2, -1, -1))
        alone = torch.cat([denoiser(one[None], 101, context(WIDTH)) for one in z])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-4)


def test_without_a_pooled_output_it_is_refused(pack, vega):
    prompt = [[context(WIDTH), {}]]
    with pytest.raises(pack.core.checks.ProtectionError, match="no pooled output of 1280"):
        denoiser_of(pack, vega[0], prompt)


# Its noise levels


def test_the_schedule_is_the_models_also_with_zero_terminal_snr(pack, loaded):
    plain, v, zero = (pack.host.schedule_of(loaded[name][0]) for name in FAMILIES)
    torch.testing.assert_close(
        plain.alphas_cumprod, pack.core.DDIMSchedule.scaled_linear().alphas_cumprod, rtol=0, atol=1e-6
    )
    assert torch.equal(v.alphas_cumprod, plain.alphas_cumprod)
    assert zero.alphas_cumprod[-1] < 1e-6 < 1e-3 < plain.alphas_cumprod[-1]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exact_inversion_is_undone_by_the_way_back(pack, loaded, name):
    """Where one noise prediction holds for a step: the latent comes back."""
    model = loaded[name][0]
    denoiser, schedule = denoiser_of(pack, model), pack.host.schedule_of(model)
    with pack.host.no_gradients(denoiser.patcher):
        path = pack.core.ddim_invert(denoiser, latent(), context(WIDTH), schedule, depth=1, pairing="exact")
        noise = denoiser(latent(), 1, context(WIDTH))
        back = schedule.transfer(path.latents[1], noise, schedule.level(1), schedule.level(0))
    torch.testing.assert_close(back, latent(), rtol=0, atol=1e-5)
    assert (path.latents[1] - latent()).abs().max() > 0.01


# Its autoencoder


def test_latents_have_sdxls_scale(pack, vega):
    model, vae = vega
    codec = pack.host.codec_of(vae, model)
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with pack.host.no_gradients(codec.patcher):
        z = codec.encode(photo)
        expected = vae.encode(photo.movedim(1, -1)) * 0.13025
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-5)
    assert codec.latent_format.scale_factor == 0.13025


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_autoencoder_never_computes_in_float16(pack, vega, dtype):
    """SDXL's overflows there."""
    import comfy.sd

    weights = {name: one.to(dtype) for name, one in vega[1].first_stage_model.state_dict().items()}
    codec = pack.host.codec_of(comfy.sd.VAE(sd=weights, dtype=dtype), vega[0])
    assert codec.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    with pack.host.no_gradients(codec.patcher):
        assert torch.isfinite(codec.decode(40 * latent())).all()


def test_the_gradient_may_come_from_taesdxl_and_not_from_taesd(pack, vega):
    model, vae = pack.nodes.performance.Performance.execute(
        *vega, "as loaded", "automatic", load_tiny_vae(scale=0.13025)
    ).result
    codec = pack.host.codec_of(vae, model)
    with pack.host.gradients(*codec.patchers):
        z = latent().requires_grad_()
        (gradient,) = torch.autograd.grad(codec.decode(z).square().sum(), z)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    with pytest.raises(pack.core.checks.ProtectionError, match="TAESD for the connected MODEL, of scale 0.13025"):
        pack.nodes.performance.Performance.execute(*vega, "as loaded", "automatic", load_tiny_vae())


# The protection


@pytest.mark.parametrize("name", FAMILIES)
def test_it_protects_and_leaves_model_and_vae_bit_equal(pack, loaded, name):
    model, vae = loaded[name]
    protect(pack, model, vae, WIDTH, low=False)
    before = [state(module) for module in (model.model, vae.first_stage_model)]
    result = protect(pack, model, vae, WIDTH, low=False)[0]
    for module, was in zip((model.model, vae.first_stage_model), before, strict=True):
        assert_untouched(module, was)
    assert torch.isfinite(result.image).all() and result.history["structure"][-1][0] > 0
    assert result.history["identity"][-1] < result.history["identity"][0]


def test_the_null_text_is_learned_over_the_joined_context(pack, vega):
    """All 2048 channels, those of both text encoders; the pooled text and the sizes stay."""
    model = vega[0]
    denoiser, null, schedule = denoiser_of(pack, model), context(WIDTH), pack.host.schedule_of(model)
    pooled = denoiser.fixed["pooled_output"].clone()
    with pack.host.gradients(denoiser.patcher):
        path = pack.core.ddim_invert(denoiser, latent(), null, schedule, depth=2)
        losses = []
        learned = pack.core.learn_null_text(
            denoiser, path, null, iterations=6, lr=0.01, on_step=lambda event: losses.append(event.losses["null_text"])
        )
    moved = (learned[0] - null).abs().amax((0, 1))
    assert learned.shape == (2, 1, 7, WIDTH) and (moved > 0).all()
    assert losses[5][0] < losses[0][0]
    assert torch.equal(denoiser.fixed["pooled_output"], pooled)


def test_a_prompt_changes_every_stage_by_its_context_and_by_its_pooled_text(pack, vega):
    """The photo is inverted under it, the embeddings are learned from it on, and the photo is changed under it."""
    core, model, vae = pack.core, *vega
    null, other = conditioning(), conditioning(seed=5)
    prompts = {"empty": null, "context": [[-null[0][0], null[0][1]]], "pooled": [[null[0][0], other[0][1]]]}
    schedule, found = pack.host.schedule_of(model), {}
    for name, prompt in prompts.items():
        denoiser, codec = denoiser_of(pack, model, prompt), pack.host.codec_of(vae, model)
        with pack.host.gradients(denoiser.patcher, codec.patcher):
            path = core.ddim_invert(denoiser, latent(), prompt[0][0], schedule, depth=1)
            learned = core.learn_null_text(denoiser, path, prompt[0][0], iterations=1)
            image = core.optimize_latent(denoiser, codec, path, learned, darkness, iterations=1).image
            found[name] = path.latents[-1], learned - prompt[0][0], image
    for name in ("context", "pooled"):
        for stage, empty, told in zip(("inversion", "learning", "change"), found["empty"], found[name], strict=True):
            assert (told - empty).abs().max() > 1e-3, (name, stage)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=["bf16", "fp8"])
def test_files_of_other_precisions_protect_and_stay_as_they_are(pack, files, dtype):
    file = files["plain"].with_name(stored_as(files["plain"], dtype))
    model, vae = load(file, dtype, native=False)  # on a CPU ComfyUI computes both in float32
    assert model.model.diffusion_model.input_blocks[1][0].in_layers[2].weight.dtype == dtype
    protect(pack, model, vae, WIDTH, low=False)
    before = state(model.model)
    result = protect(pack, model, vae, WIDTH, low=False)[0]
    assert torch.isfinite(result.image).all()
    assert result.history["identity"][-1] < result.history["identity"][0]
    assert_untouched(model.model, before)


def test_sdxls_own_depth_is_known_and_works(pack, tmp_path):
    model, vae = load(tmp_path / "checkpoints" / write_checkpoint(tmp_path, SDXL, text_encoder=False))
    assert type(model.model.model_config).__name__ == "SDXL"
    denoiser = pack.host.ComfyDenoiser(model, fixed=fixed_of(pack, model), low_memory=True)
    layers = []

    def attend(layer, query, key, value):
        layers.append(layer)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    with pack.host.gradients(denoiser.patcher):
        z = latent().requires_grad_()
        noise = denoiser(z, 101, context(WIDTH), attend)
        seen = len(layers)
        (gradient,) = torch.autograd.grad(noise.square().sum(), z)
    assert seen == len(set(layers)) == 70 and z.shape == LATENT_SHAPE
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0

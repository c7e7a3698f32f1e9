"""One method, two backends: over ComfyUI's models and over diffusers' it gives the same result, and the release's."""

import json

import pytest
import torch
from safetensors.torch import load_file

from comfyui_models import core_module, state
from golden import FOLDER, RECORDS, load_golden
from tiny import random_image, tiny_surrogate

TIMESTEPS = (1, 51, 101, 501, 951)


@pytest.fixture(scope="module")
def backends(pack):
    """The demo model over ComfyUI and over diffusers: ((denoiser, codec), (denoiser, codec), null context)."""
    denoiser, codec, context = pack.demo.load_demo_model()
    weights = pack.demo.load_demo_weights()
    with torch.inference_mode():  # as in the server
        model = pack.host.model_from_diffusers(weights.unet, pack.architecture.COMFY_UNET_CONFIG)
        vae = pack.host.vae_from_diffusers(weights.vae, pack.architecture.COMFY_VAE_CONFIG)
        vae.patcher.model_options[pack.host.LIGHT_DECODER] = pack.demo.light_decoder(weights)
        ours = pack.host.ComfyDenoiser(model), pack.host.ComfyCodec(vae, model)
    return ours, (denoiser, codec), context


@pytest.fixture
def in_comfyui(pack, backends):
    """Inside a node's execution: ComfyUI's inference mode, and our way out of it."""
    (denoiser, codec), *_ = backends
    with torch.inference_mode(), pack.host.gradients(denoiser.patcher, codec.patcher):
        yield


def noise(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, atol: float):
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0.0, atol=atol)


# The same weights in both backends


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_both_predict_the_same_noise(backends, in_comfyui, timestep):
    (ours, _), (theirs, _), context = backends
    latent, context = noise(2, 16), context.expand(2, -1, -1)
    with torch.no_grad():
        close(ours(latent, timestep, context), theirs(latent, timestep, context), atol=2e-5)


def test_both_differentiate_alike_in_the_latent_and_the_context(backends, in_comfyui):
    (ours, _), (theirs, _), context = backends
    gradients = []
    for denoiser in (ours, theirs):
        latent, null = noise(1, 16).requires_grad_(), context.clone().requires_grad_()
        loss = denoiser(latent, 101, null).square().sum()
        gradients.append(torch.autograd.grad(loss, [latent, null]))
    for mine, other in zip(*gradients, strict=True):
        close(mine / other.abs().max(), other / other.abs().max(), atol=1e-5)


def test_both_show_the_same_queries_keys_and_values_of_every_self_attention_layer(backends, in_comfyui):
    (ours, _), (theirs, _), context = backends
    seen = []
    for denoiser in (ours, theirs):
        layers = {}

        def attend(layer, query, key, value, layers=layers):
            layers[layer] = torch.stack([query, key, value])
            return torch.nn.functional.scaled_dot_product_attention(query, key, value)

        with torch.no_grad():
            denoiser(noise(2, 16), 101, context.expand(2, -1, -1), attend)
        seen.append(layers)
    mine, other = seen
    assert len(mine) == len(other) == 7
    # In the order of the computation, which is the same; the names are each backend's own.
    for (name, ours_), (other_name, theirs_) in zip(mine.items(), other.items(), strict=True):
        assert ours_.shape == theirs_.shape, (name, other_name)
        close(ours_, theirs_, atol=1e-5)


def test_both_encode_and_decode_alike(backends, in_comfyui):
    (_, ours), (_, theirs), _ = backends
    image = random_image(2, 64, dtype=torch.float32)
    with torch.no_grad():
        latent = theirs.encode(image)
        close(ours.encode(image), latent, atol=1e-5)
        close(ours.decode(latent), theirs.decode(latent), atol=1e-5)


def test_comfyuis_schedule_is_stable_diffusions(pack, backends):
    (denoiser, _), *_ = backends
    schedule = pack.host.schedule_of(denoiser.patcher, 20, 1)
    close(schedule.alphas_cumprod, pack.core.DDIMSchedule.scaled_linear().alphas_cumprod, atol=1e-7)


@pytest.mark.parametrize("low_memory", [False, True])
def test_both_have_the_same_bottleneck_and_are_moved_by_it_alike(backends, in_comfyui, low_memory):
    (ours, _), (theirs, _), context = backends
    seen, predicted, gradients = [], [], []
    for denoiser in (ours, theirs):
        offset = (0.5 * torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(2))).requires_grad_()

        def move(bottleneck, offset=offset):
            seen.append(bottleneck)
            return bottleneck + offset

        denoiser.low_memory = low_memory
        predicted.append(denoiser(noise(2, 16), 101, context.expand(2, -1, -1), bottleneck=move))
        denoiser.low_memory = False
        gradients.append(torch.autograd.grad(predicted[-1].square().sum(), offset)[0])
    assert seen[0].shape == (2, 128, 4, 4)
    close(*seen, atol=2e-5)
    close(*predicted, atol=2e-5)
    close(gradients[0] / gradients[1].abs().max(), gradients[1] / gradients[1].abs().max(), atol=1e-5)
    with torch.no_grad():
        assert (predicted[0] - ours(noise(2, 16), 101, context.expand(2, -1, -1))).abs().max() > 1e-3


def test_both_protect_alike_by_an_offset_in_the_bottleneck(pack, backends, in_comfyui):
    ours, theirs, context = backends
    semantic = core_module(pack, "method.peers.semantic")
    image, surrogate = random_image(1, 64, dtype=torch.float32), tiny_surrogate(dtype=torch.float32)
    target = random_image(1, 64, seed=1, dtype=torch.float32)
    settings = semantic.SemanticSettings(null_text_iterations=1, iterations=3, lr=0.1, objective_weight=1.0)
    results = []
    for backend in (ours, theirs):
        prepared = pack.core.prepare(*backend, image, context, settings)
        objective = pack.core.IdentityObjective([surrogate], target)
        results.append(semantic.protect_by_semantics(*backend, prepared, objective, settings))
    mine, other = results
    close(mine.rendering.image, other.rendering.image, atol=2e-4)
    close(mine.history["identity"], other.history["identity"], atol=1e-5)
    assert mine.history["identity"][-1] < mine.history["identity"][0]


def test_what_moves_the_bottleneck_is_gone_after_the_call_also_after_an_exception(backends, in_comfyui):
    """The same MODEL, used by others meanwhile and afterwards: bit-equal, and nothing of ours on it."""
    (ours, _), _, context = backends
    others, options = ours.patcher.clone(), repr(ours.patcher.model_options)
    before, unmoved = state(ours.base), ours(noise(1, 16), 101, context)

    def seen_by_others():
        return others.model.apply_model(noise(1, 16), torch.tensor([0.5]), c_crossattn=context, transformer_options={})

    expected = seen_by_others()

    def move(bottleneck):
        assert torch.equal(seen_by_others(), expected)
        return bottleneck + 1.0

    def fails(_bottleneck):
        raise ZeroDivisionError

    assert not torch.equal(ours(noise(1, 16), 101, context, bottleneck=move), unmoved)
    with pytest.raises(ZeroDivisionError):
        ours(noise(1, 16), 101, context, bottleneck=fails)
    assert torch.equal(ours(noise(1, 16), 101, context), unmoved)
    assert torch.equal(seen_by_others(), expected)
    assert repr(ours.patcher.model_options) == repr(others.model_options) == options
    after = state(ours.base)
    assert all(after[name][0] is tensor and torch.equal(tensor, bits) for name, (tensor, _, bits) in before.items())


def test_a_patch_of_the_users_after_the_middle_block_comes_first(pack, backends, in_comfyui):
    (ours, _), _, context = backends
    patched = ours.patcher.clone()
    patched.model_options["transformer_options"].setdefault("patches", {})["middle_block_after_patch"] = [
        lambda now: {"h": 0.0 * now["h"] + 3.0}
    ]
    options, seen = repr(patched.model_options), []

    def look(bottleneck):
        seen.append(bottleneck)
        return bottleneck

    pack.host.ComfyDenoiser(patched)(noise(1, 16), 101, context, bottleneck=look)
    assert (seen[0] == 3.0).all() and repr(patched.model_options) == options


def test_both_decode_changes_by_the_light_decoder_and_so_does_a_clone_of_the_vae(pack, backends, in_comfyui):
    _, (_, theirs), _ = backends
    latent = noise(1, 16)
    expected = theirs.light(latent)
    assert (expected - theirs.decode(latent)).abs().max() > 0.01
    model, vae, _ = pack.nodes.demo.LoadDemoModel.execute().result
    for one in (vae, pack.host.with_settings(model, vae, pack.host.PerformanceSettings())[1]):
        close(pack.host.codec_of(one, model).light(latent), expected, atol=1e-6)


@pytest.mark.parametrize("output", ["published", "detail"])
def test_both_protect_alike(pack, backends, in_comfyui, output):
    """A few iterations: AdamW's first steps follow signs, so rounding grows with every step."""
    ours, theirs, context = backends
    image, surrogate = random_image(1, 64, dtype=torch.float32), tiny_surrogate(dtype=torch.float32)
    results = [protect(pack.core, *backend, image, context, surrogate, output) for backend in (ours, theirs)]
    mine, other = results
    close(mine.image, other.image, atol=2e-4)
    close(mine.history["identity"], other.history["identity"], atol=1e-5)
    close(mine.history["structure"], other.history["structure"], atol=1e-6)
    assert (other.image - image).abs().max() > 0.01


def protect(core, denoiser, codec, image, context, surrogate, output):
    objective = core.IdentityObjective([surrogate], source=image)
    settings = {"null_text_iterations": 3, "iterations": 4, "objective_weight": 1.0, "output": output}
    return core.protect(denoiser, codec, image, context, objective, **settings)


# The published release, through ComfyUI's networks in float64


def golden_in_comfyui(pack, name: str) -> tuple:
    """The record's networks as ComfyUI's MODEL and VAE: (denoiser, codec), both float64."""
    folder = FOLDER / name
    unet, vae = (load_file(folder / part / "diffusion_pytorch_model.safetensors") for part in ("unet", "vae"))
    with torch.inference_mode():
        model = pack.host.model_from_diffusers(_float32(unet), _unet_config(folder))
        codec = pack.host.vae_from_diffusers(_float32(vae), pack.architecture.COMFY_VAE_CONFIG | {"ch_mult": [1] * 4})
        model.model.double()
        codec.first_stage_model.double()
    codec.vae_dtype = torch.float64
    model.set_model_unet_function_wrapper(_in_float64(model.model))
    return pack.host.ComfyDenoiser(model), pack.host.ComfyCodec(codec, model)


def _float32(weights: dict) -> dict:
    return {name: tensor.float() for name, tensor in weights.items()}


def _unet_config(folder) -> dict:
    config = json.loads((folder / "unet/config.json").read_text())
    heads, channels = config["attention_head_dim"], config["block_out_channels"]
    per_channel = isinstance(heads, list)
    return dict(
        image_size=config["sample_size"],
        in_channels=4,
        out_channels=4,
        model_channels=channels[0],
        channel_mult=[width // channels[0] for width in channels],
        num_res_blocks=[1, 1],
        transformer_depth=[1, 1],
        transformer_depth_middle=1,
        transformer_depth_output=[1] * 4,
        num_heads=-1 if per_channel else heads,
        num_head_channels=channels[0] // heads[0] if per_channel else -1,
        context_dim=config["cross_attention_dim"],
        use_spatial_transformer=True,
        use_linear_in_transformer=config["use_linear_projection"],
        use_checkpoint=False,
        use_temporal_attention=False,
        adm_in_channels=None,
        legacy=False,
    )


def _in_float64(base):
    """apply_model rounds to float32; this wrapper, one of those that a MODEL may carry, does the same in float64."""

    def denoise(_apply_model, call: dict):
        noisy, sigma, arguments = call["input"], call["timestep"].view(-1, 1, 1, 1), call["c"]
        timestep = base.model_sampling.timestep(call["timestep"].float()).float()
        options = arguments["transformer_options"]
        scaled = noisy / (sigma**2 + 1) ** 0.5
        epsilon = base.diffusion_model(
            scaled, timestep, context=arguments["c_crossattn"], control=None, transformer_options=options
        )
        return noisy - sigma * epsilon

    return denoise


@pytest.mark.parametrize("name", RECORDS)
def test_through_comfyuis_networks_it_agrees_with_the_published_release(pack, name):
    golden = load_golden(name)
    denoiser, codec = golden_in_comfyui(pack, name)
    with torch.inference_mode(), pack.host.gradients(denoiser.patcher, codec.patcher):
        found = repeat(pack.core, golden, denoiser, codec)
    for key, value in found.items():
        close(value, golden.record[key], atol=1e-6)


def repeat(core, golden, denoiser, codec) -> dict:
    """The recorded run, under the names of the record."""
    settings, losses = golden.settings, []
    latent, context, schedule = golden.latent.clone(), golden.context.clone(), golden.schedule
    trajectory = core.ddim_invert(denoiser, latent, context, schedule)
    found = {f"inversion.{index:02d}": latent for index, latent in enumerate(trajectory.latents)}
    embeddings = core.learn_null_text(
        denoiser, trajectory, context, settings["null_text_iterations"],
        on_step=lambda event: losses.extend(event.losses["null_text"]),
    )  # fmt: skip
    found |= {"null_loss": losses} | {f"null_text.{step}": embeddings[step] for step in range(3)}
    structure = core.capture_self_attention(denoiser, trajectory, embeddings)
    iterations = settings["protection_iterations"]
    result = core.optimize_latent(
        denoiser, codec, trajectory, embeddings, golden.objective(), structure=structure, iterations=iterations
    )
    found["adv_loss"] = [value for (value,) in result.history["identity"]]
    found["attn_loss"] = [value for (value,) in result.history["structure"]]
    found["final_latents"] = torch.cat([structure.latent, result.decoded_latent])
    with torch.no_grad():
        found["final_image"] = codec.decode(result.decoded_latent) * 2 - 1
    return {key: torch.as_tensor(value, dtype=torch.float64) for key, value in found.items()}

"""Performance Settings: what a MODEL and a VAE carry to every block, and what that changes."""

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import SD1, write_checkpoint, write_lora
from comfyui_models import assert_untouched, context, latent, load, load_tiny_vae, saved_bytes, state

SHAPE = (1, 4, 8, 8)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEFAULTS = ("as loaded", "automatic")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def file(pack, models_dir):
    return models_dir / "checkpoints" / write_checkpoint(models_dir, SD1, text_encoder=False)


@pytest.fixture(scope="module")
def loaded(file):
    return load(file)


@pytest.fixture(scope="module")
def tiny_vae(pack):
    return load_tiny_vae()


@pytest.fixture(autouse=True)
def in_a_node(pack):
    """As the server runs every node."""
    with torch.inference_mode():
        yield


def with_settings(pack, model, vae, *settings, **more) -> tuple:
    """What the node gives."""
    return pack.nodes.performance.Performance.execute(model, vae, *settings, **more).result


def protect(pack, model, vae):
    """The image and the history of a few iterations, and the two adapters."""
    core, host = pack.core, pack.host
    denoiser, codec = host.ComfyDenoiser(model), host.codec_of(vae, model)
    with host.optimization(denoiser, codec, SHAPE, 2):
        photo = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
        trajectory = core.ddim_invert(
            denoiser, codec.encode(photo), context(), core.DDIMSchedule.scaled_linear(), depth=2
        )
        embeddings = context().expand(2, 1, -1, -1)
        structure = core.capture_self_attention(denoiser, trajectory, embeddings)
        result = core.optimize_latent(
            denoiser, codec, trajectory, embeddings, lambda image: image.square().flatten(1).mean(1),
            structure=structure, iterations=2, objective_weight=1.0,
        )  # fmt: skip
    return result, denoiser, codec


# Nothing by default


def test_with_its_defaults_everything_is_as_without_it(pack, loaded):
    plain, ours = (protect(pack, *pair)[0] for pair in (loaded, with_settings(pack, *loaded, *DEFAULTS)))
    assert torch.equal(ours.image, plain.image) and torch.equal(ours.latent, plain.latent)
    assert ours.history == plain.history


def test_the_connected_model_and_vae_are_left_as_they_were(pack, loaded, tiny_vae):
    model, vae = loaded
    patchers = (model, vae.patcher, tiny_vae.patcher)
    before = [repr(patcher.model_options) for patcher in patchers]
    ours = with_settings(pack, model, vae, "bfloat16", "low", tiny_vae, faces_at_once=2)
    assert [repr(patcher.model_options) for patcher in patchers] == before and vae.patcher is patchers[1]
    assert ours[0].model is model.model and ours[1].first_stage_model is vae.first_stage_model  # not copied


def test_loras_and_other_patches_keep_the_settings_and_blocks_take_both_models_for_the_same(pack, loaded, models_dir):
    import comfy.sd
    import comfy.utils

    model, vae = with_settings(pack, *loaded, "bfloat16", "low")
    pack.host.require_same_model(model, pack.host.identity_of(loaded[0]), "here")
    lora = comfy.utils.load_torch_file(str(models_dir / "loras" / write_lora(models_dir, SD1)))
    patched = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0].clone()
    patched.set_model_attn2_patch(lambda query, key, value, _options: (query, key, value))
    expected = pack.host.PerformanceSettings("bfloat16", "low")
    assert pack.host.ComfyDenoiser(patched).settings == expected
    assert pack.host.codec_of(vae, patched).settings == expected


# Precision


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
def test_the_networks_compute_in_that_precision_and_are_untouched_afterwards(pack, file, stored, wanted):
    model, vae = with_settings(pack, *load(file, DTYPES[stored]), wanted, "automatic")
    denoiser, codec = pack.host.ComfyDenoiser(model), pack.host.codec_of(vae, model)
    with pack.host.gradients(denoiser.patcher, codec.patcher):
        pass  # puts the weights where ComfyUI wants them first
    before = [state(part.patcher.model) for part in (denoiser, codec)]
    with pack.host.gradients(denoiser.patcher, codec.patcher):
        for part in (denoiser, codec):
            assert {weight.dtype for weight in part.patcher.model.parameters()} == {DTYPES[wanted]}
        assert denoiser.base.get_dtype_inference() == codec.dtype == DTYPES[wanted]
        assert denoiser.base.model_sampling.sigmas.dtype == torch.float32  # the noise schedule is not rounded
        z, null = latent().requires_grad_(), context().requires_grad_()
        image = codec.decode(denoiser(z, 101, null))
        found = torch.autograd.grad(image.square().mean(), [z, null])
        assert all(one.dtype == torch.float32 and one.abs().max() > 0 for one in (image, *found))
        assert codec.encode(image.detach()).dtype == torch.float32
    for part, was in zip((denoiser, codec), before, strict=True):
        assert_untouched(part.patcher.model, was)


def test_bfloat16_gives_nearly_what_float32_gives(pack, loaded):
    noise = {}
    for precision in DTYPES:
        denoiser = pack.host.ComfyDenoiser(with_settings(pack, *loaded, precision, "automatic")[0])
        with pack.host.no_gradients(denoiser.patcher):
            noise[precision] = denoiser(latent(), 101, context())
    error = (noise["bfloat16"] - noise["float32"]).abs().mean() / noise["float32"].abs().mean()
    assert 0 < error < 0.05


def test_a_whole_protection_in_bfloat16_is_finite_and_kept_in_float32(pack, loaded):
    result, *_ = protect(pack, *with_settings(pack, *loaded, "bfloat16", "low"))
    assert result.image.dtype == result.latent.dtype == torch.float32
    assert torch.isfinite(result.image).all()


@pytest.mark.parametrize("precision", ["as loaded", "bfloat16"])
def test_a_vae_as_the_dynamic_loader_leaves_it(pack, file, precision):
    """Its weights are the file's, float16 here, and vae_dtype is what they would be cast to: bfloat16 on a GPU."""
    model, vae = load(file)
    images = {}
    for dtype, vae_dtype in ((torch.float32, torch.float32), (torch.float16, torch.bfloat16)):
        vae.first_stage_model.to(dtype)  # the file is float16: nothing is lost
        vae.vae_dtype = vae_dtype
        codec = pack.host.codec_of(*with_settings(pack, model, vae, precision, "automatic")[::-1])
        with pack.host.gradients(*codec.patchers):
            image = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
            images[dtype] = codec.decode(codec.encode(image))
    assert torch.equal(images[torch.float32], images[torch.float16])


@pytest.mark.parametrize(("graphs", "memory", "device"), [
    (False, "ample", None), (True, "ample", "cuda"), (True, "low", None),
])  # fmt: skip
def test_cuda_graphs_are_recorded_where_they_are_wanted_and_memory_is_ample(
    pack, loaded, caplog, graphs, memory, device
):
    denoiser = pack.host.ComfyDenoiser(with_settings(pack, *loaded, "as loaded", memory, cuda_graphs=graphs)[0])
    with pack.host.optimization(denoiser, None, SHAPE, 1) as recorder:
        assert recorder.device == device
    assert ("no CUDA graphs" in caplog.text) == (graphs and device is None)


@pytest.mark.parametrize("graphs", [False, True])
def test_everything_that_a_node_gets_is_recorded_or_nothing(pack, loaded, graphs):
    model, vae = with_settings(pack, *loaded, "as loaded", "ample", cuda_graphs=graphs)
    surrogate = pack.nodes.surrogates.load("mobileface")
    networks = {"surrogates": [surrogate.surrogate], "patchers": [surrogate.patcher]}
    with pack.host.ready(model, vae, **networks, steps=1, size=64, where="A test") as ready:
        parts = ready.denoiser, ready.codec, ready.surrogates[0].module
        assert [hasattr(part, "recorder") for part in parts] == [graphs] * 3


@pytest.mark.parametrize("steps", [0, 1])
def test_a_node_gets_gradients_only_where_it_asks_for_them(pack, loaded, steps):
    with pack.host.ready(loaded[0], steps=steps, size=64, where="A test") as ready:
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled() == bool(steps)
        assert ready.codec is ready.context is ready.trajectory is ready.objective is None


def test_comfyui_is_told_that_cuda_graphs_take_twice_the_memory(pack, loaded, monkeypatch):
    import comfy.model_management as management

    told, load_models = [], management.load_models_gpu
    monkeypatch.setattr(management, "load_models_gpu", lambda *a, **kw: (told.append(kw), load_models(*a, **kw)))
    for graphs in (False, True):
        denoiser = pack.host.ComfyDenoiser(with_settings(pack, *loaded, *DEFAULTS, cuda_graphs=graphs)[0])
        with pack.host.optimization(denoiser, None, SHAPE, 1):
            pass
    plain, recorded = (one["memory_required"] for one in told)
    assert 2 < recorded / plain < 2.5
    assert told[0]["minimum_memory_required"] == told[1]["minimum_memory_required"]


@pytest.mark.parametrize("memory", ["low", "ample"])
def test_comfyui_is_told_of_the_copies_that_another_precision_takes(pack, loaded, monkeypatch, memory):
    """Where memory is low, each layer casts its own weights, and nothing is copied."""
    import comfy.model_management as management

    told, load_models = [], management.load_models_gpu
    monkeypatch.setattr(management, "load_models_gpu", lambda *a, **kw: (told.append(kw), load_models(*a, **kw)))
    for precision in ("float32", "bfloat16"):
        denoiser = pack.host.ComfyDenoiser(with_settings(pack, *loaded, precision, memory)[0])
        with pack.host.optimization(denoiser, None, SHAPE, 1):
            pass
    halves = 2 * sum(weight.numel() for weight in loaded[0].model.parameters()) if memory == "ample" else 0
    gained = denoiser.step_bytes(SHAPE, low=memory == "low")  # bfloat16 holds half: the other half is not needed
    assert told[1]["memory_required"] == pytest.approx(told[0]["memory_required"] + halves - gained)


# Memory


@pytest.mark.parametrize("free", [1, 2**40])
@pytest.mark.parametrize("memory", ["low", "ample"])
def test_memory_is_as_set_whatever_is_free(pack, loaded, monkeypatch, memory, free):
    import comfy.model_management as management

    model, vae = with_settings(pack, *loaded, "as loaded", memory)
    denoiser, codec = pack.host.ComfyDenoiser(model), pack.host.codec_of(vae, model)
    monkeypatch.setattr(management, "get_free_memory", lambda *_: free)
    pack.host.fit_memory(denoiser, codec, SHAPE, 1)
    assert (denoiser.low_memory, codec.low_memory) == (memory == "low", memory == "low")


# Faces at once


def faces_at_once(pack, loaded, *settings, **more) -> int:
    model, vae = with_settings(pack, *loaded, *settings, **more)
    return pack.host.faces_at_once(pack.host.ComfyDenoiser(model), pack.host.codec_of(vae, model), SHAPE, 2)


@pytest.mark.parametrize(("wanted", "given"), [(0, 1), (1, 1), (3, 3)])
def test_on_a_cpu_one_face_at_a_time_unless_more_are_wanted(pack, loaded, wanted, given):
    assert faces_at_once(pack, loaded, *DEFAULTS, faces_at_once=wanted) == given


@pytest.mark.parametrize(("room", "faces"), [(0.5, 1), (1.5, 1), (3.5, 3), (100, 8)])
def test_on_a_gpu_as_many_faces_as_fit_beside_the_weights(pack, loaded, monkeypatch, room, faces):
    import comfy.model_management as management

    denoiser, codec = pack.host.ComfyDenoiser(loaded[0]), pack.host.codec_of(*reversed(loaded))
    each = 2 * denoiser.step_bytes(SHAPE, low=False) + codec.decode_bytes(SHAPE, low=False)
    sizes = [(part.patcher.model_size(), part.patcher.loaded_size()) for part in (denoiser, codec)]
    free = management.minimum_inference_memory() + sum(size - there for size, there in sizes) + room * each
    monkeypatch.setattr(management, "is_device_cpu", lambda _: False)
    monkeypatch.setattr(management, "get_free_memory", lambda *_: free)
    assert faces_at_once(pack, loaded, *DEFAULTS) == faces
    assert faces_at_once(pack, loaded, "as loaded", "low") == 1
    assert faces_at_once(pack, loaded, *DEFAULTS, faces_at_once=5) == 5


# Another decoder for the gradient


@pytest.fixture
def both(pack, loaded, tiny_vae):
    """The codec of the full VAE with the tiny one's gradient, and the full one's own."""
    model, vae = with_settings(pack, *loaded, *DEFAULTS, tiny_vae)
    return pack.host.codec_of(vae, model), pack.host.codec_of(loaded[1], model)


def test_the_image_is_the_full_vaes_and_the_gradient_taesds(pack, both):
    codec, full = both
    with pack.host.gradients(*codec.patchers):
        z = latent().requires_grad_()
        image = codec.decode(z)
        (found,) = torch.autograd.grad(image.square().sum(), z)
        assert torch.equal(image, full.decode(z))
        network = (
            codec.gradient.patcher.model
        )  # TAESD's latents are the scaled ones, but for the last bit: as it sees them
        seen = (full.latent_format.process_out(z) - network.vae_shift) * network.vae_scale
        torch.testing.assert_close(seen, z)
        tiny = network.taesd_decoder(seen)
        (expected,) = torch.autograd.grad(tiny, z, 2 * image.detach())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_it_holds_a_fraction_and_less_in_low_memory(pack, both):
    codec, full = both
    with pack.host.gradients(*codec.patchers):
        z = latent(16).requires_grad_()
        networks = [patcher.model for patcher in codec.patchers]
        plain = saved_bytes(lambda: full.decode(z), *networks)
        tiny = saved_bytes(lambda: codec.decode(z), *networks)
        codec.low_memory = True
        low = saved_bytes(lambda: codec.decode(z), *networks)
    assert 0 < low < tiny < plain / 5


@pytest.mark.parametrize("memory", ["low", "ample"])
def test_a_whole_protection_with_it(pack, loaded, tiny_vae, memory):
    result, denoiser, codec = protect(pack, *with_settings(pack, *loaded, "as loaded", memory, tiny_vae))
    plain, *_ = protect(pack, *loaded)
    assert denoiser.low_memory == codec.low_memory == (memory == "low")
    assert torch.isfinite(result.image).all()
    assert result.history["identity"][0] == plain.history["identity"][0]  # seen before the first step: the full image
    assert result.history["identity"][-1] != plain.history["identity"][-1]


def test_with_a_tile_the_image_is_the_whole_one_and_the_gradient_holds_a_tile(pack, loaded):
    model, vae = with_settings(pack, *loaded, *DEFAULTS, gradient_tile=128)
    codec, full = pack.host.codec_of(vae, model), pack.host.codec_of(loaded[1], model)
    held, images, gradients = {}, {}, {}
    with pack.host.gradients(*codec.patchers):
        z = latent(24).requires_grad_()  # four tiles
        for name, one in (("whole", full), ("tiles", codec)):
            networks = [part.model for part in one.patchers]
            held[name] = saved_bytes(lambda: images.update({name: one.decode(z)}), *networks)  # noqa: B023
            (gradients[name],) = torch.autograd.grad(images[name].square().sum(), z)
    assert torch.equal(images["tiles"], images["whole"])
    assert 0 < held["tiles"] < held["whole"] / 4
    assert torch.cosine_similarity(*(one.flatten() for one in gradients.values()), dim=0) > 0.8
    assert codec.decode_bytes((1, 4, 64, 64), low=False) < full.decode_bytes((1, 4, 64, 64), low=False)


def test_a_tile_that_cannot_be_is_refused(pack, loaded):
    with pytest.raises(pack.core.checks.ProtectionError, match="gradient_tile is 64"):
        with_settings(pack, *loaded, *DEFAULTS, gradient_tile=64)


@pytest.mark.parametrize(
    ("scale", "channels"), [(0.13025, 4), (1.0, 4), (1.5305, 16)], ids=["SDXL", "unscaled", "SD 3"]
)
def test_a_tiny_vae_of_another_model_is_refused(pack, loaded, scale, channels):
    with pytest.raises(pack.core.checks.ProtectionError, match="gradient_vae must be TAESD"):
        with_settings(pack, *loaded, *DEFAULTS, load_tiny_vae(scale, channels))


def test_a_full_vae_is_refused_for_the_gradient(pack, loaded):
    with pytest.raises(pack.core.checks.ProtectionError, match="AutoencoderKL"):
        with_settings(pack, *loaded, *DEFAULTS, loaded[1])


# TAESD that lies in models/vae_approx


@pytest.fixture
def installed(tiny_vae, tmp_path, monkeypatch):
    """Its two files, as people put them there."""
    for part in ("encoder", "decoder"):
        network = getattr(tiny_vae.first_stage_model, f"taesd_{part}")
        save_file(network.state_dict(), tmp_path / f"taesd_{part}.safetensors")
    look_in(monkeypatch, str(tmp_path))


def look_in(monkeypatch, *folders: str) -> None:
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([*folders], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})


def test_protect_photo_takes_the_gradient_of_an_installed_taesd(pack, loaded, tiny_vae, installed):
    (model, vae), name = pack.host.with_installed_taesd(loaded, "here")
    near = pack.host.codec_of(vae, model).near.patcher.model.taesd_decoder
    assert name == "taesd"
    for key, weight in tiny_vae.first_stage_model.taesd_decoder.state_dict().items():
        assert torch.equal(near.state_dict()[key], weight)
    assert pack.host.settings_of(loaded[1].patcher).gradient_vae is None  # the user's own VAE is as it was


@pytest.mark.parametrize(
    "chosen", [{"taesd_if_installed": False}, {"gradient_tile": 128}], ids=["switched off", "tiles instead"]
)
def test_it_does_not_where_the_settings_say_otherwise(pack, loaded, installed, chosen):
    models = with_settings(pack, *loaded, *DEFAULTS, **chosen)
    assert pack.host.with_installed_taesd(models, "here") == (models, "")


def test_it_does_not_where_there_is_none_or_the_vae_has_a_light_decoder(pack, loaded, installed, monkeypatch):
    models = with_settings(pack, *loaded, *DEFAULTS)
    models[1].patcher.model_options[pack.host.LIGHT_DECODER] = torch.nn.Identity()  # as Load Demo Model's
    assert pack.host.with_installed_taesd(models, "here") == (models, "")
    look_in(monkeypatch)
    assert pack.host.with_installed_taesd(loaded, "here") == (loaded, "")
    assert pack.host.with_installed_taesd((), "here") == ((), "")

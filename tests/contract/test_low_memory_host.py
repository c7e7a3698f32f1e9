"""ComfyUI with little memory: blocks computed again give the same result, and are chosen where memory is short."""

import dataclasses
import gc
import logging

import pytest
import torch

from checkpoints import SD1, SD2, write_checkpoint, write_lora
from comfyui_models import (
    LATENT_SHAPE,
    a_small_card,
    assert_untouched,
    context,
    core_module,
    latent,
    load,
    protect,
    saved_bytes,
    state,
)

FAMILIES = {"SD1": SD1, "SD2": SD2}
MB, GB = 2**20, 2**30


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def checkpoints(pack, models_dir) -> dict:
    """Kind -> (MODEL, VAE, width of the context)."""
    files = {name: write_checkpoint(models_dir, family, text_encoder=False) for name, family in FAMILIES.items()}
    return {name: (*load(models_dir / "checkpoints" / file), FAMILIES[name].context) for name, file in files.items()}


@pytest.fixture
def sd1(checkpoints):
    return checkpoints["SD1"]


@pytest.fixture(autouse=True)
def in_a_node(pack):
    """As the server runs every node."""
    with torch.inference_mode():
        yield


def assert_same(pack, model, vae, width: int) -> None:
    ours, plain = (protect(pack, model, vae, width, low)[0] for low in (True, False))
    assert torch.equal(ours.image, plain.image) and torch.equal(ours.latent, plain.latent)
    assert ours.history == plain.history
    assert plain.history["structure"][-1][0] > 0


def structure_loss(pack, denoiser):
    """A fresh structure loss, against the maps of another latent of any size."""
    attention = core_module(pack, "method.attention")

    def against(z):
        capture = attention.Capture()
        with torch.no_grad():
            denoiser(-z, 101, context(), capture)
        return attention.StructureLoss(capture.queries_and_keys)

    return against


# The same result


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_blocks_give_the_same_protection_bit_for_bit(pack, checkpoints, family):
    assert_same(pack, *checkpoints[family])


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "LoRA"])
def test_and_where_weights_stay_in_main_memory(pack, sd1, models_dir, lora):
    model, vae, width = sd1
    if lora:
        model = with_lora(model, models_dir)
    with a_small_card():
        assert_same(pack, model, vae, width)
        assert model.model.model_lowvram and vae.first_stage_model.model_lowvram
        assert (model.model.lowvram_patch_counter > 0) == lora


def with_lora(model, models_dir):
    import comfy.sd
    import comfy.utils

    lora = comfy.utils.load_torch_file(str(models_dir / "loras" / write_lora(models_dir, SD1)))
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def test_a_layer_is_computed_again_under_its_own_name(pack, sd1):
    """ComfyUI says where in the network a layer is in one dictionary, which it overwrites as it goes."""
    denoiser, layers = pack.host.ComfyDenoiser(sd1[0], low_memory=True), []

    def attend(layer, query, key, value):
        layers.append(layer)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    with pack.host.gradients(denoiser.patcher):
        z = latent().requires_grad_()
        noise = denoiser(z, 101, context(), attend)
        forward = layers.copy()
        torch.autograd.grad(noise.sum(), z)
    again = layers[len(forward) :]
    assert len(forward) == len(set(forward)) > 4
    assert sorted(again) == sorted(forward)


def test_what_self_attention_collects_is_not_collected_again(pack, sd1):
    denoiser = pack.host.ComfyDenoiser(sd1[0], low_memory=True)
    with pack.host.gradients(denoiser.patcher):
        z = latent().requires_grad_()
        structure = structure_loss(pack, denoiser)(z)
        noise = denoiser(z, 101, context(), structure)
        loss = structure.loss
        torch.autograd.grad(noise.sum() + loss.sum(), z)
        assert structure.loss is loss


# Less memory


def test_recomputed_blocks_hold_less_than_half(pack, sd1):
    denoiser, codec = pack.host.ComfyDenoiser(sd1[0]), pack.host.ComfyCodec(sd1[1], sd1[0])
    held = {}
    with pack.host.gradients(denoiser.patcher, codec.patcher):
        networks = denoiser.patcher.model, codec.patcher.model
        z = latent(16).requires_grad_()
        for low in (False, True):
            denoiser.low_memory = codec.low_memory = low
            structure = structure_loss(pack, denoiser)(z)
            step = saved_bytes(lambda: denoiser(z, 101, context(), structure), *networks)  # noqa: B023
            held[low] = [step, saved_bytes(lambda: codec.decode(z), *networks)]
    for plain, frugal in zip(held[False], held[True], strict=True):
        assert 0 < frugal < plain / 2


def test_what_is_held_is_freed_where_no_backward_pass_comes(pack, sd1):
    """As when every image has been protected early, or the user cancels: a circle through autograd would stay."""
    denoiser = pack.host.ComfyDenoiser(sd1[0], low_memory=True)
    with pack.host.gradients(denoiser.patcher):
        before, structure = recomputable_blocks(), structure_loss(pack, denoiser)(latent())
        noise = denoiser(latent().requires_grad_(), 101, context(), structure)
        assert noise.requires_grad and recomputable_blocks() > before + 10
        del noise, structure
        assert recomputable_blocks() == before


def recomputable_blocks() -> int:
    gc.collect()
    return sum(type(one).__name__ == "_CheckpointFrame" for one in gc.get_objects())


@pytest.mark.parametrize("precision", ["as loaded", "bfloat16"])
def test_float16_weights_are_cast_in_each_layer_and_not_copied_and_the_result_is_the_same(pack, models_dir, precision):
    """A copy of SDXL's would take as much memory as a photo of 1024 pixels."""
    file = models_dir / "checkpoints" / write_checkpoint(models_dir, SD1, text_encoder=False)
    settings = pack.host.PerformanceSettings(precision)
    results = {}
    for memory in ("low", "ample"):
        loaded = load(file, torch.float16)
        model, vae = pack.host.with_settings(*loaded, dataclasses.replace(settings, memory=memory))
        results[memory], denoiser, codec = protect(pack, model, vae, 768, low=None)
        untouched = [state(part.patcher.model) for part in (denoiser, codec)]
        with pack.host.optimization(denoiser, codec, LATENT_SHAPE, 1):
            kinds = {weight.dtype for weight in denoiser.base.diffusion_model.parameters()}
            assert kinds == {torch.float16 if memory == "low" else pack.host.compute_dtype(torch.float16, precision)}
        for part, before in zip((denoiser, codec), untouched, strict=True):
            assert_untouched(part.patcher.model, before)
            assert not any("comfy_cast_weights" in module.__dict__ for module in part.patcher.model.modules())
    assert torch.equal(results["low"].image, results["ample"].image)
    assert results["low"].history == results["ample"].history


# Cancelling, and nothing left behind


def test_cancel_stops_while_a_block_is_computed_again(pack, sd1):
    import comfy.model_management as management

    model, vae, _ = sd1
    denoiser, codec = pack.host.ComfyDenoiser(model, low_memory=True), pack.host.ComfyCodec(vae, model, low_memory=True)
    with pack.host.gradients(denoiser.patcher, codec.patcher):
        pass  # puts the weights where ComfyUI wants them first, so that what follows is ours alone
    before, calls = [state(part.patcher.model) for part in (denoiser, codec)], []

    def attend(_layer, query, key, value):
        calls.append("layer")
        if calls == ["layer"] * (forward + 1):  # the first that is computed again
            management.interrupt_current_processing()
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    forward = -1
    with pytest.raises(management.InterruptProcessingException), pack.host.gradients(denoiser.patcher, codec.patcher):
        z = latent().requires_grad_()
        image = codec.decode(denoiser(z, 101, context(), attend))
        forward = len(calls)
        torch.autograd.grad(image.sum(), z)
    assert len(calls) == forward + 1
    management.throw_exception_if_processing_interrupted()  # it was taken note of: the next run is not cancelled
    for part, was in zip((denoiser, codec), before, strict=True):
        assert_untouched(part.patcher.model, was)
    assert denoiser._self_attention is None


def test_afterwards_the_models_are_untouched(pack, sd1):
    model, vae, width = sd1
    protect(pack, model, vae, width, low=True)
    before = [state(module) for module in (model.model, vae.first_stage_model)]
    protect(pack, model, vae, width, low=True)
    for module, was in zip((model.model, vae.first_stage_model), before, strict=True):
        assert_untouched(module, was)


# The choice


@pytest.fixture
def free(pack, monkeypatch):
    """Sets the free memory that ComfyUI sees, beyond what it keeps free. (Not for its attention, which asks for two
    numbers and computes in parts that depend on them.)"""
    import comfy.model_management as management

    true_memory = management.get_free_memory

    def set_free(size: float):
        def memory(device=None, torch_free_too=False):
            return true_memory(device, True) if torch_free_too else management.minimum_inference_memory() + size

        monkeypatch.setattr(management, "get_free_memory", memory)

    return set_free


def test_blocks_are_computed_again_where_memory_is_short_and_the_result_is_the_same(pack, sd1, free, caplog):
    results = {}
    for size, low in ((MB, True), (100 * GB, False)):
        free(size)
        with caplog.at_level(logging.INFO):
            result, denoiser, codec = protect(pack, *sd1, low=None)
        results[low] = result
        assert (denoiser.low_memory, codec.low_memory) == (low, low)
        (line,) = [record.message for record in caplog.records if record.message.startswith("FaceProtect")]
        assert f"{'low' if low else 'ample'} memory" in line and f"{size // MB} MB are free" in line
        caplog.clear()
    assert torch.equal(results[True].image, results[False].image)


def test_blocks_are_computed_again_where_weights_are_not_loaded_completely(pack, sd1, free):
    free(100 * GB)
    with a_small_card():
        _, denoiser, codec = protect(pack, *sd1, low=None)
    assert denoiser.low_memory and codec.low_memory


@pytest.mark.parametrize(("width", "steps", "images"), [(2, 1, 1), (1, 3, 1), (1, 1, 2)])
def test_the_estimate_grows_with_the_photo_the_steps_and_the_batch(pack, sd1, free, width, steps, images):
    """Just enough for one step with one image of 8 x 8 cells is too little for anything more."""
    denoiser, codec = pack.host.ComfyDenoiser(sd1[0]), pack.host.ComfyCodec(sd1[1], sd1[0])
    enough = denoiser.step_bytes(LATENT_SHAPE, low=False) + codec.decode_bytes(LATENT_SHAPE, low=False)
    free(enough + 1)
    for shape, count, low in ((LATENT_SHAPE, 1, False), ((images, 4, 8, 8 * width), steps, True)):
        pack.host.fit_memory(denoiser, codec, shape, count)
        assert (denoiser.low_memory, codec.low_memory) == (low, low)


def test_the_estimate_is_near_what_is_held(pack):
    """With Stable Diffusion's whole decoder; its U-Net is measured in speed/memory.py."""
    import comfy.sd

    from checkpoints import vae_shapes

    weights = {name: torch.full(shape, 1e-3) for name, shape in vae_shapes().items()}
    codec = pack.host.ComfyCodec(comfy.sd.VAE(sd=weights, dtype=torch.float32))
    with pack.host.gradients(codec.patcher):
        z = latent(16).requires_grad_()
        held = saved_bytes(lambda: codec.decode(z), codec.patcher.model)
    assert 0.8 < codec.decode_bytes(z.shape, low=False) / held < 1.3


def test_comfyui_is_told_how_much_memory_is_needed(pack, sd1, monkeypatch):
    import comfy.model_management as management

    told = []
    load_models = management.load_models_gpu
    monkeypatch.setattr(management, "load_models_gpu", lambda *a, **kw: (told.append(kw), load_models(*a, **kw)))
    denoiser, codec = pack.host.ComfyDenoiser(sd1[0]), pack.host.ComfyCodec(sd1[1], sd1[0])
    with pack.host.optimization(denoiser, codec, LATENT_SHAPE, 3):
        pass
    (one,) = told
    for name, low in (("memory_required", False), ("minimum_memory_required", True)):
        assert one[name] == 3 * denoiser.step_bytes(LATENT_SHAPE, low) + codec.decode_bytes(LATENT_SHAPE, low)


def test_weights_in_main_memory_are_not_cast_into_shared_buffers(pack, sd1, monkeypatch):
    """On a GPU with asynchronous offloading autograd would find another layer's weights there."""
    import comfy.model_management as management

    device = torch.device("cpu")
    monkeypatch.setattr(management, "NUM_STREAMS", 2)
    monkeypatch.setattr(management, "STREAMS", {device: [_Stream(), _Stream()]})
    denoiser = pack.host.ComfyDenoiser(sd1[0])
    with pack.host.gradients(denoiser.patcher):
        assert management.get_offload_stream(device) is None
    assert isinstance(management.get_offload_stream(device), _Stream)


class _Stream:
    def wait_stream(self, _other) -> None:
        pass

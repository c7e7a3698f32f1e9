"""host.gradients: autograd through ComfyUI's models in its inference mode, and no trace of it afterwards."""

import pytest
import torch

from checkpoints import SD1, SD2, write_checkpoint
from comfyui_models import assert_untouched, context, latent, load, state

NATIVE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CAST = {"bfloat16, cast": torch.bfloat16, "float16, cast": torch.float16}  # on a CPU ComfyUI computes both in float32
DTYPES = NATIVE | CAST


@pytest.fixture(scope="module")
def sd1_file(pack, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    return models / "checkpoints" / write_checkpoint(models, SD1, text_encoder=False)


@pytest.fixture(scope="module")
def sd2_file(pack, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    return models / "checkpoints" / write_checkpoint(models, SD2, text_encoder=False)


@pytest.fixture(autouse=True)
def in_a_node(pack):
    """As the server runs every node."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=DTYPES)
def loaded(sd1_file, request):
    return load(sd1_file, DTYPES[request.param], native=request.param in NATIVE)


@pytest.fixture(scope="module")
def float32_model(sd1_file):
    return load(sd1_file)


def load_all(pack, *patchers) -> None:
    """Puts the weights where ComfyUI wants them first, so that what follows is ours alone."""
    with pack.host.gradients(*patchers):
        pass


# Gradients


def test_autograd_works_through_unet_and_vae_loaded_in_inference_mode(pack, loaded):
    model, vae = loaded
    denoiser, codec = pack.host.ComfyDenoiser(model), pack.host.ComfyCodec(vae, model)
    with pack.host.gradients(denoiser.patcher, codec.patcher):
        z, null = latent().requires_grad_(), context().requires_grad_()
        image = codec.decode(denoiser(z, 101, null))
        found = torch.autograd.grad(image.square().mean(), [z, null])
    for gradient in found:
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_its_gradient_is_that_of_the_same_weights_without_comfyuis_inference_mode(pack, sd1_file, float32_model):
    """The reference: ComfyUI's network with ordinary weights, differentiated without anything of ours."""
    denoiser = pack.host.ComfyDenoiser(float32_model[0])
    with pack.host.gradients(denoiser.patcher):
        z = latent().requires_grad_()
        (ours,) = torch.autograd.grad(denoiser(z, 101, context()).square().sum(), z)
    with torch.inference_mode(False), torch.enable_grad():
        network = load(sd1_file, in_a_node=False)[0].model.diffusion_model
        z = latent().requires_grad_()
        noise = network(z, torch.tensor([101.0]), context=context(), transformer_options={})
        (reference,) = torch.autograd.grad(noise.square().sum(), z)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())


def test_without_it_autograd_does_not_work_here(pack, float32_model):
    """If this fails, ComfyUI no longer runs nodes in inference mode, and host.gradients may be simplified."""
    network = float32_model[0].model.diffusion_model
    with torch.enable_grad(), pytest.raises(RuntimeError):
        z = latent().requires_grad_()
        noise = network(z, torch.tensor([101.0]), context=context(), transformer_options={})
        torch.autograd.grad(noise.square().sum(), z)


def test_tensors_made_inside_can_be_used_in_a_later_block_and_saved_for_backward(pack, float32_model):
    denoiser = pack.host.ComfyDenoiser(float32_model[0])
    with pack.host.no_gradients(denoiser.patcher):
        start = denoiser(latent(), 101, context())
    assert not start.is_inference() and not start.requires_grad
    with pack.host.gradients(denoiser.patcher):
        weight = torch.ones_like(start, requires_grad=True)
        (gradient,) = torch.autograd.grad((weight * start).sum(), weight)
    assert torch.equal(gradient, start)


def test_no_gradients_records_nothing(pack, float32_model):
    denoiser = pack.host.ComfyDenoiser(float32_model[0])
    with pack.host.no_gradients(denoiser.patcher):
        assert not denoiser(latent().requires_grad_(), 101, context()).requires_grad


# Nothing is copied, nothing is left behind


def test_float32_and_bfloat16_weights_are_not_copied_and_float16_is_computed_in_float32(pack, loaded):
    model, vae = loaded
    denoiser, codec = pack.host.ComfyDenoiser(model), pack.host.ComfyCodec(vae, model)
    load_all(pack, denoiser.patcher, codec.patcher)
    before, computed_in = state(model.model), model.model.get_dtype_inference()
    with pack.host.gradients(denoiser.patcher, codec.patcher):
        for name, weight in model.model.diffusion_model.named_parameters():
            original = before[f"diffusion_model.{name}"][0]
            assert weight is not original and not weight.is_inference()
            if original.dtype == torch.float16:
                assert weight.dtype == torch.float32
            else:
                assert (weight.dtype, weight.data_ptr()) == (original.dtype, original.data_ptr())
        assert model.model.get_dtype_inference() == (torch.float32 if computed_in == torch.float16 else computed_in)


@pytest.mark.parametrize("ending", ["normal", "exception", "interrupt"])
def test_afterwards_every_weight_is_the_same_object_with_the_same_bits(pack, loaded, ending):
    import comfy.model_management as management

    model, vae = loaded
    denoiser, codec = pack.host.ComfyDenoiser(model), pack.host.ComfyCodec(vae, model)
    load_all(pack, denoiser.patcher, codec.patcher)
    before = [state(model.model), state(vae.first_stage_model)]
    dtype, manual_cast = model.model.get_dtype_inference(), model.model.manual_cast_dtype
    expected = {"exception": ZeroDivisionError, "interrupt": management.InterruptProcessingException}
    try:
        with pack.host.gradients(denoiser.patcher, codec.patcher):
            z = latent().requires_grad_()
            image = codec.decode(denoiser(z, 101, context()))
            if ending == "exception":
                raise ZeroDivisionError
            if ending == "interrupt":  # in the middle of the backward pass
                image.register_hook(lambda _: management.interrupt_current_processing())
            torch.autograd.grad(image.square().mean(), z)
        assert ending == "normal"
    except BaseException as error:
        assert type(error) is expected.get(ending), error
    for module, was in zip((model.model, vae.first_stage_model), before, strict=True):
        assert_untouched(module, was)
    assert (model.model.get_dtype_inference(), model.model.manual_cast_dtype) == (dtype, manual_cast)
    assert model.model.current_patcher is None
    assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()


@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_cancel_stops_within_one_layer(pack, float32_model, moment):
    import comfy.model_management as management

    denoiser = pack.host.ComfyDenoiser(float32_model[0])
    layers = []
    with pytest.raises(management.InterruptProcessingException), pack.host.gradients(denoiser.patcher):
        noise = denoiser(latent().requires_grad_(), 101, context())
        for part in denoiser.base.modules():
            if isinstance(part, torch.nn.Linear):
                part.register_forward_pre_hook(lambda *_: layers.append("forward"))
        if moment == "backward":
            noise.register_hook(lambda _: management.interrupt_current_processing())
            noise.sum().backward()
            layers.append("backward ended")
        management.interrupt_current_processing()
        denoiser(latent(), 101, context())
    for part in denoiser.base.modules():
        part._forward_pre_hooks.clear()
    assert len(layers) <= 1
    management.throw_exception_if_processing_interrupted()  # and it was taken note of: the next run is not cancelled


# What a MODEL carries


@pytest.mark.parametrize("prediction", ["eps", "v_prediction"])
def test_the_noise_is_that_of_the_models_own_prediction_type(pack, sd2_file, prediction):
    """epsilon = sqrt(a) v + sqrt(1 - a) z, with v what the network says (Salimans and Ho 2022, appendix D)."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (model,) = ModelSamplingDiscrete().patch(load(sd2_file)[0], prediction, False)
    denoiser = pack.host.ComfyDenoiser(model)
    alpha = pack.core.DDIMSchedule.scaled_linear().alpha(101)
    with pack.host.no_gradients(denoiser.patcher):
        z, null = latent(), context(1024)
        noise = denoiser(z, 101, null)
        output = model.model.diffusion_model(z, torch.tensor([101.0]), context=null, transformer_options={})
    expected = output if prediction == "eps" else alpha**0.5 * output + (1 - alpha) ** 0.5 * z
    torch.testing.assert_close(noise, expected, rtol=1e-4, atol=1e-4)


def test_float16_weights_give_what_the_same_weights_in_float32_give(pack, sd1_file, float32_model):
    half = pack.host.ComfyDenoiser(load(sd1_file, torch.float16)[0])
    full = pack.host.ComfyDenoiser(float32_model[0])
    noise = []
    for denoiser in (half, full):
        with pack.host.no_gradients(denoiser.patcher):
            noise.append(denoiser(latent(), 101, context()))
    torch.testing.assert_close(*noise, rtol=0.0, atol=1e-4)


def test_a_float16_vae_decodes_as_in_float32(pack):
    import comfy.sd

    weights, config = pack.demo.load_demo_weights().vae, pack.architecture.COMFY_VAE_CONFIG
    model = pack.host.model_from_diffusers(pack.demo.load_demo_weights().unet, pack.architecture.COMFY_UNET_CONFIG)
    images = []
    for dtype in (torch.float16, torch.float32):
        params = {"params": {"embed_dim": 4, "ddconfig": dict(config)}}
        vae = comfy.sd.VAE(sd=dict(weights), config=params, dtype=dtype)
        codec = pack.host.ComfyCodec(vae, model)
        with pack.host.gradients(codec.patcher):
            z = latent().requires_grad_()
            images.append(codec.decode(z))
            assert torch.isfinite(torch.autograd.grad(images[-1].sum(), z)[0]).all()
        assert next(vae.first_stage_model.parameters()).dtype == dtype
    torch.testing.assert_close(*images, rtol=0.0, atol=1e-5)


def test_a_function_wrapper_and_an_attention_patch_of_the_model_are_honoured(pack, float32_model):
    calls = []

    def wrapper(apply_model, call):
        calls.append("wrapper")
        return apply_model(call["input"], call["timestep"], **call["c"])

    def patch(query, key, value, _options):
        calls.append("attn2")
        return query, key, value

    model = float32_model[0].clone()
    model.set_model_unet_function_wrapper(wrapper)
    model.set_model_attn2_patch(patch)
    denoiser = pack.host.ComfyDenoiser(model)
    with pack.host.no_gradients(denoiser.patcher):
        denoiser(latent(), 101, context())
    assert calls.count("wrapper") == 1 and calls.count("attn2") > 1


def test_our_attention_patches_stay_off_the_users_model(pack, float32_model):
    model = float32_model[0]
    before = repr(model.model_options)
    denoiser = pack.host.ComfyDenoiser(model)
    with pack.host.no_gradients(denoiser.patcher):
        denoiser(latent(), 101, context(), lambda _layer, query, key, value: value)
    assert repr(model.model_options) == before

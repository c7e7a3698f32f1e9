"""What ComfyUI does on other machines and with other flags, made here: weights that are paged, attention without a
gradient, quantised weights, a conditioning with more than text."""

import pytest
import torch

from checkpoints import SD1, write_checkpoint
from comfyui_models import context, latent, load, load_tiny_vae


@pytest.fixture(scope="module")
def sd1(pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return load(folder / "checkpoints" / write_checkpoint(folder, SD1, text_encoder=False))


@pytest.fixture(autouse=True)
def in_a_node(pack):
    """As the server runs every node."""
    with torch.inference_mode():
        yield


@pytest.fixture
def paged(pack, monkeypatch):
    """ComfyUI's own patcher pages weights in and out, as on NVIDIA's cards unless a flag forbids it."""
    import comfy.model_patcher

    class Paged(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self):
            return True

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Paged)


def gradients_of(pack, model) -> list[torch.Tensor]:
    """Of what the U-Net says, by the latent and by the context."""
    denoiser = pack.host.ComfyDenoiser(model)
    with pack.host.gradients(denoiser.patcher):
        z, null = latent().requires_grad_(), context().requires_grad_()
        return list(torch.autograd.grad(denoiser(z, 101, null).square().mean(), [z, null]))


def test_the_demo_model_loads_where_weights_are_paged_and_its_own_lie_still(pack, paged):
    model, vae, _ = pack.nodes.demo.LoadDemoModel.execute().result
    assert not model.is_dynamic() and not vae.patcher.is_dynamic()
    denoiser, codec = pack.host.ComfyDenoiser(model), pack.host.ComfyCodec(vae, model)
    with pack.host.gradients(denoiser.patcher, codec.patcher):
        z = codec.encode(torch.rand(1, 3, 64, 64)).requires_grad_()
        (gradient,) = torch.autograd.grad(codec.decode(z).square().mean(), z)
    assert gradient.abs().max() > 0


def test_a_taesd_as_the_vae_works_where_weights_are_paged(pack, sd1, paged):
    vae = load_tiny_vae()
    assert vae.patcher.is_dynamic()
    codec = pack.host.ComfyCodec(vae, sd1[0])
    with pack.host.gradients(codec.patcher):
        z = latent().requires_grad_()
        (gradient,) = torch.autograd.grad(codec.decode(z).square().mean(), z)
    assert gradient.abs().max() > 0 and vae.patcher.is_dynamic(), "the user's is as it was"


@pytest.mark.parametrize("by", ["a flag", "a patch of the model"])
def test_attention_that_has_no_gradient_is_used_without_one_and_pytorchs_with(pack, sd1, monkeypatch, by):
    import comfy.ldm.modules.attention as attention

    asked = []

    @attention.wrap_attn
    def attention_sage(*arguments, **named):
        asked.append(torch.is_grad_enabled())
        with torch.no_grad():
            return attention.attention_pytorch(*arguments, **named).detach()

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    model = sd1[0].clone()
    plain = gradients_of(pack, model)
    if by == "a flag":
        monkeypatch.setattr(attention, "optimized_attention", attention_sage)
    else:
        named = model.model_options.setdefault("transformer_options", {})
        named["optimized_attention_override"] = lambda func, *arguments, **named: attention_sage(*arguments, **named)
    for found, expected in zip(gradients_of(pack, model), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())
    denoiser = pack.host.ComfyDenoiser(model)
    asked.clear()
    with pack.host.no_gradients(denoiser.patcher):
        denoiser(latent(), 101, context())
    assert asked and not any(asked), "the chosen one is the faster"


def test_an_override_that_has_a_gradient_keeps_it(pack, sd1):
    model, plain = sd1[0].clone(), gradients_of(pack, sd1[0])
    options = model.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = lambda func, *arguments, **named: 2 * func(*arguments, **named)
    (_, found), (_, expected) = gradients_of(pack, model), plain
    assert (found - expected).abs().max() > 0.1 * expected.abs().max()


def test_quantised_weights_are_refused(pack, sd1, monkeypatch):
    import comfy.quant_ops

    class Quantised(torch.nn.Parameter):
        pass

    monkeypatch.setattr(comfy.quant_ops, "QuantizedTensor", Quantised)
    pack.host.require_supported(sd1[0])
    monkeypatch.setattr(comfy.quant_ops, "QuantizedTensor", torch.nn.Parameter)
    with pytest.raises(
        pack.core.checks.ProtectionError, match="are quantised.*How to fix: load the same model in float16"
    ):
        pack.host.require_supported(sd1[0])


@pytest.mark.parametrize("besides", ["control", "mask", "hooks", "start_percent"])
def test_a_conditioning_with_more_than_text_is_refused(pack, sd1, besides):
    null_context = pack.host.tensors.null_context
    assert null_context(sd1[0], [[context(), {"pooled_output": None}]]).shape == context().shape
    with pytest.raises(pack.core.checks.ProtectionError, match=f"the conditioning has {besides}, which no block"):
        null_context(sd1[0], [[context(), {besides: object()}]])


@pytest.mark.parametrize("painted", [0, 1])
def test_a_mask_that_is_empty_for_one_of_the_photos_is_refused(pack, painted):
    masks = torch.zeros(2, 80, 80)
    masks[:painted, 10:20] = 1
    with pytest.raises(pack.core.checks.ProtectionError, match="the mask is empty, so nothing may change"):
        pack.host.to_core_mask(masks, 80, 80)
    masks[:, 10:20] = 1
    assert pack.host.to_core_mask(masks, 80, 80).shape == (2, 1, 80, 80)


def test_one_photo_in_the_loss_does_not_do_for_many_images(pack):
    """Both would flee from the person on the first."""
    nodes, source = pack.nodes, torch.rand(1, 3, 64, 64)
    surrogate = pack.core.FRSurrogate(lambda image: image.flatten(1), 16)
    for mode in ("source", "target"):
        objective = pack.core.IdentityObjective([surrogate], **{mode: source})
        data = nodes.sockets.ObjectiveData(objective, (), (64, 64))
        nodes.objectives.require_as_many(data, 1, "here")
        if mode == "target":
            nodes.objectives.require_as_many(data, 2, "here")
            continue
        with pytest.raises(pack.core.checks.ProtectionError, match="has 1 photos, and there are 2 images"):
            nodes.objectives.require_as_many(data, 2, "here")

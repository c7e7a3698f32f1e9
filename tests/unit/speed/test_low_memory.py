"""Less memory, the same result: maps that are held only where they are small, blocks that are computed again."""

import gc

import pytest
import torch

from faceprotect_core import capture_self_attention, ddim_invert, protect
from faceprotect_core.diffusers_backend import DiffusersCodec, DiffusersDenoiser
from faceprotect_core.method import attention, optimizer
from faceprotect_core.method.attention import Capture, SelfAttentionReference, StructureLoss, attention_maps
from faceprotect_core.speed.checkpointing import blocks_of, recomputed
from golden import load_golden


def saved_bytes(function) -> int:
    """Bytes that autograd keeps of what the function computes."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for storage in kept.values())


def random_attention(batch=2, heads=3, tokens=50, width=8, dtype=torch.float64):
    torch.manual_seed(0)
    query, key, value, *reference = (torch.randn(batch, heads, tokens, width, dtype=dtype) for _ in range(5))
    return [tensor.requires_grad_() for tensor in (query, key, value)], tuple(reference)


def held(query, key, value, reference):
    """The same by plain autograd, every map held."""
    maps = attention_maps(query, key)
    return maps.to(value.dtype) @ value, (maps - attention_maps(*reference)).square().flatten(1).mean(1)


def compared(query, key, value, reference, maps=None):
    loss = StructureLoss({"layer": reference}, maps=maps or {})
    return loss("layer", query, key, value), loss.loss


@pytest.mark.parametrize("fused", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
def test_rows_at_a_time_give_the_same_attention_loss_and_gradients(monkeypatch, rows, fused):
    inputs, reference = random_attention()
    monkeypatch.setitem(attention.ELEMENTS_AT_ONCE, "cpu", rows * 2 * 3 * 50)
    results = []
    for function, fuses in ((compared, fused), (held, False)):
        monkeypatch.setattr(attention, "_fuses", lambda tensor, fuses=fuses: fuses)
        output, loss = function(*inputs, reference)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
        total = (output * weights).sum() + (loss * torch.tensor([50.0, -30.0])).sum()
        results.append((output, loss, *torch.autograd.grad(total, inputs)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [7, 1000])
def test_maps_that_are_held_give_the_same_bit_for_bit(monkeypatch, rows):
    inputs, reference = random_attention(dtype=torch.float32)
    monkeypatch.setitem(attention.ELEMENTS_AT_ONCE, "cpu", rows * 2 * 3 * 50)
    unchanged = SelfAttentionReference(({"layer": reference},), reference[0])
    assert unchanged.map_elements == 2 * 3 * 50 * 50
    results = []
    for maps in ({}, unchanged.maps()[0]):
        before = {layer: one.clone() for layer, one in maps.items()}
        output, loss = compared(*inputs, reference, maps)
        results.append((output, loss, *torch.autograd.grad(output.square().sum() + 50 * loss.sum(), inputs)))
        assert all(torch.equal(maps[layer], one) for layer, one in before.items())
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_unchanged_run_is_computed_in_rows_too(monkeypatch):
    inputs, _ = random_attention()
    monkeypatch.setitem(attention.ELEMENTS_AT_ONCE, "cpu", 7 * 2 * 3 * 50)
    output, _ = held(*inputs, inputs[:2])
    torch.testing.assert_close(Capture()("layer", *inputs), output, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fused", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_the_gradients_pass_torchs_own_check(monkeypatch, fused):
    monkeypatch.setattr(attention, "_fuses", lambda tensor: fused)
    inputs, reference = random_attention(batch=1, heads=2, tokens=5, width=3)
    assert torch.autograd.gradcheck(lambda *tensors: compared(*tensors, reference), inputs)


def test_bfloat16_attention_keeps_the_loss_in_float32():
    inputs, reference = random_attention(dtype=torch.bfloat16)
    output, loss = compared(*inputs, reference)
    gradients = torch.autograd.grad(output.float().sum() + loss.sum(), inputs)
    assert output.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert all(gradient.dtype == torch.bfloat16 and gradient.isfinite().all() for gradient in gradients)


def test_no_map_is_held_that_is_not_asked_for():
    inputs, reference = random_attention(batch=1, heads=2, tokens=256, width=8, dtype=torch.float32)
    a_map = 2 * 256 * 256 * 4
    assert saved_bytes(lambda: held(*inputs, reference)) > a_map
    assert saved_bytes(lambda: compared(*inputs, reference)) < a_map / 4


# ------------------------------------------------------------------------------------------------ whole networks


@pytest.fixture(scope="module")
def golden():
    return load_golden("impersonation")


@pytest.fixture(scope="module")
def frugal(golden):
    return DiffusersDenoiser(golden.denoiser.unet, low_memory=True), DiffusersCodec(golden.codec.vae, low_memory=True)


def test_recomputed_blocks_give_the_same_protection_bit_for_bit(golden, frugal):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    results = []
    for denoiser, codec in ((golden.denoiser, golden.codec), frugal):
        arguments = (denoiser, codec, image, golden.context, golden.objective())
        results.append(protect(*arguments, null_text_iterations=2, iterations=3))
    assert torch.equal(results[0].image, results[1].image)
    assert results[0].history == results[1].history


def test_small_maps_are_held_and_large_ones_are_not_with_the_same_result(golden, monkeypatch):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    results, held = [], []
    computed = SelfAttentionReference.maps
    monkeypatch.setattr(SelfAttentionReference, "maps", lambda self: held.append(1) or computed(self))
    for most in (optimizer.HELD_AT_MOST, 100):
        monkeypatch.setattr(optimizer, "HELD_AT_MOST", most)
        arguments = (golden.denoiser, golden.codec, image, golden.context, golden.objective())
        results.append(protect(*arguments, null_text_iterations=2, iterations=3))
        assert len(held) == 1
    assert torch.equal(results[0].image, results[1].image)
    assert results[0].history == results[1].history


def test_recomputed_blocks_hold_less(golden, frugal):
    trajectory = ddim_invert(golden.denoiser, golden.latent, golden.context, golden.schedule)
    embeddings = golden.context.expand(3, 1, -1, -1)
    structure = capture_self_attention(golden.denoiser, trajectory, embeddings)

    def step(denoiser, codec):
        latent = trajectory.latents[-1].clone().requires_grad_()
        for index in range(trajectory.depth):
            loss = StructureLoss(structure.queries_and_keys[index])
            latent = trajectory.denoise_step(denoiser, latent, index, embeddings[index], loss)
        return codec.decode(latent)

    plain = saved_bytes(lambda: step(golden.denoiser, golden.codec))
    assert saved_bytes(lambda: step(*frugal)) < plain / 2


def test_what_is_held_is_freed_where_no_backward_pass_comes(golden, frugal):
    """As when every image has been protected early: a circle through autograd would stay."""
    before, capture = recomputable_blocks(), Capture()
    frugal[0](golden.latent, 101, golden.context, capture)
    structure = StructureLoss(capture.queries_and_keys)
    noise = frugal[0](golden.latent.clone().requires_grad_(), 101, golden.context, structure)
    assert noise.requires_grad and recomputable_blocks() > before + 5
    del noise, structure
    assert recomputable_blocks() == before


def recomputable_blocks() -> int:
    gc.collect()
    return sum(type(one).__name__ == "_CheckpointFrame" for one in gc.get_objects())


def test_the_networks_are_left_as_they_were(golden, frugal):
    blocks = blocks_of(golden.denoiser.unet)
    assert len(blocks) > 5
    frugal[0](golden.latent, 101, golden.context)
    frugal[1].decode(golden.latent)
    assert not any("forward" in module.__dict__ for module in golden.denoiser.unet.modules())
    with pytest.raises(RuntimeError), recomputed(blocks):
        raise RuntimeError
    assert not any("forward" in block.__dict__ for block in blocks)

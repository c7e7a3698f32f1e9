"""ComfyUI on a GPU: the same protection whatever it does with the weights, and it gets its memory back."""

import gc

import pytest
import torch

from checkpoints import SD1, write_checkpoint
from comfyui_models import a_small_card, assert_untouched, load, protect, state

MB = 2**20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    models_dir = tmp_path_factory.mktemp("models")
    return models_dir / "checkpoints" / write_checkpoint(models_dir, SD1, text_encoder=False)


@pytest.fixture
def exact_products(monkeypatch):
    """No TF32, in which the order of a sum shows in the fourth digit."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture
def expected(pack, checkpoint, exact_products):
    with torch.inference_mode():
        result, _, _ = protect(pack, *load(checkpoint), SD1.context, low=False)
    return result.image.cpu()


@pytest.mark.parametrize("state_of_memory", ["LOW_VRAM", "NO_VRAM", "a small card"])
@pytest.mark.parametrize("low", [False, True])
def test_weights_in_main_memory_give_the_same_protection(pack, checkpoint, expected, monkeypatch, state_of_memory, low):
    import comfy.model_management as management

    with torch.inference_mode():
        if state_of_memory == "a small card":
            with a_small_card():
                result, denoiser, _ = protect(pack, *load(checkpoint), SD1.context, low)
                assert denoiser.base.model_lowvram
        else:
            monkeypatch.setattr(management, "vram_state", getattr(management.VRAMState, state_of_memory))
            management.unload_all_models()
            result, denoiser, _ = protect(pack, *load(checkpoint), SD1.context, low)
            assert denoiser.base.model_lowvram == (state_of_memory == "NO_VRAM")
    assert result.image.is_cuda
    assert (result.image.cpu() - expected).abs().max() < 1e-3


def test_cuda_graphs_give_the_same_protection(pack, checkpoint, exact_products, caplog):
    results = []
    with torch.inference_mode():
        model, vae = load(checkpoint)
        for graphs in (False, True):
            settings = pack.host.PerformanceSettings(cuda_graphs=graphs)
            changed = pack.host.with_settings(model, vae, settings)
            result, denoiser, _ = protect(pack, *changed, SD1.context, low=False, iterations=4)
            results.append(result.image)
    assert not [one for one in caplog.records if "CUDA graph" in one.message]
    assert (results[0] - results[1]).abs().max() < 1e-3


def test_cuda_graphs_are_not_used_with_little_memory(pack, checkpoint, caplog):
    with torch.inference_mode():
        model, vae = load(checkpoint)
        changed = pack.host.with_settings(model, vae, pack.host.PerformanceSettings(memory="low", cuda_graphs=True))
        protect(pack, *changed, SD1.context, low=None)
    assert "no CUDA graphs" in caplog.text


def test_comfyui_gets_its_memory_back(pack, checkpoint):
    import comfy.model_management as management

    with torch.inference_mode():
        model, vae = load(checkpoint)
        held = []
        for _ in range(20):
            protect(pack, model, vae, SD1.context, low=None)
            gc.collect()
            held.append(torch.cuda.memory_allocated())
        assert held[-1] <= held[1]
        before = [state(module) for module in (model.model, vae.first_stage_model)]
        protect(pack, model, vae, SD1.context, low=None)
        for module, was in zip((model.model, vae.first_stage_model), before, strict=True):
            assert_untouched(module, was)
        del before, was
        management.unload_all_models()
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()  # PyTorch's own, 33 MB for each thread and stream that has computed
        assert torch.cuda.memory_allocated() < MB

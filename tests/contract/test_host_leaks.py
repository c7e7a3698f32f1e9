"""Nothing stays: neither tensors from run to run, nor models that ComfyUI unloads."""

import gc
import weakref

import pytest
import torch

RUNS = 20


@pytest.fixture(autouse=True)
def in_a_node(pack):
    """As the server runs every node."""
    with torch.inference_mode():
        yield


def load(pack) -> tuple:
    weights = pack.demo.load_demo_weights()
    with torch.inference_mode(False):
        model = pack.host.model_from_diffusers(weights.unet, pack.architecture.COMFY_UNET_CONFIG)
        vae = pack.host.vae_from_diffusers(weights.vae, pack.architecture.COMFY_VAE_CONFIG)
    return model, vae, weights.null_context


def protect(pack, model, vae, null, memory: str, reached: bool) -> None:
    """As a node does it; reached: the run ends before its first backward pass."""
    core, host = pack.core, pack.host
    model, vae = host.with_settings(model, vae, host.PerformanceSettings(memory=memory))
    denoiser, codec = host.ComfyDenoiser(model), host.codec_of(vae, model)
    with host.optimization(denoiser, codec, (1, 4, 8, 8), 1):
        latent, schedule = torch.ones(1, 4, 8, 8), core.DDIMSchedule.scaled_linear()
        trajectory = core.ddim_invert(denoiser, latent, null, schedule, depth=1)
        embeddings = core.learn_null_text(denoiser, trajectory, null, iterations=1)
        structure = core.capture_self_attention(denoiser, trajectory, embeddings)
        core.optimize_latent(
            denoiser, codec, trajectory, embeddings, _Darkness(reached), structure=structure, iterations=1,
            early_stop=True,
        )  # fmt: skip


class _Darkness:
    def __init__(self, ends: bool):
        self.ends = ends

    def __call__(self, image):
        return image.square().flatten(1).mean(1)

    def reached(self, image):
        return torch.full((len(image),), self.ends)


def alive() -> dict[str, int]:
    """How many tensors there are, and how much of autograd that Python knows of."""
    gc.collect()
    kinds = [type(one) for one in gc.get_objects()]
    return {
        "tensors": sum(issubclass(kind, torch.Tensor) for kind in kinds),
        "autograd": sum("Backward" in kind.__name__ or kind.__name__ == "_CheckpointFrame" for kind in kinds),
    }


@pytest.mark.parametrize("reached", [False, True], ids=["to the end", "stopped early"])
@pytest.mark.parametrize("memory", ["low", "ample"])
def test_twenty_runs_leave_no_more_behind_than_three(pack, memory, reached):
    model = load(pack)
    counts = {}
    for run in range(1, RUNS + 1):
        protect(pack, *model, memory, reached)
        if run in (3, RUNS):
            counts[run] = alive()
    assert counts[RUNS] == counts[3]


def test_comfyui_can_unload_the_models_and_they_are_freed_once_nobody_has_them(pack):
    import comfy.model_management as management

    model, vae, null = load(pack)
    protect(pack, model, vae, null, "low", False)
    networks = [weakref.ref(model.model), weakref.ref(vae.first_stage_model)]
    management.unload_all_models()
    assert not management.current_loaded_models
    del model, vae
    gc.collect()
    assert [network() for network in networks] == [None, None]

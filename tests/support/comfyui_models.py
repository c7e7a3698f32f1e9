"""ComfyUI's models in this process, for the contract tests: loaded as a server does, compared, and looked into."""

import contextlib
import importlib

import pytest
import torch


def load(path, dtype: torch.dtype = torch.float32, native: bool = True, in_a_node: bool = True) -> tuple:
    """(MODEL, VAE) as CheckpointLoaderSimple loads them. native: computed in the weights' dtype, as on a GPU.
    in_a_node: in inference mode, as the server runs every node."""
    import comfy.model_management
    import comfy.sd

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(in_a_node):
        if native:
            patch.setattr(comfy.model_management, "unet_manual_cast", lambda *_args, **_kwargs: None)
        model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(path), output_vae=True, output_clip=False, model_options={"dtype": dtype}
        )
    return model, vae


def load_tiny_vae(scale: float = 0.18215, latent_channels: int = 4):
    """A TAESD with random weights, as Load VAE makes it."""
    import comfy.sd
    import comfy.taesd.taesd

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        network = comfy.taesd.taesd.TAESD(latent_channels=latent_channels)
        weights = {name: torch.randn_like(weight) * 0.05 for name, weight in network.state_dict().items()}
        weights |= {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(0.0)}
        return comfy.sd.VAE(sd=weights, dtype=torch.float32)


LATENT_SHAPE = (1, 4, 8, 8)


def core_module(pack, name: str):
    return importlib.import_module(f"{pack.core.__name__}.{name}")


def latent(size: int = 8) -> torch.Tensor:
    return torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))


def context(width: int = 768) -> torch.Tensor:
    return torch.randn(1, 7, width, generator=torch.Generator().manual_seed(1))


def conditioning(width: int = 2048, seed: int = 1) -> list:
    """A CONDITIONING of SDXL, as CLIP Text Encode makes it."""
    pooled = torch.randn(1, 1280, generator=torch.Generator().manual_seed(seed))
    return [[context(width), {"pooled_output": pooled}]]


def fixed_of(pack, model) -> dict:
    """What SDXL is given besides the context; empty for the others."""
    return pack.host.tensors.fixed_conditioning(model, conditioning(), "here")


@contextlib.contextmanager
def a_small_card():
    """ComfyUI has a byte to spare for each model, and leaves the weights in main memory."""
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher

    whole = ModelPatcher.partially_load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelPatcher, "partially_load", lambda self, device, *_, **kw: whole(self, device, 1, **kw))
        comfy.model_management.unload_all_models()
        yield
    comfy.model_management.unload_all_models()


def saved_bytes(function, *networks) -> int:
    """Bytes that autograd keeps of what the function computes, without the networks' weights."""
    weights = {weight.untyped_storage().data_ptr() for network in networks for weight in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor.detach()  # an output that is kept would keep its own node, and so itself

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for storage in kept.values())


def state(module) -> dict:
    """Every weight and buffer: the object, what it is, and a copy of its bits."""
    return {name: (one, _outside(one), one.detach().clone()) for name, one in _tensors(module)}


def assert_untouched(module, before: dict) -> None:
    after = dict(_tensors(module))
    assert after.keys() == before.keys()
    for name, (tensor, outside, bits) in before.items():
        assert after[name] is tensor, name
        assert _outside(tensor) == outside, name
        assert torch.equal(tensor, bits), name
    for part in module.modules():
        assert not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks), part
        assert "forward" not in part.__dict__, part


def _tensors(module) -> list:
    return [*module.named_parameters(), *module.named_buffers()]


def _outside(tensor: torch.Tensor) -> tuple:
    return tensor.dtype, tensor.data_ptr(), tensor.requires_grad, tensor.grad


def darkness(image):
    return image.square().flatten(1).mean(1)


def protect(pack, model, vae, width: int, low: bool | None, iterations: int = 1):
    """A few iterations of everything that takes gradients; low None: what was chosen.
    iterations: of the null text."""
    core, host = pack.core, pack.host
    denoiser, codec = host.ComfyDenoiser(model, fixed=fixed_of(pack, model)), host.codec_of(vae, model)
    device = denoiser.patcher.load_device
    with host.optimization(denoiser, codec, LATENT_SHAPE, 2) as recorder:
        if low is not None:
            denoiser.low_memory = codec.low_memory = low
        unet, decoder = recorder.denoiser(denoiser), recorder.codec(codec)
        null, schedule = context(width).to(device), core.DDIMSchedule.scaled_linear()
        trajectory = core.ddim_invert(denoiser, latent().to(device), null, schedule, depth=2)
        embeddings = core.learn_null_text(unet, trajectory, null, iterations=iterations)
        structure = core.capture_self_attention(denoiser, trajectory, embeddings)
        result = core.optimize_latent(
            unet, decoder, trajectory, embeddings, darkness, structure=structure, iterations=3, objective_weight=1.0
        )
    return result, denoiser, codec

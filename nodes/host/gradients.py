"""Autograd through ComfyUI's models inside the server's inference mode; cancelling within a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import comfy.model_base
import comfy.model_management
import torch
from torch import Tensor, nn

from ...faceprotect_core.replaced import replaced
from .settings import compute_dtype, settings_of


@contextmanager
def gradients(
    *patchers, needed: float = 0, needed_at_least: float | None = None, is_low: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Loads the models of the patchers and lets autograd work through them inside the server's inference mode.

    Weights loaded in inference mode cannot be saved for a backward pass. For the time of the block every weight and
    buffer is replaced by a normal tensor over the same storage: nothing is copied and nothing is changed. (The
    exceptions are float16 weights and those of another precision than Performance Settings say: they are computed in
    float32, or in that precision, from a copy that lives as long as the block, or as the layer where memory is low.)
    Cancelling is noticed within one layer, forwards and backwards.

    needed: bytes beside the weights, for which ComfyUI unloads other models. needed_at_least: for which it leaves
    weights in main memory. is_low: whether memory is low, asked once the models are loaded.
    """
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        comfy.model_management.load_models_gpu(
            list(patchers), memory_required=needed, minimum_memory_required=needed_at_least
        )
        # Weights that ComfyUI left in main memory are cast into a few buffers that it uses again and again
        # (asynchronous offloading): autograd would find another layer's weights in them. Without streams each cast
        # makes a tensor.
        stack.enter_context(replaced(comfy.model_management, "NUM_STREAMS", 0))
        in_layers = is_low()
        for patcher in patchers:
            precision = settings_of(patcher).precision
            patcher.pre_run()
            stack.callback(patcher.cleanup)
            stack.enter_context(_aliased(patcher.model, precision, in_layers))
            stack.enter_context(_interruptible(patcher.model))
        yield


@contextmanager
def no_gradients(*patchers) -> Iterator[None]:
    """As gradients, for what needs none; its tensors may still be used in a later optimisation."""
    with gradients(*patchers, is_low=lambda: True), torch.no_grad():
        yield


@contextmanager
def _aliased(model: nn.Module, precision: str, in_layers: bool) -> Iterator[None]:
    """Buffers keep their precision: a U-Net's are the noise schedule. in_layers: ComfyUI's layers cast their weights
    each time they are computed, in place of a copy of all. A U-Net computes in its weights' aliases' precision."""
    with ExitStack() as stack:
        for module in model.modules():
            wanted = precision
            if in_layers and hasattr(module, "comfy_cast_weights") and _has_another_dtype(module, precision):
                stack.enter_context(replaced(module, "comfy_cast_weights", True))
                wanted = None
            for tensors, dtype in ((module._parameters, wanted), (module._buffers, None)):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        stack.callback(tensors.__setitem__, name, tensor)
                        tensors[name] = _alias(tensor, dtype)
        if isinstance(model, comfy.model_base.BaseModel):
            dtype = compute_dtype(model.get_dtype_inference(), precision)
            stack.enter_context(replaced(model, "manual_cast_dtype", dtype))
        yield


def _has_another_dtype(module: nn.Module, precision: str) -> bool:
    weights = [one for one in module._parameters.values() if one is not None and one.is_floating_point()]
    return any(one.dtype != compute_dtype(one.dtype, precision) for one in weights)


def _alias(tensor: Tensor, precision: str | None) -> Tensor:
    """precision: None for the tensor's own."""
    if tensor.is_floating_point() and precision:
        dtype = compute_dtype(tensor.dtype, precision)
        if dtype != tensor.dtype:
            return tensor.detach().to(dtype)
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextmanager
def _interruptible(model: nn.Module) -> Iterator[None]:
    """Raises ComfyUI's own interrupt between two layers, in the forward and in the backward pass."""

    def check(*_) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def after_layer(_module, _inputs, output) -> None:
        check()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(check)

    handles = [m.register_forward_hook(after_layer) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

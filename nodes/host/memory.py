"""How much an optimisation takes, what ComfyUI is told of it, and what is done where it is short."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management

from ...faceprotect_core.speed.cuda_graphs import Recorder
from ...faceprotect_core.speed.memory import optimization_bytes
from .denoiser import ComfyDenoiser
from .gradients import gradients
from .settings import MOST_FACES_AT_ONCE, compute_dtype, settings_of


@contextmanager
def optimization(denoiser: ComfyDenoiser, codec, latent_shape, steps: int, *others) -> Iterator[Recorder]:
    """As gradients, for an optimisation through that many steps and then the codec, if there is one. ComfyUI is told
    how much memory it takes; where that is short, blocks are computed again in the backward pass (low_memory).

    Yields what records the networks as CUDA graphs, if it is to be done; it must not be used after the block.

    codec: from codec_of, or None. latent_shape: [B, 4, h, w]. others: patchers that are needed too.
    """
    patchers = [patcher for part in _parts(denoiser, codec) for patcher in part.patchers]
    ample, low = (_optimization_bytes(denoiser, codec, latent_shape, steps, low) for low in (False, True))
    ample += _copied_bytes(denoiser, codec)
    most, least = {"low": (low, low), "ample": (ample, ample)}.get(denoiser.settings.memory, (ample, low))

    def is_low() -> bool:
        fit_memory(denoiser, codec, latent_shape, steps)
        return denoiser.low_memory

    with gradients(*patchers, *others, needed=most, needed_at_least=least, is_low=is_low):
        yield _recorder(denoiser)


def _recorder(denoiser: ComfyDenoiser) -> Recorder:
    """Weights that come from main memory lie elsewhere in each pass, and blocks that are computed again save what a
    recording holds."""
    if not denoiser.settings.cuda_graphs:
        return Recorder(device=None)
    if denoiser.low_memory:
        logging.warning("FaceProtect: no CUDA graphs, which need ample memory")
    return Recorder(device=None if denoiser.low_memory else "cuda")


def faces_at_once(denoiser: ComfyDenoiser, codec, latent_shape, steps: int) -> int:
    """How many faces to optimize together: as set, or on a GPU as many as fit without computing blocks again.

    latent_shape: of one face. Free is what the weights that ComfyUI has still to load leave.
    """
    settings, device = denoiser.settings, denoiser.patcher.load_device
    if settings.faces_at_once:
        return settings.faces_at_once
    if comfy.model_management.is_device_cpu(device) or settings.memory == "low":
        return 1
    patchers = [patcher for part in _parts(denoiser, codec) for patcher in part.patchers]
    loading = sum(patcher.model_size() - patcher.loaded_size() for patcher in patchers)
    loading += _copied_bytes(denoiser, codec)
    free = comfy.model_management.get_free_memory(device) - comfy.model_management.minimum_inference_memory() - loading
    each = _optimization_bytes(denoiser, codec, latent_shape, steps, low=False)
    return min(max(int(free // each), 1), MOST_FACES_AT_ONCE)


def fit_memory(denoiser: ComfyDenoiser, codec, latent_shape, steps: int) -> None:
    """Chooses low_memory, once the models are loaded, by what ComfyUI says is free, and says in the log what was
    chosen."""
    parts = _parts(denoiser, codec)
    needed = _optimization_bytes(denoiser, codec, latent_shape, steps, low=False) + _copied_bytes(denoiser, codec)
    device = denoiser.patcher.load_device
    free = comfy.model_management.get_free_memory(device) - comfy.model_management.minimum_inference_memory()
    offloaded = any(patcher.model.model_lowvram for part in parts for patcher in part.patchers)
    for part in parts:
        part.low_memory = {"low": True, "ample": False}.get(part.settings.memory, offloaded or free < needed)
    logging.info(
        f"FaceProtect: {'low' if any(part.low_memory for part in parts) else 'ample'} memory "
        f"(setting {denoiser.settings.memory!r}): gradients take about {needed / 2**20:.0f} MB, "
        f"{max(free, 0) / 2**20:.0f} MB are free, the weights are loaded {'in part' if offloaded else 'completely'}"
    )


def _optimization_bytes(denoiser: ComfyDenoiser, codec, latent_shape, steps: int, low: bool) -> float:
    decoding = codec.decode_bytes(latent_shape, low) if codec else denoiser.base.memory_required(latent_shape)
    cuda_graphs = denoiser.settings.cuda_graphs and not low
    return optimization_bytes(denoiser.step_bytes(latent_shape, low), steps, decoding, cuda_graphs)


def _parts(denoiser: ComfyDenoiser, codec) -> list:
    return [denoiser] if codec is None else [denoiser, codec]


def _copied_bytes(denoiser: ComfyDenoiser, codec) -> int:
    """What the copies of weights take that `gradients` makes where memory is ample."""
    total = 0
    for patcher in (patcher for part in _parts(denoiser, codec) for patcher in part.patchers):
        for weight in patcher.model.parameters():
            dtype = compute_dtype(weight.dtype, settings_of(patcher).precision)
            total += weight.numel() * dtype.itemsize if dtype != weight.dtype else 0
    return total

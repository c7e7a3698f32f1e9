"""Seconds, peak memory, and the work that was done."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from faceprotect_core.model import Denoiser, ImageCodec


class CountingDenoiser:
    """Counts sample-passes through the U-Net, forward and backward."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.forward, self.backward = denoiser, 0, 0

    def __call__(self, latent, timestep, context, self_attention=None) -> Tensor:
        noise = self.denoiser(latent, timestep, context, self_attention)
        self.forward += len(latent)
        if noise.requires_grad:
            noise.register_hook(self._count_backward)
        return noise

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += len(gradient)


class CountingCodec:
    """Counts decoded images."""

    def __init__(self, codec: ImageCodec):
        self.codec, self.decoded = codec, 0

    def encode(self, image: Tensor) -> Tensor:
        return self.codec.encode(image)

    def decode(self, latent: Tensor) -> Tensor:
        self.decoded += len(latent)
        return self.codec.decode(latent)


@dataclass
class Measured:
    """memory: bytes at the peak above what was held before (on a CPU, the process's; None where it cannot be told)."""

    seconds: float
    memory: int | None
    image: Tensor


def measure(function: Callable[[], Tensor], device: str) -> Measured:
    gc.collect()
    before = _start_of_peak(device)
    start = time.perf_counter()
    image = function()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = _peak(device)
    return Measured(seconds, None if peak is None or before is None else max(peak - before, 0), image)


def _start_of_peak(device: str) -> int | None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: str) -> int | None:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)

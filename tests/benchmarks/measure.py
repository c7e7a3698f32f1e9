"""Seconds, peak memory, the work that was done, and when.

Memory is the peak of the process or of the GPU, not a count of the tensors that autograd saves: it holds what is
allocated in between too, which is what a user runs out of.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from faceprotect_core import ProtectionResult
from faceprotect_core.progress import OnStep, Step
from faceprotect_core.speed.cost import process_peak


@dataclass
class Passes:
    """Sample-passes: a batch of four counts four."""

    forward: int = 0
    backward: int = 0


@dataclass
class Stopwatch:
    """An `on_step` that remembers when each event came. intervals: stage -> seconds since the event before, each."""

    device: str
    start: float = 0.0
    last: float = 0.0
    intervals: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(self) -> None:
        self.start = self.last = self.now()

    def seconds(self) -> float:
        return self.now() - self.start

    def __call__(self, event: Step) -> None:
        now = self.now()
        self.intervals[event.stage].append(now - self.last)
        self.last = now


@dataclass(frozen=True, eq=False)
class Measurement:
    """seconds: of the whole run. peak: bytes above what was held before, None where it cannot be told.

    null_text_seconds, latent_seconds: the median of the iterations, 0 where there is none. rest_seconds: all the other
        time. unet: passes through the U-Net. decodes: images that the decoder decoded.
    """

    result: ProtectionResult
    seconds: float
    peak: int | None
    null_text_seconds: float
    latent_seconds: float
    rest_seconds: float
    unet: Passes
    decodes: int


def measure(run: Callable[[OnStep], ProtectionResult], unet: nn.Module, vae: nn.Module, device: str) -> Measurement:
    """Runs once. unet, vae: the modules that the run goes through."""
    stopwatch = Stopwatch(device)
    with ExitStack() as stack:
        passes, decoder = (stack.enter_context(counted(network)) for network in (unet, vae.decoder))
        before = reset_peak(device)
        stopwatch.begin()
        result = run(stopwatch)
        seconds = stopwatch.seconds()
        peak = peak_memory(device)
    iterations = {stage: stopwatch.intervals[stage] for stage in ("null_text", "protection")}
    each = {stage: median(times) if times else 0.0 for stage, times in iterations.items()}
    rest = seconds - sum(each[stage] * len(times) for stage, times in iterations.items())
    above = None if before is None or peak is None else max(peak - before, 0)
    times = (each["null_text"], each["protection"], max(rest, 0.0))
    return Measurement(result, seconds, above, *times, passes, decoder.forward)


@contextmanager
def counted(network: nn.Module) -> Iterator[Passes]:
    """Counts the samples that go through a network, and the gradients that come back to its output."""
    passes = Passes()

    def backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def forward(module: nn.Module, inputs: tuple, output) -> None:
        output = output if isinstance(output, Tensor) else output[0]
        passes.forward += len(output)
        if output.requires_grad:
            output.register_hook(backward)

    handle = network.register_forward_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()


def reset_peak(device: str) -> int | None:
    """Bytes that are held now, above which the peak counts."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        _trim_heap()
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the process's high-water mark starts again
    except OSError:
        return None
    return _resident()


def held_memory(device: str) -> int:
    """Bytes that PyTorch keeps on the GPU with nothing at work, the buffers of recordings among them; 0 on a CPU."""
    if device != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def _trim_heap() -> None:
    """glibc keeps what was freed, and the next run would take it without a sign in the process's memory."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def peak_memory(device: str) -> int | None:
    return torch.cuda.max_memory_allocated() if device == "cuda" else process_peak()


def _resident() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)

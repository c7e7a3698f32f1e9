"""What protecting a photo costs: predicted from a pass through each part of the models, and measured afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from ..method.attention import ELEMENTS_AT_ONCE, HELD_AT_MOST, StructureLoss
from ..method.inversion import expand_context
from ..method.light_and_shade import LightAndShade, LightAndShadeSettings
from ..method.protect import PAPER, Settings
from ..method.variables import Objective
from ..protocols import Denoiser, ImageCodec, decoder_of_changes

# Seconds of a backward pass to those of its forward pass, gradients of activations alone. One thread, 256 px: U-Net
# 1.04 to 1.08, decoder 1.04, recogniser 1.06 (demo model); U-Net 1.13 to 1.22, decoder 1.29 (reduced model of the
# benchmarks).
BACKWARD = 1.1
# What low_memory adds to it: 0.7 to 1.2 in these U-Nets, 0.5 in the decoders, much of which lies outside the blocks.
RECOMPUTED = 0.8
# A pass in the middle of a run to the second pass of a probe: 0.78 to 0.85 in CPU seconds, up to 1.1 on a busy machine.
WARM = 0.9
# In use beside what is held, in a backward pass: activations of the layer or block that is being computed, in sizes of
# the largest one, and the rows of a layer's attention maps that are computed at once.
LARGEST, ROWS = 4, 5
# What the allocator adds, measured on Linux (glibc): its share, and the holes that each self-attention layer leaves
# behind, in sizes of its rows. On a GPU PyTorch counts what is in use; nothing was measured there.
ALLOCATOR = {"cpu": (1.2, 6)}
TIMESTEP = 101  # any: all take the same time


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Args:
        seconds: of the whole run.
        memory: bytes above those in use before the run, to which the weights belong.
    """

    seconds: float
    memory: int

    def __str__(self) -> str:
        return f"{duration(self.seconds)} and {gigabytes(self.memory)}"


@dataclass(frozen=True)
class PredictedCost:
    """Reported before the first step. cost: of the photos that are next. faces, photos: how many there are in them."""

    cost: Cost
    faces: int = 1
    photos: int = 1
    stage: ClassVar[str] = "cost"


def total(costs: Sequence[Cost]) -> Cost:
    """The cost of runs one after the other: their seconds together, the memory of the largest."""
    return Cost(sum(cost.seconds for cost in costs), max((cost.memory for cost in costs), default=0))


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gigabytes(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB"


# ------------------------------------------------------------------------------------------------ before the run


@dataclass(frozen=True)
class Passes:
    """How often a part of the models is run without a backward pass, and how often with one."""

    forward: int
    with_backward: int = 0


@dataclass(frozen=True)
class Probe:
    """What one forward pass took.

    Args:
        seconds: of the pass.
        held: bytes of what it computed that autograd would keep.
        largest: bytes of the largest tensor among them.
        recomputed: the backward pass computes it again (low_memory).
    """

    seconds: float
    held: int = 0
    largest: int = 0
    recomputed: bool = False

    def times(self, factor: float) -> Probe:
        """The same for more pixels."""
        sizes = {name: round(factor * getattr(self, name)) for name in ("held", "largest")}
        return replace(self, seconds=factor * self.seconds, **sizes)

    def seconds_of(self, passes: Passes) -> float:
        backward = BACKWARD + (RECOMPUTED if self.recomputed else 0.0)
        return WARM * self.seconds * (passes.forward + passes.with_backward * (1.0 + backward))


def predict_cost(
    denoiser: Denoiser,
    codec: ImageCodec,
    image: Tensor,
    context: Tensor,
    objective: Objective,
    settings: Settings = PAPER,
) -> Cost:
    """What `protect` costs with these settings, on a machine as busy as it is now.

    Takes less than the time of an iteration, and the memory of a pass without gradients. Nothing of it remains, and no
    random numbers are drawn. What the models raise is raised as it would be in the run.
    """
    attention = _SelfAttention()
    decode = decoder_of_changes(codec) if settings.output == "detail" else codec.decode
    probes = _probe_all(denoiser, codec, decode, image, context, objective, attention)
    passes, depth, structure = count_passes(settings), settings.depth, settings.structure
    seconds = sum(probes[part].seconds_of(count) for part, count in passes.items())
    memory = _memory([probes["plain"]], image.device) if settings.null_text_iterations else 0
    if settings.iterations:
        unet = [probes["compared" if structure else "plain"]] * depth
        held = [*unet, probes["decode"], probes["objective"]]
        memory = max(memory, _memory(held, image.device, attention if structure else None, depth))
    return Cost(seconds, memory)


def predict_light_cost(image: Tensor, objective: Objective, settings: LightAndShadeSettings) -> Cost:
    """What `protect_by_light` costs with the same arguments, on a machine as busy as it is now; see `predict_cost`."""
    loss = objective.at(0) if hasattr(objective, "at") else objective
    variable = LightAndShade(image, None, settings)
    value = variable.start.requires_grad_()

    def run() -> Tensor:
        rendering = variable.render(value)
        return loss(rendering.image) + rendering.losses["fidelity"]

    _probe(run, objective, image.device)
    probe = _probe(run, objective, image.device)
    seconds = probe.seconds_of(Passes(1, settings.iterations))
    return Cost(seconds, _memory([probe], image.device) if settings.iterations else 0)


def _memory(probes: Sequence[Probe], device: torch.device, attention: _SelfAttention | None = None, depth=0) -> int:
    """Bytes at the peak of a backward pass through all of them. attention: what `depth` of them have compared."""
    share, holes = ALLOCATOR.get(device.type, (1.0, 0))
    in_use = sum(probe.held for probe in probes) + LARGEST * max(probe.largest for probe in probes)
    if attention is None:
        return round(share * in_use)
    in_use += depth * sum(attention.held.values()) + ROWS * max(attention.rows.values(), default=0)
    maps = depth * sum(attention.maps.values())
    if maps <= HELD_AT_MOST * torch.float32.itemsize:
        in_use += 2 * maps  # the reference's and its own
    return round(share * in_use + holes * depth * sum(attention.rows.values()))


def count_passes(settings: Settings) -> dict[str, Passes]:
    """What `protect` runs. "compared": the U-Net whose self-attention is captured or compared; "plain": without."""
    depth, iterations = settings.depth, settings.iterations
    plain = Passes(2 * depth - 1, depth * settings.null_text_iterations)  # inversion and null-text embeddings
    changed = Passes(depth, depth * iterations)  # the optimisation, and one last time
    unchanged = int(settings.output == "detail")  # its image is decoded too
    if settings.structure:
        unet = {"plain": plain, "compared": Passes(depth + changed.forward, changed.with_backward)}
    else:
        forward = plain.forward + changed.forward + unchanged * depth
        unet = {"plain": Passes(forward, plain.with_backward + changed.with_backward)}
    return unet | {
        "encode": Passes(1),
        "decode": Passes(1 + unchanged, iterations),
        "objective": Passes(0, iterations),
    }


class _SelfAttention:
    """Compares its maps with themselves. By layer, in bytes: held, the queries and keys to compare with; maps, all of
    them; rows, what is computed at once of the maps."""

    def __init__(self):
        self.held: dict[str, int] = {}
        self.maps: dict[str, int] = {}
        self.rows: dict[str, int] = {}

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        at_once = ELEMENTS_AT_ONCE.get(query.device.type, ELEMENTS_AT_ONCE["cuda"])
        elements = query[..., 0].numel() * key.shape[2]
        self.held[layer] = query.nbytes + key.nbytes
        self.maps[layer] = elements * torch.float32.itemsize
        self.rows[layer] = min(elements, at_once) * torch.float32.itemsize
        return StructureLoss({layer: (query.detach(), key.detach())})(layer, query, key, value)


def _probe_all(denoiser, codec, decode, image: Tensor, context: Tensor, objective, attention) -> dict[str, Probe]:
    """The second pass through each network counts: the first takes up to 1.4 times as long (demo model's decoder).

    Decoding, the most expensive part, is probed on a quarter of the pixels: within 10 % in the demo model, 20 % over in
    the benchmarks' reduced model.
    """
    start = _now(image.device)
    with torch.no_grad():
        latent = codec.encode(image)
    encode = Probe(_now(image.device) - start)
    context = expand_context(context, latent).to(latent.dtype)
    inputs = context, latent, latent[..., ::2, ::2], image
    embedding, changed, quarter, shown = (x.detach().clone().requires_grad_() for x in inputs)
    loss = objective.at(0) if hasattr(objective, "at") else objective
    runs = {
        "compared": (lambda: denoiser(changed, TIMESTEP, context, attention), denoiser),
        "decode": (lambda: decode(quarter), codec if decode == codec.decode else decode),
        "objective": (lambda: loss(shown), objective),
    }
    for run in runs.values():
        _probe(*run, image.device)
    runs["plain"] = (lambda: denoiser(latent, TIMESTEP, embedding), denoiser)
    probes = {part: _probe(*run, image.device) for part, run in runs.items()}
    decode = probes["decode"].times(latent.numel() / quarter.numel())
    return probes | {"encode": encode, "decode": decode}


def _probe(run: Callable[[], Tensor], adapter, device: torch.device) -> Probe:
    saved, start = SavedBytes(), _now(device)
    with torch.enable_grad(), saved_tensors_hooks(saved, _never):
        run()
    seconds, gone = _now(device) - start, saved.gone()
    return Probe(seconds, sum(gone), max(gone, default=0), getattr(adapter, "low_memory", False))


class SavedBytes:
    """A hook that autograd hands what it would keep: it counts the bytes, and keeps nothing."""

    def __init__(self):
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __call__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        self._storages[reference.cdata] = reference, storage.nbytes()

    def gone(self) -> list[int]:
        """The bytes of every storage that is no more: weights and inputs outlive a pass, what it computed does not."""
        return [size for reference, size in self._storages.values() if reference.expired()]


def _never(_) -> None:
    raise RuntimeError("what a probe computes has no backward pass")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class CostPredictor:
    """Predicts the cost of photos that are protected in the same way: probes the models at the first, and goes by the
    pixels at the others."""

    def __init__(self):
        self._probed: tuple[Cost, int] | None = None

    def __call__(self, batches: Sequence[int], probe: Callable[[], Cost]) -> Cost:
        """batches: how many pixels each batch of crops has. probe: what the first of them costs."""
        if self._probed is None:
            self._probed = probe(), batches[0]
        cost, pixels = self._probed
        return Cost(cost.seconds * sum(batches) / pixels, round(cost.memory * max(batches) / pixels))


# ------------------------------------------------------------------------------------------------ after the run


class Meter:
    """Seconds and peak memory from when it is made on, in words.

    On a GPU the memory is what the run allocated at its peak. On a CPU it is the highest of the whole process so far,
    weights and all, where an earlier run may have been before. Windows does not tell.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._held, self._start = self._used(), _now(device)

    def __str__(self) -> str:
        took, peak = f"took {duration(_now(self.device) - self._start)}", self._peak()
        if self.device.type == "cuda":
            return f"{took} and {gigabytes(peak - self._held)}"
        if peak is None:
            return took
        if peak > self._held:
            return f"{took}; the most memory in use rose from {gigabytes(self._held)} to {gigabytes(peak)}"
        return f"{took}; the most memory in use stayed at {gigabytes(peak)}"

    def _used(self) -> int | None:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else process_peak()

    def _peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else process_peak()


def process_peak() -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # no Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    # On Linux it would begin with the peak of the process that started this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""CUDA graphs: the forward and the backward pass of a network are recorded once and replayed.

A U-Net's pass launches thousands of small kernels, which takes a fast GPU's host longer than the GPU needs to compute
them. A replay launches them all at once, and computes the same.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..method.attention import StructureLoss
from ..method.objectives import IdentityObjective
from ..method.optimizer import Objective
from ..protocols import Denoiser, ImageCodec, SelfAttention
from ..surrogates import FRSurrogate

Function = Callable[..., tuple[Tensor, ...]]


def record(function: Function, *tensors: Tensor) -> Function:
    """The function recorded on the GPU, with its backward pass. It may depend on tensors alone, and never wait for the
    GPU. It has buffers of its own for what goes in and comes out: a call overwrites what the last one gave."""
    samples = tuple(one.detach().clone().requires_grad_(one.requires_grad) for one in tensors)
    return torch.cuda.make_graphed_callables(function, samples, num_warmup_iters=1, allow_unused_input=True)


@dataclass(eq=False)
class _Recording:
    """kinds: of the tensors that go in. replay: None before it is recorded, and where that failed. running: what a
    forward pass leaves, for as long as its backward pass may come: the next one would overwrite what that needs."""

    kinds: tuple
    calls: int = 0
    replay: Function | None = None
    running: Callable[[], _Running | None] = lambda: None

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        running = _Running()
        self.running = weakref.ref(running)
        return _Marked.apply(running, *self.replay(*tensors))


class _Running:
    """A forward pass; over: its backward pass has come."""

    over = False


class _Marked(torch.autograd.Function):
    """Identity that marks a forward pass as over when its backward pass comes."""

    @staticmethod
    def forward(ctx, running: _Running, *outputs: Tensor):
        ctx.running = running
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        ctx.running.over = True
        return (None, *gradients)


@dataclass(eq=False)
class Recorder:
    """Networks whose passes with gradients are replayed from their second one on; the weights must stay where they are
    for as long as it lives.

    Args:
        device: of the networks that are recorded; None leaves all as they are.
        record: how, for tests without a GPU.
    """

    device: str | None = "cuda"
    record: Callable[..., Function] = record
    recordings: dict[Hashable, _Recording] = field(default_factory=dict)

    def denoiser(self, denoiser: Denoiser) -> Denoiser:
        return _RecordedDenoiser(denoiser, self) if self.device else denoiser

    def codec(self, codec: ImageCodec) -> ImageCodec:
        return _RecordedCodec(codec, self) if self.device else codec

    def surrogates(self, surrogates: Sequence[FRSurrogate]) -> tuple[FRSurrogate, ...]:
        if not self.device:
            return tuple(surrogates)
        keys = (f"surrogate {index}, {one.name}" for index, one in enumerate(surrogates))
        return tuple(
            replace(one, module=_RecordedModule(one.module, self, key).eval())
            for one, key in zip(surrogates, keys, strict=True)
        )

    def objective(self, objective: Objective) -> Objective:
        """One without surrogates stays as it is."""
        if not isinstance(objective, IdentityObjective):
            return objective
        return objective.through(self.surrogates(objective.surrogates))

    def __call__(self, key: Hashable, function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
        """function(*tensors); calls with one key are calls of one function. Tensors of another shape take the place of
        the last ones, whose memory becomes free.

        The function itself runs at the first call, where there is no gradient, while an earlier call's backward pass
        may still come, and always where it cannot be recorded.
        """
        with_gradient = torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
        if not with_gradient or tensors[0].device.type != self.device:
            return function(*tensors)
        kinds = tuple((one.shape, one.dtype, one.requires_grad) for one in tensors)
        recording = self.recordings.get(key)
        if recording is None or recording.kinds != kinds:
            recording = self.recordings[key] = _Recording(kinds)
        running = recording.running()
        if running is not None and not running.over:
            return function(*tensors)
        recording.calls += 1
        if recording.calls == 2:
            recording.replay = self._record(key, function, tensors)
        return recording(*tensors) if recording.replay else function(*tensors)

    def _record(self, key: Hashable, function: Function, tensors: tuple[Tensor, ...]) -> Function | None:
        try:
            return self.record(function, *tensors)
        except RuntimeError as error:  # a patch that waits for the GPU, or too little memory
            logging.warning("FaceProtect: %s cannot be recorded as a CUDA graph, and runs as it is: %s", key, error)
            return None


@dataclass(eq=False)
class _RecordedDenoiser:
    """The structure loss is part of what is recorded; any other self_attention is not."""

    denoiser: Denoiser
    recorder: Recorder

    def __call__(
        self, latent: Tensor, timestep: int, context: Tensor, self_attention: SelfAttention | None = None
    ) -> Tensor:
        if self_attention is None:
            return self._noise(latent, timestep, context)
        if isinstance(self_attention, StructureLoss):
            return self._noise_and_structure(latent, timestep, context, self_attention)
        return self.denoiser(latent, timestep, context, self_attention)

    def _noise(self, latent: Tensor, timestep: int, context: Tensor) -> Tensor:
        def predict(latent: Tensor, context: Tensor) -> tuple[Tensor, ...]:
            return (self.denoiser(latent, timestep, context),)

        (noise,) = self.recorder(f"U-Net at timestep {timestep}", predict, latent, context)
        return noise

    def _noise_and_structure(self, latent: Tensor, timestep: int, context: Tensor, structure: StructureLoss) -> Tensor:
        """The reference goes in as tensors: another photo has another one."""
        layers = list(structure.reference)

        def predict(latent: Tensor, context: Tensor, *reference: Tensor) -> tuple[Tensor, ...]:
            pairs = zip(reference[::2], reference[1::2], strict=True)
            inside = StructureLoss(dict(zip(layers, pairs, strict=True)))
            return self.denoiser(latent, timestep, context, inside), inside.loss

        reference = [one for pair in structure.reference.values() for one in pair]
        key = f"U-Net with structure loss at timestep {timestep}"
        noise, loss = self.recorder(key, predict, latent, context, *reference)
        structure.loss = structure.loss + loss
        return noise


@dataclass(eq=False)
class _RecordedCodec:
    codec: ImageCodec
    recorder: Recorder

    @property
    def light(self) -> Callable[[Tensor], Tensor] | None:
        """As it is: a few layers."""
        return getattr(self.codec, "light", None)

    def encode(self, image: Tensor) -> Tensor:
        return self.codec.encode(image)

    def decode(self, latent: Tensor) -> Tensor:
        (image,) = self.recorder("decoder", lambda latent: (self.codec.decode(latent),), latent)
        return image


class _RecordedModule(nn.Module):
    def __init__(self, module: nn.Module, recorder: Recorder, key: str):
        super().__init__()
        self.module, self.recorder, self.key = module, recorder, key

    def forward(self, image: Tensor) -> Tensor:
        (embedding,) = self.recorder(self.key, lambda image: (self.module(image),), image)
        return embedding

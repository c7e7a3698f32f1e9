"""What a node needs of the models that are connected to it: checked, wrapped, loaded and sized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ...faceprotect_core import DDIMSchedule, FRSurrogate, Trajectory
from ...faceprotect_core.method.variables import Objective
from ...faceprotect_core.protocols import Denoiser, ImageCodec
from ...faceprotect_core.speed.cuda_graphs import Recorder
from ..sockets import TrajectoryData
from .codec import codec_of
from .denoiser import ComfyDenoiser
from .gradients import gradients, no_gradients
from .memory import faces_at_once, optimization
from .models import require_same_model, schedule_of
from .supported import require_supported
from .tensors import at_work, fixed_conditioning, null_context


@dataclass(frozen=True, eq=False)
class Ready:
    """None where nothing is connected. The networks must not be used after the block.

    context: the prompt's embedding [1 or B, tokens, dim]. fixed: what SDXL is given besides.
    schedule: the model's, in 20 steps. trajectory: on the compute device.
    surrogates, objective: those that were given, as fast as the settings say.
    faces_at_once: how many crops go through the model together.
    """

    denoiser: Denoiser | None
    codec: ImageCodec | None
    context: Tensor | None
    fixed: dict
    schedule: DDIMSchedule | None
    trajectory: Trajectory | None
    surrogates: tuple[FRSurrogate, ...]
    objective: Objective | None
    faces_at_once: int

    @property
    def diffusion(self) -> tuple[Denoiser, ImageCodec, Tensor] | None:
        return None if self.denoiser is None else (self.denoiser, self.codec, self.context)


@contextmanager
def ready(
    model=None,
    vae=None,
    conditioning=None,
    *,
    where: str,
    trajectory: TrajectoryData | None = None,
    surrogates: Sequence[FRSurrogate] = (),
    objective: Objective | None = None,
    patchers: Sequence = (),
    steps: int = 0,
    size: int = 0,
) -> Iterator[Ready]:
    """Loads what is given, and lets it be used inside the server's inference mode.

    where: the node, for messages. patchers: of the surrogates and of others that are needed.
    steps: through how many steps of the model gradients go; 0 for no gradients at all.
    size: of the crops in pixels, where there is no trajectory.
    Raises ProtectionError for models of another kind, and for a trajectory or a conditioning that is of another model.
    """
    context, fixed = _prompt(model, conditioning, trajectory, where)
    denoiser = None if model is None else ComfyDenoiser(model, fixed=fixed)
    codec = None if vae is None else codec_of(vae, model)
    shape, together = (1, 4, size // 8, size // 8), 1
    if trajectory:
        require_same_model(model, trajectory.model_identity, where)
        shape = trajectory.trajectory.latents[0].shape
    elif steps and denoiser:
        together = faces_at_once(denoiser, codec, shape, steps)
        shape = (together, *shape[1:])
    if steps and denoiser:
        loaded = optimization(denoiser, codec, shape, steps, *patchers)
    else:
        models = [patcher for part in (denoiser, codec) if part for patcher in part.patchers]
        loaded = (gradients if steps else no_gradients)(*models, *patchers)
    with loaded as recorder:
        recorder = recorder or Recorder(device=None)
        yield Ready(
            denoiser and recorder.denoiser(denoiser),
            codec and recorder.codec(codec),
            context,
            fixed,
            None if model is None else schedule_of(model),
            at_work(trajectory and trajectory.trajectory),
            recorder.surrogates(surrogates),
            objective and recorder.objective(objective),
            together,
        )


def _prompt(model, conditioning, trajectory: TrajectoryData | None, where: str) -> tuple[Tensor | None, dict]:
    """The context, and what is fixed besides."""
    with torch.inference_mode(False):  # they go through autograd
        if trajectory:
            return at_work(trajectory.context), at_work(trajectory.fixed)
        if conditioning is None:
            return None, {}
        require_supported(model)
        return null_context(model, conditioning, where), fixed_conditioning(model, conditioning, where)

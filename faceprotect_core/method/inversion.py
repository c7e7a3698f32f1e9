"""DDIM inversion: from the photo's latent to a noisy latent that the model denoises back to (nearly) the same photo."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..checks import require, require_finite
from ..progress import OnStep, Step
from ..protocols import Denoiser, SelfAttention
from .schedule import DDIMSchedule

Pairing = Literal["published", "exact"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The latents of an inversion and the way back.

    Args:
        latents: depth + 1 tensors [B, C, h, w]; latents[0] is clean, latents[depth] the noisiest.
        schedule: whose timesteps the latents belong to.
        pairing: which timestep denoises which latent. "published": the release evaluates every latent one level below
            its own (the learned embeddings absorb it). "exact": the true inverse of the inversion.
    """

    latents: tuple[Tensor, ...]
    schedule: DDIMSchedule
    pairing: Pairing

    @property
    def depth(self) -> int:
        return len(self.latents) - 1

    @property
    def steps(self) -> list[tuple[int, int]]:
        """The denoising steps as (timestep, next timestep), noisiest first; a negative timestep is the clean end."""
        shift = 1 if self.pairing == "published" else 0
        levels = [self.schedule.level(index) for index in range(self.depth + 1)]
        below = [-1, *levels] if shift else levels
        return [(below[index], below[index - 1]) for index in range(self.depth, 0, -1)]

    def denoise_step(
        self,
        denoiser: Denoiser,
        latent: Tensor,
        step: int,
        context: Tensor,
        self_attention: SelfAttention | None = None,
    ) -> Tensor:
        """One DDIM step towards the photo; step 0 starts at the noisiest latent."""
        timestep, next_timestep = self.steps[step]
        noise = denoiser(latent, timestep, context, self_attention)
        return self.schedule.transfer(latent, noise, timestep, next_timestep)


@torch.no_grad()
def ddim_invert(
    denoiser: Denoiser,
    latent: Tensor,
    context: Tensor,
    schedule: DDIMSchedule,
    depth: int = 3,
    pairing: Pairing = "published",
    on_step: OnStep | None = None,
) -> Trajectory:
    """Inverts a latent by depth DDIM steps, without guidance: the start of the paper's pipeline.

    Args:
        denoiser: the U-Net.
        latent: scaled latent [B, C, h, w].
        context: the text encoder's output for the empty prompt, [1 or B, tokens, dim].
        schedule: whose timesteps are visited.
        depth: how far towards noise, 1 to schedule.num_inference_steps; the paper's 3 of 20 keeps the picture.
        pairing: which timestep denoises which latent on the way back, see `Trajectory`.
        on_step: called after every step.

    Raises:
        ProtectionError: a depth, a pairing or a shape that cannot be, or NaN from the model.
    """
    _check(latent, context, schedule, depth, pairing)
    context = expand_context(context, latent)
    latents = [latent.clone()]
    for index in range(depth):
        timestep, next_timestep = schedule.level(index), schedule.level(index + 1)
        noise = denoiser(latents[-1], timestep, context)
        latents.append(schedule.transfer(latents[-1], noise, timestep, next_timestep))
        if on_step:
            on_step(Step("inversion", index + 1, depth))
    require_finite(latents[-1], "DDIM Inversion: the inverted latent", "run the model in float32 or bfloat16")
    return Trajectory(tuple(latents), schedule, pairing)


def expand_context(context: Tensor, latent: Tensor) -> Tensor:
    """One context for every image of the batch: [1 or B, tokens, dim] -> [B, tokens, dim]."""
    require(
        context.ndim == 3 and context.shape[0] in (1, latent.shape[0]),
        f"the null context must be [1 or {latent.shape[0]}, tokens, dim], got {list(context.shape)}",
        "connect the conditioning of the empty prompt (CLIP Text Encode with no text)",
    )
    return context.expand(latent.shape[0], -1, -1)


def _check(latent: Tensor, context: Tensor, schedule: DDIMSchedule, depth: int, pairing: str) -> None:
    require(
        latent.ndim == 4 and latent.numel() > 0,
        f"DDIM Inversion expects a latent [batch, channels, height, width], got {list(latent.shape)}",
        "connect the output of VAE Encode",
    )
    require_finite(latent, "the latent given to DDIM Inversion", "encode the photo again; its VAE may have overflowed")
    require_finite(context, "the context given to DDIM Inversion", "run the text encoder in float32")
    require(
        1 <= depth <= schedule.num_inference_steps,
        f"DDIM Inversion: depth must be 1 to {schedule.num_inference_steps}, got {depth}",
        "use 3, the paper's value",
    )
    require(
        pairing in ("published", "exact"),
        f'DDIM Inversion: pairing must be "published" or "exact", got {pairing!r}',
        'use "published" to repeat the paper, "exact" otherwise',
    )

"""The work of the published release, written from its description alone: what it computes and throws away is computed
here too, and the result is the core's."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from faceprotect_core import IdentityObjective, ddim_invert, learn_null_text
from faceprotect_core.attention import attention_maps
from faceprotect_core.inversion import Trajectory
from faceprotect_core.model import Denoiser, ImageCodec
from faceprotect_core.schedule import DDIMSchedule

INVERSION_STEPS, DEPTH = 19, 3


@dataclass
class HeldMaps:
    """Self-attention whose maps are all held: those of the unchanged and of the changed image, of a batch of four."""

    differences: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        maps = attention_maps(query, key)
        self.differences.append((maps[1] - maps[0].detach()).square().mean())
        return maps @ value


def protect_as_released(
    denoiser: Denoiser,
    codec: ImageCodec,
    image: Tensor,
    context: Tensor,
    objective: IdentityObjective,
    schedule: DDIMSchedule,
    null_text_iterations: int,
    iterations: int,
) -> Tensor:
    """[1, 3, H, W] in [0, 1] -> the protected image [1, 3, H, W], clamped to [0, 1]."""
    inverted = ddim_invert(denoiser, codec.encode(image), context, schedule, INVERSION_STEPS)
    trajectory = Trajectory(inverted.latents[: DEPTH + 1], schedule, "published")
    embeddings = learn_null_text(denoiser, trajectory, context, null_text_iterations)
    unchanged = trajectory.latents[-1]
    with torch.no_grad():  # once more after the last embedding, for nothing
        trajectory.denoise_step(denoiser, unchanged, DEPTH - 1, embeddings[-1])
    latent = unchanged.clone().requires_grad_()
    optimizer = torch.optim.AdamW([latent], lr=0.01)
    for _ in range(iterations):
        images, structure = _both(denoiser, codec, trajectory, embeddings, torch.cat([unchanged, latent]))
        loss = 0.003 * objective(images[1:]).sum() + structure
        (latent.grad,) = torch.autograd.grad(loss, latent)
        optimizer.step()
    with torch.no_grad():
        images, _ = _both(denoiser, codec, trajectory, embeddings, torch.cat([unchanged, latent]))
    return images[1:].clamp(0.0, 1.0)


def _both(denoiser, codec, trajectory: Trajectory, embeddings: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The unchanged and the changed latent [2, C, h, w] -> both images, and the structure loss."""
    structure = 0.0
    for step, (timestep, next_timestep) in enumerate(trajectory.steps):
        maps = HeldMaps()
        context = embeddings[step].expand(4, -1, -1)
        noise = denoiser(torch.cat([latents, latents]), timestep, context, maps)[:2]
        latents = trajectory.schedule.transfer(latents, noise, timestep, next_timestep)
        structure = structure + sum(maps.differences)
    return codec.decode(latents), structure

"""The work of the published release, written from a description of what it computes: what it computes and throws away
is computed here too, with plain autograd throughout, and the result is the core's."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from faceprotect_core import DDIMSchedule, IdentityObjective, ProtectionResult
from faceprotect_core.progress import OnStep, Step
from faceprotect_core.protocols import Denoiser, ImageCodec

INVERSION_STEPS, DEPTH = 19, 3
IDENTITY_WEIGHT = 0.003


def protect_as_released(
    denoiser: Denoiser,
    codec: ImageCodec,
    image: Tensor,
    context: Tensor,
    objective: IdentityObjective,
    schedule: DDIMSchedule,
    null_text_iterations: int = 20,
    iterations: int = 35,
    on_step: OnStep | None = None,
) -> ProtectionResult:
    """One photo [1, 3, H, W] in [0, 1]; its result has no history.

    on_step: called as by `protect`, without losses and images.
    """
    report = on_step or (lambda event: None)
    latents = _invert(denoiser, codec.encode(image), context, schedule, report)
    sampling = Sampling(denoiser, schedule, latents[: DEPTH + 1])
    embeddings = _learn_null_text(sampling, context, null_text_iterations, report)
    return _attack(sampling, codec, embeddings, objective, iterations, report)


@torch.no_grad()
def _invert(denoiser: Denoiser, latent: Tensor, context: Tensor, schedule: DDIMSchedule, report: OnStep):
    """The latents of all noise levels, of which the first DEPTH + 1 are used."""
    latents = [latent]
    for index in range(INVERSION_STEPS):
        timestep, next_timestep = schedule.level(index), schedule.level(index + 1)
        noise = denoiser(latents[-1], timestep, context)
        latents.append(schedule.transfer(latents[-1], noise, timestep, next_timestep))
        report(Step("inversion", index + 1, INVERSION_STEPS))
    return latents


@dataclass
class Sampling:
    """The way back, each step one noise level below the latent it starts from. latents: the cleanest first."""

    denoiser: Denoiser
    schedule: DDIMSchedule
    latents: list[Tensor]

    def timesteps(self, step: int) -> tuple[int, int]:
        level = DEPTH - 1 - step
        return self.schedule.level(level), self.schedule.level(level - 1) if level else -1

    def step(self, latent: Tensor, step: int, embedding: Tensor) -> Tensor:
        timestep, next_timestep = self.timesteps(step)
        return self.schedule.transfer(latent, self.denoiser(latent, timestep, embedding), timestep, next_timestep)

    def step_of_pair(self, pair: Tensor, step: int, embedding: Tensor, maps: _HeldMaps | None) -> Tensor:
        """[unchanged, changed] -> the same one step on, from a batch of four whose second half is discarded."""
        timestep, next_timestep = self.timesteps(step)
        noise = self.denoiser(torch.cat([pair, pair]), timestep, embedding.expand(4, -1, -1), maps)
        return self.schedule.transfer(pair, noise.chunk(2)[0], timestep, next_timestep)


def _learn_null_text(sampling: Sampling, context: Tensor, iterations: int, report: OnStep) -> list[Tensor]:
    """One AdamW and one embedding for all steps."""
    embedding = context.clone().requires_grad_()
    optimizer = torch.optim.AdamW([embedding], lr=0.1)
    latent, embeddings = sampling.latents[DEPTH], []
    for step in range(DEPTH):
        target = sampling.latents[DEPTH - 1 - step]
        for iteration in range(iterations):
            optimizer.zero_grad()
            F.mse_loss(sampling.step(latent, step, embedding), target).backward()
            optimizer.step()
            report(Step("null_text", step * iterations + iteration + 1, DEPTH * iterations))
        embeddings.append(embedding.detach().clone())
        with torch.no_grad():  # after the last step too, where nothing needs it
            latent = sampling.step(latent, step, embeddings[-1])
    return embeddings


@dataclass
class _HeldMaps:
    """Self-attention whose maps [4, heads, tokens, tokens] are held until the loss is computed."""

    maps: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape = query.shape
        query, key = query.flatten(0, 1), key.flatten(0, 1)
        nothing = query.new_empty(1, 1, 1)
        scores = torch.baddbmm(nothing, query, key.transpose(1, 2), beta=0, alpha=shape[-1] ** -0.5)
        maps = scores.softmax(-1).unflatten(0, shape[:2])
        self.maps.append(maps)
        return maps @ value

    def structure(self) -> Tensor:
        """The changed image's maps against the unchanged one's: a layer's mean, summed over layers and steps."""
        return torch.stack([F.mse_loss(changed, unchanged) for unchanged, changed, _, _ in self.maps]).sum()


def _attack(
    sampling: Sampling,
    codec: ImageCodec,
    embeddings: list[Tensor],
    objective: IdentityObjective,
    iterations: int,
    report: OnStep,
) -> ProtectionResult:
    unchanged = sampling.latents[DEPTH]
    latent = unchanged.clone().requires_grad_()
    optimizer = torch.optim.AdamW([latent], lr=0.01)
    for iteration in range(iterations):
        loss = latent_loss(sampling, codec, unchanged, latent, embeddings, objective)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(Step("protection", iteration + 1, iterations))
    with torch.no_grad():
        decoded_latent = _denoise_pair(sampling, unchanged, latent, embeddings, None)[1:]
        image = codec.decode(decoded_latent)
    return ProtectionResult(image.clamp(0.0, 1.0), latent.detach(), decoded_latent, {})


def latent_loss(
    sampling: Sampling,
    codec: ImageCodec,
    unchanged: Tensor,
    latent: Tensor,
    embeddings: list[Tensor],
    objective: IdentityObjective,
) -> Tensor:
    """Of one iteration."""
    maps = _HeldMaps()
    images = codec.decode(_denoise_pair(sampling, unchanged, latent, embeddings, maps))
    return IDENTITY_WEIGHT * objective(images[1:]).sum() + maps.structure()


def _denoise_pair(
    sampling: Sampling, unchanged: Tensor, latent: Tensor, embeddings: list[Tensor], maps: _HeldMaps | None
) -> Tensor:
    pair = torch.cat([unchanged, latent])
    for step in range(DEPTH):
        pair = sampling.step_of_pair(pair, step, embeddings[step], maps)
    return pair

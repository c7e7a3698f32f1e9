"""Null-text embedding learning: unconditional embeddings that keep the photo's detail through the denoising."""

import torch
from torch import Tensor

from ..checks import require, require_finite
from ..progress import OnStep, Step
from ..protocols import Denoiser
from .adamw import AdamW
from .inversion import Trajectory, expand_context


@torch.enable_grad()
def learn_null_text(
    denoiser: Denoiser,
    trajectory: Trajectory,
    context: Tensor,
    iterations: int = 20,
    lr: float = 0.1,
    on_step: OnStep | None = None,
) -> Tensor:
    """Learns one unconditional embedding per denoising step (the paper's first stage; Mokady et al. 2023).

    At every step, from the noisiest on, the embedding is fitted so that the denoised latent meets the latent of the
    inversion: min over e of ||z_(t-1) - step(z_t, t, e)||^2 (mean). As in the release, one AdamW and one embedding go
    through all steps: each step starts from the last one's embedding and keeps the moments.

    Args:
        denoiser: the U-Net.
        trajectory: of `ddim_invert`.
        context: the null context [1 or B, tokens, dim], where learning starts.
        iterations: of each step; with 0 the context is returned as it is.
        lr: of AdamW.
        on_step: called after every iteration, with the loss of each image.

    Returns:
        Embeddings [depth, B, tokens, dim], noisiest step first.

    Raises:
        ProtectionError: negative settings, or a loss that becomes NaN.
    """
    require(
        iterations >= 0 and lr > 0,
        f"Null-Text Embedding Learner: iterations must not be negative and lr must be positive, got {iterations}, {lr}",
        "use 20 iterations with a learning rate of 0.1, the paper's values",
    )
    latent = trajectory.latents[-1].detach().clone()
    embedding = expand_context(context, latent).detach().clone().to(latent.dtype).requires_grad_()
    optimizer = AdamW(embedding, lr)
    embeddings = []
    for step in range(trajectory.depth):
        target = trajectory.latents[trajectory.depth - 1 - step]
        for iteration in range(iterations):
            denoised = trajectory.denoise_step(denoiser, latent, step, embedding)
            loss = (denoised - target).square().flatten(1).mean(1)
            _check_loss(loss, step)
            (gradient,) = torch.autograd.grad(loss.sum(), embedding)
            optimizer.step(gradient)
            if on_step:
                number, losses = step * iterations + iteration + 1, {"null_text": loss.tolist()}
                on_step(Step("null_text", number, trajectory.depth * iterations, losses))
        embeddings.append(embedding.detach().clone())
        if step + 1 < trajectory.depth:
            with torch.no_grad():
                latent = trajectory.denoise_step(denoiser, latent, step, embeddings[-1])
    return torch.stack(embeddings)


def _check_loss(loss: Tensor, step: int) -> None:
    require_finite(
        loss,
        f"Null-Text Embedding Learner: the loss of denoising step {step}",
        "run the model in float32 or bfloat16 (float16 overflows here), or lower lr",
    )

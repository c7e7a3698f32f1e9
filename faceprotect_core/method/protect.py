"""The whole paper on one screen."""

from torch import Tensor

from ..checks import require_image
from ..protocols import Denoiser, ImageCodec
from .attention import capture_self_attention
from .inversion import OnStep, Pairing, ddim_invert
from .null_text import learn_null_text
from .optimizer import Objective, Output, ProtectionResult, optimize_latent
from .schedule import DDIMSchedule


def protect(
    denoiser: Denoiser,
    codec: ImageCodec,
    image: Tensor,
    context: Tensor,
    objective: Objective,
    *,
    schedule: DDIMSchedule | None = None,
    depth: int = 3,
    pairing: Pairing = "published",
    null_text_iterations: int = 20,
    null_text_lr: float = 0.1,
    structure: bool = True,
    iterations: int = 35,
    lr: float = 0.01,
    objective_weight: float = 0.003,
    output: Output = "published",
    mask: Tensor | None = None,
    fidelity_weight: float = 0.0,
    keep_colours: bool = False,
    early_stop: bool = False,
    start: Tensor | None = None,
    on_step: OnStep | None = None,
) -> ProtectionResult:
    """Protects a photo from face recognition: "Enhancing Facial Privacy Protection via Weakening Diffusion
    Purification" (CVPR 2025). The defaults are the paper's settings.

    Args:
        denoiser: the U-Net.
        codec: the autoencoder.
        image: [B, 3, H, W] in [0, 1], height and width multiples of 8.
        context: the empty prompt's embedding [1 or B, tokens, dim].
        objective: an IdentityObjective, or image [B, 3, H, W] -> loss [B].
        schedule: None for that of Stable Diffusion, with 20 steps.
        structure: False leaves the structure loss out.
        The others: see `ddim_invert`, `learn_null_text` and `optimize_latent`.

    Raises:
        ProtectionError: shapes or settings that cannot be, or NaN on the way.
    """
    require_image(image, "protect")
    schedule = schedule or DDIMSchedule.scaled_linear()
    latent = codec.encode(image)
    trajectory = ddim_invert(denoiser, latent, context, schedule, depth, pairing, on_step)
    embeddings = learn_null_text(denoiser, trajectory, context, null_text_iterations, null_text_lr, on_step)
    reference = capture_self_attention(denoiser, trajectory, embeddings, on_step) if structure else None
    return optimize_latent(
        denoiser,
        codec,
        trajectory,
        embeddings,
        objective,
        structure=reference,
        iterations=iterations,
        lr=lr,
        objective_weight=objective_weight,
        output=output,
        image=image if output == "detail" else None,
        mask=mask,
        fidelity_weight=fidelity_weight,
        keep_colours=keep_colours,
        early_stop=early_stop,
        start=start,
        on_step=on_step,
    )

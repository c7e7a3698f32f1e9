"""The whole paper on one screen: what is done once for a photo, and what can then be repeated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..checks import require, require_image
from ..progress import OnStep
from ..protocols import Denoiser, ImageCodec
from .attention import SelfAttentionReference, capture_self_attention
from .inversion import Pairing, Trajectory, ddim_invert
from .null_text import learn_null_text
from .optimizer import Objective, Output, ProtectionResult, optimize_latent
from .schedule import DDIMSchedule

SMALL_STEP, SMALL_STEPS = 0.02, 5 / 3  # learning rate; how many for one larger step


@dataclass(frozen=True)
class Settings:
    """The knobs of the method; the defaults are the paper's published values.

    depth, pairing: see `ddim_invert`. null_text_iterations, null_text_lr: see `learn_null_text`. structure: whether the
    self-attention holds the structure. The others: see `optimize_latent`.
    """

    depth: int = 3
    pairing: Pairing = "published"
    null_text_iterations: int = 20
    null_text_lr: float = 0.1
    structure: bool = True
    iterations: int = 35
    lr: float = 0.01
    objective_weight: float = 0.003
    output: Output = "published"
    fidelity_weight: float = 0.0
    keep_colours: bool = False
    early_stop: bool = False

    @property
    def in_small_steps(self) -> Settings:
        """The same way in steps of at most 0.02: five for three of the presets' larger ones, as was measured."""
        if self.lr <= SMALL_STEP:
            return self
        return replace(self, lr=SMALL_STEP, iterations=round(SMALL_STEPS * self.iterations))


PAPER = Settings()
# What `prepare` makes of a photo depends on these; it only leaves out the structure where that is not wanted.
PREPARATION = ("depth", "pairing", "null_text_iterations", "null_text_lr")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo that is ready to be optimised, as often as you like.

    photo: [B, 3, H, W] in [0, 1]. trajectory: of its latent. embeddings: [depth, B, tokens, dim].
    structure: the unchanged run's self-attention; None where `prepare` was told to leave it out.
    """

    photo: Tensor
    trajectory: Trajectory
    embeddings: Tensor
    structure: SelfAttentionReference | None

    def optimize(
        self,
        denoiser: Denoiser,
        codec: ImageCodec,
        objective: Objective,
        settings: Settings = PAPER,
        *,
        mask: Tensor | None = None,
        start: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> ProtectionResult:
        """The paper's second stage, see `optimize_latent`. settings: those of the preparation are not looked at again.

        Raises ProtectionError when the structure is wanted and was not captured, and what `optimize_latent` raises.
        """
        return optimize_latent(
            denoiser,
            codec,
            self.trajectory,
            self.embeddings,
            objective,
            structure=self.held(settings),
            iterations=settings.iterations,
            lr=settings.lr,
            objective_weight=settings.objective_weight,
            output=settings.output,
            image=self.photo,
            mask=mask,
            fidelity_weight=settings.fidelity_weight,
            keep_colours=settings.keep_colours,
            early_stop=settings.early_stop,
            start=start,
            on_step=on_step,
        )

    def held(self, settings: Settings) -> SelfAttentionReference | None:
        """What the structure loss holds to; None where the settings leave it out."""
        require(
            self.structure is not None or not settings.structure,
            "the settings want the structure to be held, and the photo was prepared without it",
            "prepare the photo with structure=True, or optimise it with structure=False",
        )
        return self.structure if settings.structure else None


def prepare(
    denoiser: Denoiser,
    codec: ImageCodec,
    image: Tensor,
    context: Tensor,
    settings: Settings = PAPER,
    *,
    schedule: DDIMSchedule | None = None,
    on_step: OnStep | None = None,
) -> Prepared:
    """The paper's first stage: inverts a photo, learns its null-text embeddings and captures its structure.

    image: [B, 3, H, W] in [0, 1], height and width multiples of 8. context: the empty prompt's embedding
    [1 or B, tokens, dim]. schedule: None for that of Stable Diffusion 1.x and 2.x.
    Raises ProtectionError for an image or settings that cannot be, and when the model returns NaN.
    """
    require_image(image, "protect")
    schedule = schedule or DDIMSchedule.scaled_linear()
    latent = codec.encode(image)
    trajectory = ddim_invert(denoiser, latent, context, schedule, settings.depth, settings.pairing, on_step)
    iterations, lr = settings.null_text_iterations, settings.null_text_lr
    embeddings = learn_null_text(denoiser, trajectory, context, iterations, lr, on_step)
    structure = capture_self_attention(denoiser, trajectory, embeddings, on_step) if settings.structure else None
    return Prepared(image, trajectory, embeddings, structure)


def protect(
    denoiser: Denoiser,
    codec: ImageCodec,
    image: Tensor,
    context: Tensor,
    objective: Objective,
    *,
    schedule: DDIMSchedule | None = None,
    depth: int = PAPER.depth,
    pairing: Pairing = PAPER.pairing,
    null_text_iterations: int = PAPER.null_text_iterations,
    null_text_lr: float = PAPER.null_text_lr,
    structure: bool = PAPER.structure,
    iterations: int = PAPER.iterations,
    lr: float = PAPER.lr,
    objective_weight: float = PAPER.objective_weight,
    output: Output = PAPER.output,
    mask: Tensor | None = None,
    fidelity_weight: float = PAPER.fidelity_weight,
    keep_colours: bool = PAPER.keep_colours,
    early_stop: bool = PAPER.early_stop,
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
    settings = Settings(
        depth=depth, pairing=pairing, null_text_iterations=null_text_iterations, null_text_lr=null_text_lr,
        structure=structure, iterations=iterations, lr=lr, objective_weight=objective_weight, output=output,
        fidelity_weight=fidelity_weight, keep_colours=keep_colours, early_stop=early_stop,
    )  # fmt: skip
    prepared = prepare(denoiser, codec, image, context, settings, schedule=schedule, on_step=on_step)
    return prepared.optimize(denoiser, codec, objective, settings, mask=mask, start=start, on_step=on_step)

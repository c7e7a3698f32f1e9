"""The semantic variable: what the U-Net makes of a photo is changed at its bottleneck, and the noisy latent stays.

After DiffProtect (Liu et al., arXiv 2305.13625), which moves the semantic code of a diffusion autoencoder within an
L-infinity ball. A latent diffusion model has no such code; nearest to it is the output of the U-Net's middle block
(h-space; Kwon et al., ICLR 2023). Not from the paper; the loop is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from ...checks import require
from ...progress import OnStep
from ...protocols import Bottleneck, BottleneckDenoiser, ImageCodec
from ..optimizer import NoisyLatent, check_output
from ..protect import Prepared, Settings
from ..variables import Objective, Optimised, Rendering, optimize, weight_of

WHERE = "Semantic Offset"
SPREAD = 0.01  # standard deviation of the start, before tanh: at 0 a photo that should be left has no gradient


@dataclass(frozen=True)
class SemanticSettings(Settings):
    """How far the bottleneck may be moved, and the knobs of `Settings`.

    Args:
        bound: of every value of the offset, in standard deviations of the photo's own bottleneck, so that it means the
            same for every model. The default is what suffices with the demo model; DiffProtect's release bounds its
            code by 0.02, which changes nothing here (docs/RESULTS.md).
        lr: of AdamW.
        seed: of the start.
    """

    lr: float = 0.05
    bound: float = 200.0
    seed: int = 0

    @classmethod
    def like(cls, settings: Settings) -> SemanticSettings:
        """The knobs of the latent in small steps, which it needs (docs/RESULTS.md), with a learning rate of its own."""
        return cls(**asdict(settings.in_small_steps) | {"lr": cls.lr})


class BottleneckOffset:
    """The variable: [B, channels, h, w] like the bottleneck, any real numbers -> the photo denoised with an offset.

    Added in each step: bound * s * tanh(value), where s is the standard deviation of the unchanged run's bottleneck at
    that step, over channels and places. 0 is the unchanged run. In the first step nothing before the middle block
    changes, and no gradient goes there.
    """

    losses = NoisyLatent.losses

    def __init__(self, unchanged: NoisyLatent, bound: float, seed: int):
        """unchanged: the run that is moved, over a BottleneckDenoiser."""
        self.unchanged, self.bound = unchanged, bound
        seen = self._bottlenecks()
        self.spreads = [one.std((1, 2, 3), keepdim=True) for one in seen]
        start = SPREAD * torch.randn(1, *seen[0].shape[1:], generator=torch.Generator().manual_seed(seed))
        self.start = start.to(seen[0]).repeat(len(seen[0]), 1, 1, 1)

    @torch.no_grad()
    def _bottlenecks(self) -> list[Tensor]:
        """What the middle block gives at every step of the unchanged run, in the latent's precision."""
        seen: list[Tensor] = []

        def look(bottleneck: Tensor) -> Tensor:
            seen.append(bottleneck.to(self.unchanged.start.dtype))
            return bottleneck

        self._denoise([look] * self.unchanged.trajectory.depth)
        return seen

    def render(self, value: Tensor) -> Rendering:
        offset = self.bound * value.tanh()
        moved = [partial(_moved, offset=spread * offset) for spread in self.spreads]
        return self.unchanged.shown(*self._denoise(moved))

    def _denoise(self, bottlenecks: Sequence[Bottleneck]) -> tuple[Tensor, Tensor]:
        run = self.unchanged
        return run.denoise(run.start, [partial(run.denoiser, bottleneck=one) for one in bottlenecks])


def _moved(bottleneck: Tensor, offset: Tensor) -> Tensor:
    return bottleneck + offset.to(bottleneck.dtype)


def protect_by_semantics(
    denoiser: BottleneckDenoiser,
    codec: ImageCodec,
    prepared: Prepared,
    objective: Objective,
    settings: SemanticSettings | None = None,
    *,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Optimised:
    """Change a prepared photo by an offset in the U-Net's bottleneck, by AdamW and no further than the bound.

    Args:
        denoiser: the U-Net that the photo was prepared with.
        codec: the autoencoder.
        prepared: of `prepare`; its own settings are not looked at again.
        objective: image [B, 3, H, W] -> loss [B], as IdentityObjective.
        mask: [1 or B, 1, H, W] in [0, 1], where "detail" may change the photo; where it is 0, pixels stay bit-equal.
        start: the `value` of an earlier run, to go on from there.
        on_step: called after every iteration.

    Returns:
        `.rendering.image`: [B, 3, H, W]; "published" as decoded, unclamped. `.value`: [B, channels, h, w] like the
        bottleneck. `.history`: "identity" and "structure".

    Raises:
        ProtectionError: settings out of range or that do not go together, or NaN on the way.
    """
    settings = settings or SemanticSettings()
    require(
        0.0 < settings.bound < math.inf,
        f"{WHERE}: bound is {settings.bound}",
        "use a number above 0: how many standard deviations of the bottleneck a value may move",
    )
    check_output(settings.output, prepared.photo, mask, settings.keep_colours, WHERE)
    photo = prepared.photo if settings.output == "detail" else None
    unchanged = NoisyLatent(
        denoiser, codec, prepared.trajectory, prepared.embeddings, prepared.held(settings), photo, mask,
        settings.objective_weight * weight_of(objective) * settings.fidelity_weight, settings.keep_colours,
    )  # fmt: skip
    return optimize(
        BottleneckOffset(unchanged, settings.bound, settings.seed),
        objective,
        iterations=settings.iterations,
        lr=settings.lr,
        objective_weight=settings.objective_weight,
        start=start,
        early_stop=settings.early_stop,
        on_step=on_step,
        where=WHERE,
    )

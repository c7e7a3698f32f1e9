"""Light and shade: the photo's own lightness is changed, coarsely, until recognisers see somebody else.

No diffusion model: the variable is one plane of lightness changes, far coarser than the photo, that is enlarged and
added to red, green and blue alike, so that the photo keeps its colours. Not from the paper; the loop is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require, require_image
from ..progress import OnStep
from .restraint.fidelity import Fidelity
from .variables import Objective, Optimised, Optimizer, Rendering, optimize, weight_of

WHERE = "Light and Shade"
AMPLITUDE = 0.05  # of the image's range, for a value of 1: AdamW's steps are as large whatever the loss
SPREAD = 0.3  # standard deviation of the start: at 0 a photo that should be left has no gradient
SMALLEST, LARGEST = 4, 256  # values along each side of the plane


@dataclass(frozen=True)
class LightAndShadeSettings:
    """How the light may change; measured in docs/RESULTS.md.

    Args:
        grid: values along each side of the plane. Finer protects a little more and looks patchier.
        iterations: of AdamW.
        lr: of AdamW.
        fidelity_weight: of `Fidelity`, beside the identity loss of a recogniser (times how many there are). More is
            seen less, and protects less.
        seed: of the start.
    """

    grid: int = 64
    iterations: int = 45
    lr: float = 0.25
    fidelity_weight: float = 1.0
    seed: int = 0


class LightAndShade:
    """The variable: [B, 1, grid, grid], any real numbers -> the photo with another light.

    photo + 0.05 * mask * the plane, enlarged by bicubic interpolation, clamped to [0, 1].
    """

    losses: tuple[str, ...] = ("fidelity",)

    def __init__(self, photo: Tensor, mask: Tensor | None, settings: LightAndShadeSettings, weight: float = 1.0):
        """photo: [B, 3, H, W] in [0, 1]. mask: [1 or B, 1, H, W] in [0, 1]; where it is 0, pixels stay bit-equal.
        weight: of the objective that the fidelity stands beside, see `weight_of`."""
        self.photo, self.settings = photo, settings
        self.mask = torch.ones_like(photo[:, :1]) if mask is None else mask.to(photo).expand(len(photo), -1, -1, -1)
        generator = torch.Generator().manual_seed(settings.seed)
        start = SPREAD * torch.randn(1, 1, settings.grid, settings.grid, generator=generator)
        self.start = start.to(photo).repeat(len(photo), 1, 1, 1)
        self.fidelity, self.fidelity_weight = Fidelity(photo, self.mask), weight * settings.fidelity_weight

    def change(self, value: Tensor) -> Tensor:
        """[B, 1, H, W]: what is added to each channel, before clamping."""
        plane = F.interpolate(value, self.photo.shape[-2:], mode="bicubic", align_corners=False)
        return AMPLITUDE * self.mask * plane

    def lit(self, value: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1]: the photo with another light."""
        return torch.where(self.mask > 0, (self.photo + self.change(value)).clamp(0.0, 1.0), self.photo)

    def render(self, value: Tensor) -> Rendering:
        image = self.lit(value)
        return Rendering(image, {"fidelity": self.fidelity_weight * self.fidelity(image)})


def protect_by_light(
    photo: Tensor,
    objective: Objective,
    settings: LightAndShadeSettings | None = None,
    *,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    early_stop: bool = False,
    optimizer: Callable[[Tensor], Optimizer] | None = None,
    on_step: OnStep | None = None,
) -> Optimised:
    """Change a photo's light and shade until the objective is met, as far as the fidelity to the photo allows.

    Args:
        photo: [B, 3, H, W] in [0, 1], the untouched photo.
        objective: image [B, 3, H, W] -> loss [B], as IdentityObjective.
        mask: [1 or B, 1, H, W] in [0, 1], where the photo may change; bit-equal where it is 0.
        start: the `value` of an earlier run, to go on from there.
        early_stop, optimizer, on_step: see `optimize`.

    Returns:
        `.rendering.image`: [B, 3, H, W] in [0, 1]. `.value`: [B, 1, grid, grid]. `.history`: "identity" and "fidelity".

    Raises:
        ProtectionError: settings out of range, a mask of another size, NaN in the photo or a loss.
    """
    settings = settings or LightAndShadeSettings()
    _check(photo, mask, settings)
    return optimize(
        LightAndShade(photo, mask, settings, weight_of(objective)),
        objective,
        iterations=settings.iterations,
        lr=settings.lr,
        start=start,
        early_stop=early_stop,
        optimizer=optimizer,
        on_step=on_step,
        where=WHERE,
    )


def _check(photo: Tensor, mask: Tensor | None, settings: LightAndShadeSettings) -> None:
    require_image(photo, WHERE)
    require(
        SMALLEST <= settings.grid <= LARGEST,
        f"{WHERE}: grid is {settings.grid}",
        f"use a number of values from {SMALLEST} to {LARGEST}; 64 is what was measured",
    )
    require(
        0 <= settings.fidelity_weight < float("inf"),
        f"{WHERE}: fidelity_weight is {settings.fidelity_weight}",
        "use 1, less to protect more, or more to be seen less",
    )
    require(
        mask is None or (mask.ndim == 4 and mask.shape[-2:] == photo.shape[-2:] and len(mask) in (1, len(photo))),
        f"{WHERE}: the mask is {list(getattr(mask, 'shape', ()))}, the photo {list(photo.shape)}",
        "draw the mask on the very photo that is connected",
    )
    require(
        mask is None or bool((mask.flatten(1).amax(1) > 0).all()),
        f"{WHERE}: the mask is empty, so nothing may change",
        "draw over the whole face, or disconnect the mask",
    )

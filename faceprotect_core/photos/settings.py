"""How hard to protect a photo, and by which way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

from ..method.inversion import Pairing
from ..method.light_and_shade import LightAndShadeSettings

Way = Literal["light and shade", "diffusion"]
LIGHT: Way = "light and shade"
DIFFUSION: Way = "diffusion"
BUILT_IN_SURROGATES, BUILT_IN_JUDGE = ("mobilefacenet", "faceres", "mobileface"), "dlib_resnet"
# Of the loss of each; another network counts 1. With these the three are fooled about equally far (docs/RESULTS.md).
WEIGHTS = {"mobilefacenet": 1.0, "faceres": 1.3, "mobileface": 2.4}
FURTHER_MARGIN, FURTHER_STRENGTH = 0.15, 1.4  # a further try: added to the margin, and times the strength


@dataclass(frozen=True)
class PhotoSettings:
    """How hard to protect.

    way: "light and shade" needs no diffusion model; "diffusion" is the paper's method.
    size: of the crop around each face in pixels; 256 for the demo model, 512 for Stable Diffusion.
    margin: how far past its verification threshold the least-fooled surrogate must be on the crop, in its metric's
        units. What goes further is taken back.
    iterations, lr: of the optimiser.
    steepness, jitter: see `IdentityObjective`; jitter is the number of slightly wrong alignments.
    tries: how often the judge may be asked. After the first a face that it still knows is pushed further, from where
        it stopped.
    grid, strength, likeness_weight: of light and shade.
    depth, pairing, null_text_iterations, null_text_lr, objective_weight, fidelity_weight, keep_colours: of diffusion,
        see `protect`.
    """

    way: Way = LIGHT
    size: int = 256
    margin: float = 0.1
    iterations: int = LightAndShadeSettings.iterations
    lr: float = LightAndShadeSettings.lr
    steepness: float = 6.0
    jitter: int = 1
    tries: int = 2
    grid: int = LightAndShadeSettings.grid
    strength: float = LightAndShadeSettings.strength
    likeness_weight: float = LightAndShadeSettings.likeness_weight
    depth: int = 1
    pairing: Pairing = "exact"
    null_text_iterations: int = 10
    null_text_lr: float = 0.1
    objective_weight: float = 0.003
    fidelity_weight: float = 1.5
    keep_colours: bool = False

    @property
    def light(self) -> LightAndShadeSettings:
        """The settings of light and shade."""
        names = ("grid", "strength", "iterations", "lr", "likeness_weight")
        return LightAndShadeSettings(**{name: getattr(self, name) for name in names})

    @property
    def method(self) -> dict:
        """The settings that are arguments of `protect`."""
        others = ("way", "size", "margin", "steepness", "jitter", "tries", "grid", "strength", "likeness_weight")
        return {name: value for name, value in asdict(self).items() if name not in others}

    @property
    def further(self) -> PhotoSettings:
        """The settings for a face that the judge still knows: it is pushed further."""
        return replace(
            self,
            margin=self.margin + FURTHER_MARGIN,
            iterations=(self.iterations + 1) // 2,
            strength=self.strength * FURTHER_STRENGTH,
            fidelity_weight=self.fidelity_weight / FURTHER_STRENGTH**2,
        )


_DIFFUSION = PhotoSettings(way=DIFFUSION, iterations=40, lr=0.02)
# Measured with the built-in model, on which more depth than 1 costs time and gains nothing; "strong" has the paper's.
PRESETS: dict[Way, dict[str, PhotoSettings]] = {
    LIGHT: {
        "fast": PhotoSettings(iterations=20, lr=0.25, margin=0.08),
        "balanced": PhotoSettings(),
        "strong": PhotoSettings(iterations=120, margin=0.4, strength=14.0),
    },
    DIFFUSION: {
        "fast": replace(_DIFFUSION, null_text_iterations=5, iterations=20, lr=0.03, fidelity_weight=1.0),
        "balanced": _DIFFUSION,
        "strong": replace(
            _DIFFUSION, depth=3, null_text_iterations=20, iterations=60, fidelity_weight=0.5, margin=0.15
        ),
    },
}

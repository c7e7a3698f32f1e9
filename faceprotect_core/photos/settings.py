"""How hard to protect a photo, and by which way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..method.light_and_shade import LightAndShadeSettings
from ..method.protect import Settings

Way = Literal["light and shade", "diffusion"]
LIGHT: Way = "light and shade"
DIFFUSION: Way = "diffusion"
BUILT_IN_SURROGATES, BUILT_IN_JUDGE = ("mobilefacenet", "faceres", "mobileface"), "dlib_resnet"
# Of the loss of each; another network counts 1. With these the three are fooled about equally far (docs/RESULTS.md).
WEIGHTS = {"mobilefacenet": 1.0, "faceres": 1.3, "mobileface": 2.4}
FURTHER_MARGIN, FURTHER_FIDELITY = 0.1, 0.5  # a further try: added to the margin, and times the fidelity_weight
LOOKS = 4  # of the network of instant, the first of which needs no gradient
# Measured with the built-in model, on which more depth than 1 costs time and gains nothing; "strong" has the paper's.
DIFFUSED = Settings(
    depth=1, pairing="exact", null_text_iterations=10, iterations=24, lr=0.1, fidelity_weight=0.3, output="detail",
    keep_colours=True,
)  # fmt: skip


@dataclass(frozen=True)
class PhotoSettings:
    """How hard to protect.

    way: "light and shade" needs no diffusion model; "diffusion" is the paper's method, see head_start.
    size: of the crop around each face in pixels; 256 for the demo model, 512 for Stable Diffusion.
    margin: how far past its verification threshold the least-fooled surrogate must be on the crop, in its metric's
        units. What goes further is taken back.
    steepness, jitter: see `IdentityObjective`; jitter is the number of slightly wrong alignments. Without it the margin
        is that of the crop alone, and not of its mirror image.
    tries: how often the judge may be asked. After the first a face that it still knows is pushed further, from where
        it stopped. Instant has one more, so that fast has as many as by itself.
    insists: whether recognisers count more, the longer a face is behind, see `Insistent`.
    network: whether the network of `instant` begins and takes the iterations of light and shade, few and large ones.
    head_start: whether a run begins at the change that instant would make, and takes half of its iterations: to dodge,
        without makeup, where the network is there; by light and shade with a grid of 64.
    light, diffusion: the knobs of either way; those of the other are not looked at.
    """

    way: Way = LIGHT
    size: int = 256
    margin: float = 0.1
    steepness: float = 6.0
    jitter: int = 1
    tries: int = 3
    insists: bool = False
    network: bool = False
    head_start: bool = False
    light: LightAndShadeSettings = LightAndShadeSettings()
    diffusion: Settings = DIFFUSED

    @property
    def method(self) -> LightAndShadeSettings | Settings:
        """The knobs of this way."""
        return self.diffusion if self.way == DIFFUSION else self.light

    def tuned(self, **knobs) -> PhotoSettings:
        """With other knobs of this way."""
        if self.way == DIFFUSION:
            return replace(self, diffusion=replace(self.diffusion, **knobs))
        return replace(self, light=replace(self.light, **knobs))

    @property
    def takes_long(self) -> bool:
        """Long enough to show before what instant would give: longer than the preset fast of light and shade."""
        return self.way == DIFFUSION or self.light.iterations > PRESETS[LIGHT]["fast"].light.iterations

    @property
    def after_head_start(self) -> PhotoSettings:
        """For what is left to do then."""
        return self.tuned(iterations=(self.method.iterations + 1) // 2)

    @property
    def further(self) -> PhotoSettings:
        """For a face that the judge still knows. After the network this is the preset fast."""

        def eased(knobs):
            iterations, fidelity_weight = (knobs.iterations + 1) // 2, knobs.fidelity_weight * FURTHER_FIDELITY
            return replace(knobs, iterations=iterations, fidelity_weight=fidelity_weight)

        if self.network:
            return replace(PRESETS[LIGHT]["fast"], size=self.size, tries=self.tries)
        margin = self.margin + FURTHER_MARGIN
        return replace(self, margin=margin, insists=True, light=eased(self.light), diffusion=eased(self.diffusion))


_LIGHT, _DIFFUSION = PhotoSettings(), PhotoSettings(DIFFUSION, margin=0.13, head_start=True)
PRESETS: dict[Way, dict[str, PhotoSettings]] = {
    LIGHT: {
        "instant": replace(_LIGHT, margin=0.12, network=True, tries=_LIGHT.tries + 1).tuned(
            iterations=LOOKS - 1, fidelity_weight=0.7
        ),
        "fast": replace(_LIGHT, margin=0.12).tuned(iterations=24, lr=0.4, fidelity_weight=0.7),
        "balanced": _LIGHT,
        "strong": replace(_LIGHT, margin=0.4).tuned(iterations=60, fidelity_weight=0.4),
    },
    DIFFUSION: {
        "fast": _DIFFUSION.tuned(null_text_iterations=5, iterations=16, lr=0.12, fidelity_weight=0.2),
        "balanced": _DIFFUSION,
        "strong": replace(_DIFFUSION, margin=0.2).tuned(
            depth=3, null_text_iterations=20, iterations=36, fidelity_weight=0.1
        ),
    },
}

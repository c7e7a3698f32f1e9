"""What is compared: the method over the latent, over light and shade and over the U-Net's bottleneck, its variants and
ablations, what the autoencoder and DDIM alone do to a photo, and noise."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ...attacks.pixel_attacks import PUBLISHED
from ...checks import require
from ...method.peers.makeup import WEIGHT, for_makeup
from ...method.peers.semantic import SemanticSettings
from ...method.protect import PAPER, PREPARATION
from ...photos.settings import DIFFUSION, LIGHT, PRESETS

Kind = Literal["unchanged", "vae", "diffusion", "semantic", "light", "pixels"]
DEPTHS = range(1, 8)  # the paper's figure of depths
DEPTH_GROUPS = ("depths", "depths without embeddings")
MAIN_TABLE = "table"  # the group of all rows of it
MARGIN = 0.25  # of light and shade: beyond it pushing eases off, and less change does
COARSE = 32  # values along each side of the plane, instead of the preset's


PAPER_IS = (
    "the paper's settings, output and all; not its Stable Diffusion 2 unless that is the --model; the latent is the "
    "posterior's mode, not a sample, and a box our detector's, tighter than MTCNN's"
)
NOISE = {
    "pgd": "Madry et al. 2018",
    "mi_fgsm": "Dong et al. 2018",
    "ti_dim": "Dong et al. 2019 over Xie et al. 2019",
    "tip_im": "Yang et al. 2021",
}


@dataclass(frozen=True)
class Method:
    """One way to change a photo.

    kind: "unchanged"; "vae": encoded and decoded; "diffusion": the paper's method; "semantic": an offset in the U-Net's
        bottleneck; "light": light and shade; "pixels": the attack of attacks/pixel_attacks.py of that name.
    settings: Settings, SemanticSettings, LightAndShadeSettings or PixelAttackSettings; None where there is nothing to
        set.
    loss: arguments of `IdentityObjective` beside what the goal asks for: margin, steepness; jitter counts the wrong
        alignments for each surrogate in an iteration.
    makeup: weight of the makeup loss beside it, see `MakeupLoss`; 0 for none.
    masked: only the face may change; with output "detail", light and shade, and in pixel space.
    about: what it is, and what it is not, in a sentence that stands below the tables.
    ablation: asks what a part is good for, and is run for the first goal only.
    """

    kind: Kind
    settings: Any = None
    attack: str = ""
    loss: dict = field(default_factory=dict)
    makeup: float = 0.0
    masked: bool = False
    about: str = ""
    ablation: bool = False

    @property
    def attacks(self) -> bool:
        """Whether recognisers are worked against, so that goal and surrogates make a difference."""
        return self.kind in ("pixels", "light", "semantic") or (
            self.kind == "diffusion" and self.settings.iterations > 0
        )

    @property
    def in_the_main_table(self) -> bool:
        """Every way of protection that is no ablation, and the photo itself, whose misses show what a rate is worth."""
        return self.kind == "unchanged" or (self.attacks and not self.ablation)

    @property
    def knobs(self) -> dict:
        """The settings by name, for JSON."""
        return ({"method": self.attack} if self.attack else {}) | (asdict(self.settings) if self.settings else {})


def base_method(name: str) -> Method:
    """The setting that is called "ours": "paper", or a preset of Protect Photo with the plain loss.

    Without its margin, jitter and steepness, because a margin stops pushing at the recognisers in the loop: nothing
    could be said about others.
    """
    if name == "paper":
        return Method("diffusion", PAPER, about=PAPER_IS)
    presets = PRESETS[DIFFUSION]
    require(name in presets, f"there is no setting {name!r}", f"use paper or one of {', '.join(presets)}")
    product = "the product, which begins by instant and stops at a margin"
    about = f"the paper's method with the settings of preset {name}; not {product}"
    return Method("diffusion", presets[name].diffusion, masked=True, about=about)


def light_and_shade(name: str) -> Method:
    """Light and shade as the preset of that name has it ("paper": as "balanced"), with the margin of this protocol."""
    preset = PRESETS[LIGHT]["balanced" if name == "paper" else name]
    loss = {"margin": MARGIN, "steepness": preset.steepness, "jitter": preset.jitter}
    plane = f"a plane of {preset.light.grid} x {preset.light.grid} values"
    about = f"{plane} lightens and darkens the face, and eases off at a margin; not the paper's, no diffusion model"
    return Method("light", preset.light, loss=loss, masked=True, about=about)


def semantic(ours: Method) -> Method:
    """The setting that is called "ours" with the bottleneck instead of the latent."""
    settings = SemanticSettings.like(ours.settings)
    about = (
        f"an offset in the U-Net's bottleneck of at most {settings.bound:g} of its standard deviations, the nearest to "
        "a semantic code; not DiffProtect's diffusion autoencoder, signed steps and bound of 0.02"
    )
    return Method("semantic", settings, masked=ours.masked, about=about)


def method_groups(base: str) -> dict[str, dict[str, Method]]:
    """Group -> name -> method: everything that the command knows. base: see `base_method`."""
    ours = base_method(base)
    return {
        "reference": _without_attack(ours),
        "main": {"ours": ours, "light and shade": light_and_shade(base), "paper": base_method("paper")},
        "peers": {"semantic (DiffProtect style)": semantic(ours)},
        "makeup": _makeup(ours, light_and_shade(base)),
        "variants": _variants(ours, light_and_shade(base)),
        "ablations": _ablations(ours),
        "depths": {f"depth {depth}": _changed(ours, f"{depth} of 20 DDIM steps", depth=depth) for depth in DEPTHS},
        "depths without embeddings": {
            f"depth {depth} without embeddings": _changed(
                ours, f"{depth} of 20 DDIM steps, nothing learned", depth=depth, null_text_iterations=0
            )
            for depth in DEPTHS
        },
        "noise": _noise(ours.masked),
    }


def chosen_methods(base: str, names: list[str]) -> dict[str, Method]:
    """The methods of some names or groups, those without an attack always among them; "table": the main table's."""
    groups = method_groups(base)
    known = {name: method for group in groups.values() for name, method in group.items()}
    groups[MAIN_TABLE] = {name: method for name, method in known.items() if method.in_the_main_table}
    wanted = {*groups["reference"]}
    for name in names:
        require(
            name in known or name in groups,
            f"there is no method {name!r}",
            f"use some of {', '.join([*groups, *known])}",
        )
        wanted |= {*groups.get(name, (name,))}
    return {name: method for name, method in known.items() if name in wanted}


def _changed(ours: Method, about: str, **settings) -> Method:
    return replace(ours, settings=replace(ours.settings, **settings), about=about, ablation=True)


def _variants(ours: Method, light: Method) -> dict[str, Method]:
    about = f"no diffusion model, a plane of {COARSE} x {COARSE}"
    found = {
        f"light and shade at {COARSE}": _changed(light, about, grid=COARSE),
        "ours with jitter": replace(ours, loss={"jitter": 1}, about="slightly wrong alignments", ablation=True),
    }
    if ours.settings.keep_colours:
        found["ours in colour"] = _changed(ours, "the photo's colours may change, too", keep_colours=False)
    return found


def _makeup(ours: Method, light: Method) -> dict[str, Method]:
    """AMT-GAN's and DiffAM's loss on one photo; they train a generator with it, and here nothing is trained."""
    made_up = "with the makeup loss of AMT-GAN and DiffAM beside the identity loss"
    not_trained = f"ours {made_up}; not their generators, which are trained"
    in_grey = f"light and shade {made_up}; not makeup in colour"
    return {
        "makeup (AMT-GAN, DiffAM style)": replace(
            ours, settings=for_makeup(ours.settings), makeup=WEIGHT, about=not_trained
        ),
        "light and shade with makeup": replace(light, makeup=WEIGHT, about=in_grey),
    }


def _without_attack(ours: Method) -> dict[str, Method]:
    """What the autoencoder and DDIM alone do to a photo: no result is better than these allow."""
    way = {name: getattr(ours.settings, name) for name in PREPARATION}
    plain = Method("diffusion", replace(PAPER, **way, iterations=0, structure=False))
    return {
        "clean": Method("unchanged", about="the photo itself, in which a recogniser misses some people anyway"),
        "vae": Method("vae", about="encoded and decoded"),
        "ddim": _changed(plain, "inverted and denoised, nothing learned", null_text_iterations=0),
        "ddim with embeddings": _changed(plain, "inverted and denoised with learned embeddings"),
    }


def _ablations(ours: Method) -> dict[str, Method]:
    pairing = "published" if ours.settings.pairing == "exact" else "exact"
    output = "published" if ours.settings.output == "detail" else "detail"
    other_output = _changed(ours, f"output {output}", output=output)
    return {
        "no embeddings": _changed(ours, "the prompt's own embedding, nothing learned", null_text_iterations=0),
        "no structure": _changed(ours, "without the self-attention loss", structure=False),
        f"pairing {pairing}": _changed(ours, f"pairing {pairing}", pairing=pairing),
        f"output {output}": replace(other_output, masked=output == "detail"),
    }


def _noise(masked: bool) -> dict[str, Method]:
    """Noise where ours may change the photo, so that equal PSNR compares methods and not masks."""
    where = "on the face" if masked else "on the whole photo"
    return {
        name: Method("pixels", settings, name, masked=masked, about=_noise_is(name, settings.epsilon, where))
        for name, settings in PUBLISHED.items()
    }


def _noise_is(name: str, epsilon: float, where: str) -> str:
    whose = f" ({NOISE[name]})" if name in NOISE else ""
    return f"noise {where} within {255 * epsilon:g}/255{whose}, as published; nothing keeps it natural"

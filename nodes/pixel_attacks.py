"""Pixel-Space Attack: IMAGE, FACEPROTECT_OBJECTIVE -> IMAGE (core: attacks/pixel_attacks.py)."""

from dataclasses import replace

from comfy_api.latest import io

from ..faceprotect_core.attacks.pixel_attacks import PUBLISHED, WHERE, PixelAttackSettings, attack_pixels
from . import host
from .objectives import photo_and_mask, seed_input
from .optimizer import summary
from .sockets import CATEGORY, ObjectiveData, ObjectiveSocket


class PixelSpaceAttack(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectPixelAttack",
            display_name="Pixel-Space Attack",
            category=CATEGORY,
            description="Noise on the pixels themselves (PGD, MI-FGSM, TI-DIM, TIP-IM): a baseline to compare the "
            "latent method with, not a protection to rely on. Such noise is easily purified: a pass through a VAE or a "
            "diffusion model takes part of it away.",
            search_aliases=["faceprotect", "adversarial", "noise", "baseline", "PGD", "MI-FGSM", "TI-DIM", "TIP-IM"],
            inputs=[
                io.Image.Input("image", tooltip="The photo, the very one that FR Surrogate Loss has."),
                ObjectiveSocket.Input("objective", tooltip="From FR Surrogate Loss."),
                io.Combo.Input(
                    "method",
                    options=[*PUBLISHED],
                    default="pgd",
                    tooltip="pgd: gradient steps from a random start. mi_fgsm: with momentum. ti_dim: with a smoothed "
                    "gradient and resized inputs too, for recognisers that were not seen. tip_im: many small steps "
                    "with momentum, made for faces.",
                ),
                io.Float.Input(
                    "epsilon",
                    default=0.0,
                    min=0.0,
                    max=255.0,
                    step=1.0,
                    tooltip="How far each pixel value may move, of 255. 0: the published budget (pgd 8, mi_fgsm 16, "
                    "ti_dim 16, tip_im 12). More protects more and is seen more.",
                ),
                io.Int.Input(
                    "iterations",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Gradient steps. 0: the published number (10; tip_im 100). The steps shrink as they become "
                    "more.",
                ),
                seed_input("seed", of="the random start and the random inputs", control_after_generate=False),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the photo may change: 1 by all of epsilon, 0 not at all (bit-equal pixels).",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The photo with the noise.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image, objective: ObjectiveData, method, epsilon, iterations, seed, mask=None) -> io.NodeOutput:
        settings = _settings(method, epsilon, iterations, seed)
        with host.gradients(*objective.patchers):
            photo, mask = photo_and_mask(objective, image, mask, WHERE)
            changed = attack_pixels(
                photo,
                objective.objective,
                method,
                settings=settings,
                mask=mask,
                on_step=host.Progress(),
            )
            text = summary({"surrogates": objective.objective.report(changed)})
        return host.with_text(cls.hidden.unique_id, text, host.to_comfy_image(changed))


def _settings(method: str, epsilon: float, iterations: int, seed: int) -> PixelAttackSettings:
    """The published ones, but for what is not 0."""
    published = PUBLISHED[method]
    return replace(
        published,
        epsilon=epsilon / 255 if epsilon else published.epsilon,
        iterations=iterations or published.iterations,
        seed=seed,
    )

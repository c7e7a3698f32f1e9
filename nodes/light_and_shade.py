"""Light and Shade: IMAGE, FACEPROTECT_OBJECTIVE -> IMAGE, history (core: method/light_and_shade.py)."""

import json

from comfy_api.latest import io

from ..faceprotect_core.method.light_and_shade import (
    LARGEST,
    SMALLEST,
    WHERE,
    LightAndShadeSettings,
    protect_by_light,
)
from . import host
from .objectives import (
    as_little_as_suffices,
    early_stop_input,
    history_output,
    least_change_input,
    photo_and_mask,
    seed_input,
)
from .optimizer import summary
from .sockets import CATEGORY, ObjectiveData, ObjectiveSocket

DEFAULT = LightAndShadeSettings()


class LightAndShade(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectLightAndShade",
            display_name="Light and Shade",
            category=CATEGORY,
            description="Makes parts of the face a little lighter or darker until the surrogates no longer see the "
            "person. No diffusion model, seconds on a CPU, the photo keeps its colours. Not from the paper.",
            search_aliases=["faceprotect", "adversarial", "lightness", "shadow", "relight", "protect", "privacy"],
            inputs=[
                io.Image.Input("image", tooltip="The photo or the crop, the very one that FR Surrogate Loss has."),
                ObjectiveSocket.Input("objective", tooltip="From FR Surrogate Loss."),
                io.Int.Input(
                    "iterations",
                    default=DEFAULT.iterations,
                    min=0,
                    max=10000,
                    tooltip="Optimiser steps. More protects more and takes longer.",
                ),
                io.Int.Input(
                    "grid",
                    default=DEFAULT.grid,
                    min=SMALLEST,
                    max=LARGEST,
                    tooltip="Values along each side of the plane of light that is enlarged over the image. Finer "
                    "protects a little more and looks patchier; coarser looks like soft shadows.",
                ),
                io.Float.Input(
                    "fidelity_weight",
                    default=DEFAULT.fidelity_weight,
                    min=0.0,
                    max=1000.0,
                    step=0.05,
                    tooltip="Weight of what people see of the change (colour difference, squared change, 1 - SSIM) "
                    "against the identity loss. More is seen less and protects less. 0: no regard for looks.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=DEFAULT.lr,
                    min=0.001,
                    max=10.0,
                    step=0.001,
                    advanced=True,
                    tooltip="AdamW's learning rate on the plane. Higher is faster and may jump past the best change.",
                ),
                early_stop_input(off="all iterations"),
                seed_input("seed", of="the random start", default=DEFAULT.seed, control_after_generate=False),
                least_change_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the photo may change: 1 fully, 0 not at all (bit-equal pixels). From Detect Faces "
                    "or Crop Face. Without it the whole image changes.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The protected photo."),
                history_output(loss="fidelity"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image,
        objective: ObjectiveData,
        iterations,
        grid,
        fidelity_weight,
        learning_rate,
        early_stop,
        seed,
        least_change=False,
        mask=None,
    ) -> io.NodeOutput:
        settings = LightAndShadeSettings(grid, iterations, learning_rate, fidelity_weight, seed)
        with host.gradients(*objective.patchers):
            photo, mask = photo_and_mask(objective, image, mask, WHERE)
            result = protect_by_light(
                photo,
                objective.objective,
                settings,
                mask=mask,
                early_stop=early_stop,
                on_step=host.Progress(),
            )
            changed = result.rendering.image
            if least_change:
                changed = as_little_as_suffices(photo, changed, objective.objective, WHERE)
            report = result.history | {"surrogates": objective.objective.report(changed)}
        image = host.to_comfy_image(changed)
        return host.with_text(cls.hidden.unique_id, summary(report), image, json.dumps(report))

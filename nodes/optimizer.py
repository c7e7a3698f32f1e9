"""Adversarial Latent Optimizer: everything -> IMAGE, LATENT, history (core: method/optimizer.py)."""

import json

from comfy_api.latest import io

from ..faceprotect_core import optimize_latent
from ..faceprotect_core.checks import require
from ..faceprotect_core.surrogates.metric import METRICS
from . import host
from .objectives import (
    as_little_as_suffices,
    early_stop_input,
    history_output,
    least_change_input,
    require_as_many,
)
from .sockets import (
    CATEGORY,
    NullTextSocket,
    ObjectiveData,
    ObjectiveSocket,
    StructureSocket,
    TrajectoryData,
    TrajectorySocket,
)

WHERE = "Adversarial Latent Optimizer"


class AdversarialLatentOptimizer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectLatentOptimizer",
            display_name="Adversarial Latent Optimizer",
            category=CATEGORY,
            description="Changes the noisy latent until the surrogates no longer see the person, while the "
            "self-attention maps keep the picture's structure.",
            search_aliases=["faceprotect", "adversarial", "protect", "privacy"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that made the trajectory."),
                io.Vae.Input("vae", tooltip="The VAE that encoded the photo."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Inversion."),
                NullTextSocket.Input("null_text", tooltip="From the Null-Text Embedding Learner."),
                ObjectiveSocket.Input("objective", tooltip="From FR Surrogate Loss."),
                StructureSocket.Input(
                    "structure",
                    optional=True,
                    tooltip="From Self-Attention Capture. Without it the picture is free to drift.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip='The untouched photo; output "detail" adds the change to it.'
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip='Where output "detail" may change the photo: 1 fully, 0 not at all (bit-equal pixels).',
                ),
                io.Int.Input(
                    "iterations",
                    default=35,
                    min=0,
                    max=10000,
                    tooltip="Optimiser steps. 35 in the paper; more protects more, changes more, takes longer.",
                ),
                io.Combo.Input(
                    "output",
                    options=["published", "detail"],
                    default="published",
                    tooltip="published: the decoded latent, as in the paper, with all that the VAE blurs. detail: only "
                    "the change is added to the untouched photo, and the surrogates see exactly that.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.01,
                    min=0.0001,
                    max=1.0,
                    step=0.0001,
                    advanced=True,
                    tooltip="AdamW's learning rate on the latent. 0.01 in the paper; higher is faster and rougher.",
                ),
                io.Float.Input(
                    "objective_weight",
                    default=0.003,
                    min=0.0,
                    max=100.0,
                    step=0.0001,
                    advanced=True,
                    tooltip="Weight of the identity loss against the structure loss. 0.003 in the paper.",
                ),
                io.Float.Input(
                    "fidelity_weight",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Weight of what people see of the change (colour difference, squared change, 1 - SSIM) "
                    "against the identity loss. 0 in the paper, 1 in Light and Shade. More is seen less and protects "
                    "less.",
                ),
                io.Boolean.Input(
                    "keep_colours",
                    optional=True,
                    default=False,
                    advanced=True,
                    tooltip='With output "detail" only. On: adds only lightness, the same to red, green and blue, so '
                    "that the photo keeps its colours; may protect less. Off: the change as it is.",
                ),
                early_stop_input(off="all iterations, as in the paper", optional=True, advanced=True),
                least_change_input(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The protected photo."),
                io.Latent.Output(display_name="latent", tooltip="The latent that the optimised trajectory ends in."),
                history_output(loss="structure"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        trajectory: TrajectoryData,
        null_text,
        objective: ObjectiveData,
        iterations,
        output,
        learning_rate,
        objective_weight,
        fidelity_weight,
        structure=None,
        image=None,
        mask=None,
        keep_colours=False,
        early_stop=False,
        least_change=False,
    ) -> io.NodeOutput:
        _require_same_photo(objective, trajectory.trajectory)
        networks = {"objective": objective.objective, "patchers": objective.patchers}
        steps = trajectory.trajectory.depth
        with host.ready(model, vae, trajectory=trajectory, **networks, steps=steps, where=WHERE) as ready:
            photo = None if image is None else host.to_core_image(image, WHERE)
            result = optimize_latent(
                ready.denoiser,
                ready.codec,
                ready.trajectory,
                host.at_work(null_text),
                ready.objective,
                structure=host.at_work(structure),
                iterations=iterations,
                lr=learning_rate,
                objective_weight=objective_weight,
                output=output,
                image=photo,
                mask=None if mask is None else host.to_core_mask(mask, *objective.image_size),
                fidelity_weight=fidelity_weight,
                keep_colours=keep_colours,
                early_stop=early_stop,
                on_step=host.Progress(),
            )
            changed = result.image
            if least_change:
                untouched = photo if output == "detail" else None
                changed = as_little_as_suffices(untouched, changed, objective.objective, WHERE)
            report = result.history | {"surrogates": objective.objective.report(changed)}
        image, latent = host.to_comfy_image(changed), host.to_comfy_latent(model, result.decoded_latent)
        return host.with_text(cls.hidden.unique_id, summary(report), image, latent, json.dumps(report))


def _require_same_photo(objective: ObjectiveData, path) -> None:
    height, width = objective.image_size
    rows, columns = path.latents[0].shape[2:]
    require(
        (height, width) == (rows * 8, columns * 8),
        f"{WHERE}: the photo of FR Surrogate Loss is {height} x {width} pixels, the encoded one {rows * 8} x "
        f"{columns * 8}",
        "connect the very same photo to VAE Encode and to FR Surrogate Loss, with sides that are multiples of 8",
    )
    require_as_many(objective, len(path.latents[0]), WHERE)


def summary(report: dict) -> str:
    """One line per surrogate, image and reference, for the node itself."""
    lines = []
    for name, found in report["surrogates"].items():
        metric = METRICS[found["metric"]]
        for reference in ("source", "target"):
            for value, matches in zip(found.get(reference, []), found.get(f"matches_{reference}") or [], strict=False):
                verdict = "matches" if matches else "no longer matches" if reference == "source" else "does not match"
                whom = "the photo" if reference == "source" else "the target"
                numbers = f"{metric.word} {value:.2f}; the same person {metric.side} {found['threshold']:.2f}"
                lines.append(f"{name} {verdict} {whom} ({numbers})")
    # Nodes 2.0 reads this as markdown: a single line break would be lost there.
    return "\n\n".join([*lines, "These were seen by the optimizer: no evidence about other recognisers."])

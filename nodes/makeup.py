"""Makeup Reference: FACEPROTECT_OBJECTIVE, photo, reference -> FACEPROTECT_OBJECTIVE (core: method/peers/makeup.py)."""

from dataclasses import replace

from comfy_api.latest import io

from ..faceprotect_core.checks import require
from ..faceprotect_core.method.peers.makeup import WEIGHT, WEIGHTS, WHERE, MakeupLoss
from . import host
from .faces import find_faces
from .objectives import photo_and_mask
from .sockets import CATEGORY, FacesSocket, ObjectiveData, ObjectiveSocket
from .upstream import require_untouched


class MakeupReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectMakeupReference",
            display_name="Makeup Reference",
            category=CATEGORY,
            description="Adds to an identity loss that lips, eye shadow and skin take the colours of a reference "
            "photo: part of the change then looks like makeup. The loss of AMT-GAN and DiffAM, without their training.",
            search_aliases=["faceprotect", "makeup", "lipstick", "eye shadow", "histogram", "privacy"],
            inputs=[
                ObjectiveSocket.Input("objective", tooltip="From FR Surrogate Loss."),
                io.Image.Input("photo", tooltip="The photo or the crop, the very one that FR Surrogate Loss has."),
                io.Image.Input(
                    "reference",
                    tooltip="One photo of somebody with makeup, who looks at the camera; the best face in it counts. "
                    "Only its colours are used, never who it is.",
                ),
                io.Float.Input(
                    "weight",
                    default=WEIGHT,
                    min=0.0,
                    max=10000.0,
                    step=1.0,
                    tooltip="Of the makeup against the identity loss. More comes closer to the reference's colours, "
                    "and leaves less of the change to protection. 0: no makeup.",
                ),
                *(_region_input(name) for name in WEIGHTS),
                FacesSocket.Input(
                    "faces",
                    optional=True,
                    tooltip="From Detect Faces or Crop Face on the photo; the best face of each image is made up. "
                    "Without it the face is detected here.",
                ),
            ],
            outputs=[
                ObjectiveSocket.Output(
                    display_name="objective",
                    tooltip="The loss with the makeup added, for the optimizer. What counts as far enough past a "
                    "threshold is identity alone.",
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls, objective: ObjectiveData, photo, reference, weight, lips, eye_shadow, skin, faces=None
    ) -> io.NodeOutput:
        require_untouched(cls.hidden, "photo", WHERE)
        with host.no_gradients():
            image, _ = photo_and_mask(objective, photo, None, WHERE)
            worn = host.to_core_image(reference, f"{WHERE} (reference)")
            require(len(worn) == 1, f"{WHERE}: {len(worn)} references are connected", "connect one photo of one face")
            best = [found[0] for found in faces or find_faces(image, WHERE)]
            (wearer, *_), *_ = find_faces(worn, f"{WHERE} (reference)")
            weights = {"lips": lips, "eye shadow": eye_shadow, "skin": skin}
            makeup = MakeupLoss(image, best, worn, wearer, weights)
        return io.NodeOutput(replace(objective, objective=objective.objective.plus(makeup, weight)))


def _region_input(name: str) -> io.Float.Input:
    return io.Float.Input(
        name.replace(" ", "_"),
        default=WEIGHTS[name],
        min=0.0,
        max=100.0,
        step=0.05,
        advanced=True,
        tooltip=f"Weight of the {name} among the three regions. 0 leaves it to the identity loss.",
    )

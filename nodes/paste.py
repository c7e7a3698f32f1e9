"""Paste Face Back: photo, FACEPROTECT_CROP and the protected crops -> the photo (core: faces/paste.py)."""

import torch
from comfy_api.latest import io

from ..faceprotect_core.checks import require
from ..faceprotect_core.faces import FaceCrop, paste_faces
from . import host
from .sockets import CATEGORY, CropSocket

WHERE = "Paste Face Back"


class PasteFaceBack(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectPasteFace",
            display_name="Paste Face Back",
            category=CATEGORY,
            description="Adds the change of the protected faces, not the faces, to the photo they were cut from: it "
            "keeps its size and its own pixels.",
            search_aliases=["faceprotect", "paste face", "uncrop", "stitch", "privacy"],
            inputs=[
                io.Image.Input("image", tooltip="The untouched photo, the very one that went into Crop Face."),
                CropSocket.Input("crop", tooltip="From Crop Face."),
                io.Image.Input("crops", tooltip="The protected crops, as many as Crop Face made, in their order."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the change that is added. 0 gives the photo back, bit by bit. Less than 1 shows "
                    "less and protects less.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The photo with the protected faces."),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="Where the photo may have changed; where it is 0, pixels are bit-equal.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image, crop: tuple[FaceCrop, ...], crops, strength) -> io.NodeOutput:
        photos, changed = host.to_core_image(image, WHERE), host.to_core_image(crops, WHERE)
        _require_all(crop, len(changed), len(photos))
        pasted, masks = [], []
        for index, photo in enumerate(photos):
            of_photo = [number for number, one in enumerate(crop) if one.photo_index == index]
            result, mask = paste_faces(photo, [crop[number] for number in of_photo], changed[of_photo], strength)
            pasted.append(result)
            masks.append(mask)
        result = host.to_comfy_image(torch.stack(pasted), like=image)
        return io.NodeOutput(result, host.to_comfy_image(torch.stack(masks))[..., 0])


def _require_all(crop: tuple[FaceCrop, ...], changed: int, photos: int) -> None:
    """No photo may come through without its face: as many crops as were cut, from as many photos."""
    require(
        len(crop) == changed,
        f"{WHERE}: {len(crop)} faces were cut out, and {changed} come back",
        "connect the protected crops of the very same Crop Face, all of them",
    )
    cut_from = max(one.photo_index for one in crop) + 1
    require(
        photos == cut_from,
        f"{WHERE}: {photos} photos are connected, and the faces were cut from {cut_from}",
        "connect the very image that is connected to Crop Face",
    )

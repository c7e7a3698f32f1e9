"""Detect Faces: IMAGE -> FACEPROTECT_FACES, BOUNDING_BOX, MASK (core: faces/)."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..faceprotect_core.checks import require
from ..faceprotect_core.faces import Face, detect_faces, face_mask, load_detector
from . import host
from .sockets import CATEGORY, FacesSocket


class DetectFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectDetectFaces",
            display_name="Detect Faces",
            category=CATEGORY,
            description="Finds faces and their five landmarks with the built-in CC0 detector: no download.",
            search_aliases=["faceprotect", "face detection", "landmarks", "privacy"],
            inputs=[
                io.Image.Input("image", tooltip="One or several photos."),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Detector score above which a window is a face. Lower finds more, and more false ones.",
                ),
                io.Float.Input(
                    "mask_scale",
                    default=1.0,
                    min=0.1,
                    max=3.0,
                    step=0.05,
                    tooltip="Radius of the mask around each face: 1 covers what a recogniser looks at, forehead to "
                    "chin. Smaller changes less of the photo and protects less.",
                ),
                io.Int.Input(
                    "min_face",
                    default=80,
                    min=20,
                    max=2000,
                    advanced=True,
                    tooltip="Smallest face to look for, in pixels. Below 80 the photo is enlarged first: slower.",
                ),
            ],
            outputs=[
                FacesSocket.Output(display_name="faces", tooltip="Per image the faces with landmarks, best first."),
                io.BoundingBox.Output(
                    "bboxes", tooltip="The same faces as boxes in pixels, for other nodes that take bounding boxes."
                ),
                io.Mask.Output(
                    display_name="mask", tooltip="1 on the faces, falling softly to 0: where the photo may change."
                ),
            ],
        )

    @classmethod
    def execute(cls, image, threshold, mask_scale, min_face) -> io.NodeOutput:
        photos = host.to_core_image(image, "Detect Faces")
        found = find_faces(photos, "Detect Faces", threshold=threshold, min_face=min_face)
        mask = torch.cat([face_mask(faces, *photos.shape[2:], mask_scale) for faces in found])
        return io.NodeOutput(found, [[_box(face) for face in faces] for faces in found], mask)


def find_faces(image: Tensor, where: str, **knobs) -> list[list[Face]]:
    """The faces of every image [B, 3, H, W], best first. Fails closed: an image without a face is an error."""
    detector = load_detector(image.device)
    found = [detect_faces(one, detector, **knobs) for one in image]
    for index, faces in enumerate(found):
        require(
            bool(faces),
            f"{where}: no face found in image {index + 1} of {len(found)} ({image.shape[3]} x {image.shape[2]} pixels)",
            "use a photo in which the face is upright and well lit; for a small face lower min_face in Detect Faces",
        )
    return found


def _box(face: Face) -> dict:
    left, top, right, bottom = (float(value) for value in face.box_xyxy)
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return box | {"label": "face", "score": float(face.score)}

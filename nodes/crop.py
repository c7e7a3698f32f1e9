"""Crop Face: IMAGE and where its faces are -> IMAGE of faces, FACEPROTECT_CROP (core: faces/crop.py)."""

from comfy_api.latest import io

from ..faceprotect_core.faces import crop_selection
from ..faceprotect_core.faces.crop import cropped_images, cropped_masks
from . import host
from .faces import FaceSelector, mask_scale_input
from .sockets import CATEGORY, CropSocket, FaceLandmarksSocket, FacesSocket

WHERE = "Crop Face"


class CropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectCropFace",
            display_name="Crop Face",
            category=CATEGORY,
            description="Cuts the faces of a photo of any size out at the size that the model works on, and remembers "
            "the way back for Paste Face Back.",
            search_aliases=["faceprotect", "face crop", "align face", "cut face", "privacy"],
            inputs=[
                io.Image.Input("image", tooltip="One or several photos of any size."),
                *size_and_choice_inputs(),
                io.Float.Input(
                    "crop_scale",
                    default=1.0,
                    min=0.8,
                    max=3.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Side of the crop as a multiple of FFHQ's framing, which face models are trained on. More "
                    "shows more around the head and less detail of the face.",
                ),
                io.Boolean.Input(
                    "upright",
                    default=True,
                    advanced=True,
                    tooltip="On: turn each crop so that the eyes are level, as models are trained on. Off: cut along "
                    "the photo's own rows.",
                ),
                mask_scale_input(largest=1.0, advanced=True),
                FacesSocket.Input(
                    "faces",
                    optional=True,
                    tooltip="From Detect Faces on the same image. With nothing connected the faces are detected here.",
                ),
                io.BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    force_input=True,
                    tooltip="Boxes in pixels, of any detector. With faces or landmarks connected they choose among "
                    "those; alone they are the faces.",
                ),
                FaceLandmarksSocket.Input(
                    "face_landmarks",
                    optional=True,
                    tooltip="Of Detect Face Landmarks (MediaPipe), instead of faces: its points are the mesh, which "
                    "gives the outline for the mask and aligns the face for most recognisers.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Drawn by hand. With faces, boxes or landmarks connected it chooses those whose middle it "
                    "covers; alone each of its blobs is a face, and nothing outside it will change.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="crops", tooltip="The faces as one batch, from left to right."),
                CropSocket.Output(display_name="crop", tooltip="The way back, for Paste Face Back."),
                FacesSocket.Output(
                    display_name="faces", tooltip="The faces in the crops' pixels, for FR Surrogate Loss."
                ),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="Where each crop may change, for the optimizer or Light and Shade: 1 on the face, falling "
                    "softly to 0.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        size,
        which,
        numbers,
        crop_scale,
        upright,
        mask_scale,
        faces=None,
        bboxes=None,
        face_landmarks=None,
        mask=None,
    ) -> io.NodeOutput:
        photos = host.to_core_image(image, WHERE)
        wanted = numbers if which == "numbered" else which
        found = {"faces": faces, "face_landmarks": face_landmarks, "bboxes": bboxes, "mask": mask}
        select = FaceSelector(photos, wanted, WHERE, **found)
        framing = {"crop_scale": crop_scale, "upright": upright, "mask_scale": mask_scale}
        crops = tuple(
            crop
            for index, photo in enumerate(photos)
            for crop in crop_selection(photo, select(index), size, photo_index=index, **framing)
        )
        masks = host.to_comfy_image(cropped_masks(crops))[..., 0]
        faces_in_crops = [[crop.face] for crop in crops]
        return io.NodeOutput(host.to_comfy_image(cropped_images(crops)), host.at_rest(crops), faces_in_crops, masks)


def size_and_choice_inputs(automatic: bool = False) -> list[io.Input]:
    """At which size, and which of several faces: three widgets of Crop Face and of Protect Photo.

    automatic: 0 is a size, and the default: the one that fits the model.
    """
    chosen = f" 0: automatic, {host.SDXL_SIZE} for SDXL, {host.SIZE} otherwise." if automatic else ""
    return [
        io.Int.Input(
            "size",
            default=0 if automatic else host.SIZE,
            min=0 if automatic else 64,
            max=2048,
            step=8,
            tooltip="Width and height in pixels at which each face is worked on: 256 for the demo model and the paper, "
            f"512 for Stable Diffusion, 512 to 1024 for SDXL.{chosen} Time and memory grow with its square; the photo "
            "keeps its own size.",
        ),
        io.Combo.Input(
            "which",
            options=["all", "largest", "numbered"],
            default="all",
            tooltip="Which faces of each photo. The others stay exactly as they are.",
        ),
        io.String.Input(
            "numbers",
            default="0",
            tooltip='With which "numbered": the faces by number, counted from the left, starting at 0, as in "0, 2".',
        ),
    ]

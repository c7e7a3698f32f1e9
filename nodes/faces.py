"""Detect Faces: IMAGE -> FACEPROTECT_FACES, BOUNDING_BOX, MASK, MASK (core: faces/)."""

import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..faceprotect_core.checks import ProtectionError, errors_of, require
from ..faceprotect_core.faces import (
    Face,
    Selection,
    detect_faces,
    face_from_mediapipe,
    face_mask,
    face_regions,
    load_detector,
    select_faces,
    window_around,
)
from ..faceprotect_core.faces.face import Box
from ..faceprotect_core.faces.windows import WINDOW
from ..faceprotect_core.photos import words
from . import host
from .sockets import CATEGORY, FacesSocket


class DetectFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectDetectFaces",
            display_name="Detect Faces",
            category=CATEGORY,
            description="Finds faces, their landmarks and their outline with built-in networks: no download.",
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
                mask_scale_input(largest=3.0),
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
                FacesSocket.Output(
                    display_name="faces", tooltip="Per image the faces with landmarks and mesh, best first."
                ),
                io.BoundingBox.Output(
                    "bboxes", tooltip="The same faces as boxes in pixels, for other nodes that take bounding boxes."
                ),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="1 on the faces, falling softly to 0 at their outline: where the photo may change.",
                ),
                io.Mask.Output(
                    display_name="regions",
                    tooltip="Four masks for each image, in this order: skin, eyes, brows, lips. Of all of its faces "
                    "together.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image, threshold, mask_scale, min_face) -> io.NodeOutput:
        photos = host.to_core_image(image, "Detect Faces")
        found = find_faces(photos, "Detect Faces", threshold=threshold, min_face=min_face)
        mask = torch.cat([face_mask(faces, *photos.shape[2:], mask_scale) for faces in found])
        regions = torch.cat([_regions(photo, faces) for photo, faces in zip(photos, found, strict=True)])
        report = "\n\n".join([*map(words.found, found), words.scope(min_face)])
        boxes = [[_box(face) for face in faces] for faces in found]
        return host.with_text(cls.hidden.unique_id, report, found, boxes, mask, regions)


def mask_scale_input(largest: float, advanced: bool | None = None) -> io.Float.Input:
    """A widget of Detect Faces and of Crop Face."""
    return io.Float.Input(
        "mask_scale",
        default=1.0,
        min=0.1,
        max=largest,
        step=0.05,
        advanced=advanced,
        tooltip="Size of the mask of each face: 1 reaches to the outline of the face, without hair, ears and neck. "
        "Smaller changes less of the photo and protects less.",
    )


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


def _regions(photo: Tensor, faces: list[Face]) -> Tensor:
    """Skin, eyes, brows and lips of all faces of a photo [3, H, W]: [4, H, W] in [0, 1]."""
    masks = torch.zeros(4, *photo.shape[1:])
    for face in faces:
        rows, columns, here = window_around(face, photo)
        part = masks[:, rows, columns]
        part[:] = torch.maximum(part, torch.cat([*face_regions(here, *part.shape[1:]).values()]))
    return masks


class FaceSelector:
    """selector(index): which faces of one photo of [B, 3, H, W] are meant. Fails closed: none is an error.

    faces, face_landmarks, bboxes, mask: what the sockets of Crop Face and Protect Photo say; None for not connected.
    """

    def __init__(
        self,
        photos: Tensor | host.PhotosAtWork,
        which: str,
        where: str,
        *,
        faces=None,
        face_landmarks=None,
        bboxes=None,
        mask=None,
    ):
        self.photos, self.which, self.where = photos, which, where
        self.detector = load_detector(photos.device)
        self.faces = _faces_per_image(faces, face_landmarks, len(photos), where)
        self.boxes = boxes_per_image(bboxes, len(photos), where)
        self.masks = _masks_per_image(mask, len(photos), where)
        detects = self.faces is None and self.boxes is None and self.masks is None
        self.smallest = WINDOW if detects else None  # pixels, of the faces that are looked for here

    def __call__(self, index: int) -> Selection:
        with errors_of(f"{self.where}, image {index + 1} of {len(self.photos)}"):
            return select_faces(
                self.photos[index],
                self.detector,
                faces=None if self.faces is None else self.faces[index],
                boxes=None if self.boxes is None else self.boxes[index],
                mask=None if self.masks is None else self.masks[index],
                which=self.which,
            )


def _faces_per_image(faces, face_landmarks: dict | None, count: int, where: str) -> list[list[Face]] | None:
    require(
        faces is None or face_landmarks is None,
        f"{where}: faces and face_landmarks are both connected",
        "connect one of them",
    )
    if face_landmarks is not None:
        frames = face_landmarks["frames"]
        faces = [[face_from_mediapipe(face["landmarks_xy"], float(face["score"])) for face in one] for one in frames]
    else:
        require_faces(faces, where)
    require(
        faces is None or len(faces) == count,
        f"{where}: faces of {len(faces or [])} images are connected, and {count} images",
        "detect the faces in the very images that are connected here",
    )
    return faces


def require_faces(value, where: str) -> None:
    """None, or a list of the faces of each image."""
    lists = isinstance(value, (list, tuple)) and all(isinstance(one, (list, tuple)) for one in value)
    require(
        value is None or (lists and all(isinstance(face, Face) for one in value for face in one)),
        f"{where}: what is connected to faces is no FACEPROTECT_FACES, but {str(value)[:40]!r}",
        "connect faces of Detect Faces, or nothing",
    )


def boxes_per_image(bboxes: list | dict | None, count: int, where: str) -> list[list[Box]] | None:
    """Core's BOUNDING_BOX (one box, boxes of one image, or of each image) as left, top, right, bottom per image."""
    if bboxes is None:
        return None
    try:
        per_image = [bboxes] if isinstance(bboxes, dict) else list(bboxes)
        return _boxes_per_image(per_image, count, where)
    except (TypeError, KeyError) as error:
        raise ProtectionError(
            f"{where}: what is connected to bboxes is no BOUNDING_BOX ({str(error)[:80]})",
            "connect boxes with x, y, width and height, as core's nodes give them",
        ) from error


def _boxes_per_image(per_image: list, count: int, where: str) -> list[list[Box]]:
    if not per_image or isinstance(per_image[0], dict):
        per_image = [per_image] * count  # one list means every image, as in core's own nodes
    require(
        len(per_image) == count,
        f"{where}: bounding boxes of {len(per_image)} images are connected, and {count} images",
        "find the boxes in the very images that are connected here",
    )
    return [
        [(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in boxes]
        for boxes in per_image
    ]


def _masks_per_image(mask: Tensor | None, count: int, where: str) -> Tensor | None:
    if mask is None:
        return None
    require(isinstance(mask, Tensor), f"{where}: the mask is no MASK but a {type(mask).__name__}", "connect a mask")
    masks = rearrange(mask, "... h w -> (...) h w").float().cpu()
    require(
        len(masks) in (1, count),
        f"{where}: {len(masks)} masks are connected, and {count} images",
        "connect one mask, or one for each image",
    )
    return masks.expand(count, -1, -1)


def _box(face: Face) -> dict:
    left, top, right, bottom = (float(value) for value in face.box_xyxy)
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return box | {"label": "face", "score": float(face.score)}

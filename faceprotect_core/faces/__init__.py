"""Faces in photos: find them, choose among them, cut them out as a recogniser or a diffusion model wants them, and
carry a change back."""

from .again import find_again, window_around
from .align import TEMPLATES, Template, align_face, chip_to_image
from .crop import FaceCrop, crop_face
from .detect import FaceDetector, detect_faces, find_face, load_detector
from .face import Face
from .mask import eye_shadow, face_mask, face_regions
from .paste import paste_faces
from .regions import (
    Selection,
    choose_faces,
    crop_selection,
    face_from_mediapipe,
    faces_in_boxes,
    faces_in_mask,
    faces_in_regions,
    left_to_right,
    select_faces,
)
from .windows import overlap

__all__ = [
    "TEMPLATES",
    "Face",
    "FaceCrop",
    "FaceDetector",
    "Selection",
    "Template",
    "align_face",
    "chip_to_image",
    "choose_faces",
    "crop_face",
    "crop_selection",
    "detect_faces",
    "eye_shadow",
    "face_from_mediapipe",
    "face_mask",
    "face_regions",
    "faces_in_boxes",
    "faces_in_mask",
    "faces_in_regions",
    "find_again",
    "find_face",
    "left_to_right",
    "load_detector",
    "overlap",
    "paste_faces",
    "select_faces",
    "window_around",
]

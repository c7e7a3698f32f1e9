"""Faces in photos: find them, their landmarks, and cut them out as a recogniser wants them."""

from .align import TEMPLATES, Template, align_face, chip_to_image
from .detect import Face, FaceDetector, FaceNotFoundError, detect_faces, find_face, load_detector
from .mask import face_mask

__all__ = [
    "TEMPLATES",
    "Face",
    "FaceDetector",
    "FaceNotFoundError",
    "Template",
    "align_face",
    "chip_to_image",
    "detect_faces",
    "face_mask",
    "find_face",
    "load_detector",
]

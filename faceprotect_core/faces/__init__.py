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

"""The pack's socket types and what travels through them.

FACEPROTECT_TRAJECTORY  -> TrajectoryData   an inversion, its null context, and the model it was made with
FACEPROTECT_NULL_TEXT   -> Tensor           [depth, B, tokens, dim] float32 on the CPU, noisiest step first
FACEPROTECT_STRUCTURE   -> core SelfAttentionReference
FACEPROTECT_SURROGATE   -> SurrogateData    an FR network and the ModelPatcher that moves it
FACEPROTECT_FACES       -> list per image of list of core Face, best first
FACEPROTECT_CROP        -> tuple of core FaceCrop, in the order of the cropped images
FACEPROTECT_OBJECTIVE   -> ObjectiveData    the identity objective and the surrogates it needs loaded
FACEPROTECT_SEEN        -> tuple of SurrogateData, those that a photo was protected against
"""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..faceprotect_core import FRSurrogate, IdentityObjective, Trajectory

CATEGORY = "FaceProtect"

TrajectorySocket = io.Custom("FACEPROTECT_TRAJECTORY")
NullTextSocket = io.Custom("FACEPROTECT_NULL_TEXT")
StructureSocket = io.Custom("FACEPROTECT_STRUCTURE")
SurrogateSocket = io.Custom("FACEPROTECT_SURROGATE")
FacesSocket = io.Custom("FACEPROTECT_FACES")
CropSocket = io.Custom("FACEPROTECT_CROP")
# Core's own, of Detect Face Landmarks (MediaPipe): {"frames": per image the faces, each with "landmarks_xy" [478, 2]}.
FaceLandmarksSocket = io.Custom("FACE_LANDMARKS")
ObjectiveSocket = io.Custom("FACEPROTECT_OBJECTIVE")
SeenSocket = io.Custom("FACEPROTECT_SEEN")


@dataclass(frozen=True, eq=False)
class TrajectoryData:
    trajectory: Trajectory
    context: Tensor
    fixed: dict
    """What SDXL is given besides the context, of host.fixed_conditioning."""
    model_identity: tuple
    """Which model and which patches on it; see host.identity_of."""


@dataclass(frozen=True, eq=False)
class SurrogateData:
    surrogate: FRSurrogate
    patcher: Any


@dataclass(frozen=True, eq=False)
class ObjectiveData:
    objective: IdentityObjective
    patchers: tuple[Any, ...]
    image_size: tuple[int, int]
    """Height and width of the photo in pixels; the decoded image must have the same."""

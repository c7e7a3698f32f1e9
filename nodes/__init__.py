"""The pack's nodes. One file per block; the method is in faceprotect_core."""

from comfy_api.latest import ComfyExtension, io

from .attention import SelfAttentionCapture
from .crop import CropFace
from .demo import LoadDemoModel
from .faces import DetectFaces
from .inversion import DDIMInversion
from .light_and_shade import LightAndShade
from .makeup import MakeupReference
from .null_text import NullTextLearner
from .objectives import FRSurrogateLoss
from .optimizer import AdversarialLatentOptimizer
from .paste import PasteFaceBack
from .performance import Performance
from .photo import ProtectPhoto
from .pixel_attacks import PixelSpaceAttack
from .save import SaveProtectedImage
from .surrogates import LoadSurrogate
from .verify import VerifyProtection, VerifyRobustness

NODES: list[type[io.ComfyNode]] = [
    LoadDemoModel,
    Performance,
    ProtectPhoto,
    DetectFaces,
    CropFace,
    PasteFaceBack,
    LoadSurrogate,
    DDIMInversion,
    NullTextLearner,
    SelfAttentionCapture,
    FRSurrogateLoss,
    MakeupReference,
    AdversarialLatentOptimizer,
    LightAndShade,
    PixelSpaceAttack,
    SaveProtectedImage,
    VerifyProtection,
    VerifyRobustness,
]


class FaceProtectExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> FaceProtectExtension:
    return FaceProtectExtension()

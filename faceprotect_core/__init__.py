"""FaceProtect's method in pure torch: DDIM inversion, null-text embeddings, self-attention structure, latent attack."""

from . import openmp  # noqa: F401 - before torch
from .checks import ProtectionError
from .method.attention import SelfAttentionReference, capture_self_attention
from .method.inversion import Trajectory, ddim_invert
from .method.null_text import learn_null_text
from .method.objectives import IdentityObjective
from .method.optimizer import ProtectionResult, optimize_latent
from .method.protect import Prepared, Settings, prepare, protect
from .method.schedule import DDIMSchedule
from .method.views import AlignmentJitter
from .surrogates import FRSurrogate, load_surrogate

__all__ = [
    "AlignmentJitter",
    "DDIMSchedule",
    "FRSurrogate",
    "IdentityObjective",
    "Prepared",
    "ProtectionError",
    "ProtectionResult",
    "SelfAttentionReference",
    "Settings",
    "Trajectory",
    "capture_self_attention",
    "ddim_invert",
    "learn_null_text",
    "load_surrogate",
    "optimize_latent",
    "prepare",
    "protect",
]

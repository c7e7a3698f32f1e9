"""FaceProtect's method in pure torch: DDIM inversion, null-text embeddings, self-attention structure, latent attack."""

from .attention import SelfAttentionReference, capture_self_attention
from .checks import ProtectionError
from .inversion import Trajectory, ddim_invert
from .null_text import learn_null_text
from .objectives import IdentityObjective
from .optimizer import ProtectionResult, optimize_latent
from .protect import protect
from .schedule import DDIMSchedule
from .surrogates import FRSurrogate, load_surrogate
from .views import AlignmentJitter

__all__ = [
    "AlignmentJitter",
    "DDIMSchedule",
    "FRSurrogate",
    "IdentityObjective",
    "ProtectionError",
    "ProtectionResult",
    "SelfAttentionReference",
    "Trajectory",
    "capture_self_attention",
    "ddim_invert",
    "learn_null_text",
    "load_surrogate",
    "optimize_latent",
    "protect",
]

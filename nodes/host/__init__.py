"""The only room that touches ComfyUI's internals: MODEL, VAE, CONDITIONING and IMAGE become the core's Denoiser,
ImageCodec, context and image tensors; gradients inside the server's inference mode; progress, preview, cancel."""

from .codec import ComfyCodec, codec_of
from .denoiser import ComfyDenoiser
from .files import file_of, files_in, save_path, shown_text, surrogate_file, surrogate_files, surrogate_fingerprint
from .gradients import gradients, no_gradients
from .memory import faces_at_once, fit_memory, optimization
from .models import (
    identity_of,
    model_from_diffusers,
    require_same_model,
    schedule_of,
    surrogate_patcher,
    vae_from_diffusers,
)
from .progress import PhotoProgress, Progress, nothing, show_on_node, with_text
from .ready import ready
from .settings import (
    LIGHT_DECODER,
    MOST_FACES_AT_ONCE,
    PerformanceSettings,
    compute_dtype,
    gradient_vae_of,
    settings_of,
    with_installed_taesd,
    with_settings,
)
from .supported import SDXL_SIZE, SIZE, crop_size, file_of_model, require_supported, warning_of
from .tensors import (
    PhotosAtWork,
    at_rest,
    at_work,
    require_room,
    to_comfy_image,
    to_comfy_latent,
    to_core_image,
    to_core_latent,
    to_core_mask,
    to_device,
)

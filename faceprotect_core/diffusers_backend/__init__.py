"""Stable Diffusion 1.x, 2.x and SDXL over the packages diffusers and transformers: the library without ComfyUI."""

from .adapters import DiffusersCodec, DiffusersDenoiser
from .folder import SCHEDULE, load_diffusers, load_vae, weights_files
from .single_file import load_single_file

__all__ = [
    "SCHEDULE",
    "DiffusersCodec",
    "DiffusersDenoiser",
    "load_diffusers",
    "load_single_file",
    "load_vae",
    "weights_files",
]

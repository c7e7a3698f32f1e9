"""Model files for the host tests, made once per session in the running ComfyUI's models folder."""

import pytest

from checkpoints import INPAINTING, SD1, SD2, VEGA, write_checkpoint, write_lora, write_vae


@pytest.fixture(scope="session")
def sd1_checkpoint(comfyui) -> str:
    return write_checkpoint(comfyui.models_dir, SD1)


@pytest.fixture(scope="session")
def sd2_checkpoint(comfyui) -> str:
    return write_checkpoint(comfyui.models_dir, SD2)


@pytest.fixture(scope="session")
def sdxl_checkpoint(comfyui) -> str:
    return write_checkpoint(comfyui.models_dir, VEGA)


@pytest.fixture(scope="session")
def inpainting_checkpoint(comfyui) -> str:
    return write_checkpoint(comfyui.models_dir, INPAINTING, text_encoder=False)


@pytest.fixture(scope="session")
def other_vae(comfyui) -> str:
    return write_vae(comfyui.models_dir)


@pytest.fixture(scope="session")
def sd1_lora(comfyui) -> str:
    return write_lora(comfyui.models_dir, SD1)


@pytest.fixture(scope="session")
def sd2_lora(comfyui) -> str:
    return write_lora(comfyui.models_dir, SD2)


@pytest.fixture(scope="session")
def sdxl_lora(comfyui) -> str:
    return write_lora(comfyui.models_dir, VEGA)

"""Model files for the host tests, made once per session in the running ComfyUI's models folder."""

import pytest

from checkpoints import SD1, SD2, SDXL, write_checkpoint, write_lora


@pytest.fixture(scope="session")
def sd1_checkpoint(comfyui) -> str:
    return write_checkpoint(comfyui.models_dir, SD1)


@pytest.fixture(scope="session")
def sd2_checkpoint(comfyui) -> str:
    return write_checkpoint(comfyui.models_dir, SD2)


@pytest.fixture(scope="session")
def sdxl_checkpoint(comfyui) -> str:
    return write_checkpoint(comfyui.models_dir, SDXL)


@pytest.fixture(scope="session")
def sd1_lora(comfyui) -> str:
    return write_lora(comfyui.models_dir, SD1)


@pytest.fixture(scope="session")
def sd2_lora(comfyui) -> str:
    return write_lora(comfyui.models_dir, SD2)

"""What needs a CUDA device: make gpu, which gives it processes of its own.

The other tests load ComfyUI for the CPU, and a process has one ComfyUI.
"""

import sys
from types import SimpleNamespace

import pytest
import torch

from pack import import_pack


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device on this machine"))


@pytest.fixture(scope="session")
def pack(comfyui_installation, tmp_path_factory) -> SimpleNamespace:
    """The pack in a ComfyUI that uses the GPU."""
    if "comfy.model_management" in sys.modules:
        pytest.skip("ComfyUI was loaded for the CPU in this process: run make gpu")
    return import_pack(comfyui_installation.folder, tmp_path_factory.mktemp("custom_nodes"), cpu=False)

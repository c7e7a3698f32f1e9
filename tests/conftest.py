"""What the layers share: the library on the path, and one real ComfyUI for the whole session."""

import sys
from pathlib import Path

import pytest

from comfyui import ComfyUINotFound, ComfyUIServer, find_comfyui
from needs import missing

# Last, so that the pack's nodes/ never hides ComfyUI's nodes.py.
sys.path.append(str(Path(__file__).resolve().parent.parent))


@pytest.fixture(scope="session")
def comfyui_installation():
    try:
        return find_comfyui()
    except ComfyUINotFound as error:
        missing(str(error))


@pytest.fixture(scope="session")
def comfyui(comfyui_installation):
    """A running ComfyUI with this pack and no other, on the CPU."""
    with ComfyUIServer(installation=comfyui_installation) as server:
        yield server

"""The pack beside ComfyUI's own modules in this process, on the CPU."""

from types import SimpleNamespace

import pytest

from pack import import_pack


@pytest.fixture(scope="session")
def pack(comfyui_installation, tmp_path_factory) -> SimpleNamespace:
    return import_pack(comfyui_installation.folder, tmp_path_factory.mktemp("custom_nodes"), cpu=True)

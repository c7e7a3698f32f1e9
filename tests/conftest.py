"""What the layers share: the library on the path, and one real ComfyUI for the whole session."""

import os
import sys
from pathlib import Path

import pytest

from comfyui import ComfyUINotFound, ComfyUIServer, find_comfyui
from needs import missing

# Last, so that the pack's nodes/ never hides ComfyUI's nodes.py.
sys.path.append(str(Path(__file__).resolve().parent.parent))


# On Intel's CPUs several threads of its MKL do not repeat the last bits of a sum unless they are told to, before its
# first call. AMD's have repeated them without.
CPU = Path("/proc/cpuinfo")
if CPU.exists() and "GenuineIntel" in CPU.read_text():
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# Ray lets its workers have what other processes leave: beside two that compute, a twentieth of a core each.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_addoption(parser):
    parser.addoption("--frontend", metavar="FOLDER", help="the static files of another ComfyUI frontend")
    parser.addoption("--manager", metavar="FOLDER", help="an unpacked ComfyUI Manager, to be loaded beside the pack")


@pytest.fixture(scope="session")
def comfyui_installation():
    try:
        return find_comfyui()
    except ComfyUINotFound as error:
        missing(str(error))


@pytest.fixture(scope="session")
def comfyui(comfyui_installation, pytestconfig):
    """A running ComfyUI with this pack and no other, on the CPU."""
    frontend = pytestconfig.getoption("--frontend")
    flags = ["--front-end-root", str(Path(frontend).resolve())] if frontend else []
    manager = pytestconfig.getoption("--manager")
    with ComfyUIServer(installation=comfyui_installation, flags=flags, manager=manager) as server:
        yield server

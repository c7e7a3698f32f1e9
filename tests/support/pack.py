"""The pack beside ComfyUI's own modules in this process: for what a server does not show from outside."""

import importlib
import sys
from types import SimpleNamespace

from comfyui import PACK
from needs import missing


def import_pack(comfyui_folder, custom_nodes, cpu: bool) -> SimpleNamespace:
    """The pack imported as a package, as ComfyUI does: .root, .core, .host, .nodes, .backend (diffusers).

    custom_nodes: an empty folder. cpu: as ComfyUI's --cpu; what is imported first counts for the whole process.
    """
    sys.path.insert(0, str(comfyui_folder))  # before the pack's root: its nodes/ must not hide nodes.py
    try:
        import comfy.cli_args

        comfy.cli_args.args.cpu = cpu
        import comfy.model_management  # noqa: F401
    except ImportError as error:
        missing(f"ComfyUI's modules cannot be imported by this Python: {error}. How to fix: run .ci/environment.")
    (custom_nodes / "faceprotect_pack").symlink_to(PACK, target_is_directory=True)
    sys.path.append(str(custom_nodes))

    def module(name: str):
        return importlib.import_module(f"faceprotect_pack{name}")

    return SimpleNamespace(
        root=module(""),
        core=module(".faceprotect_core"),
        host=module(".nodes.host"),
        nodes=module(".nodes"),
        demo=module(".faceprotect_core.demo"),
        architecture=module(".faceprotect_core.demo.architecture"),
        backend=module(".faceprotect_core.diffusers_backend"),
    )

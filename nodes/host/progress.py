"""ComfyUI's progress bar, preview and texts on a node."""

from __future__ import annotations

import comfy.utils
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer
from torch import Tensor

from ...faceprotect_core.pixels import to_pixels

PREVIEW_SIZE = 512


class Progress:
    """An on_step callback that moves ComfyUI's progress bar and shows the current image."""

    def __init__(self, total: int):
        self.bar = comfy.utils.ProgressBar(max(total, 1))

    def __call__(self, event: dict) -> None:
        preview = _preview(event["image"]) if "image" in event else None
        self.bar.update_absolute(event["step"], event["steps"], preview)


def nothing() -> ExecutionBlocker:
    """As an output: the nodes after this one do not run for it, and the rest of the workflow goes on."""
    return ExecutionBlocker(None)


def show_on_node(node_id: str, text: str) -> None:
    """Writes a text on the node itself, in the frontend that runs the workflow."""
    PromptServer.instance.send_progress_text(text, node_id)


def _preview(image: Tensor) -> tuple:
    from PIL import Image

    return ("JPEG", Image.fromarray(to_pixels(image[0])), PREVIEW_SIZE)

"""What lies before a node in the graph: was the image protected on its way, and was it protected already?"""

from __future__ import annotations

from ..faceprotect_core.checks import require

PROTECTING = {
    "FaceProtectProtectPhoto": "Protect Photo",
    "FaceProtectLatentOptimizer": "Adversarial Latent Optimizer",
    "FaceProtectLightAndShade": "Light and Shade",
    "FaceProtectPixelAttack": "Pixel-Space Attack",
}


def protecting_before(hidden, name: str) -> list[str]:
    """The display names of protecting blocks that an input's image comes through.

    hidden: a node's, with `unique_id` and `dynprompt`, in which bypassed nodes are not. name: of the input.
    """
    seen, waiting = set(), [_source(hidden.dynprompt.get_node(hidden.unique_id)["inputs"].get(name))]
    found = []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or not hidden.dynprompt.has_node(node):
            continue
        seen.add(node)
        data = hidden.dynprompt.get_node(node)
        found += [PROTECTING[data["class_type"]]] if data["class_type"] in PROTECTING else []
        waiting += map(_source, data["inputs"].values())
    return found


def _source(value) -> str | None:
    """The node that an input is linked to."""
    is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    return value[0] if is_link else None


def require_protected(hidden, name: str, where: str) -> None:
    """Fails where no protecting block is on the way: it was bypassed, or left out."""
    require(
        bool(protecting_before(hidden, name)),
        f"{where}: no block that protects lies before it; if one is bypassed (Ctrl+B), it lets the photo through",
        f"switch it on again, connect one of {', '.join(PROTECTING.values())}, or use ComfyUI's own Save Image",
    )


def require_untouched(hidden, name: str, where: str) -> None:
    """Fails where the photo was protected before: a second run would flee from the first, back towards the person."""
    before = protecting_before(hidden, name)
    require(
        not before,
        f"{where}: the photo comes out of {' and '.join(before)}, so it is protected already; to protect it again can "
        "undo that, because the person is no longer known from it",
        "connect the original photo, and choose a stronger preset if it should be changed more",
    )

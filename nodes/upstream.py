"""What lies before a node in the graph: was the image protected on its way, and was it protected already?"""

from __future__ import annotations

from collections.abc import Iterator

from ..faceprotect_core.checks import require
from ..faceprotect_core.photos.read import is_marked
from . import host

PROTECTING = {
    "FaceProtectProtectPhoto": "Protect Photo",
    "FaceProtectLatentOptimizer": "Adversarial Latent Optimizer",
    "FaceProtectLightAndShade": "Light and Shade",
    "FaceProtectPixelAttack": "Pixel-Space Attack",
}
# Core's own whose text names a folder; others may name a file.
OF_A_FOLDER = ("LoadImageDataSetFromFolder", "LoadImageTextDataSetFromFolder")


def _before(hidden, name: str) -> Iterator[dict]:
    """The nodes that an input's image comes through.

    hidden: a node's, with `unique_id` and `dynprompt`, in which bypassed nodes are not. name: of the input.
    """
    seen, waiting = set(), [_source(hidden.dynprompt.get_node(hidden.unique_id)["inputs"].get(name))]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or not hidden.dynprompt.has_node(node):
            continue
        seen.add(node)
        data = hidden.dynprompt.get_node(node)
        yield data
        waiting += map(_source, data["inputs"].values())


def _source(value) -> str | None:
    """The node that an input is linked to."""
    is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    return value[0] if is_link else None


def protecting_before(hidden, name: str) -> list[str]:
    """The display names of protecting blocks that an input's image comes through."""
    return [PROTECTING[data["class_type"]] for data in _before(hidden, name) if data["class_type"] in PROTECTING]


def protected_files_before(hidden, name: str) -> Iterator[str]:
    """The names of protected photos among the files that are loaded for an input, whatever node loads them."""
    for data in _before(hidden, name):
        for text in filter(lambda value: isinstance(value, str), data["inputs"].values()):
            files = host.files_in(text) if data["class_type"] in OF_A_FOLDER else host.file_of(text)
            yield from (path.name for path in files if is_marked(path))


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
    stronger = "and choose a stronger preset if it should be changed more"
    require(
        not before,
        f"{where}: the photo comes out of {' and '.join(before)}, so it is protected already; protected again, the "
        "person in it may be known again",
        f"connect the original photo, {stronger}",
    )
    file = next(protected_files_before(hidden, name), None)
    require(
        file is None,
        f"{where}: {file!r} is protected already, an earlier run wrote it",
        f"load the original photo (from a folder that is loaded take protected ones out), {stronger}",
    )

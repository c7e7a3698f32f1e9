"""The pictures in ComfyUI's template browser: before | after, from a real run of each workflow on a real server.

They are square, because the browser shows them so: the middle half of either photo, where the face is; or the reports
of Verify Protection and Verify Robustness, one below the other.

The portrait is that of `make demo` (NASA's, public domain). The paper's workflows and sdxl want a checkpoint, the
paper's a target too, and neither is part of this pack: here they run with the demo model in place of the checkpoint,
and with a synthetic target, a face sampled from the demo model. So their pictures show the graph at work, not Stable
Diffusion's quality.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from comfyui import PACK, ComfyUIServer
from demo import HEAD, nodes_of, portrait, shown_images, upload_portrait, whole_photo
from workflow_graphs import PHOTO, PHOTO_FOLDER, PORTRAIT, TARGET

SIDE, QUALITY = 512, 85
MODEL_SIDE = 256  # pixels: what the demo model works on
TARGET_SEED = 1
# Output of the checkpoint loader -> output of Load Demo Model; CLIP (1) only feeds the empty prompt.
DEMO_OUTPUTS = {0: 0, 2: 1}
EMPTY_PROMPT = 2


def make_thumbnail(server: ComfyUIServer, name: str) -> Path:
    """Runs the workflow of that name and writes workflows/<name>.jpg."""
    prompt = json.loads((PACK / "workflows/api" / f"{name}.json").read_text(encoding="utf-8"))
    named = {node["inputs"]["image"] for node in nodes_of(prompt, "LoadImage").values()}
    whole = PHOTO in named or nodes_of(prompt, "FaceProtectProtectPhoto")
    with_checkpoint = bool(nodes_of(prompt, "CheckpointLoaderSimple"))
    prompt = with_demo_model(prompt) if with_checkpoint else prompt
    if whole:
        server.upload_image(whole_photo(), PHOTO)
        server.upload_image(whole_photo(), PHOTO, subfolder=PHOTO_FOLDER)
        for node in nodes_of(prompt, "LoadImage").values():
            node["inputs"]["image"] = node["inputs"]["image"] or PHOTO  # an app asks for it
    elif with_checkpoint:
        server.upload_image(_synthetic_face(server), TARGET)
        server.upload_image(portrait(), PORTRAIT)
    else:
        upload_portrait(server, prompt)
    result = server.run(prompt, timeout=1800).check()
    path = PACK / "workflows" / f"{name}.jpg"
    verified = nodes_of(prompt, "FaceProtectVerify", "FaceProtectVerifyRobustness")
    previews = {node: one["inputs"]["images"][0] for node, one in nodes_of(prompt, "PreviewImage").items()}
    reports = [node for node, made_by in previews.items() if made_by in verified]
    finished = [node for node in previews if node not in reports] + [*nodes_of(prompt, "FaceProtectSaveImage")]
    if not finished:
        picture = _stacked([server.image(result.images(node)[0])[..., :3] for node in reports])
        Image.fromarray(picture).save(path, quality=QUALITY, optimize=True)
        return path
    if whole:
        panels = [whole_photo()[HEAD], server.image(result.images(finished[0])[0])[HEAD][..., :3]]
    else:
        panels = [server.image(entry)[..., :3] for entry in shown_images(prompt, result.outputs).values()]
    picture = np.concatenate([_middle(panel, SIDE // len(panels)) for panel in panels], axis=1)
    Image.fromarray(picture).save(path, quality=QUALITY, optimize=True)
    return path


def with_demo_model(prompt: dict) -> dict:
    """The same graph on the built-in model: the loader is swapped, the encoded empty prompt is its null context."""
    kinds = {node_id: node["class_type"] for node_id, node in prompt.items()}
    kept = {node_id: dict(node) for node_id, node in prompt.items() if kinds[node_id] != "CLIPTextEncode"}
    loader = next(node_id for node_id, kind in kinds.items() if kind == "CheckpointLoaderSimple")
    kept[loader] = {"class_type": "FaceProtectLoadDemoModel", "inputs": {}}

    def rewired(value):
        if not isinstance(value, list):
            return value
        source, output = value
        if kinds[source] == "CLIPTextEncode":
            return [loader, EMPTY_PROMPT]
        return [source, DEMO_OUTPUTS[output]] if source == loader else value

    for node in kept.values():
        node["inputs"] = {name: rewired(value) for name, value in node["inputs"].items()}
    return kept


def _synthetic_face(server: ComfyUIServer) -> np.ndarray:
    noise = {"model": ["1", 0], "positive": ["1", 2], "negative": ["1", 2], "latent_image": ["2", 0]}
    sampling = {"steps": 30, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    nodes = {
        "1": ("FaceProtectLoadDemoModel", {}),
        "2": ("EmptyLatentImage", {"width": MODEL_SIDE, "height": MODEL_SIDE, "batch_size": 1}),
        "3": ("KSampler", {**noise, **sampling, "seed": TARGET_SEED}),
        "4": ("VAEDecode", {"samples": ["3", 0], "vae": ["1", 1]}),
        "5": ("PreviewImage", {"images": ["4", 0]}),
    }
    prompt = {node_id: {"class_type": kind, "inputs": inputs} for node_id, (kind, inputs) in nodes.items()}
    return server.image(server.run(prompt).check().images("5")[0])


def _stacked(reports: list[np.ndarray]) -> np.ndarray:
    """One below the other, as wide as the thumbnail; what does not fit is cut off at the bottom."""
    images = [Image.fromarray(report) for report in reports]
    scaled = [one.resize((SIDE, SIDE * one.height // one.width), Image.Resampling.LANCZOS) for one in images]
    picture = np.concatenate([np.asarray(one) for one in scaled])[:SIDE]
    return np.pad(picture, ((0, SIDE - len(picture)), (0, 0), (0, 0)), constant_values=255)


def _middle(panel: np.ndarray, width: int) -> np.ndarray:
    """The middle of a square picture, as high as the thumbnail and that wide."""
    kept = panel.shape[1] * width // SIDE
    left = (panel.shape[1] - kept) // 2
    middle = Image.fromarray(panel[:, left : left + kept])
    return np.asarray(middle.resize((width, SIDE), Image.Resampling.LANCZOS))

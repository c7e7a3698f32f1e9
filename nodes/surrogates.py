"""Load FR Surrogate: a face recognition network -> FACEPROTECT_SURROGATE (core: surrogates/)."""

import torch
from comfy_api.latest import io

from ..faceprotect_core import FRSurrogate, load_surrogate
from ..faceprotect_core.surrogates import BUILT_IN_SURROGATES
from ..faceprotect_core.surrogates.metric import METRICS
from . import host
from .sockets import CATEGORY, SurrogateData, SurrogateSocket

BUILT_IN = "dlib_resnet"
BUILT_IN_NOTES = {
    "dlib_resnet": "a ResNet of 29 layers, CC0, 93 %, the same person below a distance of 0.65",
    "mobilefacenet": "MobileFaceNet with ArcFace, Apache-2.0, 92 %, cosine",
    "faceres": "MobileNet on VGGFace2, Apache-2.0, 88 %, cosine",
    "mobileface": "MobileFace V3, MIT, 71 %, cosine",
}


class LoadSurrogate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectLoadSurrogate",
            display_name="Load FR Surrogate",
            category=CATEGORY,
            description="Loads a face recognition network to protect against or to check with: one of the four that "
            "are built in, or a weights file from models/face_recognition.",
            search_aliases=["faceprotect", "face recognition", "arcface", "insightface", "facenet", "dlib", "privacy"],
            inputs=[
                io.Combo.Input(
                    "surrogate",
                    options=[*BUILT_IN_SURROGATES, *host.surrogate_files()],
                    default=BUILT_IN,
                    tooltip=_surrogate_tooltip(),
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.0001,
                    optional=True,
                    advanced=True,
                    tooltip="The same person above this cosine (below this distance for dlib_resnet). 0: the network's "
                    "own, where one is known. Your weights need their own if they are not the published ones.",
                ),
            ],
            outputs=[
                SurrogateSocket.Output(
                    display_name="surrogate", tooltip="The network with its input size, alignment, metric, thresholds."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, surrogate, threshold=0.0):
        return [*host.surrogate_fingerprint(surrogate), threshold]

    @classmethod
    def execute(cls, surrogate, threshold=0.0) -> io.NodeOutput:
        loaded = load(surrogate, threshold or None)
        return host.with_text(cls.hidden.unique_id, describe(loaded.surrogate), loaded)


def load(name: str = BUILT_IN, threshold: float | None = None) -> SurrogateData:
    """A face recognition network in a patcher of its own; threshold None is the network's own."""
    file = name if name in BUILT_IN_SURROGATES else host.surrogate_file(name)
    with torch.inference_mode(False):
        loaded = load_surrogate(file, threshold)
    return SurrogateData(loaded, host.surrogate_patcher(loaded))


def _surrogate_tooltip() -> str:
    kinds = " ".join(f"{name}: {what}." for name, what in BUILT_IN_NOTES.items())
    return (
        f"Built in: {kinds} The share is how many of 450 CelebA-HQ pairs of one person it accepts at a false accept "
        "rate of 0.01, whose threshold is the default. Files: .safetensors, .pth, .pt, .bin and .onnx in "
        "models/face_recognition, and those of InsightFace's packs and facexlib; recognised by their tensors."
    )


def growing_input(name: str, tooltip: str, least: int = 0) -> io.Autogrow.Input:
    """Sockets for up to eight face recognition networks, which come together as the name with an s."""
    one = SurrogateSocket.Input(name, optional=least == 0)
    template = io.Autogrow.TemplatePrefix(one, prefix=name, min=least, max=8)
    return io.Autogrow.Input(f"{name}s", template=template, optional=least == 0, tooltip=tooltip)


def connected(surrogates: dict | None) -> list[SurrogateData]:
    """Those that are connected to sockets that grow."""
    return [surrogate for surrogate in (surrogates or {}).values() if surrogate is not None]


def loaded_or_built_in(surrogates: dict | None) -> list[SurrogateData]:
    """Those that are connected to sockets that grow; all built-in recognisers where there is none."""
    return connected(surrogates) or [load(name) for name in BUILT_IN_SURROGATES]


def describe(surrogate: FRSurrogate) -> str:
    """What was recognised, how it is used, and on whose word: for the node itself."""
    low, high = surrogate.value_range
    if surrogate.default_threshold is not None or surrogate.thresholds:
        side = METRICS[surrogate.metric].side
        decides = f"same person {side} {surrogate.threshold():.3g} ({surrogate.thresholds_source})"
    else:
        decides = "no threshold known, so no verdict about who matches: set one if you have measured it"
    lines = [
        f"{surrogate.name}: {surrogate.source}",
        f"Input {surrogate.input_size} x {surrogate.input_size}, {surrogate.colour_order} in {low:g} to {high:g}, "
        f"aligned to {surrogate.template}",
        f"It compares by {METRICS[surrogate.metric].word}, {decides}",
    ]
    if surrogate.thresholds:
        rates = ", ".join(f"{value:.4g} at {far:g}" for far, value in surrogate.thresholds.items())
        lines.append(f"Thresholds at false accept rates: {rates}")
    if surrogate.licence:
        lines.append(f"Licence: {surrogate.licence}")
    # Nodes 2.0 reads this as markdown: a single line break would be lost there.
    return "\n\n".join(lines)

"""Load FR Surrogate: a face recognition network -> FACEPROTECT_SURROGATE (core: surrogates/)."""

import torch
from comfy_api.latest import io

from ..faceprotect_core import load_surrogate
from ..faceprotect_core.surrogates import BUILT_IN_SURROGATES
from . import host
from .sockets import CATEGORY, SurrogateData, SurrogateSocket

BUILT_IN = "dlib_resnet"


class LoadSurrogate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectLoadSurrogate",
            display_name="Load FR Surrogate",
            category=CATEGORY,
            description="Loads a face recognition network to protect against or to check with.",
            search_aliases=["faceprotect", "face recognition", "arcface", "dlib", "privacy"],
            inputs=[
                io.Combo.Input(
                    "surrogate",
                    options=sorted(BUILT_IN_SURROGATES),
                    tooltip="dlib_resnet: built in, CC0, 150 x 150 aligned faces, Euclidean distance, the same person "
                    "below 0.6.",
                )
            ],
            outputs=[
                SurrogateSocket.Output(
                    display_name="surrogate", tooltip="The network with its input size, alignment, metric, thresholds."
                )
            ],
        )

    @classmethod
    def execute(cls, surrogate) -> io.NodeOutput:
        return io.NodeOutput(load(surrogate))


def load(name: str = BUILT_IN) -> SurrogateData:
    """A face recognition network in a patcher of its own."""
    with torch.inference_mode(False):
        loaded = load_surrogate(name)
    return SurrogateData(loaded, host.surrogate_patcher(loaded))

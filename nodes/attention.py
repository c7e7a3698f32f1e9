"""Self-Attention Capture: TRAJECTORY, NULL_TEXT -> FACEPROTECT_STRUCTURE (core: method/attention.py)."""

from comfy_api.latest import io

from ..faceprotect_core import capture_self_attention
from . import host
from .sockets import CATEGORY, NullTextSocket, StructureSocket, TrajectoryData, TrajectorySocket


class SelfAttentionCapture(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectSelfAttentionCapture",
            display_name="Self-Attention Capture",
            category=CATEGORY,
            description="Denoises the unchanged photo once and keeps what every self-attention layer saw: the "
            "structure that the protected photo must keep.",
            search_aliases=["faceprotect", "attention", "structure", "privacy"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that made the trajectory."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Inversion."),
                NullTextSocket.Input("null_text", tooltip="From the Null-Text Embedding Learner."),
            ],
            outputs=[
                StructureSocket.Output(
                    display_name="structure",
                    tooltip="Queries and keys of every self-attention layer at every step, for the optimizer.",
                )
            ],
        )

    @classmethod
    def execute(cls, model, trajectory: TrajectoryData, null_text) -> io.NodeOutput:
        with host.ready(model, trajectory=trajectory, where="Self-Attention Capture") as ready:
            embeddings = host.at_work(null_text)
            structure = capture_self_attention(ready.denoiser, ready.trajectory, embeddings, host.Progress())
        return io.NodeOutput(host.at_rest(structure))

"""Null-Text Embedding Learner: FACEPROTECT_TRAJECTORY -> FACEPROTECT_NULL_TEXT (core: method/null_text.py)."""

from comfy_api.latest import io

from ..faceprotect_core import learn_null_text
from . import host
from .sockets import CATEGORY, NullTextSocket, TrajectoryData, TrajectorySocket


class NullTextLearner(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectNullTextLearner",
            display_name="Null-Text Embedding Learner",
            category=CATEGORY,
            description="Learns one unconditional embedding per denoising step, so that the model keeps the photo's "
            "detail instead of purifying it away.",
            search_aliases=["faceprotect", "null text", "inversion", "privacy"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that made the trajectory."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Inversion."),
                io.Int.Input(
                    "iterations",
                    default=20,
                    min=0,
                    max=1000,
                    tooltip="Optimiser steps per denoising step. 20 in the paper; 0 keeps the empty prompt for all "
                    "steps, to see what learning gains. Time grows in proportion.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.1,
                    min=0.0001,
                    max=1.0,
                    step=0.0001,
                    advanced=True,
                    tooltip="AdamW's learning rate on the embedding. 0.1 in the paper; lower it if the loss rises.",
                ),
            ],
            outputs=[
                NullTextSocket.Output(
                    display_name="null_text", tooltip="One embedding per denoising step and image, noisiest first."
                )
            ],
        )

    @classmethod
    def execute(cls, model, trajectory: TrajectoryData, iterations, learning_rate) -> io.NodeOutput:
        with host.ready(model, trajectory=trajectory, steps=1, where="Null-Text Embedding Learner") as ready:
            embeddings = learn_null_text(
                ready.denoiser, ready.trajectory, ready.context, iterations, learning_rate, host.Progress()
            )
        return io.NodeOutput(host.at_rest(embeddings))

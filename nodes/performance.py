"""Performance Settings: MODEL, VAE -> MODEL, VAE that say how FaceProtect computes with them (see host.py)."""

from comfy_api.latest import io

from ..faceprotect_core.checks import require
from . import host
from .sockets import CATEGORY

WHERE = "Performance Settings"
SMALLEST_TILE = 128  # two overlaps


class Performance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectPerformance",
            display_name="Performance Settings",
            category=CATEGORY,
            description="Trades time, memory and precision in all that FaceProtect computes with this MODEL and VAE. "
            "With its default values it changes nothing; other nodes take no notice of it.",
            search_aliases=["faceprotect", "memory", "lowvram", "bfloat16", "taesd", "speed"],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL. LoRAs may come before or after."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.Combo.Input(
                    "precision",
                    options=["as loaded", "float32", "bfloat16"],
                    default="as loaded",
                    tooltip="What the U-Net and the VAE compute in. bfloat16 halves the memory and is faster on recent "
                    "GPUs and CPUs, and the result is another one. As loaded: float16 is computed in float32, from a "
                    "copy, or layer by layer where memory is low.",
                ),
                io.Combo.Input(
                    "memory",
                    options=["automatic", "low", "ample"],
                    default="automatic",
                    tooltip="low: blocks are computed again in the backward pass, less than half the memory for "
                    "about half as much time again, the same result. automatic: low where ComfyUI has too little free.",
                ),
                io.Vae.Input(
                    "gradient_vae",
                    optional=True,
                    tooltip="TAESD from Load VAE: its small decoder gives the gradient, the full VAE the image. Much "
                    "less memory and time; the gradient is only near the true one, so protection can be weaker.",
                ),
                io.Int.Input(
                    "gradient_tile",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    optional=True,
                    tooltip="For crops larger than this many pixels (128 or more): the decoder's gradient comes "
                    "from tiles of this size, one after the other; less memory, and only near the true one. The image "
                    "is decoded whole all the same. 0: no tiles.",
                ),
                io.Int.Input(
                    "faces_at_once",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="How many faces Protect Photo protects at once, of one photo or of several. More faces a "
                    "minute on a GPU, for as much more memory; slower on a CPU. 0: automatic, 1 on a CPU, on a GPU as "
                    f"many as fit, up to {host.MOST_FACES_AT_ONCE}.",
                ),
                io.Boolean.Input(
                    "cuda_graphs",
                    default=False,
                    optional=True,
                    tooltip="On an NVIDIA GPU the networks are recorded once and replayed, two to three times as fast "
                    "on a fast GPU; recording takes a few seconds for each run and needs ample memory. On a CPU it "
                    "changes nothing.",
                ),
                io.Boolean.Input(
                    "taesd_if_installed",
                    default=True,
                    optional=True,
                    tooltip="Protect Photo takes the gradient from TAESD (taesdxl for SDXL) where it lies in "
                    "models/vae_approx and no gradient_vae is connected; its report says so. Off: from the VAE itself.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The same MODEL with the settings; weights are shared."),
                io.Vae.Output(display_name="vae", tooltip="The same VAE with the settings; weights are shared."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        precision,
        memory,
        gradient_vae=None,
        gradient_tile=0,
        faces_at_once=0,
        cuda_graphs=False,
        taesd_if_installed=True,
    ) -> io.NodeOutput:
        tiny = None if gradient_vae is None else host.gradient_vae_of(gradient_vae, model, precision, WHERE)
        require(
            gradient_tile == 0 or (gradient_tile >= SMALLEST_TILE and gradient_tile % 8 == 0),
            f"{WHERE}: gradient_tile is {gradient_tile}",
            f"use 0 for no tiles, or a multiple of 8 from {SMALLEST_TILE} on",
        )
        settings = host.PerformanceSettings(
            precision, memory, tiny, gradient_tile, faces_at_once, cuda_graphs, taesd_if_installed
        )
        return io.NodeOutput(*host.with_settings(model, vae, settings))

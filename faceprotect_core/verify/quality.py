"""How much a photo was changed, by the measures of the field, each by the library that it takes, and how it counts.

| measure | library       | range, unit        | convention                                                            |
|---------|---------------|--------------------|-----------------------------------------------------------------------|
| PSNR    | torch         | dB, higher: closer | data range 1; over all channels and pixels of an image, or of a mask  |
| SSIM    | kornia        | up to 1, higher    | data range 1; Gaussian window of 11 pixels, sigma 1.5; per channel of |
|         |               |                    | RGB, mean of the three; only where the window lies in the image       |
| MS-SSIM | kornia        | 0 to 1, higher     | SSIM's window and constants on five scales, Wang's weights            |
| CIEDE-  | kornia, and   | from 0, lower      | mean and 95th percentile over the pixels of an image, or of a mask;   |
| 2000    | ciede2000.py  |                    | sRGB, D65, all parametric factors 1                                   |
| LPIPS   | torchmetrics  | from 0, lower      | version 0.1, AlexNet or VGG-16; images as they are, not resized       |
| FID     | torch-fidelity| from 0, lower      | InceptionV3 of 2015, 2048 features; images rounded to 8 bits          |

Nothing is downloaded. The weights of LPIPS and FID are files that the user brings; they are opened without running
anything in them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..checks import ProtectionError, require, require_finite, require_image
from ..ciede2000 import ciede2000_map
from ..pixels import as_saved, to_pixels
from ..surrogates.weights_file import read_tensors

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels
SSIM_CONSTANTS = 0.01**2, 0.03**2
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # from the finest scale to the coarsest
MS_SSIM_SMALLEST = 161  # pixels; a side that is halved four times then still holds the window
COLOURS_AT_ONCE = 2**20  # pixels whose difference is computed together
LPIPS_WEIGHTS = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
LPIPS_SMALLEST = 32  # pixels; what is smaller does not reach the last layer
FID_WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
FID_FEATURES = 2048  # with fewer images than features a covariance has no full rank, and FID is biased upwards
AT_ONCE = 8  # images in one pass of a network


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images, [B, 3, H, W] in [0, 1] -> [B] in dB; infinite for equal ones.

    -10 log10 of the mean squared difference (data range 1), over all channels and all pixels; with a mask
    [1 or B, 1, H, W], over those where it is above 0. An empty mask gives NaN.
    """
    _check_pair(a, b, "psnr")
    error = (a.double() - b.double()).square()
    if mask is None:
        return -10 * error.flatten(1).mean(1).log10()
    inside = (mask > 0).to(error).expand_as(error)
    return -10 * ((error * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)).log10()


def to_psnr(photo: Tensor, changed: Tensor, wanted: float) -> tuple[Tensor, float]:
    """The change made larger or smaller until the PSNR is as wanted, rounded to 8 bits; and the factor.

    Where that would leave [0, 1] it is clipped, and the PSNR is a little higher than wanted.
    """
    before = psnr(photo, changed).item()
    scale = 1.0 if math.isinf(before) else 10 ** ((before - wanted) / 20)
    return as_saved((photo + scale * (changed - photo)).clamp(0, 1)), scale


def ssim(a: Tensor, b: Tensor, borders: Literal["valid", "reflect"] = "valid") -> Tensor:
    """Structural similarity of each pair of images, [B, 3, H, W] in [0, 1] -> [B], 1 for equal ones.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), with their constants
    0.01 and 0.03 and population covariances: the mean over the channels and over the pixels whose whole window lies in
    the image (all but 5 at each border). skimage counts so with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False; with its own defaults (a flat window of 7) it gives other numbers.

    Args:
        a: images.
        b: images of the same shape.
        borders: "reflect" counts all pixels, in images that are continued by reflection; so measured for the README's
            table of the demo. Where the change is in the middle of the image it gives some thousandths more.

    Raises:
        ProtectionError: shapes that differ, or images smaller than the window.
    """
    from kornia.metrics import ssim as ssim_map

    _check_pair(a, b, "ssim")
    require(
        min(a.shape[2:]) >= SSIM_WINDOW,
        f"ssim: the images are {a.shape[2]} x {a.shape[3]} pixels, the window is {SSIM_WINDOW}",
        "compare larger images",
    )
    # In float64: variances are differences of nearly equal numbers.
    padding = "valid" if borders == "valid" else "same"
    return ssim_map(a.double(), b.double(), SSIM_WINDOW, padding=padding).flatten(1).mean(1)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity of each pair of images, [B, 3, H, W] in [0, 1] -> [B], 1 for equal ones.

    Wang, Simoncelli, Bovik, "Multiscale Structural Similarity for Image Quality Assessment" (2003). Of five scales,
    each half as large as the one before: the mean of contrast and structure, on the coarsest of luminance too, to the
    power of the scale's weight, multiplied. Means over the channels and over the pixels whose whole window lies in the
    image; a negative one counts as 0. A side that is odd is halved upwards, as the authors do. torchmetrics drops its
    last pixel, and continues the coarsest scale by reflection: some ten-thousandths more or less.

    Raises:
        ProtectionError: shapes that differ, or a side below 161 pixels.
    """
    from kornia.filters import get_gaussian_kernel1d

    _check_pair(a, b, "MS-SSIM", MS_SSIM_SMALLEST)
    kernel = get_gaussian_kernel1d(SSIM_WINDOW, SSIM_SIGMA, device=a.device, dtype=torch.float64)
    found, x, y = a.new_ones(len(a), dtype=torch.float64), a.double(), b.double()
    for weight in MS_SSIM_WEIGHTS[:-1]:
        found = found * _similarities(x, y, kernel)[1].relu() ** weight
        x, y = (F.avg_pool2d(image, 2, ceil_mode=True) for image in (x, y))
    return found * _similarities(x, y, kernel)[0].relu() ** MS_SSIM_WEIGHTS[-1]


def _similarities(a: Tensor, b: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM, and its part of contrast and structure, [B] each; channel by channel, which needs a third of the memory."""
    from kornia.filters import filter2d_separable

    def mean(image: Tensor) -> Tensor:
        return filter2d_separable(image, kernel, kernel, padding="valid")

    wholes, parts, (c1, c2) = [], [], SSIM_CONSTANTS
    for x, y in zip(a.split(1, 1), b.split(1, 1), strict=True):
        mean_x, mean_y = mean(x), mean(y)
        squares = mean_x**2 + mean_y**2
        part = (2 * (mean(x * y) - mean_x * mean_y) + c2) / (mean(x**2 + y**2) - squares + c2)
        wholes.append(((2 * mean_x * mean_y + c1) / (squares + c1) * part).flatten(1).mean(1))
        parts.append(part.flatten(1).mean(1))
    return torch.stack(wholes).mean(0), torch.stack(parts).mean(0)


@torch.no_grad()
def ciede2000(a: Tensor, b: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Colour difference of each pair of images, [B, 3, H, W] in [0, 1] -> mean [B] and 95th percentile [B].

    Over all pixels; with a mask [1 or B, 1, H, W], over those where it is above 0. An empty mask gives NaN.
    The map of it, also as a loss: `ciede2000.ciede2000_map`.
    """
    _check_pair(a, b, "CIEDE2000")
    inside = torch.ones_like(a[:, :1]) if mask is None else mask.expand(len(a), -1, -1, -1)
    found = [_colour_difference(*images) for images in zip(a, b, inside[:, 0] > 0, strict=True)]
    means, worst = zip(*found, strict=True)
    return a.new_tensor(means, dtype=torch.float64), a.new_tensor(worst, dtype=torch.float64)


def _colour_difference(a: Tensor, b: Tensor, inside: Tensor) -> tuple[float, float]:
    if not inside.any():
        return math.nan, math.nan
    parts = zip(*(image[:, inside][None, :, None].split(COLOURS_AT_ONCE, 3) for image in (a, b)), strict=True)
    values = torch.cat([ciede2000_map(*part).flatten() for part in parts]).cpu().numpy()
    return float(values.mean()), float(np.percentile(values, 95))


class Lpips:
    """Learned perceptual image patch similarity (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric", 2018), version 0.1, by torchmetrics, which brings the linear weights along.

    Args:
        weights: torchvision's weights of the backbone, a file that the user brings; see LPIPS_WEIGHTS.
        network: "alex", which the authors recommend for measuring, or "vgg".

    Raises:
        ProtectionError: a package or the file is missing, or the file holds another network.
    """

    def __init__(self, weights: Path, network: Literal["alex", "vgg"] = "alex"):
        require(
            network in LPIPS_WEIGHTS,
            f"LPIPS: there is no network {network!r}",
            f"use one of {', '.join(LPIPS_WEIGHTS)}",
        )
        tensors = _read_weights(Path(weights), LPIPS_WEIGHTS[network], "LPIPS")
        try:
            from torchmetrics.functional.image.lpips import _NoTrainLpips

            # pnet_rand: the backbone is built without weights, so that nothing is fetched; they are filled in below.
            net = _NoTrainLpips(net=network, pnet_rand=True)
        except (ImportError, TypeError) as error:
            raise _missing("LPIPS", '"torchmetrics>=1.9" torchvision', error) from error
        # slice2.3.weight is layer 3 of torchvision's features, which only are cut into slices.
        names = {name: "features." + name.partition(".")[2] for name in net.net.state_dict()}
        try:
            net.net.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items() if theirs in tensors})
        except RuntimeError as error:
            raise _other_network(Path(weights), "LPIPS", error) from error
        self.network, self.net = network, net

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1], sides of 32 pixels or more -> [B], 0 for equal images; on the images' device."""
        _check_pair(a, b, "LPIPS", LPIPS_SMALLEST)
        net = self.net.to(a.device)
        pairs = zip(a.float().split(AT_ONCE), b.float().split(AT_ONCE), strict=True)
        return torch.cat([net(x, y, normalize=True).reshape(-1) for x, y in pairs])


def frechet_distance(images_a: Tensor | Sequence[Tensor], images_b: Tensor | Sequence[Tensor], weights: Path) -> float:
    """Fréchet inception distance (FID) of two sets of images, by torch-fidelity.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017).

    With fewer than 2048 images in a set its covariance of 2048 features has no full rank: the number is biased upwards,
    the more the fewer the images are, so that only sets of the same size compare, and no published FID does. A table
    must say how many images it was. Equal sets give 0 up to rounding, which may be a little below 0.

    Args:
        images_a, images_b: [N, 3, H, W] in [0, 1], or a sequence of [3, H, W] that may differ in size; two images at
            least. Each is rounded to 8 bits and resized to 299 pixels, as torch-fidelity does it.
        weights: torch-fidelity's InceptionV3, a file that the user brings; see FID_WEIGHTS.

    Raises:
        ProtectionError: a package or the file is missing, the file holds another network, or there are too few images.
    """
    sets = [_EightBit(images, "FID") for images in (images_a, images_b)]
    tensors = _read_weights(Path(weights), FID_WEIGHTS, "FID")
    try:
        from torch_fidelity import calculate_metrics
    except ImportError as error:
        raise _missing("FID", "torch-fidelity", error) from error
    # torch-fidelity opens a weights file with weights_only=False. It gets what was read safely, as a file in memory.
    safe = io.BytesIO()
    torch.save(tensors, safe)
    safe.seek(0)
    try:
        found = calculate_metrics(
            input1=sets[0],
            input2=sets[1],
            fid=True,
            feature_extractor_weights_path=safe,
            batch_size=AT_ONCE if all(one.same_size for one in sets) else 1,
            cuda=sets[0].images[0].is_cuda,
            save_cpu_ram=True,  # no worker processes
            cache=False,
            verbose=False,
        )
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise _other_network(Path(weights), "FID", error) from error
    return float(found["frechet_inception_distance"])


class _EightBit(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them: uint8 [3, H, W]."""

    def __init__(self, images: Tensor | Sequence[Tensor], where: str):
        require(len(images) >= 2, f"{where}: {len(images)} images are given", "give two at least, and 2048 or more")
        for image in images:
            require_image(image[None], where)
        self.images = list(images)
        self.same_size = len({image.shape for image in self.images}) == 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return rearrange(torch.from_numpy(to_pixels(self.images[index])), "h w c -> c h w")


# ------------------------------------------------------------------------------------------------ weights, checks


def _read_weights(path: Path, address: str, where: str) -> dict[str, Tensor]:
    require(
        path.is_file(),
        f"{where}: there is no weights file {path}",
        f"download {address} in a browser, put it there, or give the path where it lies; nothing is downloaded here",
    )
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        require_finite(tensor, f"{where}: {path.name}: the tensor {name}", "download the file again")
    return tensors


def _other_network(path: Path, where: str, error: Exception) -> ProtectionError:
    reason = " ".join(str(error).split())[:200]
    return ProtectionError(
        f"{where}: {path.name} holds another network ({reason})",
        f"use {' or '.join(LPIPS_WEIGHTS.values()) if where == 'LPIPS' else FID_WEIGHTS}",
    )


def _missing(where: str, packages: str, error: Exception) -> ProtectionError:
    return ProtectionError(
        f"{where} needs a Python package that is missing ({error})",
        f"pip install {packages}, in the Python that runs this",
    )


def _check_pair(a: Tensor, b: Tensor, where: str, smallest: int = 1) -> None:
    """smallest: side of the images in pixels."""
    require(
        a.shape == b.shape,
        f"{where}: the images are {list(a.shape)} and {list(b.shape)}",
        "compare images of the same size",
    )
    for image in (a, b):
        require_image(image, where)
    require(
        min(a.shape[2:]) >= smallest,
        f"{where}: the images are {a.shape[2]} x {a.shape[3]} pixels, at least {smallest} are needed",
        "compare larger images",
    )

"""Makeup from a reference photo: a loss that pulls lips, eye shadow and skin towards the colours of another face.

The makeup loss of BeautyGAN (Li et al., ACM MM 2018), which AMT-GAN (Hu et al., CVPR 2022) and DiffAM (Sun et al., CVPR
2024) train their generators with: each region's colours are matched to the histogram of the same region in the
reference, once, and that is the target. Here nothing is trained: it stands beside the identity loss of one photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...checks import require, require_image
from ...faces import Face, eye_shadow, face_regions
from ..optimizer import is_grey
from ..protect import Settings

WHERE = "Makeup Reference"
WEIGHTS = {"lips": 1.0, "eye shadow": 1.0, "skin": 0.1}  # BeautyGAN's, for lips, eyes and face
WEIGHT = 20.0  # beside the identity loss of three surrogates; measured in docs/RESULTS.md
FEWEST = 12  # pixels of a region, below which it has no histogram


def for_makeup(settings: Settings) -> Settings:
    """The knobs of the latent for a face with makeup: colours may change. Large steps would paint all of it white."""
    return replace(settings.in_small_steps, keep_colours=False)


class MakeupLoss:
    """How far an image is from the photo with the reference's makeup.

    sum over lips, eye shadow and skin of weight * mean over the region of (image - target)^2, where the target is the
    photo with the region's histogram, channel by channel, made that of the reference. A grey photo has a grey target.

    Args:
        photo: [B, 3, H, W] in [0, 1], the untouched photos.
        faces: where the face is, in each of them; with a mesh.
        reference: [1, 3, h, w] in [0, 1], the face with the makeup.
        reference_face: where it is.
        weights: of the regions, see `WEIGHTS`; 0 leaves one as it is.

    Raises:
        ProtectionError: a face without a mesh, a reference too small, another number of faces than photos, weights
            that are negative or all 0.
    """

    def __init__(
        self,
        photo: Tensor,
        faces: Sequence[Face],
        reference: Tensor,
        reference_face: Face,
        weights: dict[str, float] | None = None,
    ):
        self.weights = WEIGHTS | (weights or {})
        _check(photo, faces, reference, self.weights)
        worn = makeup_regions(reference_face, *reference.shape[2:])
        wanted = [_made_up(one, face, reference[0], worn) for one, face in zip(photo, faces, strict=True)]
        self.target = torch.stack([target for target, _ in wanted])
        self.regions = {name: torch.stack([regions[name] for _, regions in wanted]).to(photo) for name in WEIGHTS}

    def __call__(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B], differentiable."""
        apart = (image - self.target).square().mean(1, keepdim=True)
        total = image.new_zeros(len(image))
        for name, region in self.regions.items():
            total = total + self.weights[name] * (apart * region).sum((1, 2, 3)) / region.sum((1, 2, 3)).clamp_min(1.0)
        return total


def makeup_regions(face: Face, height: int, width: int) -> dict[str, Tensor]:
    """Where makeup goes, as soft masks [1, height, width] in [0, 1]: "lips", "eye shadow" and all other "skin"."""
    regions, shadow = face_regions(face, height, width), eye_shadow(face, height, width)
    return {"lips": regions["lips"], "eye shadow": shadow, "skin": regions["skin"] - shadow}


def match_histogram(values: Tensor, reference: Tensor) -> Tensor:
    """The values [N], changed in their order, so that they are distributed as the reference [M] is.

    Each becomes the value of the reference at the same share of all: the exact mapping of one distribution function to
    the other (Gonzalez and Woods, "Digital Image Processing", histogram specification). Equal values stay equal.
    """
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    known, known_counts = reference.unique(return_counts=True)
    exact = torch.float32 if values.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
    share, known_share = (count.to(exact).cumsum(0) / count.sum() for count in (counts, known_counts))
    after = torch.searchsorted(known_share, share).clamp(1, len(known) - 1)
    before = (after - 1).clamp_min(0)
    part = (share - known_share[before]) / (known_share[after] - known_share[before]).clamp_min(1e-12)
    matched = known[before] + part.clamp(0, 1) * (known[after] - known[before])
    return matched.to(values)[which]


def _made_up(photo: Tensor, face: Face, reference: Tensor, worn: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The target [3, H, W], and the regions that it has. One that is hardly seen in the photo is left as it is."""
    from kornia.color import rgb_to_grayscale

    regions, target = makeup_regions(face, *photo.shape[1:]), photo.detach().clone()
    if is_grey(photo[None]):
        reference = rgb_to_grayscale(reference).expand_as(reference)
    for name, region in regions.items():
        inside, worn_there = region[0] > 0.5, worn[name][0] > 0.5
        regions[name] = region * inside * (inside.sum() >= FEWEST)  # no pixel counts that is not matched
        if not regions[name].any():
            continue
        require(
            int(worn_there.sum()) >= FEWEST,
            f"{WHERE}: the reference shows {int(worn_there.sum())} pixels of {name}",
            "use a larger or sharper photo of a face that looks at the camera",
        )
        for channel, wanted in zip(target, reference, strict=True):
            channel[inside] = match_histogram(channel[inside], wanted[worn_there].to(channel))
    return target, regions


def _check(photo: Tensor, faces: Sequence[Face], reference: Tensor, weights: dict[str, float]) -> None:
    require_image(photo, WHERE)
    require_image(reference, f"{WHERE} (reference)")
    require(len(reference) == 1, f"{WHERE}: {len(reference)} reference photos", "give one photo with one face")
    require(
        len(faces) == len(photo),
        f"{WHERE}: faces of {len(faces)} images, and {len(photo)} photos",
        "find the faces in the very photo that is protected",
    )
    numbers = weights.values()
    require(
        set(weights) == set(WEIGHTS) and all(0 <= one < float("inf") for one in numbers) and any(numbers),
        f"{WHERE}: the weights are {weights}",
        f"give numbers that are not negative for {', '.join(WEIGHTS)}, one of them above 0",
    )

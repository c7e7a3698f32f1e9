"""A face with makeup that may be shipped: lipstick, eye shadow and blush, painted onto a photo by its mesh.

    python -m faceprotect_core.evaluation.painted PHOTO OUT.png

How `workflows/faceprotect_makeup.png` was made, of NASA's portrait of Eileen Collins, in the public domain; the
protocol's reference is the synthetic face of the demo, painted alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..faces import Face, find_face
from ..method.peers.makeup import makeup_regions
from ..pixels import from_pixels, to_pixels

# RGB in [0, 1], and how much of it covers what was there.
LIPSTICK, EYE_SHADOW, BLUSH = ((0.70, 0.06, 0.16), 0.75), ((0.36, 0.20, 0.48), 0.55), ((0.86, 0.34, 0.38), 0.40)
CHEEKS = (50, 280)  # points of the mesh
CHEEK = 0.3  # eye distances: the standard deviation of the blush


def painted(photo: Tensor, face: Face) -> Tensor:
    """The photo [3, H, W] in [0, 1] with makeup on its face, lighter where the photo is."""
    height, width = photo.shape[1:]
    regions = makeup_regions(face, height, width)
    layers = (regions["lips"], LIPSTICK), (regions["eye shadow"], EYE_SHADOW), (_blush(face, height, width), BLUSH)
    image = photo.clone()
    for where, (colour, cover) in layers:
        share = where.to(photo) * cover
        lightness = image.mean(0, keepdim=True)
        lightness = lightness / (lightness * share).sum() * share.sum()  # of the region's mean
        image = image + share * ((lightness * photo.new_tensor(colour)[:, None, None]).clamp(0, 1) - image)
    return image


def _blush(face: Face, height: int, width: int) -> Tensor:
    """Around the cheeks, on the skin: [1, height, width] in [0, 1]."""
    assert face.mesh is not None  # makeup_regions has asked for it
    left_eye, right_eye, *_ = face.five_points
    spread = CHEEK * float(np.linalg.norm(right_eye - left_eye))
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    near = [np.exp(-(np.linalg.norm(pixels - face.mesh[one], axis=-1) ** 2) / (2 * spread**2)) for one in CHEEKS]
    return torch.from_numpy(np.maximum(*near)).float()[None] * makeup_regions(face, height, width)["skin"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, help="with one face")
    parser.add_argument("out", type=Path, help="the painted photo, a PNG")
    args = parser.parse_args()
    photo = from_pixels(np.asarray(Image.open(args.photo).convert("RGB")))
    Image.fromarray(to_pixels(painted(photo, find_face(photo)))).save(args.out, optimize=True)


if __name__ == "__main__":
    main()

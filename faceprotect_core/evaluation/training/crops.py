"""Faces as the product cuts them out, and what recognisers see in them: what networks are trained on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ...faces import FaceCrop, crop_face, detect_faces, load_detector
from ...faces.crop import cropped_images
from ...instant.network import SIDE
from ...surrogates import FRSurrogate
from ..people import read_photos

log = logging.getLogger("faceprotect.training")
AT_ONCE = 8


def read_crops(paths: Iterable[Path]) -> dict[str, FaceCrop]:
    """The best face of each photo, by the photo's stem, in 256 x 256; photos without a face are left out, and said."""
    detector, crops = load_detector(), {}
    for path in tqdm(list(paths), desc="faces", mininterval=10):
        photo = read_photos(path)[0]
        found = detect_faces(photo, detector)
        if found:
            crops[path.stem] = crop_face(photo, found[0], SIDE)
        else:
            log.warning("no face found in %s: left out", path.name)
    return crops


@torch.no_grad()
def embed_crops(
    recognisers: Mapping[str, FRSurrogate], crops: Sequence[FaceCrop], images: Tensor | None = None
) -> dict[str, Tensor]:
    """[N, D] for each recogniser. images: [N, 3, 256, 256], looked at instead of the crops, where their faces are."""
    images = cropped_images(crops) if images is None else images
    faces, parts = [crop.face for crop in crops], range(0, len(crops), AT_ONCE)
    return {
        name: torch.cat([one.embed(images[i : i + AT_ONCE], faces[i : i + AT_ONCE]) for i in parts])
        for name, one in recognisers.items()
    }


def with_both_photos(crops: Mapping[str, FaceCrop]) -> tuple[list[FaceCrop], list[FaceCrop]]:
    """Photos a, and photos b, of everybody of whom there are both."""
    names = [name[:-1] for name in crops if name.endswith("_a") and f"{name[:-1]}b" in crops]
    return [crops[f"{name}a"] for name in names], [crops[f"{name}b"] for name in names]

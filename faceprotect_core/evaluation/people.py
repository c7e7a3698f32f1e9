"""Whose photos: a folder of <identity>_<photo>.jpg with FFHQ's framing, where _a and _b are a person's two photos."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..demo.architecture import IMAGE_SIZE


def parser_of(description: str | None) -> ArgumentParser:
    """The parser of a command; what the command logs is what it prints."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


def command(description: str | None) -> ArgumentParser:
    """The parser of a command over such a folder."""
    parser = parser_of(description)
    parser.add_argument("--images", type=Path, required=True, help="folder of <identity>_<photo>.jpg, aligned")
    return parser


def split_identities(folder: Path) -> tuple[list[Path], list[Path]]:
    """Photos to train on and photos held out: every tenth identity, in numeric order, is held out."""

    def identity(path: Path) -> int:
        return int(path.stem.split("_")[0])

    photos = sorted(folder.glob("*_*.jpg"), key=lambda path: (identity(path), path.stem))
    held_out = set(sorted({identity(path) for path in photos})[::10])
    parts = ([path for path in photos if (identity(path) in held_out) == held] for held in (False, True))
    return tuple(parts)


def pairs_among(photos: Iterable[Path]) -> list[tuple[Path, Path]]:
    """(<identity>_a.jpg, <identity>_b.jpg) of everybody whose first photo is among them."""
    return [(path, path.with_name(f"{path.stem[:-1]}b.jpg")) for path in photos if path.stem.endswith("_a")]


def read_images(paths: Iterable[Path]) -> Tensor:
    """uint8 [N, 3, 256, 256]."""
    from PIL import Image

    def read(path: Path) -> np.ndarray:
        image = Image.open(path).convert("RGB")
        if image.size != (IMAGE_SIZE, IMAGE_SIZE):
            image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
        return np.asarray(image)

    return rearrange(torch.from_numpy(np.stack([read(path) for path in paths])), "n h w c -> n c h w").contiguous()


def read_photos(*paths: Path) -> Tensor:
    """[N, 3, 256, 256] in [0, 1]."""
    return read_images(paths).float().div(255)

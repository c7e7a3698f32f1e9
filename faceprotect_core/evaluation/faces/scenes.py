"""Faceless scenes made from numbers, and real faces laid into them: the measured photos never have to be stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...faces import TEMPLATES, Face, FaceDetector, faces_in_regions
from ...faces.align import warp
from ...faces.crop import inverse, through
from ...faces.regions import face_from_landmarks
from ..people import read_photos

# The head in a photo with FFHQ's framing, in pixels of 256: hair and chin are inside.
HEAD_CENTRE, HEAD_RADII, HEAD_FEATHER = (127.5, 131.0), (102.0, 121.0), 0.12
SKY, GROUND = (0.35, 0.75), (0.1, 0.5)  # brightness of a scene's upper and lower edge
LARGEST_TEXTURE = 512  # pixels: coarser than the photo, finer than a face


@dataclass(frozen=True, eq=False)
class Subject:
    """A real photo with FFHQ's framing and its face.

    name: of the file, <identity>_<photo>. photo: [3, 256, 256] in [0, 1].
    face: from the framing, not from the detector, so that a missed face has a place, too.
    """

    name: str
    photo: Tensor
    face: Face


def load_subject(path: Path, detector: FaceDetector) -> Subject:
    """Read one photo; its landmarks are sought where FFHQ's framing puts the face."""
    photo = read_photos(path)[0]
    framed = face_from_landmarks(np.array(TEMPLATES["ffhq_256"].points))
    left, top, right, bottom = framed.box_xyxy
    # The region of `faces_in_regions` is forehead to chin, a quarter larger than the detector's box.
    reach = (right - left) / 8
    region = (left - reach, top - reach, right + reach, bottom + reach)
    return Subject(path.stem, photo, faces_in_regions(photo, [region], detector)[0])


def natural_scene(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A faceless scene [3, height, width] in [0, 1]: a gradient of colour under 1/f texture, as natural images have."""
    top, bottom = (low + (high - low) * torch.rand(3, generator=generator) for low, high in (SKY, GROUND))
    ramp = torch.linspace(0, 1, height)[None, :, None]
    scene = top[:, None, None] * (1 - ramp) + bottom[:, None, None] * ramp
    sideways = torch.linspace(-0.5, 0.5, width) * (torch.rand(1, generator=generator) - 0.5) * 0.4
    texture = _texture(height, width, generator)
    tint = 0.6 + 0.8 * torch.rand(3, generator=generator)[:, None, None]
    grain = 0.01 * torch.randn(3, height, width, generator=generator)
    return (scene + sideways + 0.08 * tint * texture + grain).clamp(0, 1)


def _texture(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Noise with the amplitude spectrum 1/f, mean 0, variance 1: [1, height, width]."""
    scale = min(1.0, LARGEST_TEXTURE / max(height, width))
    size = max(2, round(height * scale)), max(2, round(width * scale))
    spectrum = torch.fft.rfft2(torch.randn(size, generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None])
    frequency[0, 0] = math.inf
    noise = torch.fft.irfft2(spectrum / frequency, s=size)
    noise = (noise - noise.mean()) / noise.std()
    return F.interpolate(noise[None, None], size=(height, width), mode="bicubic", align_corners=False)[0]


def lay_face(
    scene: Tensor, subject: Subject, centre: Sequence[float], box_size: float, degrees: float = 0.0
) -> tuple[Tensor, Face]:
    """Blend a subject's head into a scene through a feathered ellipse, antialiased.

    Args:
        scene: [3, H, W]; not changed.
        centre: (x, y) in pixels of the scene, where the middle of the face box goes.
        box_size: side of the face box in pixels of the scene; above about 140 the photo is enlarged.
        degrees: turns the face in the plane, clockwise.

    Returns:
        The new scene, and the face where it now is.
    """
    to_scene = _placement(subject.face, centre, box_size, degrees)
    face = through(subject.face, to_scene)
    patch, rows, columns = _patch(scene, subject, to_scene)
    scene = scene.clone()
    image, alpha = patch[:3], patch[3:]
    scene[:, rows, columns] = scene[:, rows, columns] * (1 - alpha) + image * alpha
    return scene, face


def _placement(face: Face, centre: Sequence[float], box_size: float, degrees: float) -> np.ndarray:
    """The similarity [2, 3] from pixel indices of the photo to those of the scene."""
    left, top, right, bottom = face.box_xyxy
    scale, angle = box_size / (right - left + 1), math.radians(degrees)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([turn, np.array(centre) - turn @ [(left + right) / 2, (top + bottom) / 2]])


def _patch(scene: Tensor, subject: Subject, to_scene: np.ndarray) -> tuple[Tensor, slice, slice]:
    """Colour and opacity [4, h, w] of the head in the part of the scene that it touches."""
    size = subject.photo.shape[-1]
    middle = to_scene[:, :2] @ np.array(HEAD_CENTRE) + to_scene[:, 2]
    reach = math.ceil(math.hypot(*to_scene[:, 0]) * max(HEAD_RADII)) + 1
    x, y = (int(round(value)) - reach for value in middle)
    to_photo = inverse(to_scene)
    to_photo[:, 2] += to_photo[:, :2] @ np.array([x, y])
    patch = warp(torch.cat([subject.photo, head_opacity(size)])[None], to_photo, 2 * reach + 1)[0]
    height, width = scene.shape[-2:]
    rows = slice(max(0, y), min(height, y + 2 * reach + 1))
    columns = slice(max(0, x), min(width, x + 2 * reach + 1))
    return patch[:, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x], rows, columns


def head_opacity(size: int = 256) -> Tensor:
    """[1, size, size]: 1 on the head of a photo with FFHQ's framing, falling to 0 at the edge of an ellipse."""
    pixels = (torch.arange(size) + 0.5) * 256 / size - 0.5
    x, y = ((pixels - c) / r for c, r in zip(HEAD_CENTRE, HEAD_RADII, strict=True))
    edge = ((1 - torch.hypot(x[None], y[:, None])) / HEAD_FEATHER).clamp(0, 1)
    return (0.5 - 0.5 * torch.cos(math.pi * edge))[None]

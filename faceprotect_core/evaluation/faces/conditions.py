"""What can happen to a photo of a face before a detector sees it: coverings, light, blur, compression."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from kornia.filters import gaussian_blur2d
from torch import Tensor

from ...faces import TEMPLATES
from ...faces.face import transform_points
from ...faces.landmarks import similarity_transform
from ...pixels import as_saved
from .scenes import Subject

SUPERSAMPLING = 4  # per side, for the edges of what is drawn
MASK_BLUE, GLASSES_BLACK, GREY = (0.62, 0.78, 0.88), (0.05, 0.05, 0.06), (0.5, 0.5, 0.5)
# Outlines on a face with FFHQ's framing, in pixels of 256.
SURGICAL_MASK = (
    (66, 158),
    (95, 150),
    (127, 143),
    (160, 150),
    (189, 158),
    (183, 205),
    (160, 236),
    (127, 245),
    (95, 236),
)
HALF_FACE = ((127, 40), (127, 245), (95, 238), (70, 210), (58, 160), (58, 100), (80, 55))
LENS = 29, 22  # half width and half height of one glass
SHOT_NOISE, READ_NOISE = 0.004, 0.004  # variance per linear light, standard deviation; of full scale, a phone at night


def covered_by_mask(subject: Subject) -> Tensor:
    """A light blue surgical mask from the bridge of the nose to the chin."""
    return _paint(subject, [SURGICAL_MASK], [], MASK_BLUE)


def covered_by_sunglasses(subject: Subject) -> Tensor:
    """Two black glasses and a bridge."""
    points = np.array(TEMPLATES["ffhq_256"].points)
    eyes = points[0:2].mean(0), points[2:4].mean(0)
    lenses = [(x - LENS[0], y - LENS[1], x + LENS[0], y + LENS[1]) for x, y in eyes]
    bridge = [(eyes[1][0], eyes[1][1] - 4), (eyes[0][0], eyes[0][1] - 4), (eyes[0][0], eyes[0][1] + 2)]
    return _paint(subject, [(*bridge, (eyes[1][0], eyes[1][1] + 2))], lenses, GLASSES_BLACK)


def covered_by_half(subject: Subject) -> Tensor:
    """A hand over one half of the face: flat grey."""
    return _paint(subject, [HALF_FACE], [], GREY)


def exposed(image: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """The photo with `gain` times the light (in linear light), photon and read noise, clipped, 8 bits."""
    light = rgb_to_linear_rgb(image) * gain
    noise = torch.randn(light.shape, generator=generator) * (SHOT_NOISE * light.clamp(min=0)).sqrt()
    noise = noise + READ_NOISE * torch.randn(light.shape, generator=generator)
    return as_saved(linear_rgb_to_rgb((light + noise).clamp(0, 1)))


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a standard deviation of `sigma` pixels."""
    reach = round(4 * sigma)
    return as_saved(gaussian_blur2d(image[None], 2 * reach + 1, (sigma, sigma))[0])


def phase_scrambled(image: Tensor, generator: torch.Generator) -> Tensor:
    """A picture with the photo's spectrum and the phases of noise: statistics of a photo, and nothing in it."""
    phases = torch.fft.rfft2(torch.randn(image.shape[1:], generator=generator)).angle()
    spectrum = torch.fft.rfft2(image)
    turned = torch.polar(spectrum.abs(), spectrum.angle() + phases)
    turned[:, 0, 0] = spectrum[:, 0, 0]
    return as_saved(torch.fft.irfft2(turned, s=image.shape[1:]))


def _paint(subject: Subject, polygons: list, ellipses: list, colour: tuple[float, float, float]) -> Tensor:
    """Draw outlines given on FFHQ's framing onto the subject's own face."""
    from PIL import Image, ImageDraw

    to_photo = similarity_transform(np.array(TEMPLATES["ffhq_256"].points), np.array(subject.face.landmarks))
    size = subject.photo.shape[-1]
    canvas = Image.new("L", (size * SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons + [_outline(ellipse) for ellipse in ellipses]:
        points = (transform_points(to_photo, np.array(polygon, dtype=float)) + 0.5) * SUPERSAMPLING
        draw.polygon([tuple(point) for point in points.tolist()], fill=255)
    cover = torch.from_numpy(np.array(canvas)).float()[None] / 255
    cover = F.avg_pool2d(cover, SUPERSAMPLING)
    return as_saved(subject.photo * (1 - cover) + torch.tensor(colour)[:, None, None] * cover)


def _outline(ellipse: tuple[float, float, float, float], corners: int = 48) -> list[tuple[float, float]]:
    left, top, right, bottom = ellipse
    angles = np.arange(corners) * 2 * np.pi / corners
    x = (left + right) / 2 + (right - left) / 2 * np.cos(angles)
    y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angles)
    return list(zip(x, y, strict=True))

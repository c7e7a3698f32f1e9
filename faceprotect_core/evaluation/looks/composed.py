"""Ten photos that may be shown, with what makes the edge of a face hard: beard, glasses, fringe, side light, tilt.

Two faces, painted on by their mesh: NASA's portrait of Eileen Collins (public domain, of scikit-image) and the demo
model's synthetic face. Deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ...demo import load_synthetic_target
from ...faces import Face, find_face
from ...faces.align import warp
from ...faces.crop import crop_to_photo, inverse, through
from ...faces.mask import convex_hull
from ...pixels import as_saved, from_pixels, to_pixels
from ..faces.scenes import head_opacity, natural_scene

SUPERSAMPLING = 2  # per side, for hairs and frames
GRAIN = 0.008  # standard deviation, of full scale
# Points of the mesh.
JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
BEARD = (*JAW, 434, 436, 426, 2, 206, 216, 214)
LIPS_OUTLINE = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91)
TEMPLES, BRIDGE, FOREHEAD = (127, 356), 168, 10
FRAME, DARK_HAIR, FAIR_HAIR = (28, 22, 20), (52, 38, 28), (132, 104, 66)


class Sitter:
    """A face on a canvas that is painted on, in units of its eye distance."""

    def __init__(self, image: Tensor, face: Face, generator: np.random.Generator):
        assert face.mesh is not None and face.five_points is not None  # find_face looks for it
        self.canvas, self.mesh, self.generator = Image.fromarray(to_pixels(image)), face.mesh, generator
        self.eyes = face.five_points[:2]
        self.unit = float(np.linalg.norm(self.eyes[1] - self.eyes[0]))
        self.across = (self.eyes[1] - self.eyes[0]) / self.unit
        self.down = np.array([-self.across[1], self.across[0]])

    def inside(self, *outlines: Iterable[int], without: Iterable[int] = ()) -> Image.Image:
        """A mask of what lies inside lines through points of the mesh."""
        mask = Image.new("L", self.canvas.size)
        for outline, value in [(one, 255) for one in outlines] + [(without, 0)]:
            corners = [tuple(self.mesh[point]) for point in outline]
            if corners:
                ImageDraw.Draw(mask).polygon(corners, fill=value)
        return mask

    def cover(self, colour: tuple[int, int, int], mask: Image.Image, share: float, blur: float = 0.0) -> None:
        """Lay a colour over the mask, softened over `blur` eye distances."""
        mask = mask.point(lambda value: round(value * share)).filter(ImageFilter.GaussianBlur(blur * self.unit))
        self.canvas.paste(colour, mask=mask)

    def hairs(self, roots: np.ndarray, heading: np.ndarray, length: float, colour, thickness: float) -> None:
        """Bent lines from the roots [N, 2] on, each in its own shade, of about that length in eye distances."""
        draw, width = ImageDraw.Draw(self.canvas), max(1, round(thickness * self.unit))
        for root, ahead in zip(roots, heading, strict=True):
            reach = length * self.unit * self.generator.uniform(0.6, 1.2)
            aside = np.array([-ahead[1], ahead[0]]) * self.generator.normal(0, 0.25)
            line = [tuple(root + reach * (t * ahead + t * t * aside)) for t in np.linspace(0, 1, 6)]
            shade = self.generator.uniform(0.6, 1.5)
            draw.line(line, fill=tuple(round(min(255, value * shade)) for value in colour), width=width, joint="curve")

    def headings(self, count: int, aside: float, spread: float) -> np.ndarray:
        """Directions [count, 2]: down the face, leaning `aside`."""
        lean = self.generator.normal(aside, spread, (count, 1))
        ahead = self.down + lean * self.across
        return ahead / np.linalg.norm(ahead, axis=1, keepdims=True)


def beard(sitter: Sitter, length: float = 0.28, count: int = 5000) -> None:
    """From the upper lip and the jaw down past the chin, over the edge of the face."""
    region = sitter.inside(BEARD, without=LIPS_OUTLINE)
    sitter.cover(DARK_HAIR, region, 0.55, blur=0.06)
    rows, columns = np.nonzero(np.asarray(region))
    picked = sitter.generator.integers(0, len(rows), count)
    roots = np.column_stack([columns, rows])[picked].astype(float)
    sitter.hairs(roots, sitter.headings(count, 0.0, 0.35), length, DARK_HAIR, 0.008)


def stubble(sitter: Sitter) -> None:
    """A beard of three days."""
    beard(sitter, length=0.04, count=2500)


def fringe(sitter: Sitter, colour=DARK_HAIR, aside: float = 0.15) -> None:
    """Hair over the forehead, down to the brows."""
    hull = convex_hull(sitter.mesh)
    middle = hull.mean(0)
    left, right = ((sitter.mesh[one] - middle) @ sitter.across * 1.02 for one in TEMPLES)
    top = (sitter.mesh[FOREHEAD] - middle) @ sitter.down
    count = 2600
    x, lift = sitter.generator.uniform(left, right, count), sitter.generator.uniform(-0.05, 0.4, count)
    bulge = 0.5 * sitter.unit * (2 * (x - left) / (right - left) - 1) ** 2  # the hairline falls at the temples
    y = top - lift * sitter.unit + bulge
    roots = middle + x[:, None] * sitter.across + y[:, None] * sitter.down
    sitter.hairs(roots, sitter.headings(count, aside, 0.08), 0.55, colour, 0.01)


def fair_fringe(sitter: Sitter) -> None:
    """The portrait's own colour, combed to one side."""
    fringe(sitter, FAIR_HAIR, 0.45)


def glasses(sitter: Sitter, thickness: float = 0.035, reach: tuple[float, float] = (0.43, 0.33)) -> None:
    """Two lenses with a reflection, a bridge, and temples that reach past the face."""
    draw, width = ImageDraw.Draw(sitter.canvas), max(1, round(thickness * sitter.unit))
    angles = np.linspace(0, 2 * np.pi, 73)
    for eye, temple, side in zip(sitter.eyes, TEMPLES, (-1, 1), strict=True):
        middle = eye + 0.06 * sitter.unit * sitter.down

        def at(x: float, y: float, middle=middle) -> tuple:
            return tuple(middle + sitter.unit * (x * reach[0] * sitter.across + y * reach[1] * sitter.down))

        shine = Image.new("L", sitter.canvas.size)
        ImageDraw.Draw(shine).polygon([at(-0.6, 0.5), at(-0.2, 0.75), at(0.6, -0.5), at(0.2, -0.75)], fill=255)
        sitter.cover((235, 240, 250), shine, 0.35, blur=0.02)
        draw.line([at(math.cos(one), math.sin(one)) for one in angles], fill=FRAME, width=width, joint="curve")
        ear = sitter.mesh[temple] + side * 0.25 * sitter.unit * sitter.across
        draw.line([at(side * 0.98, -0.2), tuple(ear)], fill=FRAME, width=width)
    ends = [eye + reach[0] * sitter.unit * side * sitter.across for eye, side in zip(sitter.eyes, (1, -1), strict=True)]
    draw.line([tuple(end) for end in ends], fill=FRAME, width=width)


def thick_glasses(sitter: Sitter) -> None:
    """With broad dark frames."""
    glasses(sitter, thickness=0.1, reach=(0.4, 0.3))


def light_from(side: int, darkest: float = 0.04) -> Callable[[Sitter], None]:
    """A lamp at the image's left (-1) or right (1): the other half of the face has that share of the light."""

    def lit(sitter: Sitter) -> None:
        image = from_pixels(np.asarray(sitter.canvas))
        height, width = image.shape[1:]
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        off = (pixels - sitter.mesh[BRIDGE]) @ sitter.across / sitter.unit * side
        share = np.clip(off / 0.8 + 0.6, 0, 1)
        gain = darkest + (1.15 - darkest) * share**2 * (3 - 2 * share)
        bright = linear_rgb_to_rgb(rgb_to_linear_rgb(image) * torch.from_numpy(gain).float())
        sitter.canvas = Image.fromarray(to_pixels(bright))

    return lit


@dataclass(frozen=True)
class Composition:
    """One photo.

    Args:
        synthetic: the demo model's synthetic face instead of the portrait.
        side: of the square photo, in pixels.
        around: how much is seen around the head, as a multiple of FFHQ's framing.
        degrees: the head is tilted, clockwise.
        scene: another background.
        paint: in this order.
    """

    synthetic: bool
    side: int
    around: float
    degrees: float
    scene: bool
    paint: tuple[Callable[[Sitter], None], ...]


COMPOSITIONS = {
    "beard": Composition(False, 512, 1.3, 0, False, (beard,)),
    "stubble, tilted": Composition(True, 400, 1.0, 18, False, (stubble,)),
    "glasses": Composition(False, 800, 1.3, 0, False, (glasses,)),
    "thick glasses, tilted": Composition(True, 512, 1.0, -15, False, (thick_glasses,)),
    "fringe": Composition(True, 640, 1.0, 0, False, (fringe,)),
    "fair fringe, tilted": Composition(False, 900, 1.6, 12, True, (fair_fringe,)),
    "light from the left": Composition(False, 700, 1.2, 0, False, (light_from(-1),)),
    "light from the right, tilted": Composition(True, 450, 1.0, -25, False, (light_from(1),)),
    "tilted by 35 degrees": Composition(False, 600, 1.4, 35, True, ()),
    "all of it": Composition(True, 1000, 1.3, 15, True, (beard, fringe, thick_glasses, light_from(1, 0.1))),
}


def composed(composition: Composition, seed: int = 0) -> Tensor:
    """The photo [3, side, side] in [0, 1], of 8 bits a channel."""
    photo = load_synthetic_target()[0] if composition.synthetic else _portrait()
    found = find_face(photo)
    large = composition.side * SUPERSAMPLING
    to_photo = _tilted(crop_to_photo(found, large, composition.around), large, composition.degrees)
    image = warp(photo[None], to_photo, large, padding_mode="reflection")[0]
    sitter = Sitter(image, through(found, inverse(to_photo)), np.random.default_rng(seed))
    for paint in composition.paint:
        paint(sitter)
    image, generator = from_pixels(np.asarray(sitter.canvas)), torch.Generator().manual_seed(seed)
    if composition.scene:
        to_head = np.vstack([inverse(crop_to_photo(found, 256)), [0, 0, 1]]) @ np.vstack([to_photo, [0, 0, 1]])
        head = warp(head_opacity()[None], to_head[:2], large)[0]
        image = image * head + natural_scene(large, large, generator) * (1 - head)
    image = F.avg_pool2d(image, SUPERSAMPLING)
    return as_saved(image + GRAIN * torch.randn(image.shape, generator=generator))


def _portrait() -> Tensor:
    from skimage.data import astronaut

    return from_pixels(astronaut())


def _tilted(to_photo: np.ndarray, side: int, degrees: float) -> np.ndarray:
    """The crop's transform, such that what it shows is turned clockwise around its middle."""
    angle = math.radians(-degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.full(2, (side - 1) / 2)
    linear = to_photo[:, :2] @ turn
    return np.column_stack([linear, to_photo[:, :2] @ middle + to_photo[:, 2] - linear @ middle])

"""Soft masks over a face: where a protected photo may differ from the original, and what is skin, eyes, brows and lips.

A face whose mesh is known is covered to its outline, without hair, ears, neck and background; another by a disc.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..checks import given
from .align import TEMPLATES, chip_to_image
from .face import DISAGREEING, NOSE_TIP, Face, transform_points
from .mesh import BROWS, EYES, LIDS, LIPS, MOUTH

TEMPLATE = "dlib_150"
SIDES = (234, 454)  # points of the mesh: where the outline is widest
# How far the tip of the nose is from the middle between them, in half their distance, where the far side's outline
# begins to be unsure, and where it is as unsure as can be. Of 90 photos of people 20 % are beyond the first.
TURNED, FAR_TURNED = 0.4, 0.8
SKIN_FEATHER = 0.1  # as of face_mask
EDGE = 0.03  # eye distances over which the mask of a part rises from its outline on, at least a pixel


def face_mask(
    faces: Sequence[Face],
    height: int,
    width: int,
    scale: float = 1.0,
    feather: float = 0.25,
    *,
    everywhere_sure: bool = False,
) -> Tensor:
    """Where the faces are: 1 inside, falling to 0 towards the outline of the face, never beyond it.

    Args:
        faces: the faces to cover; none gives an empty mask.
        height, width: of the photo, in pixels.
        scale: of the outline around its middle. Of a face without a mesh, of a disc that is turned and scaled with the
            face, and touches the sides of the built-in recogniser's chip.
        feather: share of the way from the outline to the middle (of the disc's radius) over which the mask rises to 1,
            as a cosine does. Where the outline is unsure it is up to twice as wide: at the far side of a turned face,
            and all around one whose landmarks are doubtful.
        everywhere_sure: the feather is the same all around in any case.

    Returns:
        [1, height, width] float32 in [0, 1].
    """
    mask = np.zeros((height, width), dtype=np.float32)
    for face in faces:
        shape = _Disc(face, scale) if face.mesh is None else _Outline(face, face.mesh, scale, everywhere_sure)
        rows, columns = shape.window(height, width)
        pixels = np.stack(np.meshgrid(np.arange(width)[columns], np.arange(height)[rows]), axis=-1).astype(np.float64)
        mask[rows, columns] = np.maximum(mask[rows, columns], _rising(shape.depth(pixels), feather))
    return torch.from_numpy(mask)[None]


class _Disc:
    """depth: 1 in the middle, 0 at the rim, negative outside."""

    def __init__(self, face: Face, scale: float):
        self.to_image, self.scale, self.size = chip_to_image(face, TEMPLATE), scale, TEMPLATES[TEMPLATE].size

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        x, y = transform_points(self.to_image, np.full(2, (self.size - 1) / 2))
        reach = math.hypot(self.to_image[0, 0], self.to_image[1, 0]) * self.size / 2 * self.scale
        return _within((x - reach, y - reach), (x + reach, y + reach), height, width)

    def depth(self, pixels: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(np.vstack([self.to_image, [0.0, 0.0, 1.0]]))[:2]
        offset = transform_points(inverse, pixels) - (self.size - 1) / 2
        return 1 - np.linalg.norm(offset, axis=-1) / (self.size / 2) / self.scale


class _Outline:
    """The convex hull of a mesh. depth: 1 as far inside as the middle is from the nearest side, 0 on the outline.

    At a side that is unsure it grows more slowly.
    """

    def __init__(self, face: Face, mesh: np.ndarray, scale: float, everywhere_sure: bool):
        hull = convex_hull(mesh)
        self.middle = hull.mean(0)
        self.hull = self.middle + (hull - self.middle) * scale
        along = np.roll(self.hull, -1, axis=0) - self.hull
        self.inwards = np.column_stack([-along[:, 1], along[:, 0]]) / np.linalg.norm(along, axis=1, keepdims=True)
        self.radius = ((self.middle - self.hull) * self.inwards).sum(1).min()
        self.slowness = np.ones(len(hull)) if everywhere_sure else 1 + _unsure(face, mesh, -self.inwards)

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        return _within(self.hull.min(0), self.hull.max(0), height, width)

    def depth(self, pixels: np.ndarray) -> np.ndarray:
        nearest = np.full(pixels.shape[:2], np.inf)
        for corner, inwards, slowness in zip(self.hull, self.inwards, self.slowness, strict=True):
            nearest = np.minimum(nearest, (pixels - corner) @ inwards / slowness)
        return nearest / self.radius


def _unsure(face: Face, mesh: np.ndarray, outwards: np.ndarray) -> np.ndarray:
    """[M] in [0, 1]: how unsure the outline is at its sides, which look in the directions `outwards` [M, 2].

    The network has learned its points of what a turned face hides, and does not see them.
    """
    doubt = np.clip(face.disagreement / DISAGREEING - 1, 0, 1)
    (left, right), nose = mesh[list(SIDES)], mesh[NOSE_TIP]
    across, middle = (right - left) / 2, (left + right) / 2
    off = (nose - middle) @ across / (across @ across)
    turned = np.clip((abs(off) - TURNED) / (FAR_TURNED - TURNED), 0, 1)
    far = np.sign(off) * across / np.linalg.norm(across)
    return np.clip(doubt + turned * (outwards @ far).clip(0), 0, 1)


def face_regions(face: Face, height: int, width: int) -> dict[str, Tensor]:
    """What is what in a face, by the outlines of its mesh: "skin", "eyes", "brows" and "lips".

    The skin is all of `face_mask`, with a narrow feather, that is neither another part nor the inside of the mouth.
    Together the masks are 1 at most.

    Args:
        face: with a mesh.
        height, width: of the photo, in pixels.

    Returns:
        Each [1, height, width] float32 in [0, 1], in that order.

    Raises:
        ProtectionError: the face has no mesh.
    """
    mesh = _mesh_of(face)
    rest = face_mask([face], height, width, feather=SKIN_FEATHER)
    parts = {}
    for name, outlines in {"eyes": EYES, "brows": BROWS, "mouth": (MOUTH,), "lips": (LIPS,)}.items():
        parts[name] = torch.minimum(rest, _filled(mesh, outlines, height, width))
        rest = rest - parts[name]
    return {"skin": rest} | {name: parts[name] for name in ("eyes", "brows", "lips")}


def eye_shadow(face: Face, height: int, width: int) -> Tensor:
    """Where eye shadow goes: the skin around the eyes, up to the brows and down to the cheeks; see `face_regions`."""
    skin = face_regions(face, height, width)["skin"]
    return torch.minimum(skin, _filled(_mesh_of(face), LIDS, height, width))


def _mesh_of(face: Face) -> np.ndarray:
    return given(
        face.mesh,
        "the face has no mesh, and without it nobody knows its eyes, brows and lips",
        "find it with Detect Faces, or give MediaPipe's landmarks",
    )


def _filled(mesh: np.ndarray, outlines: Sequence[Sequence[int]], height: int, width: int) -> Tensor:
    """1 inside the outlines, each a closed line through points of the mesh, falling to 0 towards them."""
    mask = np.zeros((height, width), dtype=np.float32)
    edge = max(1.0, EDGE * float(np.linalg.norm(mesh[list(EYES[0])].mean(0) - mesh[list(EYES[1])].mean(0))))
    for outline in outlines:
        corners = mesh[list(outline)]
        rows, columns = _within(corners.min(0), corners.max(0), height, width)
        pixels = np.stack(np.meshgrid(np.arange(width)[columns], np.arange(height)[rows]), axis=-1).astype(np.float64)
        mask[rows, columns] = np.maximum(mask[rows, columns], _rising(_distance_inside(pixels, corners), edge))
    return torch.from_numpy(mask)[None]


def _distance_inside(pixels: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """How far pixels [h, w, 2] are from the nearest side of a polygon [M, 2] that they lie in; 0 outside.

    Inside is where a line to the right crosses an odd number of sides.
    """
    nearest, inside = np.full(pixels.shape[:2], np.inf), np.zeros(pixels.shape[:2], dtype=bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along, there = end - start, pixels - start
        share = np.clip(there @ along / max(along @ along, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(there - share[..., None] * along, axis=-1))
        if along[1]:
            crosses = (pixels[..., 1] < start[1]) != (pixels[..., 1] < end[1])
            inside ^= crosses & (there[..., 0] < there[..., 1] * along[0] / along[1])
    return np.where(inside, nearest, 0.0)


def convex_hull(points: np.ndarray) -> np.ndarray:
    """The corners [M, 2] of the convex hull of points [N, 2], in an order that has the inside at the left of each side
    (y upwards). Andrew's monotone chain (1979)."""
    ordered = sorted(map(tuple, points))

    def chain(points) -> list:
        kept: list = []
        for x, y in points:
            while len(kept) > 1:
                (x0, y0), (x1, y1) = kept[-2:]
                if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return np.array(chain(ordered) + chain(reversed(ordered)))


def _within(low: Sequence[float], high: Sequence[float], height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of the photo between two points: a large photo is not walked through for each face."""
    spans = [
        slice(int(np.clip(math.floor(first) - 1, 0, limit)), int(np.clip(math.ceil(last) + 2, 0, limit)))
        for first, last, limit in zip(low, high, (width, height), strict=True)
    ]
    return spans[1], spans[0]


def _rising(depth: np.ndarray, feather: float) -> np.ndarray:
    if feather <= 0:
        return (depth >= 0).astype(np.float64)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(depth / feather, 0, 1))

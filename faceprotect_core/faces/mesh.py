"""The face mesh: 468 points on a face, MediaPipe's Face Mesh in torch.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs" (2019, arXiv 1907.06724);
weights under Apache-2.0. It gives the five points by which recognisers of the ArcFace template align a face, where a
face ends, and a second opinion on the landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from ..same_padding import conv2d_same
from .align import warp
from .face import transform_points

WEIGHTS = Path(__file__).parent.parent / "weights" / "face_mesh" / "face_mesh.safetensors"
POINTS = 468
LANDMARKS = (263, 362, 33, 133, 2)  # the five of `Face`: corners of the eyes, base of the nose
SIDE = 192  # pixels: of the network's input
LOOKS = 3  # the first around the detector's box, each other around the points that the last one found
ROOM = 1.5  # sides of the square around a face that the network sees, in sides of the face
# (channels, halves the size) of the blocks up to the 6 x 6 values that both heads share, and of the mesh's own.
TRUNK = (
    ((16, False),) * 2
    + ((32, True),)
    + ((32, False),) * 2
    + ((64, True),)
    + ((64, False),) * 2
    + ((128, True),)
    + ((128, False),) * 2
    + ((128, True),)
    + ((128, False),) * 2
)
HEAD = ((128, True),) + ((128, False),) * 2
LAST_CHANNELS = 32

# The outline of the face, from the top of the forehead on, clockwise in the image.
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# The outlines of its parts; the one on the image's left first, from a corner on. A lid reaches from an eye's socket to
# the brow and to the cheek: it goes round the eye.
EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
)
BROWS = (
    (46, 53, 52, 65, 55, 107, 66, 105, 63, 70),
    (276, 283, 282, 295, 285, 336, 296, 334, 293, 300),
)
LIDS = (
    (226, 113, 225, 224, 223, 222, 221, 189, 244, 233, 232, 231, 230, 229, 228, 31),
    (446, 342, 445, 444, 443, 442, 441, 413, 464, 453, 452, 451, 450, 449, 448, 261),
)
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
MOUTH = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)


class Block(nn.Module):
    """A 3 x 3 filter for each channel and 1 x 1, beside a shortcut whose missing channels are 0; then PReLU."""

    def __init__(self, channels_in: int, channels_out: int, down: bool):
        super().__init__()
        self.stride, self.more = 2 if down else 1, channels_out - channels_in
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, self.stride, groups=channels_in, bias=False)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1)
        self.activation = nn.PReLU(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(conv2d_same(x, self.depthwise.weight, None, self.stride, self.depthwise.groups))
        shortcut = F.max_pool2d(x, 2) if self.stride == 2 else x
        return self.activation(y + F.pad(shortcut, (0, 0, 0, 0, 0, self.more)))


class FaceMesh(nn.Module):
    """RGB in [0, 1], [B, 3, 192, 192] -> the points [B, 468, 3] (x, y in pixels, z in the same unit)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, TRUNK[0][0], 3, stride=2)
        self.activation = nn.PReLU(TRUNK[0][0])
        before = (TRUNK[0], *TRUNK, *HEAD)
        self.blocks = nn.ModuleList(
            Block(channels_in, *block) for (channels_in, _), block in zip(before, (*TRUNK, *HEAD), strict=False)
        )
        self.narrow = nn.Conv2d(HEAD[-1][0], LAST_CHANNELS, 1)
        self.narrow_activation = nn.PReLU(LAST_CHANNELS)
        self.last_block = Block(LAST_CHANNELS, LAST_CHANNELS, False)
        self.points = nn.Conv2d(LAST_CHANNELS, POINTS * 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.activation(conv2d_same(image, self.conv.weight, self.conv.bias, 2))
        for block in self.blocks:
            x = block(x)
        x = self.last_block(self.narrow_activation(self.narrow(x)))
        return rearrange(self.points(x), "b (point xyz) 1 1 -> b point xyz", xyz=3)


def load_face_mesh(device: torch.device | str = "cpu") -> FaceMesh:
    """The built-in face mesh (Apache-2.0; see weights/face_mesh/README.md), frozen, in float32."""
    with torch.inference_mode(False):
        with torch.device("meta"):
            mesh = FaceMesh()
        mesh.load_state_dict({name: one.float() for name, one in load_file(WEIGHTS).items()}, assign=True)
        return mesh.eval().requires_grad_(False).to(device)


@torch.no_grad()
def mesh_of(
    photo: Tensor, box_xyxy: Sequence[float], landmarks: Sequence[Sequence[float]], mesh: FaceMesh
) -> np.ndarray:
    """Where the points of one face are, as (x, y) in pixel indices of its photo -> [468, 2].

    It is looked at several times, upright, until the points have settled.

    Args:
        photo: [3, H, W], RGB in [0, 1].
        box_xyxy: the detector's box.
        landmarks: the five of `Face`; they say how far the face is turned.
    """
    points, box = np.asarray(landmarks, dtype=np.float64), np.asarray(box_xyxy, dtype=np.float64)
    across = points[0:2].mean(0) - points[2:4].mean(0)
    angle = np.arctan2(across[1], across[0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle, side = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2]) + 1
    for _ in range(LOOKS):
        scaled = turn * (side * ROOM / SIDE)
        to_photo = np.column_stack([scaled, middle - scaled @ np.full(2, (SIDE - 1) / 2)])
        seen = warp(photo[None].float(), to_photo, SIDE).clamp(0, 1)
        inside = mesh(seen)[0, :, :2].double().cpu().numpy()
        low, high = inside.min(0), inside.max(0)
        middle, side = transform_points(to_photo, (low + high) / 2), max(high - low) * side * ROOM / SIDE
    return transform_points(to_photo, inside)


def disagreement_of(landmarks: Sequence[Sequence[float]], mesh: np.ndarray) -> float:
    """Mean distance of the five landmarks of `Face` from the mesh's [468, 2], in eye distances of the landmarks.

    Measured on 75 people in 14 conditions, 976 faces, 128 of them with landmarks more than 0.1 eye distances off: above
    `DISAGREEING` lie most of these, and few of the others (docs/RESULTS.md).
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes = np.linalg.norm(points[0:2].mean(0) - points[2:4].mean(0))
    return float(np.linalg.norm(points - mesh[list(LANDMARKS)], axis=1).mean() / max(eyes, 1e-6))

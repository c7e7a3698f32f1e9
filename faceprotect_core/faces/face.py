"""A face in a photo: what every part of the product passes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
DISAGREEING = 0.09  # eye distances: landmarks that lie further from where the mesh has them are doubtful
# Points of the mesh; "left" and "right" are the image's.
LEFT_EYE, RIGHT_EYE, NOSE_TIP, MOUTH = (33, 133), (362, 263), 1, (61, 291)


@dataclass(frozen=True)
class Face:
    """A face in a photo; coordinates are pixel indices (0, 0 is the centre of the top left pixel), not rounded.

    Args:
        box_xyxy: left, top, right, bottom; the last two are the last pixels inside.
        score: the detector's score; above 0 is a face.
        landmarks: five (x, y): 0 outer and 1 inner corner of the eye on the image's right, 2 outer and 3 inner corner
            of the eye on its left, 4 the base of the nose.
        disagreement: how far the landmarks lie from where the mesh has them, in eye distances, see `disagreement_of`.
            Above `DISAGREEING` they are doubtful, as in a face that is covered, very dark or turned.
        mesh: [468, 2], the points of MediaPipe's face mesh, (x, y); None where nobody looked for them.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    landmarks: tuple[tuple[float, float], ...]
    disagreement: float = 0.0
    mesh: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def doubtful(self) -> bool:
        """Landmarks and mesh disagree: what a recogniser says about this face may mislead."""
        return self.disagreement > DISAGREEING

    @property
    def lies_turned(self) -> bool:
        """By more than 45 degrees: on its side, or upside down."""
        eyes = np.array(self.landmarks)[:4].reshape(2, 2, 2).mean(1)
        x, y = eyes[0] - eyes[1]  # from the eye on its left to the one on its right
        return bool(abs(y) > x)

    @property
    def five_points(self) -> np.ndarray | None:
        """ArcFace's five points [5, 2], (x, y): eyes, tip of the nose, corners of the mouth; None without a mesh.

        Left before right, as they are in the image.
        """
        if self.mesh is None:
            return None
        eyes = [self.mesh[list(eye)].mean(0) for eye in (LEFT_EYE, RIGHT_EYE)]
        return np.stack([*eyes, self.mesh[NOSE_TIP], *self.mesh[list(MOUTH)]])

    def transformed(self, transform: np.ndarray) -> Face:
        """Its points where a similarity [2, 3] takes them; the box stays as it is."""
        landmarks = transform_points(transform, np.array(self.landmarks))
        mesh = None if self.mesh is None else transform_points(transform, self.mesh)
        return replace(self, landmarks=as_tuples(landmarks), mesh=mesh)


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply an affine transform [2, 3] to points [..., 2]."""
    return points @ transform[:, :2].T + transform[:, 2]


def quarter_turn_back(turns: int, height: int, width: int) -> np.ndarray:
    """From pixels of an image in quarter turns (`torch.rot90`) to those of the image [height, width]; [2, 3]."""
    transforms = {
        1: [[0, -1, width - 1], [1, 0, 0]],
        2: [[-1, 0, width - 1], [0, -1, height - 1]],
        3: [[0, 1, 0], [-1, 0, height - 1]],
    }
    return np.array(transforms[turns], dtype=np.float64)


def as_tuples(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Points [N, 2] as `Face.landmarks` has them."""
    return tuple((float(x), float(y)) for x, y in points)

"""Slightly wrong alignments: a recogniser that was not asked aligns the face in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..checks import require
from ..faces import Face


@dataclass(frozen=True)
class AlignmentJitter:
    """Every surrogate sees the face through slightly wrong alignments instead of the right one, others each time.

    Expectation over transformation (Athalye et al., "Synthesizing Robust Adversarial Examples", 2018) over what a
    recogniser's own detector and cropper do. The face's points are turned by N(0, s) rad, scaled by 1 + N(0, s) and
    shifted by N(0, s) of their width; s is drawn from `spread` for each copy. The same numbers give the same
    alignments, for each image of a batch and in each run.

    Args:
        copies: alignments for each surrogate in an iteration; 0 for the right one alone.
        spread: lowest and highest s.
        seed: of the draws.
    """

    copies: int = 0
    spread: tuple[float, float] = (0.0, 0.06)
    seed: int = 0

    def __post_init__(self):
        low, high = self.spread
        require(
            self.copies >= 0 and 0 <= low <= high,
            f"AlignmentJitter: copies is {self.copies}, spread {self.spread}",
            "use 1 or 2 copies and a spread of about (0, 0.06)",
        )

    def __call__(self, face: Face | Sequence[Face], *draw: int) -> Face | Sequence[Face]:
        """One face, or one per image, as a cropper that is off would have it; draw: which of the alignments."""
        return self._moved(face, *draw) if isinstance(face, Face) else [self._moved(one, *draw) for one in face]

    def _moved(self, face: Face, *draw: int) -> Face:
        random = np.random.default_rng((self.seed, *draw))
        size = random.uniform(*self.spread)
        angle, zoom, *shift = random.normal(0.0, size, 4)
        points = np.array(face.landmarks)
        middle, width = points.mean(0), np.ptp(points[:, 0])
        turn = (1 + zoom) * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        there = middle + np.array(shift) * width
        return face.transformed(np.column_stack([turn, there - turn @ middle]))

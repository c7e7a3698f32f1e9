"""What a run reports while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Stage = Literal["preview", "inversion", "null_text", "capture", "protection", "robustness"]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run, as it ends.

    stage: "preview" comes before the first step; its image is what instant would give. step: of `steps`, from 1.
    losses: by name, [B floats]. image: what was looked at, [B, 3, H, W] in about [0, 1].

    Of the faces of whole photos: face: from 1, the last one of its batch; at_once: how many are in this batch.
    faces, photos: how many are at work together. attempt: 2 where a face is pushed further.
    """

    stage: Stage
    step: int
    steps: int
    losses: Mapping[str, list[float]] = field(default_factory=dict)
    image: Tensor | None = None
    face: int = 1
    faces: int = 1
    at_once: int = 1
    photos: int = 1
    attempt: int = 1


OnStep = Callable[[Step], None]

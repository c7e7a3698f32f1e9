"""Does it work? What the recognisers say about a finished photo, whose faces are found again as a stranger would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .checks import require
from .faces import Face, FaceDetector, detect_faces, find_face, load_detector, overlap
from .faces.detect import UNSTEADY
from .surrogates import FRSurrogate

if TYPE_CHECKING:
    from .photo import PhotoSettings

Goal = Literal["dodge", "synthetic", "impersonate"]
SAME_FACE = 0.3  # intersection over union of the boxes above which a face was found again
SMALLEST_AGAIN = 0.6  # of the face's size: the smallest face to look for in the finished photo


@dataclass(frozen=True)
class FaceVerdict:
    """What became of one face.

    face: in the photo's pixels, as it was found in the original.
    found_again: the detector finds a face there in the finished photo, too.
    scores: per surrogate "metric", "before" and "after" (the similarity to the original photo, in that metric),
        "threshold", "wanted" (what "after" had to reach) and "reached"; to impersonate, to the target photo.
    """

    face: Face
    found_again: bool
    scores: dict[str, dict[str, str | float | bool]]

    @property
    def doubtful(self) -> bool:
        """The landmarks of the face are unsteady (it is covered, very dark, turned): the scores may mislead."""
        return self.face.unsteadiness > UNSTEADY

    @property
    def protected(self) -> bool:
        """Every surrogate reached what was wanted."""
        return all(score["reached"] for score in self.scores.values())

    def to_dict(self) -> dict:
        """For JSON."""
        box = [round(value, 1) for value in self.face.box_xyxy]
        return {
            "box_xyxy": box,
            "protected": self.protected,
            "doubtful": self.doubtful,
            "found_again": self.found_again,
            "scores": self.scores,
        }


def judge_photo(
    original: Tensor,
    finished: Tensor,
    faces: Sequence[Face],
    surrogates: Sequence[FRSurrogate],
    settings: PhotoSettings,
    goal: Goal = "dodge",
    target: Tensor | None = None,
    *,
    detector: FaceDetector | None = None,
) -> tuple[FaceVerdict, ...]:
    """Compare each face of a finished photo with the original, on pixels rounded to 8 bits.

    A face is looked at where it was and where the detector finds it again, and the less protected of the two counts:
    a change that only misleads our landmarks protects nobody.
    The surrogates that were optimised against are no evidence about other recognisers.

    Args:
        original, finished: [3, H, W] in [0, 1], of the same size.
        faces: in the original's pixels.
        settings: for its `wanted_margin`.
        goal: "dodge" and "synthetic" want the face past the threshold by that much; "impersonate" wants it to match
            the target [3, h, w] or [1, 3, h, w].
    """
    require(
        original.shape == finished.shape,
        f"the original is {list(original.shape)} and the finished photo {list(finished.shape)}",
        "compare two photos of the same size",
    )
    detector = detector or load_detector(original.device)
    reference = None
    if goal == "impersonate":
        image = target if target.ndim == 4 else target[None]
        reference = [surrogate.embed(image, find_face(image[0], detector)) for surrogate in surrogates]
    verdicts = []
    for face in faces:
        rows, columns, inside = _window(face, original)
        before, after = original[:, rows, columns], finished[:, rows, columns].mul(255).round().div(255)
        found = _found_again(after, inside, detector)
        places = [inside] if found is None else [inside, found]
        scores = {}
        for index, surrogate in enumerate(surrogates):
            with torch.no_grad():
                embedding = surrogate.embed(before[None], inside)
                changed = torch.cat([surrogate.embed(after[None], place) for place in places])
            other = embedding if reference is None else reference[index]
            score = _score(surrogate, embedding, changed, other, goal, settings.wanted_margin)
            scores[f"{index + 1}. {surrogate.name}"] = score
        verdicts.append(FaceVerdict(face, found is not None, scores))
    return tuple(verdicts)


def _score(surrogate: FRSurrogate, before: Tensor, changed: Tensor, other: Tensor, goal: Goal, wanted: float) -> dict:
    """The worst of the embeddings [places, D] counts: a recogniser may align the face by either place."""
    threshold, margins = surrogate.threshold(), surrogate.margin(changed, other)
    worst = margins.argmax() if goal == "impersonate" else margins.argmin()
    away, after = margins[worst].item(), changed[worst][None]
    if goal == "impersonate":
        reached, goal_value = away < 0, threshold
    else:
        reached = away >= wanted
        goal_value = threshold - wanted if surrogate.metric == "cosine" else threshold + wanted
    return {
        "metric": surrogate.metric,
        "before": surrogate.similarity(before, other).item(),
        "after": surrogate.similarity(after, other).item(),
        "threshold": threshold,
        "wanted": goal_value,
        "reached": reached,
    }


def _window(face: Face, photo: Tensor) -> tuple[slice, slice, Face]:
    """The rows and columns of the photo around a face, and the face in their pixels."""
    height, width = photo.shape[-2:]
    left, top, right, bottom = face.box_xyxy
    reach = max(right - left, bottom - top)
    x, y = max(0, int(left - reach)), max(0, int(top - reach))
    rows, columns = slice(y, min(height, int(bottom + reach) + 1)), slice(x, min(width, int(right + reach) + 1))
    return rows, columns, _moved(face, -x, -y)


def _moved(face: Face, x: float, y: float) -> Face:
    left, top, right, bottom = face.box_xyxy
    points = tuple((px + x, py + y) for px, py in face.landmarks)
    return replace(face, box_xyxy=(left + x, top + y, right + x, bottom + y), landmarks=points)


def _found_again(photo: Tensor, face: Face, detector: FaceDetector) -> Face | None:
    """The face that the detector finds where one was, or None."""
    size = max(face.box_xyxy[2] - face.box_xyxy[0], face.box_xyxy[3] - face.box_xyxy[1])
    found = detect_faces(photo, detector, min_face=min(80.0, max(10.0, SMALLEST_AGAIN * size)))
    same = [one for one in found if overlap(one.box_xyxy, face.box_xyxy) > SAME_FACE]
    return max(same, key=lambda one: overlap(one.box_xyxy, face.box_xyxy), default=None)

"""Does it work? What the recognisers say about a finished photo, whose faces are found again as a stranger would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .checks import require
from .faces import Face, FaceDetector, find_again, find_face, load_detector, window_around
from .surrogates import FRSurrogate

if TYPE_CHECKING:
    from .photo import PhotoSettings

Goal = Literal["dodge", "synthetic", "impersonate"]


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
        return self.face.doubtful

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
        rows, columns, inside = window_around(face, original)
        before, after = original[:, rows, columns], finished[:, rows, columns].mul(255).round().div(255)
        found = find_again(after, inside, detector)
        scores = {}
        for index, surrogate in enumerate(surrogates):
            with torch.no_grad():
                embedding = surrogate.embed(before[None], inside)
                changed = embed_places(surrogate, after, inside, found)
            other = embedding if reference is None else reference[index]
            score = _score(surrogate, embedding, changed, other, goal, settings.wanted_margin)
            scores[f"{index + 1}. {surrogate.name}"] = score
        verdicts.append(FaceVerdict(face, found is not None, scores))
    return tuple(verdicts)


def _score(surrogate: FRSurrogate, before: Tensor, changed: Tensor, other: Tensor, goal: Goal, wanted: float) -> dict:
    """The worst of the embeddings [places, D] counts: a recogniser may align the face by either place."""
    threshold, after = surrogate.threshold(), worst_place(surrogate, changed, other, goal)
    away = surrogate.margin(after, other).item()
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


def embed_places(surrogate: FRSurrogate, photo: Tensor, face: Face, found: Face | None) -> Tensor:
    """[places, D]: the photo [3, H, W] as the recogniser sees it where the face was, and where it was found again."""
    places = [face] if found is None else [face, found]
    return torch.cat([surrogate.embed(photo[None], place) for place in places])


def worst_place(surrogate: FRSurrogate, embeddings: Tensor, other: Tensor, goal: Goal = "dodge") -> Tensor:
    """[1, D]: of the embeddings [places, D], the one that is most like the other; to impersonate, the least like it."""
    similarity = surrogate.similarity(embeddings, other)
    alike = similarity if surrogate.metric == "cosine" else -similarity
    return embeddings[alike.argmin() if goal == "impersonate" else alike.argmax()][None]

"""Does it work? What recognisers say about a finished photo, whose faces are found again as a stranger would.

The judge is a recogniser that was kept out of the loss: only what it says is evidence about others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import given, require
from ..faces import Face, FaceDetector, find_again, find_face, load_detector, window_around
from ..method.objectives import Goal
from ..pixels import as_saved
from ..surrogates import FRSurrogate
from ..surrogates.metric import METRICS

JUDGE, LOSS = "judge", "loss"
# How far past its threshold a recogniser must be for a face to count as protected, in its metric's units: another photo
# of the person may be a little more like the protected one than the original is (docs/RESULTS.md).
ROOM = 0.02


@dataclass(frozen=True)
class Score:
    """What one recogniser says about one face.

    Args:
        recogniser: its name.
        role: "judge": it was kept out of the loss. "loss": the face was optimised against it.
        metric: "cosine" or "euclidean".
        before: the original's similarity to the reference, in the metric.
        after: the finished photo's.
        threshold: beyond it two photos show the same person.
        knew: it took the original for the person of the reference.
        reached: the finished face is past the threshold by `ROOM`; to impersonate, it is taken for the target.
        other: the reference is another photo, on which it knew the person.
    """

    recogniser: str
    role: str
    metric: str
    before: float
    after: float
    threshold: float
    knew: bool
    reached: bool
    other: bool = False


@dataclass(frozen=True)
class FaceVerdict:
    """What became of one face.

    Args:
        face: in the photo's pixels, as it was found in the original.
        found_again: the detector finds a face there in the finished photo, too.
        scores: of every recogniser. The reference is the original itself, or another photo of the person for those
            that know the person on it; to impersonate, the target.
        goal: what was wanted.
        other: another photo was to be the reference of this face.
        asked: how many versions of this face the judge was shown. Asking until it says yes weakens what it says.
        network: the network of `instant` made the first version.
    """

    face: Face
    found_again: bool
    scores: tuple[Score, ...]
    goal: Goal = "dodge"
    other: bool = False
    asked: int = 1
    network: bool = False

    @property
    def doubtful(self) -> bool:
        """Landmarks and mesh of the face disagree (it is covered, very dark, turned): the scores may mislead."""
        return self.face.doubtful

    @property
    def protected(self) -> bool:
        """Every recogniser reached what was wanted; to impersonate, every one that was in the loss."""
        return all(score.reached for score in self.scores if self.goal != "impersonate" or score.role == LOSS)

    @property
    def evidence(self) -> bool:
        """A recogniser that was not used knew the person before, and no longer does."""
        judges = [score for score in self.scores if score.role == JUDGE]
        return self.goal != "impersonate" and self.protected and any(one.knew and one.reached for one in judges)

    def to_dict(self) -> dict:
        """For JSON."""
        return {
            "box_xyxy": [round(value, 1) for value in self.face.box_xyxy],
            "protected": self.protected,
            "evidence": self.evidence,
            "doubtful": self.doubtful,
            "found_again": self.found_again,
            "compared_with_another_photo": any(score.other for score in self.scores),
            "judge_asked": self.asked,
            "network": self.network,
            "scores": [vars(score) for score in self.scores],
        }


def require_other_network(judge: FRSurrogate | None, surrogates: Sequence[FRSurrogate]) -> None:
    """Refuses a judge that was in the loss, which would only say that the optimiser worked."""
    same = next((one for one in surrogates if judge and one.fingerprint == judge.fingerprint), None)
    require(
        same is None,
        f"the judge {judge.name if judge else ''} is the same network as {same.name if same else ''}, which is used to "
        "make the protection; it would only say that the optimiser worked",
        "name another recogniser as the judge, or none; or take this one out of those that are used",
    )


def judge_photo(
    original: Tensor,
    finished: Tensor,
    faces: Sequence[Face],
    surrogates: Sequence[FRSurrogate],
    judge: FRSurrogate | None = None,
    goal: Goal = "dodge",
    target: Tensor | None = None,
    *,
    other: Tensor | None = None,
    detector: FaceDetector | None = None,
) -> tuple[FaceVerdict, ...]:
    """Compare each face of a finished photo with the original, on pixels rounded to 8 bits.

    A face is looked at where it was and where the detector finds it again, as it is and mirrored, and the least
    protected of these counts: a change that only misleads our landmarks protects nobody, and recognisers average a face
    with its mirror image.

    Args:
        original, finished: [3, H, W] in [0, 1], of the same size.
        faces: in the original's pixels.
        surrogates: that were in the loss; what they say is no evidence about other recognisers.
        judge: a recogniser that was not; None for none.
        goal: "dodge" and "synthetic" want the face past the threshold by `ROOM`; "impersonate" wants it to match the
            target [3, h, w] or [1, 3, h, w].
        other: another photo [3, h, w] of one of the persons; the face that is most like it is compared with it, by the
            recognisers that know the original on it: to be far from a stranger, or from a poor photo, protects nobody.

    Raises:
        ProtectionError: sizes that differ, no face in the target or the other photo.
    """
    require(
        original.shape == finished.shape,
        f"the original is {list(original.shape)} and the finished photo {list(finished.shape)}",
        "compare two photos of the same size",
    )
    detector = detector or load_detector(original.device)
    panel = [*((judge, JUDGE) for _ in (1,) if judge is not None), *((one, LOSS) for one in surrogates)]
    with torch.no_grad():
        fixed = None
        if goal == "impersonate":
            problem = f"the goal {goal!r} needs a face to look like, and there is no target"
            fixed = _references(panel, given(target, problem, "pass the target photo"), detector)
        theirs = None if fixed or other is None else _references(panel, other, detector)
        looked = [_Looked(panel, original, finished, face, detector) for face in faces]
        same = _most_alike(panel, looked, theirs) if theirs and looked else None
        verdicts = []
        for number, one in enumerate(looked):
            verdicts.append(one.verdict(goal, fixed, theirs if number == same else None))
    return tuple(verdicts)


def _references(panel, photo: Tensor, detector: FaceDetector) -> list[Tensor]:
    image = photo if photo.ndim == 4 else photo[None]
    face = find_face(image[0], detector)
    return [recogniser.embed(image, face) for recogniser, _ in panel]


class _Looked:
    """One face, as every recogniser of the panel sees it before and after."""

    def __init__(self, panel, original: Tensor, finished: Tensor, face: Face, detector: FaceDetector):
        rows, columns, inside = window_around(face, original)
        before, after = original[:, rows, columns], as_saved(finished[:, rows, columns])
        self.panel, self.face, self.again = panel, face, find_again(after, inside, detector)
        self.before = [recogniser.embed(before[None], inside) for recogniser, _ in panel]
        self.after = [embed_places(recogniser, after, inside, self.again) for recogniser, _ in panel]

    def verdict(self, goal: Goal, target: list[Tensor] | None, other: list[Tensor] | None) -> FaceVerdict:
        """target, other: what every recogniser makes of these photos; without both the original is the reference."""
        scores = []
        for k, (recogniser, role) in enumerate(self.panel):
            before, known = self.before[k], other is not None and bool(recogniser.is_match(self.before[k], other[k]))
            reference = target[k] if target else other[k] if other and known else before
            scores.append(_score(recogniser, role, before, self.after[k], reference, goal, known))
        return FaceVerdict(self.face, self.again is not None, tuple(scores), goal, other is not None)


def _most_alike(panel, looked: Sequence[_Looked], references: Sequence[Tensor]) -> int:
    """Which of the faces the recognisers together find most like the references."""
    recognisers = [recogniser for recogniser, _ in panel]
    return max(range(len(looked)), key=lambda number: likeness(recognisers, looked[number].before, references))


def _score(
    surrogate: FRSurrogate, role: str, before: Tensor, changed: Tensor, reference: Tensor, goal: Goal, other: bool
) -> Score:
    """The worst of the embeddings [places, D] counts: a recogniser may align the face by either place."""
    after = worst_place(surrogate, changed, reference, goal)
    past = surrogate.margin(after, reference).item()
    return Score(
        surrogate.name,
        role,
        surrogate.metric,
        surrogate.similarity(before, reference).item(),
        surrogate.similarity(after, reference).item(),
        surrogate.threshold(),
        bool(surrogate.is_match(before, reference)),
        past < 0 if goal == "impersonate" else past >= ROOM,
        other,
    )


def asked_again(verdict: FaceVerdict, before: FaceVerdict, further: bool) -> FaceVerdict:
    """The verdict on a further version of a face, or once more on the same one, where the photo has others."""
    return replace(verdict, asked=before.asked + further)


def likeness(recognisers: Sequence[FRSurrogate], a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """How alike two faces are to several recognisers together: the sum of cosines of what each makes of them."""
    return sum(one.cosine(*pair).item() for one, *pair in zip(recognisers, a, b, strict=True))


def embed_places(
    surrogate: FRSurrogate, photo: Tensor, face: Face, found: Face | None, looks: tuple[bool, ...] = (False, True)
) -> Tensor:
    """[looks * places, D]: the photo [3, H, W] as the recogniser sees it where the face was, and where it was found
    again.

    looks: as it is (False), mirrored (True): many recognisers average the two.
    """
    places = [face] if found is None else [face, found]
    photos = photo.expand(len(places), -1, -1, -1)
    if len(looks) > 1:
        return surrogate.embed_both_ways(photos, places).flatten(0, 1)
    return surrogate.embed(photos, places, mirrored=looks[0])


def worst_place(surrogate: FRSurrogate, embeddings: Tensor, other: Tensor, goal: Goal = "dodge") -> Tensor:
    """[1, D]: of the embeddings [places, D], the one that is most like the other; to impersonate, the least like it."""
    alike = METRICS[surrogate.metric].alike(surrogate.similarity(embeddings, other))
    return embeddings[alike.argmin() if goal == "impersonate" else alike.argmax()][None]

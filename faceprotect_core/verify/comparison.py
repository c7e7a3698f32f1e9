"""What one recogniser says about one face before and after protection, what that is worth, and how it is put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..faces import Face
from ..surrogates import FRSurrogate
from ..surrogates.metric import METRICS
from .visibility import Visibility

FARS = (0.01, 0.001)
THRESHOLDS = (*(f"FAR {far:g}" for far in FARS), "default")
CONNECT_SEEN = "Connect the objective of FR Surrogate Loss, or seen of Protect Photo, to seen."
CONNECT_ANOTHER = "Connect one that was not used to make this."
USE_ANOTHER_PHOTO = "Use another photo of the same person, upright and well lit."
SET_THRESHOLD = "Set the threshold in Load FR Surrogate if you have measured it."
DOUBTFUL = (
    "DOUBTFUL. The face is covered, very dark or turned, so it is uncertain where its eyes, nose and mouth are. Do not "
    "trust this."
)
NOT_FOUND_AGAIN = "The face is not found again, so it was compared where it was."


def known_thresholds(surrogate: FRSurrogate) -> dict[str, float | None]:
    """A recogniser's thresholds at the two false accept rates and by default; None where unknown."""
    rates = {f"FAR {far:g}": surrogate.thresholds.get(far) for far in FARS}
    return rates | {"default": surrogate.threshold() if surrogate.has_threshold else None}


@dataclass(frozen=True)
class Comparison:
    """One recogniser's similarity of one face to the reference, in its metric.

    Args:
        recogniser: its name.
        metric: "cosine" or "euclidean".
        before: of the original.
        after: of the protected photo.
        thresholds: "FAR 0.01", "FAR 0.001" and "default"; None where unknown.
        seen: whether the recogniser was in the loss; None if that is not known.
        processing_alone: of the original, processed as the protected photo was; None for unprocessed photos.
    """

    recogniser: str
    metric: str
    before: float
    after: float
    thresholds: dict[str, float | None]
    seen: bool | None
    processing_alone: float | None = None

    def matching(self, similarity: float) -> list[str]:
        """The names of the thresholds at which such a pair is the same person; a pair on a threshold is one, too."""
        metric = METRICS[self.metric]
        return [name for name, value in self.known.items() if metric.may_match(similarity, value)]

    @property
    def known(self) -> dict[str, float]:
        """The thresholds that are known."""
        return {name: value for name, value in self.thresholds.items() if value is not None}

    @property
    def has_threshold(self) -> bool:
        """Whether there can be a verdict at all."""
        return bool(self.known)

    @property
    def matches_before(self) -> bool:
        """Whether the original matches the reference, at one threshold at least."""
        return bool(self.matching(self.before))

    @property
    def matches_after(self) -> bool:
        """Whether the protected photo does, at one threshold at least: only past all of them it no longer matches."""
        return bool(self.matching(self.after))

    @property
    def counts(self) -> bool:
        """Whether it is evidence: known not to have been in the loss, and it knew the person before."""
        return self.seen is False and self.matches_before

    @property
    def headroom(self) -> float:
        """How far past the hardest of its thresholds, in its metric's units; negative where it matches."""
        return min(METRICS[self.metric].margin(self.after, value) for value in self.known.values() or (0.0,))

    @property
    def seen_word(self) -> str:
        """ "seen", "unseen" or "not known"."""
        return {True: "seen", False: "unseen", None: "not known"}[self.seen]

    @property
    def verdict(self) -> str:
        """A few words for a table."""
        if not self.has_threshold:
            return "no threshold known"
        if self.matches_after:
            at = self.matching(self.after)
            word = "STILL MATCHES" if self.matches_before else "MATCHES"
            return word if at == [*self.known] else f"{word} at {', '.join(at)}"
        if not self.matches_before:
            return "did not know the person before"
        return "no longer matches" if self.counts else "no longer matches (no evidence)"

    def to_dict(self) -> dict:
        """For JSON, rounded."""

        def at_each(similarity: float) -> dict[str, bool | None]:
            at = self.matching(similarity)
            return {name: None if value is None else name in at for name, value in self.thresholds.items()}

        return {
            "recogniser": self.recogniser,
            "metric": self.metric,
            "seen": self.seen,
            "before": _rounded(self.before),
            "after": _rounded(self.after),
            "processing_alone": _rounded(self.processing_alone),
            "thresholds": {name: _rounded(value) for name, value in self.thresholds.items()},
            "matches_before": at_each(self.before),
            "matches_after": at_each(self.after),
            "counts": self.counts,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class FaceComparison:
    """What the recognisers say about one face.

    Args:
        number: from the left, starting at 0, among the faces of the original.
        face: in the original's pixels.
        found_again: the detector finds a face there in the protected photo.
        recognisers: one comparison each.
        visibility: of the change; None for a processed photo.
    """

    number: int
    face: Face
    found_again: bool
    recognisers: tuple[Comparison, ...]
    visibility: Visibility | None = None

    @property
    def still(self) -> list[Comparison]:
        """The recognisers that match after protection, whether they count as evidence or not."""
        return [one for one in self.recognisers if one.matches_after]

    @property
    def evidence(self) -> list[Comparison]:
        """The recognisers whose word counts."""
        return [one for one in self.recognisers if one.counts]

    @property
    def protected(self) -> bool | None:
        """False: a recogniser matches. True: none does, and one of them counts. None: there is no evidence."""
        if self.still:
            return False
        return True if self.evidence and not self.face.doubtful else None

    @property
    def finding(self) -> str:
        """Who still matches, or why there is no evidence."""
        said = [_unseen(self.evidence), _matching_although(self.recognisers)]
        if not self.evidence and not self.still:
            said.append(_no_evidence(self.recognisers))
        if self.face.doubtful:
            said.append(DOUBTFUL)
        if not self.found_again:
            said.append(NOT_FOUND_AGAIN)
        return " ".join(part for part in said if part)

    @property
    def advice(self) -> str:
        """What to connect to get evidence; empty where there is some."""
        if self.evidence:
            return ""
        judged = [one for one in self.recognisers if one.matches_before]
        if judged and all(one.seen is None for one in judged):
            return ("It is not known what was used to make this. " if self.still else "") + CONNECT_SEEN
        if judged or self.still:
            return CONNECT_ANOTHER
        return USE_ANOTHER_PHOTO if any(one.has_threshold for one in self.recognisers) else SET_THRESHOLD

    @property
    def verdict(self) -> str:
        """A sentence or two: the finding and the advice."""
        return f"{self.finding} {self.advice}".strip()

    def to_dict(self) -> dict:
        """The numbers, rounded, and the verdict, for JSON."""
        return {
            "face": self.number,
            "box_xyxy": [round(value, 1) for value in self.face.box_xyxy],
            "protected": self.protected,
            "doubtful": self.face.doubtful,
            "found_again": self.found_again,
            "verdict": self.verdict,
            "recognisers": [one.to_dict() for one in self.recognisers],
        } | ({} if self.visibility is None else {"change": self.visibility.to_dict()})


def names_of(comparisons: Sequence[Comparison]) -> str:
    """The recognisers' names as words: "a", "a and b", "a, b and c"."""
    return listed([one.recogniser for one in comparisons])


def listed(words: Sequence[str]) -> str:
    """Words in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _unseen(evidence: list[Comparison]) -> str:
    still = [one for one in evidence if one.matches_after]
    count, all_of = len(still) or len(evidence), len(evidence)
    if not evidence:
        return ""
    who = "recognisers that were" if all_of > 1 else "recogniser that was"
    of = f"{count} of {all_of} {who} not used to make this"
    if still:
        return f"{of} STILL MATCH{'ES' * (count == 1)}: {names_of(still)}."
    return f"{of} no longer match{'es' * (count == 1)}."


def _matching_although(recognisers: Sequence[Comparison]) -> str:
    """Those that match and are no evidence: a failure is one, whoever sees it."""
    said = []
    for why, seen in ((", although it was used to make this", True), ("", None)):
        said += [
            f"{one.recogniser} STILL MATCHES{why}." for one in recognisers if one.seen is seen and one.matches_after
        ]
    strangers = [one for one in recognisers if one.seen is False and one.matches_after and not one.counts]
    said += [f"{one.recogniser} MATCHES, and did not before." for one in strangers]
    return " ".join(said)


def _no_evidence(recognisers: Sequence[Comparison]) -> str:
    """Nothing matches, and nothing of that counts: why."""
    judged = [one for one in recognisers if one.matches_before]
    strangers = [one for one in recognisers if one.has_threshold and not one.matches_before]
    unknown = [one for one in recognisers if not one.has_threshold]
    reasons, many = [], len(judged)
    if judged and all(one.seen is None for one in judged):
        recognisers_match = "recogniser no longer matches" if many == 1 else "recognisers no longer match"
        unknown_use = "it is not known which of them were used to make this"
        reasons.append(f"{many} of {many} {recognisers_match}, but {unknown_use}")
    elif many == 1:
        reasons.append("the only recogniser that no longer matches was used to make this")
    elif many:
        reasons.append(f"the {many} recognisers that no longer match were used to make this")
    if strangers:
        reasons.append(f"{names_of(strangers)} did not know the person before")
    if unknown:
        reasons.append(f"no threshold is known for {names_of(unknown)}")
    return f"No evidence: {'; '.join(reasons)}."


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

"""What is said about a protected photo, in the words of a person who is in it; the numbers stand behind.

The same words in the node, on the command line and in the record.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..faces import Face
from ..verify.verdict import JUDGE, LOSS, ROOM, FaceVerdict, Score

DOUBT = (
    "DOUBTFUL: the face is covered, very dark or turned, and its landmarks are uncertain; do not trust this verdict."
)
GONE = "The detector finds no face there any more."
NO_JUDGE = "No recogniser was kept out as a judge, so this says nothing about others."


def scope(smallest: float | None = None) -> str:
    """What a report is not about. smallest: the size in pixels from which on faces were sought; None: none were."""
    if smallest is None:
        return "no other faces were looked for or changed"
    return (
        f"faces smaller than {smallest:g} pixels were not looked for, and faces that were not found (half hidden, in "
        "profile, strongly tilted) were not changed"
    )


def found(faces: Sequence[Face]) -> str:
    """How many faces a photo has, as far as the detector sees."""
    turned = sum(face.lies_turned for face in faces)
    return f"{_count(faces)} found" + (f", {turned} of them turned (on the side or upside down)." if turned else ".")


def verdict(face: FaceVerdict) -> str:
    """What became of one face, in sentences; the first two words are the verdict."""
    said = [_impersonation(face)] if face.goal == "impersonate" else _dodging(face)
    if face.asked > 1 and any(score.role == JUDGE for score in face.scores):
        said.append(f"A first version did not suffice: the judge was asked {face.asked} times, which weakens its word.")
    if not face.found_again:
        said.append(GONE)
    if face.doubtful:
        said.append(DOUBT)
    return " ".join(said)


def _count(faces: Sequence) -> str:
    return f"{len(faces)} face{'s' * (len(faces) != 1)}"


def photo_verdict(faces: Sequence[FaceVerdict]) -> str:
    """What became of a photo, in one sentence."""
    if not faces:
        return "NOT PROTECTED: no face."
    count = _count(faces)
    failed = sum(not face.protected for face in faces)
    if failed:
        return f"NOT PROTECTED: {failed} of {count}."
    doubtful = sum(face.doubtful for face in faces)
    done = "Taken for the target" if faces[0].goal == "impersonate" else "Protected"
    return f"{done}: {count}." + (f" {doubtful} of them DOUBTFUL." if doubtful else "")


def in_a_line(faces: Sequence[FaceVerdict]) -> str:
    """What became of a photo, with the number that is the least past its threshold."""
    if not faces:
        return photo_verdict(faces)
    return f"{photo_verdict(faces)} {short(min(faces, key=lambda face: _past(_telling(face), face.goal)))}."


def short(face: FaceVerdict) -> str:
    """The most telling number about one face."""
    score = _telling(face)
    return f"{score.recogniser}, {_ROLES[score.role]}: {_numbers(score, face.goal)}"


def _telling(face: FaceVerdict) -> Score:
    """Of the recogniser that is fooled least: of those that failed, else of the judge."""
    counting = [score for score in face.scores if face.goal != "impersonate" or score.role == LOSS]
    failed = [score for score in counting if not score.reached]
    judges = [score for score in face.scores if score.role == JUDGE]
    return min(failed or judges or face.scores, key=lambda score: _past(score, face.goal))


def numbers(face: FaceVerdict) -> list[str]:
    """A line for each recogniser."""
    return [f"{score.recogniser}, {_ROLES[score.role]}: {_both(score)}" for score in face.scores]


_ROLES = {JUDGE: "not used to make this", LOSS: "used to make this"}


def _dodging(face: FaceVerdict) -> list[str]:
    judges = [score for score in face.scores if score.role == JUDGE]
    used = [score for score in face.scores if score.role == LOSS]
    said = ["Protected." if face.protected else "NOT PROTECTED."]
    whom = "you on the other photo" if face.other else "you"
    for judge in judges:
        who = f"{judge.recogniser}, which was not used to make this,"
        if not judge.knew:
            said.append(
                f"{who} did not know {whom} before either, so it is no evidence ({_numbers(judge, face.goal)})."
            )
        elif judge.reached:
            said.append(f"{who} knew {whom} before and no longer does ({_numbers(judge, face.goal)}).")
        else:
            still = "still knows" if _away(judge) < 0 else "hardly knows"
            said.append(f"{who} {still} {whom} ({_numbers(judge, face.goal)}; wanted {_wanted(judge):.2f}).")
    fooled = sum(score.reached for score in used)
    if len(used) == 1:
        said.append(f"The recogniser that was used {'no longer knows' if fooled else 'may still know'} {whom}.")
    elif used:
        said.append(f"{fooled} of {len(used)} recognisers that were used no longer know {whom}.")
    if not judges:
        said.append(NO_JUDGE)
    return said


def _impersonation(face: FaceVerdict) -> str:
    used = [score for score in face.scores if score.role == LOSS]
    taken = sum(score.reached for score in used)
    opening = "Taken for the target" if face.protected else "NOT TAKEN for the target"
    said = f"{opening} by {taken} of {len(used)} recognisers that were used."
    for judge in (score for score in face.scores if score.role == JUDGE):
        does = "takes" if judge.reached else "does not take"
        said += f" {judge.recogniser}, which was not used, {does} it for the target ({_numbers(judge, face.goal)})."
    return said + " This does not promise that you are no longer recognised."


def _numbers(score: Score, goal: str = "dodge") -> str:
    word, side = ("similarity", "above") if score.metric == "cosine" else ("distance", "below")
    word += " to the target" if goal == "impersonate" else ""
    return f"{word} {score.after:.2f}; the same person {side} {score.threshold:.2f}"


def _both(score: Score) -> str:
    word, side = ("similarity", "above") if score.metric == "cosine" else ("distance", "below")
    return f"{word} {score.before:.2f} before, {score.after:.2f} after (the same person {side} {score.threshold:.2f})"


def _away(score: Score) -> float:
    """How far past the threshold; negative for a match."""
    return score.threshold - score.after if score.metric == "cosine" else score.after - score.threshold


def _wanted(score: Score) -> float:
    return score.threshold - ROOM if score.metric == "cosine" else score.threshold + ROOM


def _past(score: Score, goal: str) -> float:
    """How far past the threshold, towards what was wanted."""
    return -_away(score) if goal == "impersonate" else _away(score)

"""What is said while photos are protected, and about what came out, in the words of a person who is in them; the
numbers stand behind.

The same words in the node, on the command line and in the record.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..faces import Face
from ..progress import Step
from ..speed.cost import Cost, Meter, PredictedCost, duration
from ..surrogates.metric import METRICS
from ..verify.verdict import JUDGE, LOSS, ROOM, FaceVerdict, Score

DOUBT = (
    "DOUBTFUL. The face is covered, very dark or turned, so it is uncertain where its eyes, nose and mouth are. Do not "
    "trust this verdict."
)
GONE = "No face is found there any more."
NO_JUDGE = "No recogniser was kept out as a judge, so this says nothing about others."
BY_NETWORK = "A network made this in a few looks."
NOT_BY_NETWORK = "What a network made in a few looks was not enough, so this was made as with fast."
NOBODY_KNEW = "No recogniser took the other photo for you, so all compared with this photo: is it one of you?"
PREVIEW = "Preview, by instant (not judged)"
LEFT_OUT = "NOT PROTECTED, left out."
STILL_KNOWN = "still recognised, goes further"
_DOING = {"inversion": "getting ready", "null_text": "learning the face", "protection": "protecting"}


def doing(step: Step) -> str:
    """What is done with which faces, as in "face 2 of 5, protecting, step 1 of 3"; "" for what takes no time."""
    if step.stage not in _DOING:
        return ""
    which = "" if step.faces == 1 else f"{faces_at_work(step)} of {step.faces}, "
    return f"{which}{_DOING[step.stage]}, step {step.step} of {step.steps}"


def photos_at_work(name: str, photos: int) -> str:
    """The first, and how many more."""
    return name if photos == 1 else f"{name} and {photos - 1} more"


def faces_at_work(step: Step) -> str:
    return numbered("face", step.face - step.at_once + 1, step.at_once)


def numbered(name: str, first: int, count: int) -> str:
    """As in "face 2" and "faces 2 to 3"."""
    return f"{name} {first}" if count == 1 else f"{name}s {first} to {first + count - 1}"


def expected(cost: PredictedCost) -> str:
    """What photos will cost."""
    return f"{_counted(cost.faces)}, about {cost.cost}"


def cost(predicted: Cost, measured: Meter) -> str:
    """What it was predicted to be, and what it was."""
    return f"Expected {predicted} of memory; {measured}."


def left(seconds: float) -> str:
    return f"about {duration(seconds)} left"


def _counted(faces: int) -> str:
    return f"{faces} face{'s' * (faces != 1)}"


def scope(smallest: float | None = None) -> str:
    """Which faces stay as they were. smallest: the size in pixels from which on faces were sought; None: none were."""
    if smallest is None:
        return "No other faces were looked for or changed."
    return (
        f"Not changed: faces smaller than {smallest:g} pixels, and any that were not found (half hidden, in profile, "
        "strongly tilted)."
    )


def found(faces: Sequence[Face]) -> str:
    """How many faces a photo has, as far as the detector sees."""
    turned = sum(face.lies_turned for face in faces)
    return f"{_counted(len(faces))} found" + (
        f", {turned} of them turned (on the side or upside down)." if turned else "."
    )


def verdict(face: FaceVerdict) -> str:
    """What became of one face, in sentences; the first two words are the verdict."""
    said = [_impersonation(face)] if face.goal == "impersonate" else _dodging(face)
    if face.network:
        said.append(BY_NETWORK if face.asked == 1 else NOT_BY_NETWORK)
    if face.asked > 1 and any(score.role == JUDGE for score in face.scores):
        said.append(f"A first version was not enough, so the judge was asked {face.asked} times; its word weighs less.")
    if not face.found_again:
        said.append(GONE)
    if face.doubtful:
        said.append(DOUBT)
    return " ".join(said)


def photo_verdict(faces: Sequence[FaceVerdict]) -> str:
    """What became of a photo, in one sentence."""
    if not faces:
        return "NOT PROTECTED, no face."
    count = _counted(len(faces))
    failed = sum(not face.protected for face in faces)
    if failed:
        return f"NOT PROTECTED, {failed} of {count}."
    doubtful = sum(face.doubtful for face in faces)
    done = "Taken for the target" if faces[0].goal == "impersonate" else "Protected"
    return f"{done}, {count}." + (f" {doubtful} of them DOUBTFUL." if doubtful else "")


def report(faces: Sequence[FaceVerdict], seen: Sequence[Face]) -> list[str]:
    """What became of a photo and of each of its faces, with all numbers, in lines. seen: all faces that it has."""
    lines = [f"{photo_verdict(faces)} {found(seen)}"]
    for index, face in enumerate(faces):
        lines += [f"Face {index}: {verdict(face)}", *numbers(face)]
    return lines


def in_a_line(faces: Sequence[FaceVerdict]) -> str:
    """What became of a photo, with the number that is the least past its threshold."""
    if not faces:
        return photo_verdict(faces)
    said = f"{photo_verdict(faces)} {short(min(faces, key=lambda face: _past(_telling(face), face.goal)))}."
    if not faces[0].network:
        return said
    anew = sum(face.asked > 1 for face in faces)
    return f"{said} {f'{_counted(anew)} of {len(faces)} as with fast' if anew else 'By a few looks of a network'}."


def short(face: FaceVerdict) -> str:
    """The most telling number about one face."""
    score = _telling(face)
    return f"{score.recogniser}, {_ROLES[score.role]}, says {_numbers(score, face.goal)}"


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
    for judge in judges:
        who, whom = f"{judge.recogniser}, which was not used to make this,", _whom([judge])
        if judge.reached:
            said.append(f"{who} knew {whom} before and no longer does ({_numbers(judge, face.goal)}).")
        else:
            still = "still knows" if _away(judge) < 0 else "hardly knows"
            said.append(f"{who} {still} {whom} ({_numbers(judge, face.goal)}; wanted {_wanted(judge):.2f}).")
    fooled, whom = sum(score.reached for score in used), _whom(used)
    if len(used) == 1:
        said.append(f"The recogniser that was used {'no longer knows' if fooled else 'may still know'} {whom}.")
    elif used:
        said.append(f"{fooled} of {len(used)} recognisers that were used no longer know {whom}.")
    if not judges:
        said.append(NO_JUDGE)
    apart = [score.recogniser for score in face.scores if not score.other] if face.other else []
    if apart:
        said.append(NOBODY_KNEW if len(apart) == len(face.scores) else _did_not_know(apart))
    return said


def _whom(scores: Sequence[Score]) -> str:
    return "you on the other photo" if scores and all(score.other for score in scores) else "you"


def _did_not_know(names: Sequence[str]) -> str:
    return f"On the other photo {' and '.join(names)} did not know you, and compared with this photo instead."


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
    metric, whom = METRICS[score.metric], " to the target" if goal == "impersonate" else ""
    return f"{metric.word}{whom} {score.after:.2f}; the same person {metric.side} {score.threshold:.2f}"


def _both(score: Score) -> str:
    metric, numbers = METRICS[score.metric], f"{score.before:.2f} before, {score.after:.2f} after"
    return f"{metric.word} {numbers} (the same person {metric.side} {score.threshold:.2f})"


def _away(score: Score) -> float:
    """How far past the threshold; negative for a match."""
    return METRICS[score.metric].margin(score.after, score.threshold)


def _wanted(score: Score) -> float:
    return METRICS[score.metric].past(score.threshold, ROOM)


def _past(score: Score, goal: str) -> float:
    """How far past the threshold, towards what was wanted."""
    return -_away(score) if goal == "impersonate" else _away(score)

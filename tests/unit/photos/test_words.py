"""The verdict in words says what the numbers say, and nothing that they do not."""

from dataclasses import replace

import pytest

from faceprotect_core.faces import Face
from faceprotect_core.photos import words
from faceprotect_core.verify.verdict import JUDGE, LOSS, ROOM, FaceVerdict, Score

FACE = Face((1.0, 1.0, 9.0, 9.0), 1.0, ((0.0, 0.0),) * 5)


def judge(after: float = 0.81, before: float = 0.0) -> Score:
    """A distance: the same person below 0.65."""
    return Score("dlib_resnet", JUDGE, "euclidean", before, after, 0.65, before < 0.65, after >= 0.65)


def used(after: float = 0.2, name: str = "mobileface") -> Score:
    """A cosine: the same person above 0.31."""
    return Score(name, LOSS, "cosine", 1.0, after, 0.31, True, after <= 0.31)


def verdict(*scores: Score, **options) -> FaceVerdict:
    return FaceVerdict(FACE, True, scores, **options)


PROTECTED = verdict(judge(), used(), used(name="faceres"))
DOUBTFUL = replace(PROTECTED, face=replace(FACE, disagreement=0.2))
KNOWN = verdict(judge(0.5), used(), used(0.4, "faceres"))
# ... to impersonate, "reached" is a match
TAKEN = verdict(
    replace(judge(0.5, 0.9), reached=True), replace(used(0.4), knew=False, reached=True), goal="impersonate"
)
NOT_TAKEN = verdict(replace(judge(), reached=False), replace(used(0.2), reached=False), goal="impersonate")


def test_protected_is_said_with_who_knew_before_and_who_was_used():
    assert words.verdict(PROTECTED) == (
        "Protected. dlib_resnet, which was not used to make this, knew you before and no longer does (distance 0.81; "
        "the same person below 0.65). 2 of 2 recognisers that were used no longer know you."
    )


def test_a_face_that_the_judge_knows_is_not_protected_in_capitals():
    said = words.verdict(KNOWN)
    assert said.startswith("NOT PROTECTED. ") and "no longer does" not in said
    assert "dlib_resnet, which was not used to make this, still knows you (distance 0.50; the same person" in said
    assert "1 of 2 recognisers that were used no longer know you." in said


def test_a_judge_that_is_hardly_past_its_threshold_hardly_knows_the_person():
    """Neither known nor protected: past the threshold, and by less than is wanted."""
    said = words.verdict(verdict(replace(judge(0.65 + ROOM / 2), reached=False), used()))
    assert said.startswith("NOT PROTECTED. ") and "still knows" not in said and "no longer does" not in said
    assert "dlib_resnet, which was not used to make this, hardly knows you (distance 0.6" in said
    assert f"the same person below 0.65; wanted {0.65 + ROOM:.2f})" in said
    assert f"; wanted {0.65 + ROOM:.2f})" in words.verdict(KNOWN)


def test_one_that_a_used_recogniser_knows_is_not_protected_whatever_the_judge_says():
    said = words.verdict(verdict(judge(), used(0.4)))
    assert said.startswith("NOT PROTECTED. ") and "The recogniser that was used may still know you." in said


def elsewhere(score: Score) -> Score:
    return replace(score, other=True)


def test_with_another_photo_it_says_that_the_person_on_it_is_meant():
    said = words.verdict(verdict(*map(elsewhere, PROTECTED.scores), other=True))
    assert "knew you on the other photo before and no longer does" in said
    assert said.endswith("no longer know you on the other photo.")


def test_whoever_did_not_know_the_person_on_the_other_photo_is_said_to_have_compared_with_this_one():
    said = words.verdict(verdict(judge(), elsewhere(used()), used(name="faceres"), other=True))
    assert "knew you before and no longer does" in said
    assert said.endswith(
        "On the other photo dlib_resnet and faceres did not know you, and compared with this photo instead."
    )
    said = words.verdict(replace(PROTECTED, other=True))
    assert "the other photo before" not in said and said.endswith(words.NOBODY_KNEW)


def test_without_a_judge_it_says_that_nothing_follows_about_others():
    assert words.NO_JUDGE in words.verdict(verdict(used()))
    assert words.NO_JUDGE not in words.verdict(PROTECTED)


def test_a_judge_that_was_asked_again_is_said_to_weigh_less():
    assert "asked" not in words.verdict(PROTECTED)
    assert "the judge was asked 2 times" in words.verdict(replace(PROTECTED, asked=2))
    assert "asked" not in words.verdict(replace(verdict(used()), asked=2)), "there is none"


@pytest.mark.parametrize("face", [PROTECTED, KNOWN, TAKEN])
def test_a_face_that_is_gone_or_doubtful_is_said_to_be(face):
    assert words.GONE not in words.verdict(face) and words.DOUBT not in words.verdict(face)
    assert words.GONE in words.verdict(replace(face, found_again=False))
    doubtful = replace(face, face=replace(FACE, disagreement=0.2))
    assert words.DOUBT in words.verdict(doubtful)


def test_to_impersonate_says_who_takes_it_for_the_target_and_promises_nothing():
    said = words.verdict(TAKEN)
    assert said.startswith("Taken for the target by 1 of 1 ") and "rotected" not in said
    assert "dlib_resnet, which was not used, takes it for the target (distance to the target 0.50" in said
    assert said.endswith("This does not promise that you are no longer recognised.")
    said = words.verdict(NOT_TAKEN)
    assert said.startswith("NOT TAKEN for the target by 0 of 1 ") and "does not take it for the target" in said


# ------------------------------------------------------------------------------------------------ a photo


@pytest.mark.parametrize(
    "faces, said",
    [
        ([PROTECTED], "Protected, 1 face."),
        ([PROTECTED] * 3, "Protected, 3 faces."),
        ([PROTECTED, KNOWN, PROTECTED], "NOT PROTECTED, 1 of 3 faces."),
        ([KNOWN], "NOT PROTECTED, 1 of 1 face."),
        ([PROTECTED, DOUBTFUL], "Protected, 2 faces. 1 of them DOUBTFUL."),
    ],
)
def test_a_photo_is_protected_when_all_its_faces_are(faces, said):
    assert words.photo_verdict(faces) == said


def test_what_was_not_looked_for_is_said():
    assert words.scope(80.0) == (
        "Not changed: faces smaller than 80 pixels, and any that were not found (half hidden, in profile, strongly "
        "tilted)."
    )
    assert words.scope() == "No other faces were looked for or changed."


def test_a_face_that_was_found_in_the_turned_photo_is_said():
    box, upright = (0.0, 0.0, 9.0, 9.0), ((9.0, 3.0), (7.0, 3.0), (1.0, 3.0), (3.0, 3.0), (5.0, 6.0))
    face, on_its_side = (Face(box, 1.0, points) for points in (upright, tuple((y, 9 - x) for x, y in upright)))
    upside_down = Face(box, 1.0, tuple((9 - x, 9 - y) for x, y in upright))
    assert words.found([face]) == "1 face found."
    assert words.found([face, on_its_side, upside_down]) == (
        "3 faces found, 2 of them turned (on the side or upside down)."
    )


def test_a_line_shows_the_number_that_is_the_least_past_its_threshold():
    closest = verdict(judge(0.66), used(-0.5))
    assert words.in_a_line([PROTECTED, closest]) == (
        "Protected, 2 faces. dlib_resnet, not used to make this, says distance 0.66; the same person below 0.65."
    )
    far = verdict(judge(0.9), used(0.5, "faceres"), used(0.4))
    assert words.in_a_line([closest, far, KNOWN]) == (
        "NOT PROTECTED, 2 of 3 faces. faceres, used to make this, says similarity 0.50; the same person above 0.31."
    )


def test_a_line_says_whether_a_network_or_fast_made_it():
    looks, fast = replace(PROTECTED, network=True), replace(PROTECTED, network=True, asked=2)
    assert words.in_a_line([looks, looks]).endswith("below 0.65. By a few looks of a network.")
    assert words.in_a_line([looks, fast]).endswith("below 0.65. 1 face of 2 as with fast.")


def test_the_number_is_the_judges_unless_somebody_was_not_fooled():
    assert words.short(verdict(used(0.3), judge(2.0))).startswith(
        "dlib_resnet, not used to make this, says distance 2.00"
    )
    assert words.short(verdict(used(0.4), judge(2.0))).startswith("mobileface, used to make this, says similarity 0.40")
    assert words.short(verdict(used(0.4), used(0.6, "faceres"), judge(0.64))).startswith("faceres")
    assert words.short(verdict(used(0.3), used(0.1, "faceres"))).startswith("mobileface"), "without a judge"
    assert words.short(NOT_TAKEN).startswith("mobileface, used to make this, says similarity to the target 0.20"), (
        "counts"
    )
    hardly, still = replace(used(0.30), reached=False), used(0.32, "faceres")
    assert words.short(verdict(hardly, still)).startswith("faceres"), "who still matches, not who is nearly gone"


def test_every_recogniser_has_its_numbers_before_and_after():
    assert words.numbers(PROTECTED) == [
        "dlib_resnet, not used to make this: distance 0.00 before, 0.81 after (the same person below 0.65)",
        "mobileface, used to make this: similarity 1.00 before, 0.20 after (the same person above 0.31)",
        "faceres, used to make this: similarity 1.00 before, 0.20 after (the same person above 0.31)",
    ]

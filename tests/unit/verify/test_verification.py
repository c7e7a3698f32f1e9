"""The verdict on a protected photo fails closed: who was in the loss, or did not know the person, does not count."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from faceprotect_core import FRSurrogate, ProtectionError
from faceprotect_core.faces import find_face, window_around
from faceprotect_core.verify import verification
from faceprotect_core.verify.robustness import as_saved, processings
from faceprotect_core.verify.verdict import judge_photo
from faceprotect_core.verify.verification import verify_photo, verify_robustness

BOTH = {0.01: 0.9, 0.001: 0.95}


def mood(name: str = "mood", sensitivity: float = 6.0, **options) -> FRSurrogate:
    """A recogniser that goes by brightness: the angle of its vector is the mean of the face, times a number, and a
    turn that makes it another network than those of other names."""

    def embed(image: Tensor) -> Tensor:
        angle = sensitivity * image.mean((1, 2, 3)) + 0.5 * ord(name[0])
        return torch.stack([angle.cos(), angle.sin()], 1)

    return FRSurrogate(embed, 16, name=name, value_range=(0.0, 1.0), **({"thresholds": BOTH} | options))


@pytest.fixture(scope="module")
def photo(astronaut):
    return as_saved(astronaut[:, :300, 80:400])


@pytest.fixture(scope="module")
def darker(photo):
    """So much that `mood` no longer takes her for herself."""
    return as_saved(photo * 0.6)


@pytest.fixture(scope="module")
def faces(photo, detector):
    return [find_face(photo, detector)]


@pytest.fixture
def verify(photo, darker, faces, detector):
    def run(recognizers, protected=darker, **options):
        return verify_photo(photo, protected, recognizers, **({"faces": faces, "detector": detector} | options))

    return run


def test_a_recogniser_that_the_optimizer_did_not_see_is_evidence(verify):
    found = verify([mood("a"), mood("b")], seen=[])
    assert found.protected is True
    assert found.verdict == "2 of 2 recognisers that were not used to make this no longer match."


def test_one_that_still_matches_is_named(verify):
    found = verify([mood("a"), mood("dull", 0.1), mood("c")], seen=[])
    assert found.protected is False
    assert found.verdict == "1 of 3 recognisers that were not used to make this STILL MATCHES: dull."


def test_a_recogniser_in_the_loss_never_counts(verify):
    seen = mood("a")
    found = verify([seen], seen=[seen])
    assert found.protected is None
    assert found.verdict == (
        "No evidence: the only recogniser that no longer matches was used to make this. Connect one that was "
        "not used to make this."
    )
    assert verify([seen, mood("b")], seen=[seen]).verdict.startswith("1 of 1 recogniser that was not used")


def test_but_if_it_still_matches_that_is_a_failure(verify):
    seen = mood("dull", 0.1)
    found = verify([seen, mood("b")], seen=[seen])
    assert found.protected is False
    assert "dull STILL MATCHES, although it was used to make this." in found.verdict


def test_it_is_known_again_by_its_fingerprint_and_in_another_rounding(verify, recognizer):
    renamed = replace(recognizer, name="other", default_threshold=0.1)
    rounded = recognizer.to(dtype=torch.bfloat16).to(dtype=torch.float32)
    assert rounded.fingerprint != recognizer.fingerprint
    for seen in ([renamed], [recognizer.fingerprint], [rounded]):
        assert verify([recognizer], seen=seen).faces[0].recognisers[0].seen is True
    assert verify([recognizer], seen=[mood()]).faces[0].recognisers[0].seen is False


def test_without_knowing_what_was_seen_nothing_counts(verify):
    found = verify([mood("a"), mood("b")])
    assert found.protected is None
    assert found.verdict.startswith("No evidence: 2 of 2 recognisers no longer match, but it is not known which")
    assert "Connect the objective of FR Surrogate Loss, or seen of Protect Photo, to seen." in found.verdict
    assert verify([mood("dull", 0.1)]).protected is False


def test_only_a_pair_past_all_thresholds_no_longer_matches(verify):
    (plain,) = verify([mood()], seen=[]).faces[0].recognisers
    beyond, short = plain.after + 0.01, plain.after - 0.01
    for thresholds, at in (
        ({0.01: beyond, 0.001: beyond}, []),
        ({0.01: short, 0.001: beyond}, ["FAR 0.01", "default"]),
        ({0.01: beyond, 0.001: short}, ["FAR 0.001"]),
        ({0.01: plain.after}, ["FAR 0.01", "default"]),  # on it: past it is strict
    ):
        found = verify([mood(thresholds=thresholds)], seen=[])
        (one,) = found.faces[0].recognisers
        assert one.matching(one.after) == at and found.protected is (not at)
    (one,) = verify([mood(default_threshold=short)], seen=[]).faces[0].recognisers
    assert one.verdict == "STILL MATCHES at default"


def test_a_distance_counts_the_other_way_round(verify):
    (one,) = verify([mood(metric="euclidean", thresholds={0.01: 0.1})], seen=[]).faces[0].recognisers
    assert one.before == 0 and one.after > 0.1 and one.counts and not one.matches_after
    (one,) = verify([mood(metric="euclidean", thresholds={0.01: 1.9})], seen=[]).faces[0].recognisers
    assert one.matches_after


def test_without_a_threshold_there_is_no_verdict(verify):
    found = verify([mood("file", thresholds={})], seen=[])
    assert found.protected is None
    assert "no threshold is known for file. Set the threshold" in found.verdict
    assert found.faces[0].recognisers[0].verdict == "no threshold known"
    assert "1 of 1 recogniser" in verify([mood("file", thresholds={}), mood("b")], seen=[]).verdict


def test_an_unchanged_photo_is_never_protected(verify, photo):
    found = verify([mood("blind", thresholds={0.01: 2.0})], photo + 0.001, seen=[])
    assert found.protected is False and "nothing was changed" in found.verdict


def test_the_photo_is_judged_as_it_is_saved(verify, darker):
    nearly = (darker + torch.linspace(-1, 1, darker.shape[2]) * 0.4 / 255).clamp(0, 1)
    assert verify([mood()], nearly, seen=[]) == verify([mood()], darker, seen=[])


# Another photo of the person


def test_the_other_photo_is_the_reference(verify, photo):
    other = as_saved(photo * 0.98)[:, 10:, 20:]
    (one,) = verify([mood()], other=other, seen=[]).faces[0].recognisers
    assert 0.95 < one.before < 1 and one.counts and not one.matches_after


def test_a_recogniser_that_did_not_know_the_person_before_is_no_evidence(verify, photo):
    found = verify([mood("a"), mood("b")], photo, other=as_saved(photo * 0.4), seen=[])
    assert found.unchanged and found.protected is False
    found = verify([mood("a"), mood("b")], as_saved(photo * 0.9), other=as_saved(photo * 0.4), seen=[])
    assert found.protected is None
    assert "No evidence: a and b did not know the person before. Use another photo" in found.verdict


def test_a_recogniser_that_matches_only_after_protection_is_a_failure(verify, photo, darker):
    found = verify([mood("a")], other=darker, seen=[])
    assert found.protected is False and found.verdict.startswith("a MATCHES, and did not before.")


def test_of_several_faces_the_one_that_resembles_it_is_checked(photo, darker, detector):
    two = torch.cat([darker, photo.flip(2)], 2)
    found = verify_photo(two, as_saved(two * 0.9), [mood()], other=photo, seen=[], detector=detector)
    (face,) = found.faces
    assert face.number == 1 and face.face.box_xyxy[0] > 320
    assert found.verdict.endswith("The other faces of the photo were not checked.") and found.unchecked == 1


# Faces


def test_the_worst_face_comes_first(photo, darker, detector):
    original, protected = torch.cat([photo, photo], 2), torch.cat([darker, photo], 2)
    found = verify_photo(original, protected, [mood("a")], seen=[], detector=detector)
    assert [face.number for face in found.faces] == [0, 1] and found.protected is False
    assert found.verdict == (
        "Face 1: 1 of 1 recogniser that was not used to make this STILL MATCHES: a. "
        "Face 0: 1 of 1 recogniser that was not used to make this no longer matches."
    )


def test_misled_landmarks_do_not_count_as_protection(verify, photo, faces, recognizer, monkeypatch):
    """A face that would be aligned wrongly where it was counts where it is found again, and the other way round."""
    wrong = replace(faces[0], landmarks=faces[0].landmarks[::-1])
    right_place, wrong_place = (window_around(face, photo)[2] for face in (faces[0], wrong))
    near = as_saved(photo * 0.99)
    for known, found_again, matches in (
        (wrong, None, False),
        (wrong, right_place, True),
        (faces[0], wrong_place, True),
    ):
        monkeypatch.setattr(verification, "find_again", lambda *_, found=found_again, **__: found)
        found = verify([recognizer], near, seen=[], other=photo, faces=[known])
        assert found.faces[0].recognisers[0].matches_after is matches


def test_the_numbers_are_those_of_protect_photo(verify, photo, darker, faces, recognizer, detector):
    (judged,) = judge_photo(photo, darker, faces, [recognizer], detector=detector)
    (face,) = verify([recognizer], seen=[]).faces
    assert [face.recognisers[0].after] == [score.after for score in judged.scores]


def test_what_makes_a_verdict_uncertain_is_said(verify, faces, monkeypatch):
    monkeypatch.setattr(verification, "find_again", lambda *_, **__: None)
    assert "is not found again" in verify([mood()], seen=[]).verdict
    found = verify([mood()], seen=[], faces=[replace(faces[0], disagreement=0.5)])
    assert found.protected is None and "DOUBTFUL" in found.verdict


NOISE = torch.rand(3, 120, 160, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"original": NOISE, "protected": NOISE}, "no face found in the original of 160 x 120"),
        ({"other": NOISE}, "no face found in the other photo of 160 x 120"),
        ({"faces": []}, "no face found in the original"),
        ({"protected": NOISE}, "320 x 300 pixels, the protected photo 160 x 120"),
        ({"recognizers": []}, "there is no recogniser"),
        ({"protected": torch.full((3, 300, 320), torch.nan)}, "NaN"),
        ({"original": NOISE[None]}, "expected [3, H, W]"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_is_refused_with_a_reason_and_a_remedy(photo, darker, detector, changed, says):
    inputs = {"original": photo, "protected": darker, "recognizers": [mood()], "detector": detector} | changed
    with pytest.raises(ProtectionError, match="How to fix: ") as error:
        verify_photo(inputs.pop("original"), inputs.pop("protected"), inputs.pop("recognizers"), **inputs)
    assert says in str(error.value)


def test_one_network_counts_once(verify):
    one = mood("a")
    with pytest.raises(ProtectionError, match="a and b are the same network"):
        verify([one, replace(one, name="b")], seen=[])


def test_not_even_in_another_rounding(verify, recognizer):
    rounded = replace(recognizer.to(dtype=torch.bfloat16).to(dtype=torch.float32), name="rounded")
    with pytest.raises(ProtectionError, match="dlib_resnet and rounded are the same network"):
        verify([recognizer, rounded], seen=[])


def test_a_network_that_breaks_down_is_no_stranger(verify):
    broken = FRSurrogate(lambda image: image.mean((2, 3)) * torch.nan, 16, name="broken", thresholds=BOTH)
    with pytest.raises(ProtectionError, match="what broken makes of the face has 3 of 3 values that are NaN"):
        verify([broken], seen=[])


def test_the_table_and_the_json_hold_the_numbers(verify):
    found = verify([mood("a|b"), mood("c", thresholds={})], seen=[])
    table, change = found.table().split("\n\n")
    heads, _, *rows = table.splitlines()
    assert len(rows) == 2 and "a\\|b" in rows[0]
    assert heads.count("|") == rows[0].replace("\\|", "").count("|") == 11
    assert "| unseen | no longer matches |" in rows[0] and rows[1].count("unknown") == 3
    assert change.splitlines()[0] == "| face | the change is | CIEDE2000, mean | 95 % | PSNR, dB | MS-SSIM |"
    assert change.splitlines()[2].startswith("| 0 | clearly visible | ")
    read = json.loads(json.dumps(found.to_dict()))
    assert read["faces"][0]["change"]["visible"] == "clearly visible" and read["faces"][0]["change"]["ciede2000"] > 10
    assert list(read) == ["verdict", "protected", "against", "unchanged", "unchecked_faces", "faces"]
    assert read["faces"][0]["recognisers"][0]["matches_after"] == dict.fromkeys(
        ["FAR 0.01", "FAR 0.001", "default"], False
    )


# Robustness


@pytest.fixture
def last(photo, darker, faces, detector):
    def run(recognizers, processings, **options):
        options = {"faces": faces, "detector": detector, "seen": []} | options
        return verify_robustness(photo, darker, recognizers, processings=processings, **options)

    return run


def brighter(image: Tensor) -> Tensor:
    """Undoes most of what `darker` did."""
    return as_saved(image / 0.6)


def test_a_recogniser_that_matches_again_is_named_with_the_processing(last):
    found = last([mood("a"), mood("sharp", 9.0)], {"none": as_saved, "undo": brighter, "flip": lambda x: x.flip(3)})
    assert found.plain.protected is True and found.protected is False
    assert found.verdict.startswith("After undo a matches again. After undo sharp matches again. Unprocessed: 2 of 2")
    assert list(found.processed) == ["mirrored", "undo", "flip"]


def test_one_that_the_optimizer_saw_comes_last_and_is_marked(last):
    seen = mood("a")
    found = last([seen, mood("b")], {"undo": brighter}, seen=[seen])
    assert found.verdict.startswith("After undo b matches again. After undo a, which was used")


def test_if_nobody_matches_again_the_verdict_is_that_of_the_photo(last, verify):
    found = last([mood("a")], {"a": as_saved, "b": as_saved})
    assert found.protected is True and found.plain == verify([mood("a")], seen=[])
    assert found.verdict == (
        "Unprocessed and after each of 3 processings: 1 of 1 recogniser that was not used to make this no longer "
        "matches."
    )
    assert last([mood("a")], {"a": as_saved}, seen=None).protected is None


def test_the_processed_original_shows_what_processing_alone_does(last):
    found = last([mood()], {"undo": brighter})
    (one,) = found.processed["undo"][0].recognisers
    assert one.after > 0.99 > one.processing_alone
    heads, _, unprocessed, mirrored, undo = found.table().splitlines()
    assert unprocessed.startswith("| unprocessed |") and mirrored.startswith("| mirrored |")
    assert undo.startswith("| undo |") and "MATCHES" in undo
    assert json.loads(json.dumps(found.to_dict()))["processed"]["undo"][0]["recognisers"][0]["processing_alone"]


def test_jpeg_of_a_window_is_jpeg_of_the_whole_photo(photo, darker, detector):
    """JPEG's blocks lie on the photo's grid; only at the window's edges does it see other neighbours."""
    wide = torch.cat([darker, darker, darker], 2)[:, :, 13:]
    face = find_face(photo, detector)
    moved = replace(face, box_xyxy=tuple(v + 307 * (i % 2 == 0) for i, v in enumerate(face.box_xyxy)),
                    landmarks=tuple((x + 307, y) for x, y in face.landmarks))  # fmt: skip
    rows, columns, _ = window_around(moved, wide)
    assert columns.start % 16
    jpeg = processings()["jpeg 50"]
    whole = jpeg(wide[None])[0, :, rows, columns]
    window = verification._processed(wide, jpeg, rows, columns)
    assert torch.equal(window[:, 16:-16, 16:-16], whole[:, 16:-16, 16:-16])


def test_every_processing_leaves_numbers_and_each_step_is_reported(last):
    steps = []
    found = last([mood()], processings(), on_step=lambda event: steps.append((event.step, event.steps)))
    assert steps == [(step, 12) for step in range(1, 13)]
    for faces in found.processed.values():
        assert -1 <= faces[0].recognisers[0].after <= 1

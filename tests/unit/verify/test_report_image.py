"""The report's pictures hold what they are about, whatever the names, metrics and numbers."""

from dataclasses import replace

import pytest
import torch

from faceprotect_core.faces import Face
from faceprotect_core.verify.comparison import Comparison, FaceComparison
from faceprotect_core.verify.drawing import GREEN, GREY, MARGIN, RED, WIDTH, elided, font, wrapped
from faceprotect_core.verify.report_image import draw_report, draw_robustness
from faceprotect_core.verify.reports import RobustnessReport, Verification
from faceprotect_core.verify.visibility import Visibility

LIMITS = {"FAR 0.01": 0.3, "FAR 0.001": 0.4, "default": 0.3}
PHOTO = torch.rand(3, 90, 140, generator=torch.Generator().manual_seed(0)) * 0.5


def comparison(**changed) -> Comparison:
    return replace(Comparison("recogniser", "cosine", 0.9, 0.1, LIMITS, False), **changed)


def face(*recognisers: Comparison, number: int = 0) -> FaceComparison:
    box = (20.0 + 10 * number, 20.0, 70.0 + 10 * number, 75.0)
    return FaceComparison(number, Face(box, 1.0, ((0.0, 0.0),) * 5), True, recognisers or (comparison(),))


def report(*faces: FaceComparison) -> torch.Tensor:
    return draw_report(PHOTO, PHOTO, Verification(faces or (face(),), False))


def holds(picture: torch.Tensor, colour: tuple[int, int, int]) -> int:
    wanted = torch.tensor(colour)[:, None, None]
    return int((picture.mul(255).round() == wanted).all(0).sum())


def test_it_is_a_picture_of_fixed_width():
    picture = report()
    assert picture.shape[0] == 3 and picture.shape[2] == WIDTH
    assert 0 <= picture.min() and picture.max() <= 1


@pytest.mark.parametrize(
    ("after", "seen", "colour"),
    [(0.1, False, GREEN), (0.8, False, RED), (0.1, None, GREY), (0.1, True, GREY), (0.8, True, RED)],
)
def test_the_bar_and_the_heading_have_the_verdicts_colour(after, seen, colour):
    picture = report(face(comparison(after=after, seen=seen)))
    assert holds(picture[:, :8], colour) == 8 * WIDTH
    others = {GREEN, RED, GREY} - {colour, GREY}
    assert all(holds(picture, other) == 0 for other in others)


def test_a_recogniser_in_the_loss_is_hatched():
    seen, unseen = (holds(report(face(comparison(after=0.8, seen=seen))), RED) for seen in (True, False))
    assert 0.5 * unseen > seen - 8 * WIDTH > 0


def test_an_unchanged_photo_has_a_grey_difference_and_a_changed_one_is_amplified():
    changed = (PHOTO + 0.02).clamp(0, 1)
    pictures = [draw_report(PHOTO, one, Verification((face(),), False)) for one in (PHOTO, changed)]
    grey, brighter = (picture[:, 260, WIDTH - 100] for picture in pictures)
    assert grey.tolist() == pytest.approx([0.5] * 3, abs=0.005)
    assert brighter.tolist() == pytest.approx([0.6] * 3, abs=0.005)


def test_how_visible_the_change_is_stands_between_the_photos_and_the_bars():
    plain, told = (report(replace(face(), visibility=one)) for one in (None, Visibility(2.4, 5.8, 34.9, None)))
    added = told.shape[1] - plain.shape[1]
    assert 50 < added < 80  # a line of words and one of numbers
    bars = 150
    assert torch.equal(told[:, -bars:], plain[:, -bars:])
    between = told[:, -bars - added : -bars]
    assert (between < 0.5).all(0).any(1).sum() > 10 and (between[:, :, WIDTH - MARGIN :] == 1).all()


def test_at_most_three_faces_are_drawn():
    heights = [report(*(face(number=number) for number in range(count))).shape[1] for count in (1, 3, 4, 6)]
    assert heights[0] < heights[1] and abs(heights[2] - heights[3]) < 40


def test_long_names_are_elided_and_do_not_reach_the_next_column():
    long = "a" * 200
    assert font(18).getlength(elided(long, 18, 250)) <= 250
    assert elided(long, 18, 250).startswith("aaa") and "..." in elided(long, 18, 250)
    assert all(font(17).getlength(line) <= 300 for line in wrapped(f"{long} some more words {long}", 17, 300))
    named, short = report(face(comparison(recogniser=long))), report()
    bars = named[:, -160:, MARGIN + 260 :]
    assert torch.equal(bars, short[:, -160:, MARGIN + 260 :])


@pytest.mark.parametrize(
    "changed",
    [
        {"thresholds": dict.fromkeys(LIMITS)},
        {"before": -1.0, "after": -1.0},
        {"metric": "euclidean", "before": 0.0, "after": 0.0, "thresholds": dict.fromkeys(LIMITS)},
        {"metric": "euclidean", "before": 0.0, "after": 1000.0},
        {"metric": "euclidean", "before": 0.0, "after": 1e-9, "thresholds": LIMITS | {"default": 0.0}},
    ],
    ids=["no threshold", "opposite", "nothing at all", "very far", "a threshold of 0"],
)
def test_numbers_at_the_edge_are_drawn(changed):
    one = comparison(**changed)
    for picture in (report(face(one)), draw_robustness(robustness(face(one)))):
        assert torch.isfinite(picture).all()


def robustness(*faces: FaceComparison) -> RobustnessReport:
    processed = {
        name: tuple(
            replace(one, recognisers=tuple(replace(x, after=after, processing_alone=0.7) for x in one.recognisers))
            for one in faces
        )
        for name, after in (("jpeg 50", 0.2), ("vae", 0.5))
    }
    return RobustnessReport(Verification(faces, False), processed)


def test_the_heat_table_is_green_where_it_is_past_the_threshold_and_red_where_it_matches():
    picture = draw_robustness(robustness(face()))
    top = 28 + 50 + 2 * 28 + 4 + 10 + 14 + 46  # heading, two lines of verdict, rule, heads
    cells = [picture[:, top + 46 * row + 8, 230] for row in range(3)]
    for cell, red in zip(cells, (False, False, True), strict=True):
        assert (cell[0] > cell[1]) == red
    assert picture.shape[2] == WIDTH


def test_eight_recognisers_and_several_faces_fit():
    many = [face(*(comparison(recogniser=f"recogniser {k}") for k in range(8)), number=n) for n in range(4)]
    picture = draw_robustness(robustness(*many))
    assert (picture[:, 9:, WIDTH - MARGIN + 4 :] == 1).all()

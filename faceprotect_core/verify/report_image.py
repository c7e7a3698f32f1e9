"""The verification as a picture: before, after and difference, bars against thresholds, a heat table of robustness."""

from __future__ import annotations

import math

from torch import Tensor

from ..faces import Face
from ..surrogates.metric import METRICS
from .comparison import Comparison
from .drawing import (
    FAINT,
    GREEN,
    GREY,
    INK,
    MARGIN,
    PALE_GREEN,
    PALE_RED,
    PAPER,
    RED,
    RULE,
    WIDTH,
    Sheet,
    blended,
    elided,
    font,
    wrapped,
)
from .reports import MOST_FACES, RobustnessReport, Verification
from .visibility import Visibility

AMPLIFICATION = 5
GAP = 18
PANEL = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
ROOM = 0.5  # of the face's size, shown around it
HEADINGS = {True: ("Protected", GREEN), False: ("NOT PROTECTED", RED), None: ("No evidence", GREY)}
NAME_WIDTH, WORDS_WIDTH, ROW = 250, 230, 118
AXIS = (MARGIN + NAME_WIDTH + GAP, WIDTH - MARGIN - WORDS_WIDTH - GAP)  # left and right end of every axis, pixels
BAR = 22
STRONG = 0.3  # in the recogniser's metric: past the threshold by so much is the strongest colour
LABEL_WIDTH, CELL = 190, 46


def draw_report(original: Tensor, protected: Tensor, verification: Verification) -> Tensor:
    """A picture [3, height, 1200] in [0, 1]: the verdict, the photos around each face, and the recognisers' bars.

    Args:
        original, protected: [3, H, W] in [0, 1], those that were verified.
        verification: of them; of more than three faces the worst three are drawn.
    """
    sheet = Sheet()
    _heading(sheet, verification.protected, verification.verdict)
    reference = "another photo of the person" if verification.against_other else "the original"
    zones = "The lines are thresholds. Pale red is the same person, pale green a stranger."
    sheet.paragraph(
        f"Compared with {reference}. {zones} Hatched bars were used to make this and are no evidence.", 15, FAINT
    )
    for face in verification.worst_first()[:MOST_FACES]:
        _face_heading(sheet, face.number, len(verification.faces))
        _panels(sheet, original, protected, face.face)
        if face.visibility:
            _visibility(sheet, face.visibility)
        for one in face.recognisers:
            _bars(sheet, one)
    return sheet.finished()


def draw_robustness(report: RobustnessReport) -> Tensor:
    """A picture [3, height, 1200] in [0, 1]: processings down, recognisers across, coloured by how far past the
    threshold."""
    sheet = Sheet()
    _heading(sheet, report.protected, report.verdict)
    worst = [face.number for face in report.plain.worst_first()[:MOST_FACES]]
    for index, face in sorted(enumerate(report.plain.faces), key=lambda pair: pair[1].number):
        if face.number in worst:
            _face_heading(sheet, face.number, len(report.plain.faces))
            _heat_table(sheet, report, index)
    sheet.y += 12
    sheet.paragraph(
        "Red: matches at one of its thresholds. Green: past all of them, the further the stronger. Grey: no threshold "
        "known. Small: the original after the same processing. Hatched rows were used to make this: no evidence.",
        15,
        FAINT,
    )
    return sheet.finished()


def _heading(sheet: Sheet, protected: bool | None, verdict: str) -> None:
    title, colour = HEADINGS[protected]
    sheet.pen.rectangle((0, 0, WIDTH, 8), fill=colour)
    sheet.text((MARGIN, sheet.y), title, 34, colour)
    sheet.y += 50
    sheet.paragraph(verdict, 20)
    sheet.y += 4


def _face_heading(sheet: Sheet, number: int, faces: int) -> None:
    sheet.y += 10
    sheet.rule()
    if faces > 1:
        sheet.paragraph(f"Face {number} from the left, counted from 0", 19)


def _panels(sheet: Sheet, original: Tensor, protected: Tensor, face: Face) -> None:
    """Before, after and the change, side by side."""
    rows, columns = _square(original, face)
    before, after = original[:, rows, columns], protected[:, rows, columns]
    change = 0.5 + AMPLIFICATION * (after - before)
    height = PANEL * before.shape[1] / before.shape[2]
    titles = ("before", "after", f"difference, {AMPLIFICATION} times (grey: unchanged)")
    for index, (title, picture) in enumerate(zip(titles, (before, after, change), strict=True)):
        x = MARGIN + index * (PANEL + GAP)
        sheet.text((x, sheet.y), title, 16, FAINT)
        sheet.picture((x, sheet.y + 24, x + PANEL, sheet.y + 24 + height), picture)
    sheet.y += 24 + height + GAP


def _visibility(sheet: Sheet, visibility: Visibility) -> None:
    """In words, and the numbers below."""
    sheet.paragraph(f"The change is {visibility.words}.", 19)
    source = "The words after Mokrzycki and Tatol (2011)."
    sheet.paragraph(f"Over the face: {visibility.numbers}. {source}", 15, FAINT)
    sheet.y += GAP


def _square(photo: Tensor, face: Face) -> tuple[slice, slice]:
    """A square around the face, within the photo."""
    height, width = photo.shape[-2:]
    left, top, right, bottom = face.box_xyxy
    side = max(2, min(height, width, round(max(right - left, bottom - top) * (1 + 2 * ROOM))))
    x = min(max(0, round((left + right - side) / 2)), width - side)
    y = min(max(0, round((top + bottom - side) / 2)), height - side)
    return slice(y, y + side), slice(x, x + side)


def _bars(sheet: Sheet, one: Comparison) -> None:
    """A recogniser's row: its name, before and after on its own axis with its thresholds, what it means."""
    top, (left, right) = sheet.y, AXIS
    low, high = _axis(one)

    def x(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    sheet.text((MARGIN, top + 4), elided(one.recogniser, 18, NAME_WIDTH), 18)
    sheet.text((MARGIN, top + 30), f"{METRICS[one.metric].word}, {METRICS[one.metric].direction}", 14, FAINT)
    seen = {True: "used to make this", False: "not used to make this", None: "not known whether used"}[one.seen]
    sheet.text((MARGIN, top + 50), seen, 14, GREY if one.seen else INK)
    _zones(sheet, one, x, (left, top, right, top + 2 * BAR + 12))
    colour = RED if one.matches_after else GREEN if one.counts else GREY
    values = (("before", one.before, (86, 110, 148), False), ("after", one.after, colour, one.seen is True))
    start, lines = x(0.0), (top + 4, top + 4 + BAR + 4)
    for y, (_, value, fill, hatched) in zip(lines, values, strict=True):
        sheet.bar((min(start, x(value)), y, max(start, x(value)), y + BAR), fill, hatched)
    for value in one.known.values():
        sheet.pen.line((x(value), top - 3, x(value), top + 2 * BAR + 15), fill=INK, width=2)
    for y, (word, value, *_) in zip(lines, values, strict=True):
        _value(sheet, f"{word} {value:.2f}", max(start, x(value)), y, right)
    _ticks(sheet, x, low, high, top + 2 * BAR + 12)
    sheet.text((left, top + 2 * BAR + 34), elided(_limits(one), 14, right - left), 14, FAINT)
    for line, text in enumerate(wrapped(one.verdict, 16, WORDS_WIDTH)[:4]):
        sheet.text((right + GAP, top + 6 + line * 21), text, 16, colour)
    sheet.y += ROW


def _axis(one: Comparison) -> tuple[float, float]:
    """The part of the metric's range from 0 that holds all of the row."""
    values, highest = [one.before, one.after, *one.known.values()], METRICS[one.metric].highest
    return min(0.0, *values), highest if math.isfinite(highest) else 1.15 * max(*values, 1e-6)


def _zones(sheet: Sheet, one: Comparison, x, box: tuple) -> None:
    """The side of the same person in pale red, that of strangers in pale green."""
    _, top, _, bottom = box
    sheet.pen.rectangle(box, fill=PALE_RED if one.known else (244, 245, 247))
    if one.known:
        alike = METRICS[one.metric].alike
        left, right = sorted((x(min(one.known.values(), key=alike)), x(alike(-math.inf))))
        sheet.pen.rectangle((left, top, right, bottom), fill=PALE_GREEN)


def _value(sheet: Sheet, text: str, end: float, y: float, right: float) -> None:
    """Behind the bar's end, or in it where there is no room, on a paper-coloured patch that thresholds do not cross."""
    width = sheet.pen.textlength(text, font=font(15))
    start = end + 6 if end + 12 + width < right else end - width - 8
    sheet.pen.rectangle((start - 3, y + 1, start + width + 3, y + BAR - 1), fill=PAPER)
    sheet.text((start, y + BAR / 2), text, 15, INK, "lm")


def _ticks(sheet: Sheet, x, low: float, high: float, y: float) -> None:
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if (high - low) / step <= 6)
    tick = step * -(-low // step)
    while tick <= high + 1e-9:
        sheet.pen.line((x(tick), y, x(tick), y + 4), fill=FAINT)
        sheet.text((x(tick), y + 6), f"{tick:g}", 12, FAINT, "ma")
        tick += step


def _limits(one: Comparison) -> str:
    known = ", ".join(f"{value:.3g} ({name})" for name, value in one.known.items())
    return f"the same person {METRICS[one.metric].side} {known}" if known else "no threshold known"


def _heat_table(sheet: Sheet, report: RobustnessReport, index: int) -> None:
    """One face: the processings' names at the left, a column for each recogniser."""
    recognisers = report.plain.faces[index].recognisers
    width = min(300.0, (WIDTH - 2 * MARGIN - LABEL_WIDTH) / len(recognisers))
    for column, one in enumerate(recognisers):
        x = MARGIN + LABEL_WIDTH + (column + 0.5) * width
        sheet.text((x, sheet.y), elided(one.recogniser, 15, width - 8), 15, INK, "ma")
        sheet.text((x, sheet.y + 20), f"{METRICS[one.metric].word}, {one.seen_word}", 13, FAINT, "ma")
    sheet.y += 46
    for name, faces in report.rows():
        sheet.text((MARGIN, sheet.y + CELL / 2), elided(name, 16, LABEL_WIDTH - 10), 16, INK, "lm")
        for column, one in enumerate(faces[index].recognisers):
            x = MARGIN + LABEL_WIDTH + column * width
            _cell(sheet, (x + 1, sheet.y + 1, x + width - 2, sheet.y + CELL - 2), one)
        sheet.y += CELL


def _cell(sheet: Sheet, box: tuple, one: Comparison) -> None:
    sheet.pen.rectangle(box, fill=_heat(one))
    if one.seen:
        sheet.bar(box, blended(_heat(one), PAPER, 0.35), hatched=True)
    middle, alone = (box[0] + box[2]) / 2, one.processing_alone
    sheet.text((middle, box[1] + 4), f"{one.after:.2f}" + (" matches" if one.matches_after else ""), 17, INK, "ma")
    sheet.text((middle, box[1] + 26), f"{one.before if alone is None else alone:.2f}", 12, INK, "ma")


def _heat(one: Comparison) -> tuple[int, int, int]:
    """Red where it matches, green where it does not; stronger the further from its thresholds."""
    if not one.has_threshold:
        return RULE
    share = min(abs(one.headroom) / STRONG, 1.0)
    return blended(*((PALE_RED, (226, 108, 98)) if one.matches_after else (PALE_GREEN, (104, 188, 132))), share)

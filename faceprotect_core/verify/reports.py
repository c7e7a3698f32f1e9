"""What a verification found: a verdict that a layman reads, a table in Markdown, and a dict for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from ..surrogates.metric import METRICS
from .comparison import THRESHOLDS, FaceComparison, listed

UNCHANGED = "NOT PROTECTED: nothing was changed, the two photos are equal in every pixel."
UNPROCESSED = "unprocessed"
OTHERS_UNCHECKED = "The other faces of the photo were not checked."
MOST_FACES = 3  # that a verdict describes; the worst come first


@dataclass(frozen=True)
class Verification:
    """What the recognisers say about a protected photo.

    Args:
        faces: from left to right.
        against_other: whether they were compared with another photo of the person, else with the original itself.
        unchanged: every pixel is as it was.
        unchecked: how many other faces of the original were not looked at.
    """

    faces: tuple[FaceComparison, ...]
    against_other: bool
    unchanged: bool = False
    unchecked: int = 0

    @property
    def protected(self) -> bool | None:
        """False: somebody is recognised. True: nobody is, by recognisers that count. None: there is no evidence."""
        if self.unchanged or any(face.protected is False for face in self.faces):
            return False
        return None if any(face.protected is None for face in self.faces) else True

    @property
    def verdict(self) -> str:
        """One or two sentences; of several faces, the worst first."""
        if self.unchanged:
            return UNCHANGED
        if len(self.faces) == 1:
            others = f" {OTHERS_UNCHECKED}" if self.unchecked else ""
            return self.faces[0].verdict + others
        shown = self.worst_first()[:MOST_FACES]
        said = [f"Face {face.number}: {face.finding}" for face in shown]
        more = len(self.faces) - len(shown)
        said += [f"{more} more face{'s' * (more > 1)}, none worse."] if more else []
        return " ".join([*said, *dict.fromkeys(face.advice for face in shown if face.advice)])

    def worst_first(self) -> list[FaceComparison]:
        """Recognised, no evidence, protected; the one whose recognisers are least far away first."""
        rank = {False: 0, None: 1, True: 2}

        def badness(face: FaceComparison) -> tuple:
            counted = face.still or face.evidence or face.recognisers
            return rank[face.protected], min(one.headroom for one in counted)

        return sorted(self.faces, key=badness)

    def table(self) -> str:
        """Markdown: one row per face and recogniser; below it, one per face on how visible the change is."""
        heads = ["face", "recogniser", "value", "before", "after", *THRESHOLDS, "used to make it", "verdict"]
        rows = []
        for face in self.faces:
            for one in face.recognisers:
                limits = [_number(one.thresholds[name]) for name in THRESHOLDS]
                numbers = [METRICS[one.metric].word, _number(one.before), _number(one.after), *limits]
                rows.append([str(face.number), one.recogniser, *numbers, one.seen_word, one.verdict])
        return "\n\n".join([markdown(heads, rows), *self._visibility_table()])

    def _visibility_table(self) -> list[str]:
        measured = [(str(face.number), face.visibility) for face in self.faces if face.visibility]
        rows = [[number, one.words, *one.cells.values()] for number, one in measured]
        return [markdown(["face", "the change is", *measured[0][1].cells], rows)] if measured else []

    def to_dict(self) -> dict:
        """For JSON, rounded; the keys stay as they are."""
        return {
            "verdict": self.verdict,
            "protected": self.protected,
            "against": "another photo" if self.against_other else "the original",
            "unchanged": self.unchanged,
            "unchecked_faces": self.unchecked,
            "faces": [face.to_dict() for face in self.faces],
        }


@dataclass(frozen=True)
class RobustnessReport:
    """What the recognisers say about a protected photo, as it is and after each processing.

    Args:
        plain: without any processing.
        processed: name of the processing -> the faces, as in `plain`.
    """

    plain: Verification
    processed: Mapping[str, tuple[FaceComparison, ...]]

    @property
    def protected(self) -> bool | None:
        """As for one photo, in the worst case over all processings."""
        if self.plain.protected is False or any(face.still for face in chain(*self.processed.values())):
            return False
        return self.plain.protected

    @property
    def verdict(self) -> str:
        """Who matches again after what; if nobody does, what the unprocessed photo's verdict is worth."""
        again = self._again()
        many = f"each of {len(self.processed)} processings" if len(self.processed) != 1 else "the processing"
        if not again:
            when = "Unprocessed: " if self.plain.protected is False else f"Unprocessed and after {many}: "
            return when + self.plain.verdict
        said = []
        for (face, index), after in again.items():
            one = self.plain.faces[face].recognisers[index]
            whom = one.recogniser + (", which was used to make this," if one.seen else "")
            where = f" (face {self.plain.faces[face].number})" if len(self.plain.faces) > 1 else ""
            whole = len(after) == len(self.processed) and len(after) > 1
            said.append(f"After {many if whole else listed(after)} {whom} matches again{where}.")
        return " ".join([*said, f"Unprocessed: {self.plain.verdict}"])

    def table(self) -> str:
        """Markdown, for each face: processings down, recognisers across, "what processing alone does" beside each."""
        parts = []
        for index, face in enumerate(self.plain.faces):
            heads = ["face " + str(face.number)]
            for one in face.recognisers:
                about = f"{METRICS[one.metric].word}, {one.seen_word}"
                heads += [f"{one.recogniser} ({about})", "the original, so processed"]
            rows = []
            for name, faces in self.rows():
                cells = []
                for one in faces[index].recognisers:
                    alone = one.before if one.processing_alone is None else one.processing_alone
                    cells += [_number(one.after) + (" MATCHES" if one.matches_after else ""), _number(alone)]
                rows.append([name, *cells])
            parts.append(markdown(heads, rows))
        return "\n\n".join(parts)

    def rows(self) -> Iterator[tuple[str, tuple[FaceComparison, ...]]]:
        """(name, faces) of every row, the unprocessed photo first."""
        yield UNPROCESSED, self.plain.faces
        yield from self.processed.items()

    def to_dict(self) -> dict:
        """For JSON, rounded; the keys stay as they are."""
        return {
            "verdict": self.verdict,
            "protected": self.protected,
            "unprocessed": self.plain.to_dict(),
            "processed": {name: [face.to_dict() for face in faces] for name, faces in self.processed.items()},
        }

    def _again(self) -> dict[tuple[int, int], list[str]]:
        """(face, recogniser) -> the processings after which it matches, though not unprocessed; unseen ones first."""
        found: dict[tuple[int, int], list[str]] = {}
        places = [(f, k) for f, face in enumerate(self.plain.faces) for k in range(len(face.recognisers))]
        for f, k in sorted(places, key=lambda place: self.plain.faces[place[0]].recognisers[place[1]].seen is True):
            if not self.plain.faces[f].recognisers[k].matches_after:
                after = [name for name, faces in self.processed.items() if faces[f].recognisers[k].matches_after]
                if after:
                    found[f, k] = after
        return found


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table; cells cannot break out of it."""

    def line(cells: list[str]) -> str:
        cells = [" ".join(cell.replace("|", "\\|").split()) for cell in cells]
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(heads), "|" + "---|" * len(heads), *map(line, rows)])


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"

"""Does it work? A protected photo against recognisers that the optimizer did not see, as it is and after processing.

verify_photo(original, protected, recognizers, other=another_photo, seen=objective.surrogates).verdict
verify_robustness(original, protected, recognizers, processings=processings(), seen=...).table()
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require, require_finite, require_image
from ..faces import Face, FaceDetector, detect_faces, find_again, left_to_right, load_detector, window_around
from ..pixels import as_saved
from ..progress import OnStep, Step
from ..surrogates import FRSurrogate
from .comparison import Comparison, FaceComparison, known_thresholds
from .reports import RobustnessReport, Verification
from .robustness import UNPROCESSED as NO_PROCESSING
from .robustness import Processing
from .verdict import embed_places, likeness, worst_place
from .visibility import visibility_of

WHERE = "Verification"
CHECK_WEIGHTS = "check its weights file, and the step that made the photo"
MIRRORED = "mirrored"  # a row of the robustness, of the face and not of the photo
GRID = 16  # pixels: of JPEG's blocks, with colour at half the resolution
SMALLER_FACE = 40  # pixels: looked for in the other photo where none of the usual size is
SAME_NETWORK = 0.999  # cosine of two networks' vectors of one face above which they are one, but for rounding


def verify_photo(
    original: Tensor,
    protected: Tensor,
    recognizers: Sequence[FRSurrogate],
    *,
    other: Tensor | None = None,
    faces: Sequence[Face] | None = None,
    seen: Collection[FRSurrogate | str] | None = None,
    detector: FaceDetector | None = None,
) -> Verification:
    """What recognisers say about a protected photo, rounded to 8 bits a channel as it is saved.

    A face is looked at where it was and where the detector finds it again, as it is and mirrored, and the least
    protected of these counts.
    Only a recogniser that was not in the loss and knew the person before is evidence; one that matches is a failure,
    whether the optimizer saw it or not.

    Args:
        original, protected: [3, H, W] in [0, 1], of one size.
        recognizers: one or more, each network once.
        other: another photo [3, h, w] of one of the persons, the reference. Its most likely face is taken, and the face
            of the original that the recognisers find most alike. None: every face is compared with itself in the
            original, which is easier to pass.
        faces: of the original, in its pixels; None for all that are detected.
        seen: the recognisers that were in the loss (or their fingerprints). None: not known, so nothing is evidence.

    Raises:
        ProtectionError: no face in the original or the other photo, sizes that differ, no recogniser or one twice.
    """
    case = _Case(original, protected, recognizers, other, faces, seen, detector)
    with torch.no_grad():
        compared = tuple(_compare_unprocessed(case, face) for face in case.faces)
    return Verification(compared, other is not None, case.unchanged, case.unchecked)


def verify_robustness(
    original: Tensor,
    protected: Tensor,
    recognizers: Sequence[FRSurrogate],
    *,
    processings: Mapping[str, Processing],
    other: Tensor | None = None,
    faces: Sequence[Face] | None = None,
    seen: Collection[FRSurrogate | str] | None = None,
    detector: FaceDetector | None = None,
    on_step: OnStep | None = None,
) -> RobustnessReport:
    """The same after each processing of the protected photo: is the protection still there?

    Each face is processed with its own size of photo around it, on JPEG's grid of the whole photo. The reference stays
    as it is; the processed original shows what comes from the processing itself.

    Args:
        processings: as `robustness.processings` gives them; its "none" is the unprocessed photo, which always comes
            first, and its mirrored faces second.
        on_step: called after each processing of each face.
        The others: as for `verify_photo`.
    """
    case = _Case(original, protected, recognizers, other, faces, seen, detector)
    named = {name: process for name, process in processings.items() if name != NO_PROCESSING}
    plain: list[FaceComparison] = []
    processed: dict[str, list[FaceComparison]] = {name: [] for name in (MIRRORED, *named)}
    with torch.no_grad():
        for number, face in enumerate(case.faces):
            plain.append(_compare_unprocessed(case, face))
            rows, columns, inside = window_around(face.face, original)
            window = case.protected[:, rows, columns], original[:, rows, columns]
            for step, (name, processed_faces) in enumerate(processed.items(), start=1 + number * len(processed)):
                if name == MIRRORED:
                    processed_faces.append(_compare(case, face, inside, *window, looks=(True,)))
                else:
                    changed, alone = (_processed(one, named[name], rows, columns) for one in (case.protected, original))
                    processed_faces.append(_compare(case, face, inside, changed, alone))
                if on_step:
                    on_step(Step("robustness", step, len(case.faces) * len(processed)))
    verification = Verification(tuple(plain), other is not None, case.unchanged, case.unchecked)
    return RobustnessReport(verification, {name: tuple(faces) for name, faces in processed.items()})


@dataclass(frozen=True, eq=False)
class _Subject:
    """A face of the original, what each recogniser makes of it, and what it is compared with: [1, D] each."""

    number: int
    face: Face
    embeddings: tuple[Tensor, ...]
    references: tuple[Tensor, ...]


class _Case:
    """What is compared, and what is known of it before the comparison; `seen`: of each recogniser, see `Comparison`."""

    @torch.no_grad()
    def __init__(self, original: Tensor, protected: Tensor, recognizers, other, faces, seen, detector):
        _check(original, protected, recognizers)
        self.original, self.protected, self.recognizers = original, as_saved(protected), recognizers
        self.unchanged = torch.equal(as_saved(original), self.protected)
        self.detector = detector or load_detector(original.device)
        found = left_to_right(detect_faces(original, self.detector) if faces is None else faces)
        _require_face(found, original, "original")
        self.faces = [_subject(number, face, original, recognizers) for number, face in enumerate(found)]
        _require_different(recognizers, self.faces[0].embeddings)
        if other is not None:
            self.faces = [_most_alike(self.faces, recognizers, _embed_other(other, recognizers, self.detector))]
        self.seen, self.unchecked = _seen(original, self.faces[0], recognizers, seen), len(found) - len(self.faces)


def _subject(number: int, face: Face, original: Tensor, recognizers) -> _Subject:
    rows, columns, inside = window_around(face, original)
    embeddings = tuple(one.embed(original[None, :, rows, columns], inside) for one in recognizers)
    for recognizer, embedding in zip(recognizers, embeddings, strict=True):
        require_finite(embedding, f"{WHERE}: what {recognizer.name} makes of the face", CHECK_WEIGHTS)
    return _Subject(number, face, embeddings, embeddings)


def _embed_other(other: Tensor, recognizers, detector: FaceDetector) -> tuple[Tensor, ...]:
    require_image(other[None], f"{WHERE} (other photo)")
    faces = detect_faces(other, detector) or detect_faces(other, detector, min_face=SMALLER_FACE)
    _require_face(faces, other, "other photo")
    return tuple(one.embed(other[None], faces[0]) for one in recognizers)


def _most_alike(subjects: list[_Subject], recognizers, references: tuple[Tensor, ...]) -> _Subject:
    """The face that the recognisers together find most like the reference."""
    best = max(subjects, key=lambda one: likeness(recognizers, one.embeddings, references))
    return replace(best, references=references)


def _seen(original: Tensor, subject: _Subject, recognizers, seen) -> tuple[bool | None, ...]:
    """Whether each recogniser was in the loss; None if that is not known."""
    if seen is None:
        return (None,) * len(recognizers)
    prints = {one if isinstance(one, str) else one.fingerprint for one in seen}
    rows, columns, inside = window_around(subject.face, original)
    networks = [(one, one.embed(original[None, :, rows, columns], inside)) for one in seen if not isinstance(one, str)]
    return tuple(
        one.fingerprint in prints or any(_same_network(one, vector, *other) for other in networks)
        for one, vector in zip(recognizers, subject.embeddings, strict=True)
    )


def _same_network(one: FRSurrogate, vector: Tensor, other: FRSurrogate, its_vector: Tensor) -> bool:
    """By the tensors, or, in another file format or precision, by the vector of a face."""
    if one.fingerprint == other.fingerprint:
        return True
    if vector.shape != its_vector.shape:
        return False
    return F.cosine_similarity(vector.float(), its_vector.float()).item() > SAME_NETWORK


def _require_different(recognizers, vectors: Sequence[Tensor]) -> None:
    """Each network once."""
    for (one, vector), (other, its_vector) in combinations(zip(recognizers, vectors, strict=True), 2):
        require(
            not _same_network(one, vector, other, its_vector),
            f"{WHERE}: {one.name} and {other.name} are the same network, which would count twice",
            "give each recogniser once",
        )


def _compare_unprocessed(case: _Case, subject: _Subject) -> FaceComparison:
    rows, columns, inside = window_around(subject.face, case.original)
    before, after = as_saved(case.original[:, rows, columns]), case.protected[:, rows, columns]
    return replace(_compare(case, subject, inside, after), visibility=visibility_of(before, after, inside))


def _compare(
    case: _Case, subject: _Subject, inside: Face, changed: Tensor, alone: Tensor | None = None, looks=(False, True)
) -> FaceComparison:
    """A face of the original against its window of the protected photo, and of the processed original."""
    found = find_again(changed, inside, case.detector)
    alone_again = None if alone is None else find_again(alone, inside, case.detector)
    compared = []
    for index, recognizer in enumerate(case.recognizers):
        reference = subject.references[index]
        before = recognizer.similarity(subject.embeddings[index], reference).item()
        compared.append(
            Comparison(
                recognizer.name,
                recognizer.metric,
                before,
                _worst(recognizer, changed, inside, found, reference, looks),
                known_thresholds(recognizer),
                case.seen[index],
                None if alone is None else _worst(recognizer, alone, inside, alone_again, reference, looks),
            )
        )
    return FaceComparison(subject.number, subject.face, found is not None, tuple(compared))


def _worst(recognizer: FRSurrogate, photo: Tensor, face: Face, again: Face | None, reference: Tensor, looks) -> float:
    """The similarity to the reference in the place where the face is most like it."""
    embeddings = embed_places(recognizer, photo, face, again, looks)
    require_finite(embeddings, f"{WHERE}: what {recognizer.name} makes of the face", CHECK_WEIGHTS)
    return recognizer.similarity(worst_place(recognizer, embeddings, reference), reference).item()


def _processed(photo: Tensor, process: Processing, rows: slice, columns: slice) -> Tensor:
    """The window of the processed photo; what is processed starts on JPEG's grid."""
    top, left = rows.start - rows.start % GRID, columns.start - columns.start % GRID
    whole = as_saved(photo)[None, :, top : rows.stop, left : columns.stop]
    return process(whole)[0, :, rows.start - top :, columns.start - left :]


def _require_face(faces: Sequence[Face], photo: Tensor, which: str) -> None:
    height, width = photo.shape[-2:]
    require(
        bool(faces),
        f"{WHERE}: no face found in the {which} of {width} x {height} pixels",
        "use a photo in which the face is upright and well lit; for a small face give the faces of Detect Faces with a "
        "lower min_face",
    )


def _check(original: Tensor, protected: Tensor, recognizers: Sequence[FRSurrogate]) -> None:
    for photo, which in ((original, "original"), (protected, "protected photo")):
        require(photo.ndim == 3, f"{WHERE}: the {which} is {list(photo.shape)}, expected [3, H, W]", "pass one photo")
        require_image(photo[None], f"{WHERE} ({which})")
    require(
        original.shape == protected.shape,
        f"{WHERE}: the original is {original.shape[2]} x {original.shape[1]} pixels, the protected photo "
        f"{protected.shape[2]} x {protected.shape[1]}",
        "compare the very photo that was protected, in the same size",
    )
    require(bool(recognizers), f"{WHERE}: there is no recogniser", "give at least one")

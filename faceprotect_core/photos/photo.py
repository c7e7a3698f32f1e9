"""Protect Photo: every face of a photo is cut out, protected, pasted back, and judged in the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor

from ..checks import require, require_image
from ..faces import (
    Face,
    FaceCrop,
    FaceDetector,
    crop_face,
    detect_faces,
    find_face,
    left_to_right,
    load_detector,
    paste_faces,
)
from ..instant.protect import load_protector_network
from ..method.objectives import Goal
from ..method.optimizer import is_grey
from ..method.schedule import DDIMSchedule
from ..progress import OnStep, Step
from ..speed.cost import CostPredictor, PredictedCost
from ..surrogates import FRSurrogate
from ..verify.verdict import FaceVerdict, asked_again, judge_photo, require_other_network
from .batch import FAILURES, Aim, Changed, CropProtector, Diffusion, find_aim
from .settings import DIFFUSION, LIGHT, PRESETS, PhotoSettings

PhotoEvent = Step | PredictedCost
OnPhotoStep = Callable[[PhotoEvent], None]
BALANCED = PRESETS[LIGHT]["balanced"]


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """A protected photo, and what became of its faces.

    Args:
        image: [3, H, W] in [0, 1].
        mask: [1, H, W], 0 where every pixel is bit-equal to the photo's.
        crops: the faces as they were cut out.
        faces: the verdict on each face, in the order of the crops, measured in the finished photo as its file holds
            it: with 8 bits a channel, see `CutPhoto`.
    """

    image: Tensor
    mask: Tensor
    crops: tuple[FaceCrop, ...]
    faces: tuple[FaceVerdict, ...]

    @property
    def protected(self) -> bool:
        """Every face reached what was wanted."""
        return all(face.protected for face in self.faces)


def protect_photo(
    photo: Tensor,
    surrogates: Sequence[FRSurrogate],
    settings: PhotoSettings = BALANCED,
    *,
    model: Diffusion | None = None,
    judge: FRSurrogate | None = None,
    other: Tensor | None = None,
    goal: Goal = "dodge",
    target: Tensor | None = None,
    makeup: Tensor | None = None,
    faces: Sequence[Face] | None = None,
    keep: Sequence[Face] = (),
    crops: Sequence[FaceCrop] | None = None,
    schedule: DDIMSchedule | None = None,
    detector: FaceDetector | None = None,
    faces_per_batch: int = 1,
    predictor: CostPredictor | None = None,
    on_step: OnPhotoStep | None = None,
) -> PhotoResult:
    """Protect the faces of one photo; the other pixels stay bit-equal. See `protect_photos` for the other arguments.

    Args:
        photo: [3, H, W] in [0, 1], float32, any size. Never changed.
        faces: the faces to protect, in the photo's pixels; None protects all that are detected.
        keep: faces of the photo that must stay as they are.
        crops: from `crop_face`, instead of `faces`.

    Returns:
        The photo with its verdicts; look at `.protected`. A face that was not protected enough is NOT left out of the
        image: who calls this decides what to do with it.

    Raises:
        ProtectionError: no face, a NaN in any of them, a goal without a target, diffusion without a model, a judge that
            is used itself.
    """
    require(
        photo.ndim == 3, f"protect_photo takes one photo [3, H, W], got {list(photo.shape)}", "pass them one by one"
    )
    require_image(photo[None], "protect_photo")
    detector = detector or load_detector(photo.device)
    cut = CutPhoto(photo, tuple(crops if crops is not None else _cut(photo, settings.size, faces, keep, detector)))
    (outcome,) = protect_photos(
        [cut],
        surrogates,
        settings,
        model=model,
        judge=judge,
        other=other,
        goal=goal,
        target=target,
        makeup=makeup,
        schedule=schedule,
        detector=detector,
        faces_per_batch=faces_per_batch,
        predictor=predictor,
        on_step=on_step,
    )
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _cut(photo: Tensor, size: int, faces, keep: Sequence[Face], detector: FaceDetector) -> list[FaceCrop]:
    faces = detect_faces(photo, detector) if faces is None else faces
    return [crop_face(photo, face, size, keep=keep) for face in left_to_right(faces)]


@dataclass(frozen=True, eq=False)
class CutPhoto:
    """A photo, and its faces cut out.

    Args:
        photo: [3, H, W] in [0, 1], float32, any size.
        crops: the faces to protect, from `crop_face`.
        as_written: an image like the photo -> the same as its file will give it back, which is what is judged, with 8
            bits a channel.
    """

    photo: Tensor
    crops: tuple[FaceCrop, ...]
    as_written: Callable[[Tensor], Tensor] = lambda image: image


def protect_photos(
    photos: Iterable[CutPhoto | Exception],
    surrogates: Sequence[FRSurrogate],
    settings: PhotoSettings = BALANCED,
    *,
    model: Diffusion | None = None,
    judge: FRSurrogate | None = None,
    other: Tensor | None = None,
    goal: Goal = "dodge",
    target: Tensor | None = None,
    makeup: Tensor | None = None,
    schedule: DDIMSchedule | None = None,
    detector: FaceDetector | None = None,
    faces_per_batch: int = 1,
    predictor: CostPredictor | None = None,
    preview: bool = False,
    on_step: OnPhotoStep | None = None,
) -> Iterator[PhotoResult | Exception]:
    """Protect the faces of many photos, in batches across photos.

    Every face is pushed until the least-fooled surrogate is `settings.margin` past its threshold, and no further. A
    face that somebody still knows in the finished photo is pushed further from where it stopped, up to
    `settings.tries` versions in all. A photo that fails costs the others nothing: its exception comes in its place.

    Args:
        photos: taken when they are needed, as many as fill a batch. An exception, why a photo could not be read or
            cut, is passed on in its place.
        surrogates: the recognisers that the faces are optimised against.
        model: denoiser, codec and the empty prompt's embedding [1, tokens, dim], for the way through diffusion.
        judge: a recogniser that is none of them; it is asked at the end, and its answer is the evidence.
        other: another photo [3, h, w] of one of the persons, with which the judges compare that person's face.
        goal: "dodge": no longer the same person. "synthetic": the same, pulled towards the target, which should be
            nobody. "impersonate": to be taken for the target.
        target: [3, h, w] or [1, 3, h, w] with one face, for "synthetic" and "impersonate".
        makeup: the same, whose lips, eye shadow and skin to take the colours of, see `MakeupLoss`; None for no makeup.
        faces_per_batch: at most this many crops of one size go through the model together, fewer where memory runs
            out; on two CPU cores 1 is the fastest. Each face comes out as it does alone, up to rounding, which the
            optimiser amplifies.
        predictor: the same for all photos of a run. With it, on_step first gets a PredictedCost.
        preview: before the steps of diffusion, and before those of light and shade at the first face where they are
            more than those of fast, on_step gets what instant would give, a Step of the stage "preview"; see
            `CropProtector`.
        on_step: called after every step of a batch of faces.

    Yields:
        For each photo its result (see `protect_photo`) or an exception of any kind.

    Raises:
        ProtectionError: a goal without a target, or a target or reference without a face; diffusion without a model; a
            judge that is used itself; the network of instant is missing or damaged.
    """
    _check(goal, target, faces_per_batch, settings, model, makeup)
    require_other_network(judge, surrogates)
    studio: _Studio | None = None
    for together in _together(photos, faces_per_batch):
        cut = [photo for photo in together if isinstance(photo, CutPhoto)]
        if cut and studio is None:
            detector = detector or load_detector(cut[0].photo.device)
            aim = find_aim(goal, surrogates, settings, model, schedule, target, detector, makeup)
            if other is not None:
                find_face(other, detector)  # before the work, not after it
            studio = _Studio(aim, judge, other, detector, faces_per_batch, preview)
        outcomes = iter(studio.protect(cut, predictor, on_step) if studio and cut else ())
        for photo in together:
            yield photo if isinstance(photo, Exception) else next(outcomes)


def _together(photos: Iterable[CutPhoto | Exception], faces: int) -> Iterator[list[CutPhoto | Exception]]:
    """Photos in a row that have as many faces or more; an exception waits only for the photos before it."""
    pending: list[CutPhoto | Exception] = []
    for photo in photos:
        pending.append(photo)
        count = sum(len(one.crops) for one in pending if isinstance(one, CutPhoto))
        if count >= faces or count == 0:
            yield pending
            pending = []
    if pending:
        yield pending


class _Studio:
    """Where photos are protected, judged, and taken further where that is needed."""

    def __init__(
        self, aim: Aim, judge, other: Tensor | None, detector: FaceDetector, faces_per_batch: int, preview: bool
    ):
        self.aim, self.judge, self.other, self.detector = aim, judge, other, detector
        self.protectors = [CropProtector(aim, faces_per_batch, preview)]
        for _ in range(1, aim.settings.tries):
            before = self.protectors[-1].aim
            self.protectors.append(CropProtector(replace(before, settings=before.settings.further), faces_per_batch))

    def protect(
        self, photos: Sequence[CutPhoto], predictor: CostPredictor | None, on_step: OnPhotoStep | None
    ) -> list[PhotoResult | Exception]:
        crops = [crop for photo in photos for crop in photo.crops]
        report = on_step and (lambda event: on_step(replace(event, photos=len(photos))))
        first = self.protectors[0]
        cost = first.cost(crops, predictor) if crops and predictor and report else None
        if cost and report:
            report(PredictedCost(cost, len(crops)))
        changed = iter(first(crops, report))
        outcomes = []
        for photo in photos:
            of_photo = [next(changed) for _ in photo.crops]
            outcomes.append(self._finished(photo, of_photo, report))
        return outcomes

    def _finished(
        self, photo: CutPhoto, changed: list[Changed | Exception], on_step: OnStep | None
    ) -> PhotoResult | Exception:
        """A crop that failed is the outcome of its photo."""
        try:
            whole = _all_changed(changed)
            result = self._pasted(photo, whole)
            for attempt, protector in enumerate(self.protectors[1:], start=2):
                failed = [number for number, face in enumerate(result.faces) if not face.protected]
                if not failed:
                    break
                report = _of_attempt(attempt, on_step)
                crops = [photo.crops[one] for one in failed]
                # Fast, begun at the network's change, is quicker and more visible (docs/PERFORMANCE.md).
                anew = self.protectors[attempt - 2].aim.settings.network
                starts = None if anew else [whole[one].value for one in failed]
                for number, further in zip(failed, _all_changed(protector(crops, report, starts)), strict=True):
                    whole[number] = further
                earlier = result.faces
                del result  # of a large photo two are too many
                result = self._pasted(photo, whole)
                faces = zip(result.faces, earlier, strict=True)
                counted = [asked_again(now, before, n in failed) for n, (now, before) in enumerate(faces)]
                result = replace(result, faces=tuple(counted))
            return result
        except FAILURES as error:
            return error

    def _pasted(self, photo: CutPhoto, changed: Sequence[Changed]) -> PhotoResult:
        height, width = photo.photo.shape[1:]
        require(
            bool(photo.crops),
            f"no face found in the photo of {width} x {height} pixels",
            "use a photo in which the face is upright and well lit, look for smaller faces (min_face), or draw a mask",
        )
        image, mask = paste_faces(photo.photo, photo.crops, [one.image for one in changed])
        if is_grey(photo.photo[None]):
            image = image[:1].repeat(3, 1, 1)  # resampling rounds the channels apart
        faces, aim = [crop.photo_face for crop in photo.crops], self.aim
        wanted = aim.surrogates, self.judge, aim.goal, aim.target
        seen = photo.as_written(image)
        verdicts = judge_photo(photo.photo, seen, faces, *wanted, other=self.other, detector=self.detector)
        verdicts = tuple(replace(one, network=aim.settings.network) for one in verdicts)
        return PhotoResult(image, mask, photo.crops, verdicts)


def _of_attempt(attempt: int, on_step: OnStep | None) -> OnStep | None:
    return on_step and (lambda event: on_step(replace(event, attempt=attempt)))


def _all_changed(outcomes: Sequence[Changed | Exception]) -> list[Changed]:
    """The changed crops; the first that failed is raised."""
    changed = []
    for one in outcomes:
        if isinstance(one, Exception):
            raise one
        changed.append(one)
    return changed


def _check(goal: str, target, faces_per_batch: int, settings: PhotoSettings, model: Diffusion | None, makeup) -> None:
    require(goal in get_args(Goal), f"the goal is {goal!r}", f"use one of {', '.join(map(repr, get_args(Goal)))}")
    require(
        goal == "dodge" or target is not None,
        f"the goal {goal!r} needs a face to look like, and there is no target",
        "pass a target photo with one face, or use the goal 'dodge'",
    )
    require(faces_per_batch >= 1, f"faces_per_batch is {faces_per_batch}", "use 1, for one after the other, or more")
    require(
        settings.way != DIFFUSION or model is not None,
        "the settings are those of diffusion, and there is no diffusion model",
        "pass model=load_demo_model() or another one, or use the presets of light and shade",
    )
    require(
        not settings.network or settings.way == LIGHT,
        "the network of instant gives light and shade, and the settings are those of diffusion",
        f"use the presets of {LIGHT!r}",
    )
    require(
        not settings.network or (goal == "dodge" and makeup is None),
        f"the preset instant knows one way to hide a face, and {'makeup' if makeup is not None else goal!r} is wanted",
        "use fast, balanced or strong; or the goal 'dodge' without makeup",
    )
    if settings.network:
        load_protector_network()  # one that is missing or damaged is said before the work

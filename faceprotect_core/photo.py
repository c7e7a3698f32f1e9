"""Protect Photo: every face of a photo is cut out, protected by the method, pasted back, and judged in the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

from torch import Tensor

from .checks import require, require_image
from .cost import CostPredictor
from .crop_batch import FAILURES, Aim, CropProtector, find_aim
from .faces import (
    Face,
    FaceCrop,
    FaceDetector,
    crop_face,
    detect_faces,
    left_to_right,
    load_detector,
    paste_faces,
)
from .inversion import OnStep, Pairing
from .judge import FaceVerdict, Goal, judge_photo
from .model import Denoiser, ImageCodec
from .schedule import DDIMSchedule
from .surrogates import FRSurrogate


@dataclass(frozen=True)
class PhotoSettings:
    """How hard to protect: the arguments of `protect`, and what the finished photo must reach.

    size: of the crop around each face in pixels; 256 for the demo model, 512 for Stable Diffusion.
    margin: how far past its verification threshold each surrogate is pushed, in its metric's units.
    wanted_margin: how far past the threshold the finished photo must be for the face to count as protected.
    """

    size: int = 256
    depth: int = 1
    pairing: Pairing = "exact"
    null_text_iterations: int = 10
    null_text_lr: float = 0.1
    iterations: int = 40
    lr: float = 0.02
    objective_weight: float = 0.003
    fidelity_weight: float = 1.5
    margin: float = 0.35
    wanted_margin: float = 0.1

    @property
    def method(self) -> dict:
        """Those of them that are arguments of `protect`."""
        return {name: value for name, value in asdict(self).items() if name not in ("size", "margin", "wanted_margin")}


# Measured with the demo model, on which more depth than 1 costs time and gains nothing; "strong" has the paper's.
PRESETS = {
    "fast": PhotoSettings(depth=1, null_text_iterations=5, iterations=20, lr=0.03, fidelity_weight=1.0, margin=0.3),
    "balanced": PhotoSettings(),
    "strong": PhotoSettings(
        depth=3, null_text_iterations=20, iterations=60, fidelity_weight=0.5, margin=0.5, wanted_margin=0.2
    ),
}


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """image: [3, H, W] in [0, 1]. mask: [1, H, W], 0 where every pixel is bit-equal to the photo's.

    faces: the verdict on each face, in the order of the crops, measured in the finished photo with 8 bits a channel.
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
    denoiser: Denoiser,
    codec: ImageCodec,
    context: Tensor,
    photo: Tensor,
    surrogates: Sequence[FRSurrogate],
    settings: PhotoSettings = PRESETS["balanced"],
    *,
    goal: Goal = "dodge",
    target: Tensor | None = None,
    faces: Sequence[Face] | None = None,
    keep: Sequence[Face] = (),
    crops: Sequence[FaceCrop] | None = None,
    schedule: DDIMSchedule | None = None,
    detector: FaceDetector | None = None,
    faces_per_batch: int = 1,
    predictor: CostPredictor | None = None,
    on_step: OnStep | None = None,
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
        ProtectionError: no face, a NaN in any of them, a goal without a target.
    """
    require(
        photo.ndim == 3, f"protect_photo takes one photo [3, H, W], got {list(photo.shape)}", "pass them one by one"
    )
    require_image(photo[None], "protect_photo")
    _check(goal, target, faces_per_batch)
    detector = detector or load_detector(photo.device)
    cut = CutPhoto(photo, tuple(crops if crops is not None else _cut(photo, settings.size, faces, keep, detector)))
    options = {"goal": goal, "target": target, "schedule": schedule, "detector": detector}
    options |= {"faces_per_batch": faces_per_batch, "predictor": predictor, "on_step": on_step}
    (outcome,) = protect_photos(denoiser, codec, context, [cut], surrogates, settings, **options)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _cut(photo: Tensor, size: int, faces, keep: Sequence[Face], detector: FaceDetector) -> list[FaceCrop]:
    faces = detect_faces(photo, detector) if faces is None else faces
    return [crop_face(photo, face, size, keep=keep) for face in left_to_right(faces)]


@dataclass(frozen=True, eq=False)
class CutPhoto:
    """photo: [3, H, W] in [0, 1], float32, any size. crops: the faces to protect, from `crop_face`."""

    photo: Tensor
    crops: tuple[FaceCrop, ...]


def protect_photos(
    denoiser: Denoiser,
    codec: ImageCodec,
    context: Tensor,
    photos: Iterable[CutPhoto | Exception],
    surrogates: Sequence[FRSurrogate],
    settings: PhotoSettings = PRESETS["balanced"],
    *,
    goal: Goal = "dodge",
    target: Tensor | None = None,
    schedule: DDIMSchedule | None = None,
    detector: FaceDetector | None = None,
    faces_per_batch: int = 1,
    predictor: CostPredictor | None = None,
    on_step: OnStep | None = None,
) -> Iterator[PhotoResult | Exception]:
    """Protect the faces of many photos, in batches across photos.

    A photo that fails costs the others nothing: its exception comes in its place.

    Args:
        context: the empty prompt's embedding [1, tokens, dim].
        photos: taken when they are needed, as many as fill a batch. An exception, why a photo could not be read or
            cut, is passed on in its place.
        goal: "dodge": no longer the same person. "synthetic": the same, pulled towards the target, which should be
            nobody. "impersonate": to be taken for the target.
        target: [3, h, w] or [1, 3, h, w] with one face, for "synthetic" and "impersonate".
        faces_per_batch: at most this many crops of one size go through the model together, fewer where memory runs
            out; on two CPU cores 1 is the fastest. Each face comes out as it does alone, up to rounding, which the
            optimiser amplifies: most of all to dodge, where it decides the first step, as with another number of
            threads.
        predictor: the same for all photos of a run. With it, on_step first gets {"stage": "cost", "cost": the Cost of
            the photos that are next, "faces": how many faces they have, "photos": how many they are}.
        on_step: receives the events of `protect`, with "face" (from 1; of a batch the last), "faces" and "photos" (how
            many there are in the photos that are at work together) and "at_once" (how many are in this batch) added.

    Yields:
        For each photo its result (see `protect_photo`) or an exception of any kind.

    Raises:
        ProtectionError: a goal without a target, or a target without a face.
    """
    _check(goal, target, faces_per_batch)
    aim = protector = None
    for together in _together(photos, faces_per_batch):
        cut = [photo for photo in together if isinstance(photo, CutPhoto)]
        changed: Iterator[Tensor | Exception] = iter(())
        if cut:
            detector = detector or load_detector(cut[0].photo.device)
            aim = aim or find_aim(goal, surrogates, settings, schedule, target, detector)
            protector = protector or CropProtector(denoiser, codec, context, aim, faces_per_batch)
            changed = iter(_protect_crops(protector, cut, predictor, on_step))
        for photo in together:
            if isinstance(photo, Exception):
                yield photo
            else:
                yield _finish(photo, [next(changed) for _ in photo.crops], aim, detector)


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


def _protect_crops(
    protector: CropProtector, photos: Sequence[CutPhoto], predictor: CostPredictor | None, on_step: OnStep | None
) -> list[Tensor | Exception]:
    """Of all their crops, in a row."""
    crops = [crop for photo in photos for crop in photo.crops]
    report = on_step and (lambda event: on_step(event | {"photos": len(photos)}))
    cost = protector.cost(crops, predictor) if crops and predictor and report else None
    if cost:
        report({"stage": "cost", "cost": cost, "faces": len(crops)})
    return protector(crops, report)


def _finish(
    photo: CutPhoto, changed: Sequence[Tensor | Exception], aim: Aim, detector: FaceDetector
) -> PhotoResult | Exception:
    """Pastes the changed crops and judges them; a crop that failed is the outcome of its photo."""
    failed = next((crop for crop in changed if isinstance(crop, Exception)), None)
    if failed is not None:
        return failed
    try:
        height, width = photo.photo.shape[1:]
        require(
            bool(photo.crops),
            f"no face found in the photo of {width} x {height} pixels",
            "use a photo in which the face is upright and well lit, look for smaller faces (min_face), or draw a mask",
        )
        image, mask = paste_faces(photo.photo, photo.crops, changed)
        faces, wanted = [crop.photo_face for crop in photo.crops], (aim.settings, aim.goal, aim.target)
        verdicts = judge_photo(photo.photo, image, faces, aim.surrogates, *wanted, detector=detector)
        return PhotoResult(image, mask, photo.crops, verdicts)
    except FAILURES as error:
        return error


def _check(goal: str, target: Tensor | None, faces_per_batch: int) -> None:
    require(goal in get_args(Goal), f"the goal is {goal!r}", f"use one of {', '.join(map(repr, get_args(Goal)))}")
    require(
        goal == "dodge" or target is not None,
        f"the goal {goal!r} needs a face to look like, and there is no target",
        "pass a target photo with one face, or use the goal 'dodge'",
    )
    require(faces_per_batch >= 1, f"faces_per_batch is {faces_per_batch}", "use 1, for one after the other, or more")

"""Protect Photo: every face of a photo is cut out, protected by the method, pasted back, and judged in the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import get_args

from torch import Tensor

from .checks import require, require_image
from .cost import Cost, CostPredictor, predict_cost
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
from .faces.crop import cropped_images, cropped_masks
from .inversion import OnStep, Pairing
from .judge import FaceVerdict, Goal, judge_photo
from .model import Denoiser, ImageCodec
from .objectives import IdentityObjective
from .protect import protect
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
    """Protect the faces of one photo; the other pixels stay bit-equal.

    Args:
        context: the empty prompt's embedding [1, tokens, dim].
        photo: [3, H, W] in [0, 1], float32, any size. Never changed.
        goal: "dodge": no longer the same person. "synthetic": the same, pulled towards the target, which should be
            nobody. "impersonate": to be taken for the target.
        target: [3, h, w] or [1, 3, h, w] with one face, for "synthetic" and "impersonate".
        faces: the faces to protect, in the photo's pixels; None protects all that are detected.
        keep: faces of the photo that must stay as they are.
        crops: from `crop_face`, instead of `faces`.
        faces_per_batch: at most this many crops of one size go through the model together; on two CPU cores 1 is the
            fastest. Each face comes out as it does alone, up to rounding, which the optimiser amplifies: most of all to
            dodge, where it decides the first step, as with another number of threads.
        predictor: the same for all photos of a run. With it, on_step first gets {"stage": "cost", "cost": the Cost of
            the faces, "faces": how many there are}.
        on_step: receives the events of `protect`, with "face" (from 1; of a batch the last) and "faces" (how many
            there are) added, and "at_once" (how many are in this batch).

    Returns:
        The photo with its verdicts; look at `.protected`. A face that was not protected enough is NOT left out of the
        image: who calls this decides what to do with it.

    Raises:
        ProtectionError: no face, a NaN in any of them, a goal without a target.
    """
    _check(photo, goal, target, faces_per_batch)
    detector = detector or load_detector(photo.device)
    crops = tuple(crops if crops is not None else _cut(photo, settings.size, faces, keep, detector))
    require(
        bool(crops),
        f"no face found in the photo of {photo.shape[2]} x {photo.shape[1]} pixels",
        "use a photo in which the face is upright and well lit, look for smaller faces (min_face), or draw a mask",
    )
    aim = _aim(goal, surrogates, settings, schedule, target, detector)
    if predictor and on_step:
        cost = _predict(predictor, denoiser, codec, context, crops, aim, faces_per_batch)
        on_step({"stage": "cost", "cost": cost, "faces": len(crops)})
    changed = _protect_crops(denoiser, codec, context, crops, aim, faces_per_batch, on_step)
    image, mask = paste_faces(photo, crops, changed)
    photo_faces = [crop.photo_face for crop in crops]
    verdicts = judge_photo(photo, image, photo_faces, surrogates, settings, goal, aim.target, detector=detector)
    return PhotoResult(image, mask, crops, verdicts)


def _cut(photo: Tensor, size: int, faces, keep: Sequence[Face], detector: FaceDetector) -> list[FaceCrop]:
    faces = detect_faces(photo, detector) if faces is None else faces
    return [crop_face(photo, face, size, keep=keep) for face in left_to_right(faces)]


@dataclass(frozen=True, eq=False)
class _Aim:
    """What every face of the photo is protected with."""

    goal: Goal
    surrogates: Sequence[FRSurrogate]
    settings: PhotoSettings
    schedule: DDIMSchedule | None
    target: Tensor | None
    target_face: Face | None


def _aim(goal, surrogates, settings, schedule, target: Tensor | None, detector: FaceDetector) -> _Aim:
    if goal == "dodge":
        return _Aim(goal, surrogates, settings, schedule, None, None)
    target = target if target.ndim == 4 else target[None]
    faces = detect_faces(target[0], detector)
    require(
        bool(faces),
        f"no face found in the target photo of {target.shape[3]} x {target.shape[2]} pixels",
        "use a target photo with one upright, well-lit face that fills much of the picture",
    )
    return _Aim(goal, surrogates, settings, schedule, target, faces[0])


def _protect_crops(denoiser, codec, context, crops, aim: _Aim, at_once: int, on_step: OnStep | None) -> list[Tensor]:
    """[3, size, size] for each crop, in their order."""
    changed: dict[int, Tensor] = {}
    for batch in _batches(crops, at_once):
        step = _numbered(on_step, len(changed) + len(batch), len(crops), len(batch))
        images = _protect_batch(denoiser, codec, context, [crops[index] for index in batch], aim, step)
        changed |= zip(batch, images, strict=True)
    return [changed[index] for index in range(len(crops))]


def _batches(crops: Sequence[FaceCrop], at_once: int) -> list[list[int]]:
    """The indices of the crops, those of one size together, at most `at_once`; one at a time they keep their order."""
    by_size = defaultdict(list)
    for index, crop in enumerate(crops):
        by_size[crop.size].append(index)
    return sorted(same[start : start + at_once] for same in by_size.values() for start in range(0, len(same), at_once))


def _predict(predictor: CostPredictor, denoiser, codec, context, crops, aim: _Aim, at_once: int) -> Cost:
    """Of all faces of the photo."""
    batches = [[crops[index] for index in batch] for batch in _batches(crops, at_once)]

    def of_the_first() -> Cost:
        names = ("depth", "null_text_iterations", "iterations")
        settings = {name: getattr(aim.settings, name) for name in names}
        image, objective = cropped_images(batches[0]), _objective(batches[0], aim)
        return predict_cost(denoiser, codec, image, context, objective, output="detail", **settings)

    return predictor([sum(crop.size**2 for crop in batch) for batch in batches], of_the_first)


def _protect_batch(denoiser, codec, context, crops: list[FaceCrop], aim: _Aim, on_step: OnStep | None) -> Tensor:
    """[B, 3, size, size]: the crops as `protect` returns them, the blocks' own call."""
    result = protect(
        denoiser,
        codec,
        cropped_images(crops),
        context,
        _objective(crops, aim),
        schedule=aim.schedule,
        output="detail",
        mask=cropped_masks(crops),
        on_step=on_step,
        **aim.settings.method,
    )
    return result.image


def _objective(crops: list[FaceCrop], aim: _Aim) -> IdentityObjective:
    image, faces = cropped_images(crops), [crop.face for crop in crops]
    return IdentityObjective(
        aim.surrogates,
        target=aim.target,
        source=None if aim.goal == "impersonate" else image,
        face=faces,
        source_face=faces,
        target_face=aim.target_face,
        margin=aim.settings.margin,
    )


def _numbered(on_step: OnStep | None, face: int, faces: int, at_once: int) -> OnStep | None:
    return on_step and (lambda event: on_step(event | {"face": face, "faces": faces, "at_once": at_once}))


def _check(photo: Tensor, goal: str, target: Tensor | None, faces_per_batch: int) -> None:
    require(
        photo.ndim == 3, f"protect_photo takes one photo [3, H, W], got {list(photo.shape)}", "pass them one by one"
    )
    require_image(photo[None], "protect_photo")
    require(goal in get_args(Goal), f"the goal is {goal!r}", f"use one of {', '.join(map(repr, get_args(Goal)))}")
    require(
        goal == "dodge" or target is not None,
        f"the goal {goal!r} needs a face to look like, and there is no target",
        "pass a target photo with one face, or use the goal 'dodge'",
    )
    require(faces_per_batch >= 1, f"faces_per_batch is {faces_per_batch}", "use 1, for one after the other, or more")

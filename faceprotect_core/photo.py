"""Protect Photo: every face of a photo is cut out, protected by the method, pasted back, and judged in the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import get_args

import torch
from torch import Tensor

from .checks import require, require_image
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
    on_step: OnStep | None = None,
) -> PhotoResult:
    """Protect the faces of one photo, one after the other; the other pixels stay bit-equal.

    Args:
        context: the empty prompt's embedding [1, tokens, dim].
        photo: [3, H, W] in [0, 1], float32, any size. Never changed.
        goal: "dodge": no longer the same person. "synthetic": the same, pulled towards the target, which should be
            nobody. "impersonate": to be taken for the target.
        target: [3, h, w] or [1, 3, h, w] with one face, for "synthetic" and "impersonate".
        faces: the faces to protect, in the photo's pixels; None protects all that are detected.
        keep: faces of the photo that must stay as they are.
        crops: from `crop_face`, instead of `faces`.
        on_step: receives the events of `protect`, with "face" (from 1) and "faces" added.

    Returns:
        The photo with its verdicts; look at `.protected`. A face that was not protected enough is NOT left out of the
        image: who calls this decides what to do with it.

    Raises:
        ProtectionError: no face, a NaN, a goal without a target.
    """
    _check(photo, goal, target)
    detector = detector or load_detector(photo.device)
    crops = tuple(crops if crops is not None else _cut(photo, settings.size, faces, keep, detector))
    require(
        bool(crops),
        f"no face found in the photo of {photo.shape[2]} x {photo.shape[1]} pixels",
        "use a photo in which the face is upright and well lit, look for smaller faces (min_face), or draw a mask",
    )
    aim = _aim(goal, surrogates, settings, schedule, target, detector)
    changed = []
    for number, crop in enumerate(crops, start=1):
        step = _numbered(on_step, number, len(crops))
        changed.append(_protect_crop(denoiser, codec, context, crop, aim, step))
    image, mask = paste_faces(photo, crops, torch.stack(changed))
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


def _protect_crop(denoiser, codec, context, crop: FaceCrop, aim: _Aim, on_step: OnStep | None) -> Tensor:
    """[3, size, size]: the crop as `protect` returns it, the blocks' own call."""
    image, settings = crop.image[None], aim.settings
    objective = IdentityObjective(
        aim.surrogates,
        target=aim.target,
        source=None if aim.goal == "impersonate" else image,
        face=crop.face,
        source_face=crop.face,
        target_face=aim.target_face,
        margin=settings.margin,
    )
    result = protect(
        denoiser,
        codec,
        image,
        context,
        objective,
        schedule=aim.schedule,
        output="detail",
        mask=crop.mask[None],
        on_step=on_step,
        **settings.method,
    )
    return result.image[0]


def _numbered(on_step: OnStep | None, face: int, faces: int) -> OnStep | None:
    return on_step and (lambda event: on_step(event | {"face": face, "faces": faces}))


def _check(photo: Tensor, goal: str, target: Tensor | None) -> None:
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

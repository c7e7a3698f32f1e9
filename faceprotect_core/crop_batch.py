"""The crops of one or several photos through the method, those of one size together in batches."""

from __future__ import annotations

import logging
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .checks import require
from .cost import Cost, CostPredictor, predict_cost
from .faces import Face, FaceCrop, FaceDetector, detect_faces
from .faces.crop import cropped_images, cropped_masks
from .inversion import OnStep
from .judge import Goal
from .model import Denoiser, ImageCodec
from .objectives import IdentityObjective
from .protect import protect
from .schedule import DDIMSchedule
from .surrogates import FRSurrogate

if TYPE_CHECKING:
    from .photo import PhotoSettings

# Of ours and of PyTorch; too little memory is a RuntimeError on a CPU and on a GPU. What cancels a run is none of them.
FAILURES = (ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True, eq=False)
class Aim:
    """What every face is protected with. target: [1, 3, h, w], whom to look like; None to dodge."""

    goal: Goal
    surrogates: Sequence[FRSurrogate]
    settings: PhotoSettings
    schedule: DDIMSchedule | None
    target: Tensor | None
    target_face: Face | None

    def objective(self, crops: Sequence[FaceCrop]) -> IdentityObjective:
        image, faces = cropped_images(crops), [crop.face for crop in crops]
        return IdentityObjective(
            self.surrogates,
            target=self.target,
            source=None if self.goal == "impersonate" else image,
            face=faces,
            source_face=faces,
            target_face=self.target_face,
            margin=self.settings.margin,
        )


def find_aim(goal, surrogates, settings, schedule, target: Tensor | None, detector: FaceDetector) -> Aim:
    """target: [3, h, w] or [1, 3, h, w] with a face, for all goals but to dodge."""
    if goal == "dodge":
        return Aim(goal, surrogates, settings, schedule, None, None)
    target = target if target.ndim == 4 else target[None]
    faces = detect_faces(target[0], detector)
    require(
        bool(faces),
        f"no face found in the target photo of {target.shape[3]} x {target.shape[2]} pixels",
        "use a target photo with one upright, well-lit face that fills much of the picture",
    )
    return Aim(goal, surrogates, settings, schedule, target, faces[0])


@dataclass(eq=False)
class CropProtector:
    """protector(crops) -> the changed crops. at_once: how many of one size are a batch at most; it is halved where
    memory runs out."""

    denoiser: Denoiser
    codec: ImageCodec
    context: Tensor
    aim: Aim
    at_once: int = 1

    def __call__(self, crops: Sequence[FaceCrop], on_step: OnStep | None = None) -> list[Tensor | Exception]:
        """[3, size, size] for each crop in their order, or why it failed: one that fails does not harm its batch.

        on_step: see `protect_photos`.
        """
        changed: dict[int, Tensor | Exception] = {}
        waiting = self._batches(crops)
        while waiting:
            batch = waiting.pop(0)
            report = _numbered(on_step, len(changed) + len(batch), len(crops), len(batch))
            fits = len(batch) <= self.at_once
            outcome = self._attempt([crops[index] for index in batch], report) if fits else None
            if len(batch) > 1 and not isinstance(outcome, Tensor):
                half = len(batch) // 2
                waiting[:0] = batch[:half], batch[half:]
            else:
                changed |= zip(batch, [outcome] if isinstance(outcome, Exception) else outcome, strict=True)
        return [changed[index] for index in range(len(crops))]

    def cost(self, crops: Sequence[FaceCrop], predictor: CostPredictor) -> Cost | None:
        """Of all of them; None where the models fail, which the run then says of the faces that it is about."""
        batches = [[crops[index] for index in batch] for batch in self._batches(crops)]

        def of_the_first() -> Cost:
            names = ("depth", "null_text_iterations", "iterations")
            settings = {name: getattr(self.aim.settings, name) for name in names}
            image, objective = cropped_images(batches[0]), self.aim.objective(batches[0])
            models = self.denoiser, self.codec, image, self.context, objective
            return predict_cost(*models, output="detail", **settings)

        try:
            return predictor([sum(crop.size**2 for crop in batch) for batch in batches], of_the_first)
        except FAILURES:
            return None

    def _batches(self, crops: Sequence[FaceCrop]) -> list[list[int]]:
        """The indices of the crops, those of one size together; one at a time they keep their order."""
        by_size, step = defaultdict(list), self.at_once
        for index, crop in enumerate(crops):
            by_size[crop.size].append(index)
        return sorted(same[start : start + step] for same in by_size.values() for start in range(0, len(same), step))

    def _attempt(self, crops: list[FaceCrop], on_step: OnStep | None) -> Tensor | Exception:
        """The changed crops [B, 3, size, size], or why they failed."""
        try:
            return self._protect(crops, on_step)
        except FAILURES as error:
            traceback.clear_frames(error.__traceback__)  # what they hold may be the memory that the next try needs
            failure = error
        if out_of_memory(failure) and len(crops) > 1:
            self.at_once = len(crops) // 2
            logging.warning("FaceProtect: no memory for %d faces at once; trying %d", len(crops), self.at_once)
        return failure

    def _protect(self, crops: list[FaceCrop], on_step: OnStep | None) -> Tensor:
        """The blocks' own call."""
        result = protect(
            self.denoiser,
            self.codec,
            cropped_images(crops),
            self.context,
            self.aim.objective(crops),
            schedule=self.aim.schedule,
            output="detail",
            mask=cropped_masks(crops),
            on_step=on_step,
            **self.aim.settings.method,
        )
        return result.image


def out_of_memory(error: BaseException) -> bool:
    """PyTorch has no exception of its own for a CPU."""
    said = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA; a CPU on Linux; on Windows
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def _numbered(on_step: OnStep | None, face: int, faces: int, at_once: int) -> OnStep | None:
    return on_step and (lambda event: on_step(event | {"face": face, "faces": faces, "at_once": at_once}))

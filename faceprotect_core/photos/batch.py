"""The crops of one or several photos through the method, those of one size together in batches."""

from __future__ import annotations

import logging
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import torch
from torch import Tensor

from ..checks import ProtectionError, given, out_of_memory, require
from ..faces import Face, FaceCrop, FaceDetector, detect_faces
from ..faces.crop import cropped_images, cropped_masks
from ..instant.network import GRID
from ..instant.protect import MORE, load_protector_network, look
from ..method.inversion import ddim_invert
from ..method.light_and_shade import protect_by_light
from ..method.objectives import Goal, IdentityObjective
from ..method.peers.makeup import WEIGHT, MakeupLoss, for_makeup
from ..method.protect import Settings, prepare
from ..method.restraint.insistent import Insistent
from ..method.restraint.least_change import least_change
from ..method.schedule import DDIMSchedule
from ..method.views import AlignmentJitter
from ..progress import OnStep, Step
from ..protocols import Denoiser, ImageCodec
from ..speed.cost import Cost, CostPredictor, predict_cost, predict_light_cost, total
from ..surrogates import FRSurrogate
from .settings import DIFFUSION, LIGHT, PRESETS, WEIGHTS, PhotoSettings

Diffusion = tuple[Denoiser, ImageCodec, Tensor]  # with the empty prompt's embedding [1, tokens, dim]

# Of ours and of PyTorch; too little memory is a RuntimeError on a CPU and on a GPU. What cancels a run is none of them.
FAILURES = (ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True, eq=False)
class Aim:
    """What every face is protected with.

    Args:
        goal: see `protect_photos`.
        surrogates: the recognisers in the loss.
        settings: how hard to protect.
        model: for the way through diffusion; None for light and shade.
        schedule: None for Stable Diffusion's.
        target: [1, 3, h, w], whom to look like; None to dodge.
        target_face: where the face is in it.
        makeup: [1, 3, h, w], whose lips, eye shadow and skin to take the colours of; None for no makeup.
        makeup_face: where the face is in it.
    """

    goal: Goal
    surrogates: Sequence[FRSurrogate]
    settings: PhotoSettings
    model: Diffusion | None
    schedule: DDIMSchedule | None
    target: Tensor | None
    target_face: Face | None
    makeup: Tensor | None = None
    makeup_face: Face | None = None

    @property
    def plain(self) -> bool:
        """Nobody to look like, and no makeup: what instant can do."""
        return self.goal == "dodge" and self.makeup is None

    @property
    def diffusion(self) -> Diffusion:
        """The model, for the way through one."""
        return given(self.model, "there is no diffusion model", "pass one, or use the presets of light and shade")

    @property
    def knobs(self) -> Settings:
        """Of diffusion."""
        diffusion = self.settings.diffusion
        return diffusion if self.makeup is None else for_makeup(diffusion)

    def objective(self, crops: Sequence[FaceCrop]) -> IdentityObjective:
        """The loss over the crops, which are of one size, as a batch."""
        image, faces = cropped_images(crops), [crop.face for crop in crops]
        identity = IdentityObjective(
            self.surrogates,
            target=self.target,
            source=None if self.goal == "impersonate" else image,
            face=faces,
            source_face=faces,
            target_face=self.target_face,
            margin=self.settings.margin,
            steepness=self.settings.steepness,
            weights=[WEIGHTS.get(one.name, 1.0) for one in self.surrogates],
            jitter=AlignmentJitter(self.settings.jitter),
        )
        if self.makeup is None or self.makeup_face is None:
            return identity
        return identity.plus(MakeupLoss(image, faces, self.makeup, self.makeup_face), WEIGHT)


def find_aim(
    goal: Goal,
    surrogates: Sequence[FRSurrogate],
    settings: PhotoSettings,
    model: Diffusion | None,
    schedule: DDIMSchedule | None,
    target: Tensor | None,
    detector: FaceDetector,
    makeup: Tensor | None = None,
) -> Aim:
    """The aim, with the faces in its target and in its reference for makeup.

    Args:
        target: [3, h, w] or [1, 3, h, w] with a face, for all goals but to dodge.
        detector: of `load_detector`.
        makeup: like target; None for no makeup.
        The others: as in `Aim`.

    Raises:
        ProtectionError: there is no target, or no face in it or in the reference.
    """
    if goal == "dodge":
        target = None
    else:
        problem = f"the goal {goal!r} needs a face to look like, and there is no target"
        target = given(target, problem, "pass a target photo with one face, or use the goal 'dodge'")
    pictures = _with_face(target, "target photo", detector), _with_face(makeup, "makeup reference", detector)
    return Aim(goal, surrogates, settings, model, schedule, *pictures[0], *pictures[1])


def _with_face(photo: Tensor | None, what: str, detector: FaceDetector) -> tuple[Tensor | None, Face | None]:
    """[1, 3, h, w], and the best face in it; neither where there is no photo."""
    if photo is None:
        return None, None
    photo = photo if photo.ndim == 4 else photo[None]
    faces = detect_faces(photo[0], detector)
    require(
        bool(faces),
        f"no face found in the {what} of {photo.shape[3]} x {photo.shape[2]} pixels",
        f"use a {what} with one upright, well-lit face that fills much of the picture",
    )
    return photo, faces[0]


@dataclass(frozen=True, eq=False)
class Changed:
    """A crop after protection.

    Args:
        image: [3, size, size] in [0, 1].
        value: of the variable, to go on from there.
    """

    image: Tensor
    value: Tensor


@dataclass(eq=False)
class CropProtector:
    """Protects crops in batches: protector(crops) -> the changed crops.

    Args:
        aim: what every face is protected with.
        at_once: how many of one size are a batch at most; it is halved where memory runs out.
        preview: on_step first gets what instant would give, where a preset that takes much longer is to work, to dodge
            and without makeup: of every face by diffusion and where the run begins there, which makes it anyway, else
            of the first face alone, for which it is worth its second. A step "preview" without an image takes the last
            one away.
    """

    aim: Aim
    at_once: int = 1
    preview: bool = False
    _shown_enough: bool = field(default=False, init=False)

    def __call__(
        self, crops: Sequence[FaceCrop], on_step: OnStep | None = None, starts: Sequence[Tensor] | None = None
    ) -> list[Changed | Exception]:
        """For each crop in their order what became of it, or why it failed: one that fails does not harm its batch.

        on_step: see `protect_photos`. starts: for each crop the `value` to go on from.
        """
        changed: dict[int, Changed | Exception] = {}
        waiting = self._batches(crops)
        while waiting:
            batch = waiting.pop(0)
            report = _numbered(on_step, len(changed) + len(batch), len(crops), len(batch))
            fits = len(batch) <= self.at_once
            start = None if starts is None else torch.stack([starts[index] for index in batch])
            outcome = self._attempt([crops[index] for index in batch], start, report) if fits else None
            if isinstance(outcome, list):
                changed |= zip(batch, outcome, strict=True)
            elif outcome is not None and len(batch) == 1:
                changed[batch[0]] = outcome
            else:
                half = len(batch) // 2
                waiting[:0] = batch[:half], batch[half:]
        return [changed[index] for index in range(len(crops))]

    def cost(self, crops: Sequence[FaceCrop], predictor: CostPredictor) -> Cost | None:
        """What all of the crops cost; None where it is hardly more than finding out, or the models fail, which the run
        then says."""
        if self.aim.settings.network:
            return None
        batches = [[crops[index] for index in batch] for batch in self._batches(crops)]

        def of_the_first() -> Cost:
            image, objective, aim = cropped_images(batches[0]), self.aim.objective(batches[0]), self.aim
            before = []
            if self._begins:
                light = PRESETS[LIGHT]["instant"].light
                before = [predict_light_cost(image, objective, replace(light, iterations=light.iterations + MORE))]
                aim = replace(aim, settings=aim.settings.after_head_start)
            if aim.settings.way != DIFFUSION:
                return total([*before, predict_light_cost(image, objective, aim.settings.light)])
            denoiser, codec, context = aim.diffusion
            return total([*before, predict_cost(denoiser, codec, image, context, objective, aim.knobs)])

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

    def _attempt(
        self, crops: list[FaceCrop], start: Tensor | None, on_step: OnStep | None
    ) -> list[Changed] | Exception:
        """The changed crops, or why they failed."""
        try:
            return self._protect(crops, start, on_step)
        except FAILURES as error:
            traceback.clear_frames(error.__traceback__)  # what they hold may be the memory that the next try needs
            failure = error
        if out_of_memory(failure) and len(crops) > 1:
            self.at_once = len(crops) // 2
            logging.warning("FaceProtect: no memory for %d faces at once; trying %d", len(crops), self.at_once)
        return failure

    def _protect(self, crops: list[FaceCrop], start: Tensor | None, on_step: OnStep | None) -> list[Changed]:
        """The blocks' own calls; then what went further than it had to is taken back."""
        image, mask, objective = cropped_images(crops), cropped_masks(crops), self.aim.objective(crops)
        aim, looked = self.aim, self._looked(crops, on_step) if start is None else None
        if looked and self._begins:
            aim, start = replace(aim, settings=aim.settings.after_head_start), self._start(looked)
        settings = aim.settings
        loss = Insistent(objective, settings.method.iterations // 3) if settings.insists else objective
        if settings.way == DIFFUSION:
            denoiser, codec, context = aim.diffusion
            prepared = prepare(denoiser, codec, image, context, aim.knobs, schedule=aim.schedule, on_step=on_step)
            result = prepared.optimize(denoiser, codec, loss, aim.knobs, mask=mask, start=start, on_step=on_step)
            changed, values = result.image, result.latent
        else:
            if settings.network:
                lit = look(image, mask, objective, settings.light, on_step)
            else:
                lit = protect_by_light(image, loss, settings.light, mask=mask, start=start, on_step=on_step)
            changed, values = lit.rendering.image, lit.value
        images, _ = least_change(image, changed, objective)
        return [Changed(one, value) for one, value in zip(images, values, strict=True)]

    @cached_property
    def _begins(self) -> bool:
        """Whether the run begins at what instant would give: a plane of its size, if its network can be read."""
        settings = self.aim.settings
        fits = settings.way == DIFFUSION or settings.light.grid == GRID
        if not (settings.head_start and self.aim.plain and fits) or settings.network:
            return False
        try:
            load_protector_network()
        except ProtectionError as error:
            _warn_once(f"runs begin at the photo, and take all of their iterations: {error.problem}")
            return False
        return True

    def _looked(self, crops: list[FaceCrop], on_step: OnStep | None) -> list[Changed] | None:
        """What instant would give, which takes a second: to begin there, or to show it. No judge has seen it."""
        settings, looked = self.aim.settings, None
        shows = self.preview and on_step and self.aim.plain and settings.takes_long
        if self._begins or (shows and not self._shown_enough and not settings.head_start):
            self._shown_enough = settings.way == LIGHT
            try:
                looked = self._by_instant(crops)
            except FAILURES as error:  # the run does without
                if self._begins and out_of_memory(error) and len(crops) > 1:
                    raise
                traceback.clear_frames(error.__traceback__)  # their memory is for the run
                self._shown_enough = True
                why = error.problem if isinstance(error, ProtectionError) else error
                logging.warning("FaceProtect: instant has failed, and is neither shown nor begun at: %s", why)
        if shows and on_step:
            on_step(Step("preview", 0, 1, image=torch.stack([one.image for one in looked]) if looked else None))
        return looked

    def _by_instant(self, crops: list[FaceCrop]) -> list[Changed]:
        settings = replace(PRESETS[LIGHT]["instant"], size=self.aim.settings.size)
        return CropProtector(replace(self.aim, settings=settings))._protect(crops, None, None)

    def _start(self, looked: Sequence[Changed]) -> Tensor:
        """The variable's value there: the plane of lightness, or the noisy latent that the picture is inverted to."""
        if self.aim.settings.way != DIFFUSION:
            return torch.stack([one.value for one in looked])
        (denoiser, codec, context), knobs = self.aim.diffusion, self.aim.knobs
        latent = codec.encode(torch.stack([one.image for one in looked]))
        schedule = self.aim.schedule or DDIMSchedule.scaled_linear()
        return ddim_invert(denoiser, latent, context, schedule, knobs.depth, knobs.pairing).latents[-1]


@cache
def _warn_once(text: str) -> None:
    logging.warning("FaceProtect: %s", text)


def _numbered(on_step: OnStep | None, face: int, faces: int, at_once: int) -> OnStep | None:
    return on_step and (lambda event: on_step(replace(event, face=face, faces=faces, at_once=at_once)))

"""One way to protect photos, loaded once: model, recognisers, preset, goal, and which faces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..checks import require
from ..faces import Face, FaceDetector, crop_selection, load_detector, select_faces
from ..files import digest_of_tensor
from ..instant.protect import load_protector_network, network_digest
from ..method.objectives import Goal
from ..models import DEMO, LoadedModel, load_model
from ..photos.photo import CutPhoto, OnPhotoStep, PhotoResult, protect_photos
from ..photos.read import read_photo
from ..photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS, PhotoSettings, Way
from ..speed.cost import CostPredictor
from ..surrogates import FRSurrogate, load_surrogate
from ..verify.verdict import FaceVerdict, judge_photo, require_other_network
from .work import Original

NO_JUDGE = "none"
MOST_AT_ONCE = 4  # photos; each holds its pixels and those that its face was looked for in


@dataclass(frozen=True)
class Choice:
    """What the user chooses.

    way: None for light and shade, or, where a model is named, for diffusion. model: "demo", or a folder; None for the
    demo model where one is needed. surrogates, judge: built-in names or weights files; judge "none" for none. which:
    see `choose_faces`. min_face: in pixels. threshold: of the detector's score. batch: how many faces at once; it
    changes the result by rounding alone, and so it is not one of the `settings` of a PhotoProtector.
    """

    way: Way | None = None
    model: str | None = None
    preset: str = "balanced"
    surrogates: tuple[str, ...] = BUILT_IN_SURROGATES
    judge: str = BUILT_IN_JUDGE
    goal: Goal = "dodge"
    target: Path | None = None
    which: str = "all"
    min_face: float = 80.0
    threshold: float = 0.0
    device: str = "cpu"
    batch: int = 1

    @property
    def chosen_way(self) -> Way:
        return self.way or (LIGHT if self.model is None else DIFFUSION)


def photos_at_once(choice: Choice) -> int:
    """How many photos of a folder to work on together on this machine: on a CPU one for each core that PyTorch uses, up
    to 4; on a GPU, with several faces in a batch and with a large model one after the other."""
    small = choice.chosen_way == LIGHT or choice.model in (None, DEMO)
    alone = not small or choice.batch > 1 or choice.device != "cpu"
    return 1 if alone else min(MOST_AT_ONCE, torch.get_num_threads())


@dataclass(frozen=True, eq=False)
class PhotoProtector:
    """A Protector, see work.py; made by `load_protector`."""

    model: LoadedModel | None
    surrogates: tuple[FRSurrogate, ...]
    judging: FRSurrogate | None
    detector: FaceDetector
    photo_settings: PhotoSettings
    target: Tensor | None
    choice: Choice
    settings: dict
    predictor: CostPredictor | None = field(default_factory=CostPredictor)

    def protect(
        self, photos: Iterable[Original | Exception], on_step: OnPhotoStep | None = None
    ) -> Iterator[PhotoResult | Exception]:
        """Photos, their faces in batches across photos -> results on the CPU, see `protect_photos`."""
        outcomes = protect_photos(
            map(self._cut, photos),
            self.surrogates,
            self.photo_settings,
            model=None if self.model is None else (self.model.denoiser, self.model.codec, self.model.context),
            judge=self.judging,
            goal=self.choice.goal,
            target=self.target,
            schedule=None if self.model is None else self.model.schedule,
            detector=self.detector,
            faces_per_batch=self.choice.batch,
            predictor=self.predictor,
            on_step=on_step,
        )
        for outcome in outcomes:
            if isinstance(outcome, PhotoResult):
                outcome = replace(outcome, image=outcome.image.cpu(), mask=outcome.mask.cpu())
            yield outcome

    def _cut(self, original: Original | Exception) -> CutPhoto | Exception:
        """The faces that were chosen; why there are none, if so."""
        if isinstance(original, Exception):
            return original
        try:
            photo = original.image.to(self.choice.device)
            knobs = {"threshold": self.choice.threshold, "min_face": self.choice.min_face}
            selection = select_faces(photo, self.detector, which=self.choice.which, **knobs)
            crops = tuple(crop_selection(photo, selection, self.photo_settings.size))
            return CutPhoto(photo, crops, lambda image: original.as_written(image).to(image))
        except Exception as error:
            return error

    def judge(self, original: Tensor, finished: Tensor, faces: list[Face]) -> tuple[FaceVerdict, ...]:
        photos = original.to(self.choice.device), finished.to(self.choice.device)
        aims = self.surrogates, self.judging, self.choice.goal, self.target
        return judge_photo(*photos, faces, *aims, detector=self.detector)


def load_protector(choice: Choice, photo_settings: PhotoSettings | None = None) -> PhotoProtector:
    """Loads everything once.

    photo_settings: instead of the preset's; with diffusion the size of the crop is the model's own in any case.

    Raises:
        ProtectionError: an unknown preset, no such device, model, network or recogniser, a target that is missing or
            of no use, a judge that is used itself.
    """
    _check(choice)
    target, way = _target(choice), choice.chosen_way
    settings = photo_settings or PRESETS[way][choice.preset]
    model = None
    if settings.way == DIFFUSION:
        model = load_model(choice.model or DEMO, choice.device)
        settings = replace(settings, size=model.size)
    if settings.network:
        load_protector_network()  # one that is missing or damaged is said before the first photo
    surrogates = tuple(load_surrogate(name).to(choice.device) for name in choice.surrogates)
    judge = None if choice.judge == NO_JUDGE else load_surrogate(choice.judge).to(choice.device)
    require_other_network(judge, surrogates)
    for one in surrogates if judge is None else (judge, *surrogates):
        require(
            one.has_threshold,
            f"no threshold is known for {one.name}, beyond which two faces are one person's to it",
            "name a recogniser whose threshold is known (docs/recognisers.md), or use Protect Photo in ComfyUI, where "
            "Load FR Surrogate takes a threshold",
        )
    return PhotoProtector(
        model,
        surrogates,
        judge,
        load_detector(choice.device),
        settings,
        target,
        choice,
        {
            "way": settings.way,
            "model": None if model is None else Path(choice.model or DEMO).name,
            "model_sha256": None if model is None else model.sha256,
            "surrogates": [f"{one.name} {one.fingerprint[:16]}" for one in surrogates],
            "judge": None if judge is None else f"{judge.name} {judge.fingerprint[:16]}",
            "preset": choice.preset,
            "photo_settings": asdict(settings),
            "network_sha256": network_digest() if _may_use_network(settings, choice) else None,
            "goal": choice.goal,
            "target_sha256": digest_of_tensor(target),
            "faces": choice.which,
            "min_face": choice.min_face,
            "threshold": choice.threshold,
        },
    )


def _may_use_network(settings: PhotoSettings, choice: Choice) -> bool:
    """Whether what comes out depends on the network of instant, if it is there: that makes it, or the run begins so."""
    return settings.network or (settings.head_start and choice.goal == "dodge")


def load_beside_others(choice: Choice) -> PhotoProtector:
    """The same, but it predicts no cost: beside others at work that cannot be measured."""
    return replace(load_protector(choice), predictor=None)


def _check(choice: Choice) -> None:
    presets = PRESETS[choice.chosen_way]
    require(
        choice.preset in presets,
        f"{choice.chosen_way} has no preset {choice.preset!r}",
        f"use one of {', '.join(presets)}",
    )
    require(
        choice.model is None or choice.chosen_way == DIFFUSION,
        f"the way is {choice.chosen_way!r}, which needs no model, and the model {choice.model!r} is named",
        "leave the model out, or choose the way through diffusion",
    )
    require(bool(choice.surrogates), "no recogniser is named", "name at least one, or leave --surrogate out")
    require_device(choice.device)
    require(
        choice.target is None or choice.goal != "dodge",
        "there is a target, and the goal is to dodge, which needs none",
        "leave the target out, or use --goal synthetic or --goal impersonate",
    )
    require(
        choice.target is not None or choice.goal != "impersonate",
        "the goal is to impersonate, and there is no target",
        "name a photo of whom to look like (--target FILE)",
    )


def require_device(device: str) -> None:
    require(
        not device.startswith("cuda") or torch.cuda.is_available(),
        f"the device is {device!r}, and PyTorch finds no CUDA device",
        "use --device cpu, or install a PyTorch with CUDA and its driver",
    )


def _target(choice: Choice) -> Tensor | None:
    """[3, h, w]: whom to look like."""
    if choice.goal == "dodge":
        return None
    if choice.target is not None:
        return read_photo(choice.target).image.to(choice.device)
    from ..demo import load_synthetic_target

    return load_synthetic_target()[0].to(choice.device)

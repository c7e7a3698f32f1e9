"""A photo under one method: inverted once for all that agree on how, then changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from ...attacks.pixel_attacks import attack_pixels
from ...faces import Face, face_mask, face_regions
from ...method.light_and_shade import protect_by_light
from ...method.peers.semantic import SemanticSettings, protect_by_semantics
from ...method.protect import PREPARATION, Prepared, Settings, prepare
from ...models import LoadedModel
from ...pixels import as_saved
from ...verify.quality import MS_SSIM_SMALLEST, ciede2000, ms_ssim, psnr
from ...verify.robustness import vae_round_trip
from ...verify.visibility import FACE
from .data import Pair
from .methods import Method

Objective = Callable[[Tensor], Tensor]
LARGEST_FACTOR, HALVINGS = 4.0, 12


@dataclass(eq=False)
class Subject:
    """A photo [1, 3, H, W] in [0, 1], its face, and what was prepared of it so far: shared by the experiments that
    agree on it."""

    pair: Pair
    photo: Tensor
    face: Face
    prepared: dict[tuple, Prepared] = field(default_factory=dict)


def changed_by(
    method: Method, subject: Subject, objective: Objective | None, model: LoadedModel
) -> tuple[Tensor, float | None]:
    """The photo as a method leaves it, with 8 bits, and how well the latent was reconstructed, where there is one.

    objective: None for a method without an attack.
    """
    photo = subject.photo
    if method.kind == "unchanged":
        return as_saved(photo), None
    if method.kind == "vae":
        return vae_round_trip(photo, model.codec), None
    mask = face_mask([subject.face], *photo.shape[2:])[None].to(photo) if method.masked else None
    if method.kind == "pixels":
        return as_saved(attack_pixels(photo, objective, method.attack, settings=method.settings, mask=mask)), None
    if method.kind == "light":
        return as_saved(protect_by_light(photo, objective, method.settings, mask=mask).rendering.image), None
    return _diffused(subject, method.settings, objective or _no_attack, mask, model)


def to_ciede2000(subject: Subject, changed: Tensor, wanted: float) -> Tensor:
    """The change made larger or smaller until CIEDE2000 over the face, without lips and eyes, is as wanted on average.

    Makeup is meant to be seen on lips and lids, so what it costs is compared on the rest. At most 4 times as large as
    it was; clipped to [0, 1], rounded to 8 bits.
    """
    photo = as_saved(subject.photo)
    parts = face_regions(subject.face, *photo.shape[2:])
    rest = face_mask([subject.face], *photo.shape[2:]) > FACE
    rest = (rest & (parts["lips"] + parts["eyes"] < FACE))[None].to(photo.device)

    def at(factor: float) -> Tensor:
        return as_saved(subject.photo + factor * (changed - subject.photo))

    low, high = 0.0, LARGEST_FACTOR
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if ciede2000(photo, at(middle), rest)[0].item() > wanted else (middle, high)
    return at(low)


def visible_change(subject: Subject, changed: Tensor) -> dict[str, float | None]:
    """What an eye sees of a change: MS-SSIM of the photo, None for one that is too small for it, CIEDE2000 over the
    face, mean and 95th percentile, and PSNR, None for the photo itself."""
    photo = as_saved(subject.photo)
    mask = face_mask([subject.face], *photo.shape[2:])[None].to(photo) > FACE
    mean, worst = ciede2000(photo, changed, mask)
    structure = ms_ssim(photo, changed).item() if min(photo.shape[2:]) >= MS_SSIM_SMALLEST else None
    decibels = psnr(photo, changed).item()
    seen = {"ms_ssim": structure, "ciede2000": mean.item(), "ciede2000_95": worst.item()}
    return seen | {"psnr": decibels if math.isfinite(decibels) else None}


def _diffused(subject: Subject, settings: Settings, objective: Objective, mask, model) -> tuple[Tensor, float]:
    key = tuple(getattr(settings, name) for name in PREPARATION)
    if key not in subject.prepared:
        with_structure = replace(settings, structure=True)
        subject.prepared[key] = prepare(
            model.denoiser, model.codec, subject.photo, model.context, with_structure, schedule=model.schedule
        )
    prepared = subject.prepared[key]
    parts = model.denoiser, model.codec
    if isinstance(settings, SemanticSettings):
        image = protect_by_semantics(*parts, prepared, objective, settings, mask=mask).rendering.image.clamp(0.0, 1.0)
    else:
        image = prepared.optimize(*parts, objective, settings, mask=mask).image
    reconstruction = (prepared.structure.latent - prepared.trajectory.latents[0]).square().mean().item()
    return as_saved(image), reconstruction


def _no_attack(image: Tensor) -> Tensor:
    return image.new_zeros(len(image))

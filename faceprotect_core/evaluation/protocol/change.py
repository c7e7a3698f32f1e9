"""A photo under one method: inverted once for all that agree on how, then changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ...faces import Face, face_mask
from ...method.attention import SelfAttentionReference, capture_self_attention
from ...method.inversion import Trajectory, ddim_invert
from ...method.light_and_shade import LightAndShadeSettings, protect_by_light
from ...method.null_text import learn_null_text
from ...method.optimizer import optimize_latent
from ...method.schedule import DDIMSchedule
from ...models import LoadedModel
from ...pixels import as_saved
from ...verify.robustness import vae_round_trip
from .data import Pair
from .methods import Method

Objective = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Subject:
    """A photo [1, 3, H, W] in [0, 1], its face, and what was prepared of it so far: shared by the experiments that
    agree on it."""

    pair: Pair
    photo: Tensor
    face: Face
    prepared: dict = field(default_factory=dict)


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
        return as_saved(_attack(photo, objective, method.settings, mask)), None
    if method.kind == "light":
        settings = LightAndShadeSettings(**method.settings)
        return as_saved(protect_by_light(photo, objective, settings, mask=mask).rendering.image), None
    return _diffused(subject, method.settings, objective or _no_attack, mask, model)


def _diffused(subject: Subject, settings: dict, objective: Objective, mask, model) -> tuple[Tensor, float]:
    trajectory, embeddings, structure = _prepared(subject, settings, model)
    detail = settings["output"] == "detail"
    result = optimize_latent(
        model.denoiser,
        model.codec,
        trajectory,
        embeddings,
        objective,
        structure=structure if settings["structure"] else None,
        iterations=settings["iterations"],
        lr=settings["lr"],
        objective_weight=settings["objective_weight"],
        fidelity_weight=settings["fidelity_weight"],
        keep_colours=settings.get("keep_colours", False),
        output=settings["output"],
        image=subject.photo if detail else None,
        mask=mask,
    )
    return as_saved(result.image), (structure.latent - trajectory.latents[0]).square().mean().item()


def _prepared(subject: Subject, settings: dict, model) -> tuple[Trajectory, Tensor, SelfAttentionReference]:
    """Inversion, embeddings and structure, as `protect` makes them."""
    key = tuple(settings[name] for name in ("depth", "pairing", "null_text_iterations", "null_text_lr"))
    if key not in subject.prepared:
        depth, pairing, iterations, lr = key
        latent = model.codec.encode(subject.photo)
        trajectory = ddim_invert(model.denoiser, latent, model.context, DDIMSchedule.scaled_linear(), depth, pairing)
        embeddings = learn_null_text(model.denoiser, trajectory, model.context, iterations, lr)
        structure = capture_self_attention(model.denoiser, trajectory, embeddings)
        subject.prepared[key] = (trajectory, embeddings, structure)
    return subject.prepared[key]


def _attack(photo: Tensor, objective: Objective, settings: dict, mask: Tensor | None) -> Tensor:
    from ...attacks.pixel_attacks import PixelAttackSettings, attack_pixels

    settings = dict(settings)
    return attack_pixels(photo, objective, settings.pop("method"), settings=PixelAttackSettings(**settings), mask=mask)


def _no_attack(image: Tensor) -> Tensor:
    return image.new_zeros(len(image))

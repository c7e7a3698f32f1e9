"""Protect Photo: every face of a photo of any size, and whether it worked (core: photos/photo.py)."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch
from comfy_api.latest import io

from ..faceprotect_core.checks import ProtectionError, require
from ..faceprotect_core.demo import load_synthetic_target
from ..faceprotect_core.faces import crop_selection
from ..faceprotect_core.photos import words
from ..faceprotect_core.photos.photo import CutPhoto, PhotoResult, protect_photos
from ..faceprotect_core.photos.settings import (
    BUILT_IN_JUDGE,
    BUILT_IN_SURROGATES,
    DIFFUSION,
    LIGHT,
    PRESETS,
)
from ..faceprotect_core.speed.cost import CostPredictor, Meter, total
from ..faceprotect_core.verify.verdict import require_other_network
from . import host
from .crop import size_and_choice_inputs
from .faces import FaceSelector
from .sockets import CATEGORY, FacesSocket, SeenSocket
from .surrogates import connected, growing_input, load
from .upstream import require_untouched

WHERE = "Protect Photo"
AUTOMATIC, NO_JUDGE = "automatic", "none"
# Measured on two CPU cores, see docs/RESULTS.md.
PRESET_TOOLTIP = (
    "How far to go. Every face is changed until the recognisers that are used no longer know it, and no further. "
    "instant: few large steps by a small network, quicker than fast, and easier to undo for whoever has this tool; "
    "where they are not enough, as with fast. "
    "fast: the fewest steps. "
    "balanced: more steps, a smaller change. strong: further past the threshold, more visible. "
    "Measured with the built-in model: with another checkpoint they are a start."
)
STOP, LEAVE_OUT = "stop", "leave out"


class ProtectPhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectProtectPhoto",
            display_name="Protect Photo",
            category=CATEGORY,
            description="Protects every face in a photo of any size from face recognition, and says whether it worked, "
            "by the word of a recogniser that was not used. Without a model it changes light and shade, in seconds; "
            "with one it is the paper's method, all blocks in one, begun where instant ends.",
            search_aliases=["faceprotect", "face privacy", "anonymize", "cloak", "protect face", "privacy"],
            inputs=[
                io.Image.Input("image", tooltip="One or several photos of any size."),
                io.Combo.Input("preset", options=list(PRESETS[LIGHT]), default="balanced", tooltip=PRESET_TOOLTIP),
                io.Combo.Input(
                    "way",
                    options=[AUTOMATIC, LIGHT, DIFFUSION],
                    default=AUTOMATIC,
                    tooltip="light and shade: changes lightness only, keeps your colours, needs no model and takes "
                    "seconds. diffusion: the paper's method, through the connected model, begun where instant ends. "
                    "automatic: diffusion if a model is connected and the preset is not instant.",
                ),
                io.Combo.Input(
                    "judge",
                    options=[BUILT_IN_JUDGE, *BUILT_IN_SURROGATES, NO_JUDGE],
                    default=BUILT_IN_JUDGE,
                    tooltip="A recogniser that is not used to make the protection and is asked at the end: its answer "
                    "is the evidence that others are fooled too. none: no evidence.",
                ),
                io.Combo.Input(
                    "goal",
                    options=["dodge", "synthetic", "impersonate"],
                    default="dodge",
                    tooltip="dodge: no longer be recognised. synthetic: the same, pulled towards the face of "
                    "nobody (the built-in one, or the target). impersonate: be taken for the person in target; this "
                    "does not promise that you are no longer recognised.",
                ),
                *size_and_choice_inputs(automatic=True),
                io.Combo.Input(
                    "on_failure",
                    options=[STOP, LEAVE_OUT],
                    default=STOP,
                    tooltip="What to do with a photo without a face, or one that could not be protected far enough. "
                    "stop: an error. leave out: the photo is not in the output, the report says why, and the others go "
                    "on.",
                ),
                growing_input(
                    "surrogate",
                    tooltip="From Load FR Surrogate: whom to protect against. Without any, the three built-in "
                    "recognisers other than the judge.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Stable Diffusion 1.x, 2.x or SDXL, or Load Demo Model: for diffusion.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The VAE of the same checkpoint."),
                io.Conditioning.Input(
                    "conditioning", optional=True, tooltip="CLIP Text Encode with an empty text, or Load Demo Model's."
                ),
                io.Image.Input(
                    "other_photo",
                    optional=True,
                    tooltip="Another photo of you, never changed: the recognisers compare with it instead of with the "
                    "original, which is the better test.",
                ),
                FacesSocket.Input(
                    "faces", optional=True, tooltip="From Detect Faces. Without it the faces are detected here."
                ),
                io.BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    force_input=True,
                    tooltip="Boxes in pixels. With faces connected they choose among those; alone they are the faces.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="With faces or boxes connected it chooses those whose middle it covers; alone each of its "
                    "blobs is a face, and nothing outside it will change.",
                ),
                io.Image.Input("target", optional=True, tooltip="A face to look like, for synthetic and impersonate."),
                io.Image.Input(
                    "makeup",
                    optional=True,
                    tooltip="A photo of somebody with makeup: lips, eye shadow and skin are pulled towards its "
                    "colours, as far as the change goes. Without it no makeup.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The protected photos, in their own size."),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="Where a photo may have changed; where it is 0, pixels are bit-equal.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="For every photo and face: what the recognisers say before and after, or why it is not "
                    "protected.",
                ),
                SeenSocket.Output(
                    display_name="seen",
                    tooltip="The recognisers that it was protected against, for Verify Protection: they are no "
                    "evidence about others.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls,
        image,
        preset,
        way,
        judge,
        goal,
        size,
        which,
        numbers,
        on_failure,
        surrogates: io.Autogrow.Type = None,
        model=None,
        vae=None,
        conditioning=None,
        other_photo=None,
        faces=None,
        bboxes=None,
        mask=None,
        target=None,
        makeup=None,
    ) -> io.NodeOutput:
        require_untouched(cls.hidden, "image", WHERE)
        require_untouched(cls.hidden, "other_photo", f"{WHERE} (other photo)")
        way, models = _way(way, preset, model, vae, conditioning)
        models, taesd = host.with_installed_taesd(models, WHERE)
        size = host.crop_size(size, models[0] if models else None, WHERE)
        loaded, judging = _recognisers(surrogates, judge)
        wanted = numbers if which == "numbered" else which
        settings = replace(PRESETS[way][preset], size=size)
        recognisers = {
            "surrogates": [one.surrogate for one in loaded],
            "patchers": [one.patcher for one in (*loaded, *judging)],
        }
        with host.ready(*models, **recognisers, steps=settings.diffusion.depth, size=size, where=WHERE) as ready:
            photos = host.PhotosAtWork(image, WHERE)
            select = FaceSelector(photos, wanted, WHERE, faces=faces, bboxes=bboxes, mask=mask)
            progress, meter = host.PhotoProgress(len(photos), settings, cls.hidden.unique_id), Meter(photos.device)
            outcomes = protect_photos(
                _cut(photos, select, size, on_failure),
                ready.surrogates,
                settings,
                model=ready.diffusion,
                judge=judging[0].surrogate if judging else None,
                other=_other(other_photo),
                goal=goal,
                target=_target(goal, target),
                makeup=None if makeup is None else _one_face(makeup, "makeup"),
                schedule=ready.schedule,
                detector=select.detector,
                faces_per_batch=ready.faces_at_once,
                predictor=CostPredictor(),
                preview=True,
                on_step=progress,
            )
            results, said = [], []
            for outcome in outcomes:
                progress.finished += 1
                where = f"{WHERE}, image {progress.finished} of {len(photos)}"
                results.append(_accepted(outcome, where, preset, on_failure))
                said.append(f"Photo {progress.finished}: {_said_of(results[-1], where)}")
                progress.ended(results[-1])
            said += [words.scope(select.smallest), *_notes(models, taesd, model)]
            if progress.predicted:
                said.append(words.cost(total(progress.predicted), meter))
                logging.info("FaceProtect: %s", said[-1])
        report = "\n\n".join(said)
        host.show_on_node(cls.hidden.unique_id, report)
        return io.NodeOutput(*_outputs(results, image), report, tuple(loaded), ui=host.shown_text(report))


def _way(way: str, preset: str, model, vae, conditioning) -> tuple[str, tuple]:
    """The one that was chosen or follows, and the models that it needs."""
    models, names = (model, vae, conditioning), ("model", "vae", "conditioning")
    follows = LIGHT if model is None or preset not in PRESETS[DIFFUSION] else DIFFUSION
    chosen = follows if way == AUTOMATIC else way
    require(
        preset in PRESETS[chosen],
        f"{WHERE}: {chosen} has no preset {preset!r}",
        f"choose {', '.join(PRESETS[chosen])}; or the way light and shade",
    )
    missing = [name for name, one in zip(names, models, strict=True) if one is None]
    require(
        chosen != DIFFUSION or not missing,
        f"{WHERE}: the way through diffusion needs {' and '.join(missing)}, and nothing is connected there",
        "connect Load Demo Model (MODEL, VAE and CONDITIONING), or a checkpoint; or choose the way light and shade",
    )
    return chosen, models if chosen == DIFFUSION else ()


def _notes(models: tuple, taesd: str, model) -> list[str]:
    """What the user should know of the checkpoint that is connected, and of the small decoder, if one was used."""
    notes, file = [], host.file_of_model(models[0]) if models else ""
    if model is not None and not models:
        notes.append("Note: this was made by light and shade, without the model that is connected.")
    if file:
        notes.append(f"Note: the presets were measured with the built-in model, and not with {file!r}.")
        notes.append(host.warning_of(models[0]))
    if taesd:
        notes.append(f"Note: a small decoder ({taesd}) gave the gradient, to save time; see Performance Settings.")
    return [note for note in notes if note]


def _recognisers(surrogates: dict | None, judge: str) -> tuple[list, list]:
    """Those to protect against, and the judge, if there is one."""
    loaded = connected(surrogates) or [load(name) for name in BUILT_IN_SURROGATES if name != judge]
    judging = [] if judge == NO_JUDGE else [load(judge)]
    require_other_network(judging[0].surrogate if judging else None, [one.surrogate for one in loaded])
    return loaded, judging


def _other(photo) -> torch.Tensor | None:
    """[3, h, w]."""
    if photo is None:
        return None
    image = host.to_core_image(photo, f"{WHERE} (other photo)")
    require(len(image) == 1, f"{WHERE}: {len(image)} other photos are connected", "connect one other photo of you")
    return image[0]


def _cut(photos, select: FaceSelector, size: int, on_failure: str) -> Iterator[CutPhoto | ProtectionError]:
    """Each photo when it is needed. One whose faces cannot be cut ends the run, or is to be left out."""
    for index in range(len(photos)):
        try:
            selection = select(index)
            yield CutPhoto(photos[index], tuple(crop_selection(photos[index], selection, size)))
        except ProtectionError as error:
            if on_failure == STOP:
                raise
            yield error


def _accepted(
    outcome: PhotoResult | Exception, where: str, preset: str, on_failure: str
) -> PhotoResult | ProtectionError:
    """The result, where ComfyUI keeps results, or why the photo is left out. Whatever else goes wrong ends the run."""
    try:
        if isinstance(outcome, Exception):
            raise outcome
        _require_protected(outcome, where, preset)
        outcome = replace(outcome, image=host.at_rest(outcome.image), mask=host.at_rest(outcome.mask))
    except ProtectionError as error:
        if on_failure == STOP:
            raise
        return error
    return outcome


def _target(goal: str, target) -> torch.Tensor | None:
    """[1, 3, h, w]: whom to look like; to impersonate somebody, their photo has to be connected."""
    if goal == "dodge":
        return None
    require(
        goal == "synthetic" or target is not None,
        f"{WHERE}: the goal {goal!r} needs a photo of whom to look like, and no target is connected",
        "connect a photo to target, or choose another goal",
    )
    if target is None:
        return host.to_device(load_synthetic_target())
    return _one_face(target, "target")


def _one_face(photo, name: str) -> torch.Tensor:
    """[1, 3, h, w] of an input that takes one photo."""
    image = host.to_core_image(photo, f"{WHERE} ({name})")
    require(len(image) == 1, f"{WHERE}: {len(image)} photos are connected to {name}", "connect one with one face")
    return image


def _require_protected(result: PhotoResult, where: str, preset: str) -> None:
    failed = [f"face {n} is {words.verdict(face)}" for n, face in enumerate(result.faces) if not face.protected]
    require(
        not failed,
        f"{where}: {' '.join(failed)} Faces count from the left, starting at 0",
        "choose the preset strong"
        if preset != "strong"
        else "use a larger or sharper photo, or the blocks with more iterations",
    )


def _outputs(results: list, image) -> tuple:
    """The photos that are protected and their masks; without any, what follows does not run."""
    kept = [index for index, result in enumerate(results) if isinstance(result, PhotoResult)]
    if not kept:
        return host.nothing(), host.nothing()
    images = torch.stack([results[index].image for index in kept])
    masks = torch.stack([results[index].mask for index in kept])
    return host.to_comfy_image(images, like=image[kept]), host.to_comfy_image(masks)[..., 0]


def _said_of(result: PhotoResult | ProtectionError, where: str) -> str:
    if not isinstance(result, PhotoResult):
        reason = str(result).removeprefix(f"{where}: ")
        return f"{words.LEFT_OUT} {reason[:1].upper()}{reason[1:]}"
    seen = [crop.photo_face for crop in result.crops] + [face for crop in result.crops[:1] for face in crop.keep]
    return "\n\n".join(words.report(result.faces, seen))

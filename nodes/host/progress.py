"""ComfyUI's progress bar, preview and texts on a node."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import comfy.utils
import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer
from torch import Tensor

from ...faceprotect_core.photos import words
from ...faceprotect_core.photos.photo import PhotoResult
from ...faceprotect_core.photos.settings import LIGHT, PhotoSettings
from ...faceprotect_core.pixels import to_pixels
from ...faceprotect_core.progress import Step
from ...faceprotect_core.speed.cost import Cost, PredictedCost
from ...faceprotect_core.verify.drawing import font

PREVIEW_SIZE, CAPTION = 512, 40  # pixels: its longer side, and the line of text below it
BAR = 1000  # the length of the bar for whole photos
DECODING = 1.5  # time of decoding and embedding in an optimizer step, in steps through the U-Net; forward and backward


class Progress:
    """An on_step callback that moves ComfyUI's progress bar and shows the current image."""

    def __init__(self):
        self.bar = comfy.utils.ProgressBar(1)

    def __call__(self, event: Step, caption: str = "") -> None:
        preview = None if event.image is None else _preview(event.image, caption)
        self.bar.update_absolute(event.step, event.steps, preview)


class PhotoProgress:
    """Moves the bar through the faces of all photos, and says on the node what they cost and how long they take.

    finished: photos that are done, or left out. predicted: what those that were begun cost.
    """

    def __init__(self, photos: int, settings: PhotoSettings, node_id: str):
        self.photos, self.node_id, self.settings, self.stages = photos, node_id, settings, _stages(settings)
        self.finished = 0
        self.predicted: list[Cost] = []
        self.bar, self.said, self.at = Progress(), 0.0, 0
        self.begun: tuple[float, float] | None = None  # when the first step ended, and how many photos were done then
        self.text, self.preview = "", None

    def __call__(self, event: Step | PredictedCost) -> None:
        photos = f"{words.numbered('photo', self.finished + 1, event.photos)} of {self.photos}"
        if isinstance(event, PredictedCost):
            self.predicted.append(event.cost)
            logging.info("FaceProtect: %s: %s", photos, words.expected(event))
            self._say(f"{photos}: {words.expected(event)}")
        elif event.stage == "preview":
            self.preview = event.image
            begins = self.settings.head_start and event.image is not None
            self.stages = _stages(self.settings.after_head_start if begins else self.settings)
            self.bar(replace(event, step=self.at, steps=BAR), words.PREVIEW)
        elif event.attempt > 1:  # it has no share of the bar, and must still notice that the run is cancelled
            self.bar(replace(event, step=self.at, steps=BAR, image=None))
            self._say_sometimes(f"{photos}, {words.faces_at_work(event)}: {words.STILL_KNOWN}")
        else:
            done = self._done(event)
            self.at = round(BAR * done / self.photos)
            self._show(event)
            now = time.monotonic()
            begun, before = self.begun = self.begun or (now, done)
            if done - before >= 0.05:  # before that nothing is known
                left = (now - begun) / (done - before) * (self.photos - done)
                where = f"{photos}, {words.faces_at_work(event)} of {event.faces}"
                self._say_sometimes(f"{where}: {words.left(left)}")

    def ended(self, outcome: PhotoResult | Exception) -> None:
        """What became of the photo that was finished last takes the place of its preview; nothing of one left out."""
        done = isinstance(outcome, PhotoResult)
        picture = outcome.image[None] if done else torch.zeros(1, 3, 64, 64)
        verdict = words.photo_verdict(outcome.faces) if done else words.LEFT_OUT
        self.preview = None
        self.bar(Step("protection", self.at, BAR, image=picture), f"Photo {self.finished}: {verdict}")

    def _show(self, event: Step) -> None:
        """A long preset stands still at what instant would give: what it looks like on the way misleads."""
        if self.preview is None:
            self.bar(replace(event, step=self.at, steps=BAR), self.text)
        else:
            caption = ": ".join(filter(None, (words.PREVIEW, self.text)))
            self.bar(replace(event, step=self.at, steps=BAR, image=self.preview), caption)

    def _done(self, event: Step) -> float:
        """Of all photos, in photos."""
        begin, end = self.stages[event.stage]
        of_face = begin + (end - begin) * event.step / max(event.steps, 1)
        faces = event.face - event.at_once * (1 - of_face)
        return self.finished + event.photos * faces / event.faces

    def _say_sometimes(self, text: str) -> None:
        if time.monotonic() - self.said >= 1:
            self._say(text)

    def _say(self, text: str) -> None:
        self.said, self.text = time.monotonic(), text
        show_on_node(self.node_id, text)


def _stages(settings: PhotoSettings) -> dict[str, tuple[float, float]]:
    """Stage -> share of the time that is over when it begins, and when it ends; counted in steps through the U-Net."""
    if settings.way == LIGHT:
        return {"protection": (0.0, 1.0)}
    depth, stages, begin = settings.diffusion.depth, {}, 0.0
    steps = {
        "inversion": depth / 3,  # forward only
        "null_text": depth * settings.diffusion.null_text_iterations,
        "capture": depth / 3,
        "protection": (depth + DECODING) * settings.diffusion.iterations,
    }
    for stage, count in steps.items():
        end = begin + count / max(sum(steps.values()), 1)
        stages[stage] = (begin, min(end, 1.0))
        begin = end
    return stages


def nothing() -> ExecutionBlocker:
    """As an output: the nodes after this one do not run for it, and the rest of the workflow goes on."""
    return ExecutionBlocker(None)


def show_on_node(node_id: str, text: str) -> None:
    """Writes a text on the node itself, in the frontend that runs the workflow."""
    PromptServer.instance.send_progress_text(text, node_id)


def with_text(node_id: str, text: str, *results) -> io.NodeOutput:
    """The results of a node that shows a text: now, and wherever the workflow is opened later."""
    show_on_node(node_id, text)
    return io.NodeOutput(*results, ui=ui.PreviewText(text))


def _preview(image: Tensor, caption: str) -> tuple:
    """The first image [B, 3, H, W], with a line of text below it: an app shows no nodes, but it shows this."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(to_pixels(image[0]))
    if caption:
        width, height = (max(1, round(PREVIEW_SIZE * side / max(picture.size))) for side in picture.size)
        small, picture = picture.resize((width, height)), Image.new("RGB", (PREVIEW_SIZE, height + CAPTION))
        picture.paste(small, ((PREVIEW_SIZE - width) // 2, 0))
        place = (PREVIEW_SIZE / 2, height + CAPTION / 2)
        fits = (PREVIEW_SIZE - 12) / font(20).getlength(caption)
        ImageDraw.Draw(picture).text(place, caption, "white", font(min(20, int(20 * fits))), "mm")
    return ("JPEG", picture, PREVIEW_SIZE)

"""Verify Protection and Verify Robustness: does it work, and does it last? (core: verify/verification.py)"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..faceprotect_core.checks import errors_of, require
from ..faceprotect_core.faces import load_detector
from ..faceprotect_core.progress import OnStep
from ..faceprotect_core.verify.report_image import draw_report, draw_robustness
from ..faceprotect_core.verify.reports import RobustnessReport, Verification
from ..faceprotect_core.verify.robustness import processings
from ..faceprotect_core.verify.verification import verify_photo, verify_robustness
from . import host
from .faces import require_faces
from .sockets import CATEGORY, FacesSocket, ObjectiveData, ObjectiveSocket, SeenSocket, SurrogateData
from .surrogates import growing_input, loaded_or_built_in

PROTECTION, ROBUSTNESS = "Verify Protection", "Verify Robustness"
Seen = ObjectiveData | tuple[SurrogateData, ...] | None


class VerifyProtection(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectVerify",
            display_name=PROTECTION,
            category=CATEGORY,
            description="Does it work? Compares the protected photo with the original, or with another photo of the "
            "person, by recognisers that were not used to make it.",
            search_aliases=["faceprotect", "verify", "does it work", "face recognition", "evaluate", "privacy"],
            inputs=_inputs(),
            outputs=_outputs("before, after, difference, how visible it is, and each recogniser's bars"),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, original, protected, recognizers: io.Autogrow.Type = None, other=None, seen=None, faces=None
    ) -> io.NodeOutput:
        check = _Check(PROTECTION, original, protected, recognizers, other, seen, faces)
        with host.no_gradients(*check.patchers):
            results = [check(index, verify_photo) for index in range(len(check.originals))]
        reports = [draw_report(*check.pair(index), result) for index, result in enumerate(results)]
        return _answer(cls.hidden.unique_id, results, reports)


class VerifyRobustness(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceProtectVerifyRobustness",
            display_name=ROBUSTNESS,
            category=CATEGORY,
            description="Does the protection last? The same check after JPEG, blurring, filters, resizing, noise, a "
            "screenshot, fewer colours, and with a VAE or a model after purification.",
            search_aliases=["faceprotect", "robustness", "jpeg", "purification", "screenshot", "evaluate", "privacy"],
            inputs=[
                *_inputs(),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Adds a round trip through this VAE: the weakest purification."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Stable Diffusion 1.x, 2.x or SDXL. With vae and conditioning it adds diffusion "
                    "purification: "
                    "three of twenty DDIM steps there and back.",
                ),
                io.Conditioning.Input(
                    "conditioning", optional=True, tooltip="With model: CLIP Text Encode with an empty text."
                ),
            ],
            outputs=_outputs("processings down, recognisers across, coloured by how far past the threshold"),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        original,
        protected,
        recognizers: io.Autogrow.Type = None,
        other=None,
        seen=None,
        faces=None,
        vae=None,
        model=None,
        conditioning=None,
    ) -> io.NodeOutput:
        _require_whole(vae, model, conditioning)
        check = _Check(ROBUSTNESS, original, protected, recognizers, other, seen, faces)
        with host.ready(model, vae, conditioning, patchers=check.patchers, where=ROBUSTNESS) as ready:
            named = processings(ready.codec, ready.denoiser, ready.context, schedule=ready.schedule)
            progress, count = host.Progress(), len(check.originals)
            results = [
                check(index, verify_robustness, processings=named, on_step=_of_photo(progress, index, count))
                for index in range(count)
            ]
        return _answer(cls.hidden.unique_id, results, list(map(draw_robustness, results)))


def _inputs() -> list:
    return [
        io.Image.Input("original", tooltip="The photos before protection."),
        io.Image.Input("protected", tooltip="The same photos after it: the same number, the same size."),
        growing_input(
            "recognizer",
            tooltip="From Load FR Surrogate: whom to ask. Only those that were not used to make the protection are "
            "evidence. Without any, the four built-in ones.",
        ),
        io.Image.Input(
            "other",
            optional=True,
            tooltip="Another photo of the same person, one for all or one for each photo: the harder and more honest "
            "test. Only the face that resembles it is checked. Without it every face is compared with itself.",
        ),
        io.MultiType.Input(
            "seen",
            [ObjectiveSocket, SeenSocket],
            optional=True,
            tooltip="What was used to make the protection: the objective of FR Surrogate Loss, or seen of "
            "Protect Photo. Without it nothing is evidence, and the verdict says so.",
        ),
        FacesSocket.Input(
            "faces",
            optional=True,
            tooltip="From Detect Faces on the original, for small faces. Without it the faces are detected here.",
        ),
    ]


def _outputs(shows: str) -> list:
    return [
        io.Image.Output(display_name="report", tooltip=f"A picture for each photo: {shows}."),
        io.String.Output(display_name="verdict", tooltip="One or two sentences for each photo."),
        io.String.Output(display_name="table", tooltip="The numbers for each photo, as a Markdown table."),
        io.String.Output(display_name="json", tooltip="The same for programs: a JSON object with a list of photos."),
    ]


class _Check:
    """What is connected, checked and on the compute device; a call compares one photo."""

    def __init__(self, where: str, original, protected, recognizers: dict | None, other, seen: Seen, faces):
        self.where, self.faces = where, faces
        self.originals, self.protected = host.to_core_image(original, where), host.to_core_image(protected, where)
        self.others = None if other is None else host.to_core_image(other, f"{where} (other)")
        require_faces(faces, where)
        count = len(self.originals)
        for what, number, allowed in (
            ("protected photos", len(self.protected), (count,)),
            ("other photos", count if self.others is None else len(self.others), (1, count)),
            ("lists of faces", count if faces is None else len(faces), (count,)),
        ):
            require(
                number in allowed,
                f"{where}: {number} {what} are connected, and {count} originals",
                "connect as many as there are originals, in the same order",
            )
        loaded, (self.seen, patchers) = loaded_or_built_in(recognizers), _seen(seen)
        self.recognizers = [one.surrogate for one in loaded]
        self.patchers = tuple(dict.fromkeys([one.patcher for one in loaded] + patchers))
        self.detector = load_detector(self.originals.device)

    def __call__(self, index: int, verify: Callable, **options):
        """The verification of one photo; an error says of which."""
        other = None if self.others is None else self.others[index if len(self.others) > 1 else 0]
        with errors_of(f"{self.where}, photo {index + 1} of {len(self.originals)}"):
            return verify(
                *self.pair(index),
                self.recognizers,
                other=other,
                faces=None if self.faces is None else self.faces[index],
                seen=self.seen,
                detector=self.detector,
                **options,
            )

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        return self.originals[index], self.protected[index]


def _seen(seen: Seen) -> tuple[list | None, list]:
    """The networks that were in the loss, None if that is not known, and what moves them."""
    if seen is None:
        return None, []
    if isinstance(seen, ObjectiveData):
        return list(seen.objective.surrogates), list(seen.patchers)
    return [one.surrogate for one in seen], [one.patcher for one in seen]


def _require_whole(vae, model, conditioning) -> None:
    require(
        (model is None) == (conditioning is None),
        f"{ROBUSTNESS}: {'conditioning' if model is None else 'model'} is connected alone",
        "connect model and conditioning for diffusion purification, or neither",
    )
    require(
        model is None or vae is not None,
        f"{ROBUSTNESS}: a model is connected, and no vae",
        "connect the VAE of the same checkpoint",
    )


def _of_photo(progress: host.Progress, index: int, count: int) -> OnStep:
    """The steps of one of several photos, as steps of all."""
    return lambda event: progress(replace(event, step=index * event.steps + event.step, steps=event.steps * count))


def _answer(node_id: str, results: Sequence[Verification | RobustnessReport], reports: list[Tensor]) -> io.NodeOutput:
    # Nodes 2.0 reads this as markdown: a single line break would be lost there.
    verdict = "\n\n".join(_numbered(results, [result.verdict for result in results], ": "))
    table = "\n\n".join(_numbered(results, [result.table() for result in results], "\n\n"))
    found = json.dumps({"photos": [result.to_dict() for result in results]})
    return host.with_text(node_id, verdict, host.to_comfy_image(_stacked(reports)), verdict, table, found)


def _numbered(results: Sequence, texts: list[str], between: str) -> list[str]:
    if len(results) == 1:
        return texts
    return [f"Photo {number}{between}{text}" for number, text in enumerate(texts, start=1)]


def _stacked(pictures: list[Tensor]) -> Tensor:
    """Of one height: the lower ones get white paper below."""
    height = max(picture.shape[1] for picture in pictures)
    return torch.stack([F.pad(picture, (0, 0, 0, height - picture.shape[1]), value=1.0) for picture in pictures])

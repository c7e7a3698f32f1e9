"""What the changed image should look like to face recognition: somebody else (impersonate), nobody known (dodge), or
both."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .checks import require, require_image
from .faces import Face
from .surrogates import FRSurrogate

CropBox = tuple[float, float, float, float]
Faces = Face | Sequence[Face] | None


class IdentityObjective:
    """The identity loss over an ensemble of surrogates (the paper's adversarial loss).

    target only: impersonate, sum over surrogates of 1 - cos(x, target).
    source only: dodge, sum of -(1 - cos(x, source)).
    both: the published obfuscation loss, the sum of the two.

    surrogates: one or more FRSurrogate; each with its own input size, alignment and metric.
    target, source: images [1 or B, 3, H, W] in [0, 1]. They are embedded once, here.
    crop_box: (x0, y0, x1, y1) in pixels cuts the changed image only, as in the paper, rounded to whole pixels. Whoever
        wants source or target cropped passes them cropped.
    reduction: "sum" over the surrogates (the released weight 0.003 goes with it) or "mean" (the paper's formula).
    face, target_face, source_face: where the face is (see faces.detect_faces), for surrogates that align; one face, or
        one per image. Not together with crop_box.
    margin: None pushes on to the last iteration, as the paper does. A number stops pushing at a surrogate while it is
        past its verification threshold by that much, in its metric's units.
    """

    def __init__(
        self,
        surrogates: Sequence[FRSurrogate],
        target: Tensor | None = None,
        source: Tensor | None = None,
        crop_box: CropBox | None = None,
        reduction: Literal["sum", "mean"] = "sum",
        *,
        face: Faces = None,
        target_face: Faces = None,
        source_face: Faces = None,
        margin: float | None = None,
    ):
        _check(surrogates, target, source, crop_box, reduction, face)
        self.surrogates = tuple(surrogates)
        self.crop_box, self.face = crop_box, face
        self.reduction, self.margin = reduction, margin
        self.target = None if target is None else self._embed_all(target, target_face)
        self.source = None if source is None else self._embed_all(source, source_face)

    def __call__(self, image: Tensor) -> Tensor:
        """The loss of every image: [B, 3, H, W] in about [0, 1] -> [B], differentiable."""
        embeddings = self.embed(image)
        loss = sum(self._pull(index, x) + self._push(index, x) for index, x in enumerate(embeddings))
        return loss / len(self.surrogates) if self.reduction == "mean" else loss

    def embed(self, image: Tensor) -> list[Tensor]:
        """The changed image as every surrogate sees it: [B, 3, H, W] -> [B, D] per surrogate."""
        if self.crop_box is not None:
            x0, y0, x1, y1 = (round(value) for value in self.crop_box)
            image = image[:, :, max(y0, 0) : y1, max(x0, 0) : x1]
            require(
                image.shape[2] > 0 and image.shape[3] > 0,
                f"FR Surrogate Loss: the crop box {self.crop_box} lies outside the image",
                "give the box in pixels of the image that is protected, as x0, y0, x1, y1",
            )
        return [surrogate.embed(image, self.face) for surrogate in self.surrogates]

    @torch.no_grad()
    def report(self, image: Tensor) -> dict[str, dict]:
        """Per surrogate: metric, threshold, and for source and target the similarity and the verdict per image.

        These surrogates were optimised against: the verdicts are no evidence about other recognisers.
        """
        found = {}
        references = {"source": self.source, "target": self.target}
        for index, (surrogate, x) in enumerate(zip(self.surrogates, self.embed(image), strict=True)):
            known = surrogate.default_threshold is not None or surrogate.thresholds
            entry = {"metric": surrogate.metric, "threshold": surrogate.threshold() if known else None}
            for name, reference in references.items():
                if reference is not None:
                    entry[name] = surrogate.similarity(x, reference[index]).tolist()
                    entry[f"matches_{name}"] = surrogate.is_match(x, reference[index]).tolist() if known else None
            found[f"{index + 1}. {surrogate.name}"] = entry
        return found

    @torch.no_grad()
    def _embed_all(self, image: Tensor, face: Faces) -> list[Tensor]:
        return [surrogate.embed(image, face).detach() for surrogate in self.surrogates]

    def _pull(self, index: int, x: Tensor) -> Tensor | float:
        """1 - cos(x, target)."""
        if self.target is None:
            return 0.0
        surrogate, target = self.surrogates[index], self.target[index]
        loss = 1.0 - surrogate.cosine(x, target)
        return loss if self.margin is None else _until(-surrogate.margin(x, target) >= self.margin, loss)

    def _push(self, index: int, x: Tensor) -> Tensor | float:
        """-(1 - cos(x, source))."""
        if self.source is None:
            return 0.0
        surrogate, source = self.surrogates[index], self.source[index]
        loss = surrogate.cosine(x, source) - 1.0
        return loss if self.margin is None else _until(surrogate.margin(x, source) >= self.margin, loss)


def _until(reached: Tensor, loss: Tensor) -> Tensor:
    """The same value, without a gradient where the goal is reached."""
    return torch.where(reached, loss.detach(), loss)


def _check(surrogates, target, source, crop_box, reduction, face) -> None:
    where = "FR Surrogate Loss"
    require(len(surrogates) > 0, f"{where}: no surrogate is connected", "connect at least one Load FR Surrogate")
    require(
        target is not None or source is not None,
        f"{where}: neither a source nor a target image is connected",
        "connect the photo itself as source to be recognised no longer (dodge), or a target image to impersonate",
    )
    for image in (target, source):
        if image is not None:
            require_image(image, where)
    require(reduction in ("sum", "mean"), f'{where}: reduction must be "sum" or "mean", got {reduction!r}', 'use "sum"')
    require(
        crop_box is None or face is None,
        f"{where}: a crop box and a face are both given",
        "give the crop box to repeat the paper, the face otherwise",
    )

"""What the changed image should look like to face recognition: somebody else (impersonate), nobody known (dodge), or
both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import given, require, require_image
from ..faces import Face
from ..surrogates import FRSurrogate
from .views import AlignmentJitter

WHERE = "FR Surrogate Loss"
LEAD = 2.6  # a surrogate that has just reached the margin is still pushed with sigmoid(2.6) = 93 % of the force
Goal = Literal["dodge", "synthetic", "impersonate"]
CropBox = tuple[float, float, float, float]
Faces = Face | Sequence[Face] | None


class IdentityObjective:
    """The identity loss over an ensemble of surrogates (the paper's adversarial loss).

    With a target only it impersonates: the sum over surrogates of 1 - cos(x, target). With a source only it dodges: the
    sum of -(1 - cos(x, source)). With both it is the published obfuscation loss, the sum of the two.

    The arguments from `jitter` on help against recognisers that were not seen, and are off unless asked for, so that
    the paper stays the paper.

    Args:
        surrogates: one or more FRSurrogate; each with its own input size, alignment and metric.
        target: images [1 or B, 3, H, W] in [0, 1], embedded once, here.
        source: the same.
        crop_box: (x0, y0, x1, y1) in pixels cuts the changed image only, as in the paper, rounded to whole pixels.
            Whoever wants source or target cropped passes them cropped.
        reduction: "sum" over the surrogates (the released weight 0.003 goes with it) or "mean" (the paper's formula).
        face: where the face is (see `detect_faces`), for surrogates that align; one, or one per image. Not together
            with crop_box.
        target_face: the same in the target.
        source_face: the same in the source.
        margin: None pushes on to the last iteration, as the paper does. A number stops pushing at a surrogate while it
            is past its verification threshold by that much, in its metric's units.
        jitter: the loss is the mean over slightly wrong alignments, other ones in each iteration; needs a face.
        steepness: 0 stops pushing where the margin is reached. Above 0 a surrogate's loss is
            softplus(steepness * (margin - how far past its threshold) + LEAD) / steepness, so that those that are
            behind count more, and pushing eases off beyond the margin.
        weights: one number per surrogate that its loss is multiplied by.
        average_targets: the target images [N, 3, H, W] all show one person, and the mean of their embeddings is the
            target (the template of the IJB protocols).

    Raises:
        ProtectionError: neither source nor target, wrong shapes, or arguments that exclude each other.
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
        jitter: AlignmentJitter | None = None,
        steepness: float = 0.0,
        weights: Sequence[float] | None = None,
        average_targets: bool = False,
    ):
        _check(surrogates, target, source, crop_box, reduction, face)
        _check_ensemble(surrogates, margin, weights, steepness, face, jitter)
        self.surrogates = tuple(surrogates)
        self.crop_box, self.face = crop_box, face
        self.reduction, self.margin = reduction, margin
        self.weights, self.jitter, self.steepness = weights, jitter or AlignmentJitter(), steepness
        self.beside: tuple[tuple[Callable[[Tensor], Tensor], float], ...] = ()
        self.target = None if target is None else self._embed_all(target, target_face)
        self.source = None if source is None else self._embed_all(source, source_face)
        if average_targets and self.target is not None:
            self.target = [one.average(x) for one, x in zip(self.surrogates, self.target, strict=True)]

    def __call__(self, image: Tensor, iteration: int = 0) -> Tensor:
        """The loss of every image: [B, 3, H, W] in about [0, 1] -> [B], differentiable.

        iteration: which of the alignments to look through; without jitter it makes no difference.
        """
        views = self._views(image, iteration)
        losses = torch.stack([self._loss(k, [view[k] for view in views]) for k in range(len(self.surrogates))])
        weights = None if self.weights is None else torch.tensor(self.weights).to(losses)[:, None]
        loss = (losses if weights is None else weights * losses).sum(0)
        loss = loss / len(self.surrogates) if self.reduction == "mean" else loss
        for other, weight in self.beside:
            loss = loss + weight * other(image)
        return loss

    @property
    def weight(self) -> float:
        """Of all surrogates together: what the other losses of an optimiser are weighed against."""
        weights = [1.0] * len(self.surrogates) if self.weights is None else self.weights
        return sum(weights) / (len(self.surrogates) if self.reduction == "mean" else 1)

    def at(self, iteration: int) -> Callable[[Tensor], Tensor]:
        """The loss of one iteration of an optimiser."""
        return partial(self, iteration=iteration)

    def through(self, surrogates: Sequence[FRSurrogate]) -> IdentityObjective:
        """The same, seen through other copies of its networks."""
        other = copy.copy(self)
        other.surrogates = tuple(surrogates)
        return other

    def plus(self, other: Callable[[Tensor], Tensor], weight: float) -> IdentityObjective:
        """The same with weight * other(image) [B] added to its loss, as of makeup; what is reached stays the same."""
        added = copy.copy(self)
        added.beside = (*self.beside, (other, weight))
        return added

    @torch.no_grad()
    def reached(self, image: Tensor) -> Tensor:
        """[B] of bool: every surrogate is past its threshold by the margin on the image itself."""
        margin = given(
            self.margin,
            f"{WHERE}: there is no margin, and so nothing that could be reached",
            "switch stop_at_margin on, or early_stop of the optimizer off",
        )
        return self.past(image, margin) >= margin

    def embed(self, image: Tensor) -> list[Tensor]:
        """The changed image, as every surrogate sees it: [B, 3, H, W] -> [B, D] per surrogate."""
        image = self._cropped(image)
        return [surrogate.embed(image, self.face) for surrogate in self.surrogates]

    def _cropped(self, image: Tensor) -> Tensor:
        if self.crop_box is not None:
            x0, y0, x1, y1 = (round(value) for value in self.crop_box)
            image = image[:, :, max(y0, 0) : y1, max(x0, 0) : x1]
            require(
                image.shape[2] > 0 and image.shape[3] > 0,
                f"FR Surrogate Loss: the crop box {self.crop_box} lies outside the image",
                "give the box in pixels of the image that is protected, as x0, y0, x1, y1",
            )
        return image

    def _views(self, image: Tensor, iteration: int) -> list[list[Tensor]]:
        """What every surrogate sees in this iteration, once for each alignment.

        With jitter every other view is mirrored, since recognisers average a face with its mirror image.
        """
        if self.face is None or not self.jitter.copies:
            return [self.embed(image)]
        return [
            [
                one.embed(image, self.jitter(self.face, iteration, k, copy), mirrored=(iteration + k + copy) % 2 == 1)
                for k, one in enumerate(self.surrogates)
            ]
            for copy in range(self.jitter.copies)
        ]

    @torch.no_grad()
    def report(self, image: Tensor) -> dict[str, dict]:
        """Per surrogate: metric, threshold, and for source and target the similarity and the verdict per image.

        These surrogates were optimised against: the verdicts are no evidence about other recognisers.
        """
        found = {}
        references = {"source": self.source, "target": self.target}
        for index, (surrogate, x) in enumerate(zip(self.surrogates, self.embed(image), strict=True)):
            known = surrogate.has_threshold
            entry: dict[str, object] = {
                "metric": surrogate.metric,
                "threshold": surrogate.threshold() if known else None,
            }
            for name, reference in references.items():
                if reference is not None:
                    entry[name] = surrogate.similarity(x, reference[index]).tolist()
                    entry[f"matches_{name}"] = surrogate.is_match(x, reference[index]).tolist() if known else None
            found[f"{index + 1}. {surrogate.name}"] = entry
        return found

    @torch.no_grad()
    def _embed_all(self, image: Tensor, face: Faces) -> list[Tensor]:
        return [surrogate.embed(image, face).detach() for surrogate in self.surrogates]

    def _loss(self, index: int, views: Sequence[Tensor]) -> Tensor:
        """The mean over what a surrogate sees through the alignments."""
        first, *others = (self._pull(index, x) + self._push(index, x) for x in views)
        return sum(others, first) / len(views)

    @torch.no_grad()
    def past(self, image: Tensor, wanted: float = float("-inf")) -> Tensor:
        """[B]: how far the least-fooled surrogate is past its threshold on the image itself, in its metric's units.

        With jitter on its mirror image, too. Where there are weights, the surrogates that weigh most, as those do that
        are hard to fool, are asked first, and once no image is past by as much as is wanted, the others are not asked.
        """
        image, past = self._cropped(image), image.new_full((len(image),), float("inf"))
        weights = self.weights or [1.0] * len(self.surrogates)
        wanted = float("-inf") if self.weights is None else wanted
        for k in sorted(range(len(weights)), key=lambda one: -weights[one]):
            if self.jitter.copies:
                seen = self.surrogates[k].embed_both_ways(image, self.face).unbind()
            else:
                seen = (self.surrogates[k].embed(image, self.face),)
            past = torch.minimum(past, torch.stack([-self._behind(k, x) for x in seen]).amin(0))
            if bool((past < wanted).all()):
                break
        return past

    def _behind(self, index: int, x: Tensor) -> Tensor:
        """[B]: how far a surrogate is from being past its thresholds, in its metric's units; negative when it is past.

        A surrogate without a threshold is measured from a cosine of 0.
        """
        surrogate = self.surrogates[index]
        behind = []
        if self.source is not None:
            behind.append(-_margin(surrogate, x, self.source[index]))
        if self.target is not None:
            behind.append(_margin(surrogate, x, self.target[index]))
        return torch.stack(behind).amax(0)

    def _pull(self, index: int, x: Tensor) -> Tensor:
        """1 - cos(x, target)."""
        if self.target is None:
            return x.new_zeros(len(x))
        surrogate, target = self.surrogates[index], self.target[index]
        return self._until(lambda: 1.0 - surrogate.cosine(x, target), lambda: -_margin(surrogate, x, target))

    def _push(self, index: int, x: Tensor) -> Tensor:
        """-(1 - cos(x, source))."""
        if self.source is None:
            return x.new_zeros(len(x))
        surrogate, source = self.surrogates[index], self.source[index]
        return self._until(lambda: surrogate.cosine(x, source) - 1.0, lambda: _margin(surrogate, x, source))

    def _until(self, loss: Callable[[], Tensor], past: Callable[[], Tensor]) -> Tensor:
        """The paper's loss, or what it is with a margin."""
        if self.margin is None:
            return loss()
        if self.steepness:
            return F.softplus(self.steepness * (self.margin - past()) + LEAD) / self.steepness
        value = loss()
        return torch.where(past() >= self.margin, value.detach(), value)  # the same value, without a gradient


def _margin(surrogate: FRSurrogate, a: Tensor, b: Tensor) -> Tensor:
    return surrogate.margin(a, b) if surrogate.has_threshold else -surrogate.cosine(a, b)


def _check(surrogates, target, source, crop_box, reduction, face) -> None:
    require(len(surrogates) > 0, f"{WHERE}: no surrogate is connected", "connect at least one Load FR Surrogate")
    require(
        target is not None or source is not None,
        f"{WHERE}: neither a source nor a target image is connected",
        "connect the photo itself as source to be recognised no longer (dodge), or a target image to impersonate",
    )
    for image in (target, source):
        if image is not None:
            require_image(image, WHERE)
    require(reduction in ("sum", "mean"), f'{WHERE}: reduction must be "sum" or "mean", got {reduction!r}', 'use "sum"')
    require(
        crop_box is None or face is None,
        f"{WHERE}: a crop box and a face are both given",
        "give the crop box to repeat the paper, the face otherwise",
    )


def _check_ensemble(surrogates, margin, weights, steepness: float, face, jitter: AlignmentJitter | None) -> None:
    unknown = [surrogate.name for surrogate in surrogates if not surrogate.has_threshold]
    require(
        margin is None or not unknown,
        f"{WHERE}: no threshold is known for {', '.join(unknown)}, and a margin counts from the threshold",
        "give the network's threshold in Load FR Surrogate, or switch stop_at_margin off",
    )
    require(
        weights is None or (len(weights) == len(surrogates) and all(0 <= one < float("inf") for one in weights)),
        f"{WHERE}: the weights are {list(weights or [])}, for {len(surrogates)} surrogates",
        "give one number that is not negative for each surrogate, or none at all",
    )
    require(weights is None or any(weights), f"{WHERE}: all weights are 0", "give one surrogate a weight above 0")
    require(
        steepness == 0 or (0 < steepness < float("inf") and margin is not None),
        f"{WHERE}: steepness is {steepness}, and the margin past the thresholds {margin}",
        "use 0, or about 6 together with a margin past the thresholds",
    )
    require(
        jitter is None or not jitter.copies or face is not None,
        f"{WHERE}: jitter moves the alignment, and there is no face to align",
        "connect the face, from Detect Faces, or switch jitter off",
    )

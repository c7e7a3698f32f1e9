"""FRSurrogate: a face recognition (FR) network with all that a caller must know to use it right."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import require
from ..faces import Face, align_face
from .metric import METRICS

COLOUR_ORDERS = ("RGB", "BGR")
STEP_COUNTER = "num_batches_tracked"  # BatchNorm counts its training steps here; nothing reads it


@dataclass(frozen=True, eq=False)
class FRSurrogate:
    """A face recognition network, its input, its metric and its verification thresholds.

    The module is used in evaluation mode with frozen parameters; a module that is not already so is copied, never
    changed. Gradients flow to the image.

    Args:
        module: [B, 3, input_size, input_size] in `colour_order` and `value_range` -> embeddings [B, D], normalised or
            not; a cosine always normalises them.
        input_size: width and height of the module's input in pixels.
        name: for messages and reports.
        metric: "cosine" or "euclidean", a name of `metric.METRICS`, which knows the direction.
        thresholds: false accept rate (FAR) -> threshold, in the metric's units.
        thresholds_source: who measured them, on what.
        default_threshold: the threshold when no FAR is asked for; None takes the threshold at FAR 0.01.
        embedding_mean: [D], subtracted before a cosine, for networks whose embeddings share a large mean; None for 0.
        template: how `embed` aligns a face: a name of `faces.TEMPLATES`, or "box" for the upright face box.
        colour_order: "RGB" or "BGR", as the module wants it; `embed` takes RGB.
        value_range: (lowest, highest) pixel value that the module wants; `embed` takes [0, 1].
        source: where the weights come from.
        licence: what the weights may be used for.
    """

    module: Callable[[Tensor], Tensor]
    input_size: int = 112
    _: KW_ONLY
    name: str = "surrogate"
    metric: str = "cosine"
    thresholds: Mapping[float, float] = field(default_factory=dict)
    default_threshold: float | None = None
    embedding_mean: Tensor | None = field(default=None, repr=False)
    template: str = "box"
    source: str = ""
    thresholds_source: str = ""
    colour_order: str = "RGB"
    value_range: tuple[float, float] = (-1.0, 1.0)
    licence: str = ""

    def __post_init__(self):
        for name, known in (("metric", (*METRICS,)), ("colour_order", COLOUR_ORDERS)):
            value = getattr(self, name)
            require(value in known, f"FRSurrogate {self.name}: {name} is {value!r}", f"use one of {known}")
        object.__setattr__(self, "thresholds", dict(self.thresholds))
        object.__setattr__(self, "module", _frozen(self.module))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FRSurrogate:
        """The same surrogate on another device or in another dtype, as a new object; this one stays as it is."""
        with torch.inference_mode(False):
            module = self.module
            if isinstance(module, nn.Module):
                module = copy.deepcopy(module).to(device=device, dtype=dtype)
            mean = self.embedding_mean
            return replace(
                self, module=module, embedding_mean=None if mean is None else mean.to(device=device, dtype=dtype)
            )

    def embed(self, image: Tensor, face: Face | Sequence[Face] | None = None, *, mirrored: bool = False) -> Tensor:
        """The embedding of each image, differentiable in the image.

        Args:
            image: [B, 3, H, W], RGB in [0, 1]; not clamped. Cast to the module's dtype.
            face: one face for all images or one per image: aligned to the template, antialiased. None: the whole
                image, resized as in the paper (bilinear, align_corners False, no antialiasing).
            mirrored: left and right exchanged, as many recognisers look at a face besides.

        Returns:
            [B, D], as the module gives it.
        """
        chip = self._chip(image, face)
        return self._embed_chip(chip.flip(3) if mirrored else chip)

    def embed_both_ways(self, image: Tensor, face: Face | Sequence[Face] | None = None) -> Tensor:
        """[2, B, D]: the embedding of each image as it is, and mirrored; the same as `embed` twice, for less."""
        chip = self._chip(image, face)
        embeddings = self._embed_chip(torch.cat([chip, chip.flip(3)]))
        return embeddings.unflatten(0, (2, len(chip)))

    def _chip(self, image: Tensor, face: Face | Sequence[Face] | None) -> Tensor:
        """[B, 3, input_size, input_size]: what of an image the module is to see, RGB in [0, 1]."""
        require(
            image.ndim == 4 and image.shape[1] == 3,
            f"FRSurrogate {self.name}: image has shape {tuple(image.shape)}, expected [B, 3, H, W]",
            "add a batch axis to one image; drop alpha, repeat grey three times",
        )
        image = image.to(self._dtype(image.dtype))
        if face is None:
            size = (self.input_size, self.input_size)
            return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        return align_face(image, face, self.template, self.input_size)

    def _embed_chip(self, chip: Tensor) -> Tensor:
        low, high = self.value_range
        chip = chip * (high - low) + low
        return self.module(chip if self.colour_order == "RGB" else chip.flip(1))

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine of embeddings [B, D] and [B or 1, D], less `embedding_mean` where there is one -> [B] in [-1, 1]."""
        if self.embedding_mean is not None:
            a, b = a - self.embedding_mean.to(a), b - self.embedding_mean.to(b)
        return F.cosine_similarity(a, b, dim=-1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Euclidean distance of embeddings [B, D] and [B or 1, D] -> [B], at least 0."""
        return torch.linalg.vector_norm(a - b, dim=-1)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """The metric's own value -> [B]: a cosine (higher is more alike) or a distance (LOWER is more alike).

        Compare it with `thresholds[far]`, or let `is_match` and `margin` see to the direction.
        """
        return self.cosine(a, b) if METRICS[self.metric].angular else self.distance(a, b)

    def average(self, embeddings: Tensor) -> Tensor:
        """One embedding for several photos of one person: [N, D] -> [1, D], for a cosine the mean of directions."""
        if not METRICS[self.metric].angular:
            return embeddings.mean(0, keepdim=True)
        mean = 0.0 if self.embedding_mean is None else self.embedding_mean.to(embeddings)
        return F.normalize(embeddings - mean, dim=-1).mean(0, keepdim=True) + mean

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the network: the classes of its layers, and its tensors. Not of its name, threshold,
        alignment or device: one network has one fingerprint, whichever file it comes from.

        Floating-point tensors count in float32; another rounding of the weights has another fingerprint. A module
        without tensors (a function) is told by its identity, which holds while it lives.
        """
        return _fingerprint(self.module)

    @property
    def has_threshold(self) -> bool:
        """Whether `threshold`, `margin` and `is_match` have something to go by."""
        return self.default_threshold is not None or 0.01 in self.thresholds

    def threshold(self, far: float | None = None) -> float:
        """The verification threshold at a false accept rate, in the metric's units; None for the default one."""
        if far is None and self.default_threshold is not None:
            return self.default_threshold
        wanted = 0.01 if far is None else far
        require(
            wanted in self.thresholds,
            f"FRSurrogate {self.name}: no threshold for a false accept rate of {wanted}",
            f"use one of {list(self.thresholds)}, or pass thresholds={{{wanted}: ...}}",
        )
        return self.thresholds[wanted]

    def margin(self, a: Tensor, b: Tensor, far: float | None = None) -> Tensor:
        """How far a pair lies past the threshold -> [B], differentiable, in the metric's units.

        Positive: no longer the same person to this network. Negative: still a match. Its hinge drives a pair across.
        """
        return METRICS[self.metric].margin(self.similarity(a, b), self.threshold(far))

    def is_match(self, a: Tensor, b: Tensor, far: float | None = None) -> Tensor:
        """Whether the network takes the two for the same person -> [B] of bool: beyond the threshold, strictly."""
        return METRICS[self.metric].is_match(self.similarity(a, b), self.threshold(far))

    def _dtype(self, fallback: torch.dtype) -> torch.dtype:
        """The dtype of the module's weights; the image's own for a module without any."""
        if isinstance(self.module, nn.Module):
            return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), fallback)
        return fallback


def _frozen(module: Callable) -> Callable:
    """The module in evaluation mode with frozen parameters: itself where it is so already, else a copy."""
    if not isinstance(module, nn.Module):
        return module
    if not any(part.training for part in module.modules()) and not any(p.requires_grad for p in module.parameters()):
        return module
    with torch.inference_mode(False):
        return copy.deepcopy(module).eval().requires_grad_(False)


def _fingerprint(module: Callable) -> str:
    digest = hashlib.sha256()
    if not isinstance(module, nn.Module) or not (tensors := module.state_dict()):
        kind = module if hasattr(module, "__qualname__") else type(module)
        return hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {id(module)}".encode()).hexdigest()
    for name, part in module.named_modules():
        digest.update(f"{name}: {type(part).__qualname__}\n".encode())
    for name in sorted(tensors):
        if name.endswith(STEP_COUNTER):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

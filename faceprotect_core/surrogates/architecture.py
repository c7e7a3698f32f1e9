"""What a file's tensors turn out to be: a network of a known kind, and how it wants its faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

# Who measured the thresholds of the recognisers in the package: `python -m faceprotect_core.evaluation.recognition`.
MEASURED = "450 CelebA-HQ pairs, this face stack end to end"


@dataclass(frozen=True)
class Architecture:
    """A known kind of face recognition network.

    Args:
        name: for messages and reports.
        build: makes the empty network, whose state dictionary has the names of the weights file; [B, 3, input_size,
            input_size] in `colour_order` and `value_range` -> [B, D].
        input_size: width and height of the network's input in pixels.
        template: how a face is aligned for it, a name of `faces.TEMPLATES`.
        thresholds: false accept rate -> cosine above which two photos show the same person. They belong to the weights
            that thresholds_source names; other weights of this kind may need others.
        thresholds_source: who measured them, on what.
        ignored: first parts of the names of tensors that may be in the file and are not needed.
        colour_order: "RGB" or "BGR".
        value_range: (lowest, highest) pixel value.
        source: where such weights come from.
        licence: what they may be used for.
        tensors: names and shapes by which a file is told to be of this kind; there may be more.
    """

    name: str
    build: Callable[[], nn.Module]
    input_size: int = 112
    template: str = "arcface_112"
    thresholds: Mapping[float, float] = field(default_factory=dict)
    thresholds_source: str = ""
    ignored: tuple[str, ...] = ()
    colour_order: str = "RGB"
    value_range: tuple[float, float] = (-1.0, 1.0)
    source: str = ""
    licence: str = ""
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def recognise(self, shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
        """Itself, if a file with tensors of these names and shapes is of this kind."""
        fits = all(shapes.get(name) == shape for name, shape in self.tensors.items())
        return self if self.tensors and fits else None

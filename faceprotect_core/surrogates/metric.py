"""How two embeddings are compared: the only place that knows whether higher or lower is more alike.

Everybody else asks `METRICS[name]`: how far past a threshold, is it the same person, in which words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value", float, Tensor)


@dataclass(frozen=True)
class Metric:
    """A metric's range, direction and words.

    word: what its value is called. angular: only the directions of embeddings count, not their lengths.
    """

    word: str
    lowest: float
    highest: float
    higher_is_alike: bool
    angular: bool

    def alike(self, value: Value) -> Value:
        """The value turned so that higher is more alike; turned twice it is itself again."""
        return value if self.higher_is_alike else -value

    @property
    def side(self) -> str:
        """Of a threshold, the side on which two photos show the same person."""
        return "above" if self.higher_is_alike else "below"

    @property
    def direction(self) -> str:
        """For people who see two values."""
        return f"{'higher' if self.higher_is_alike else 'lower'} is more alike"

    def margin(self, value: Value, threshold: float) -> Value:
        """How far past the threshold, in the metric's units: positive for strangers, negative for the same person."""
        return self.alike(threshold) - self.alike(value)

    def past(self, threshold: float, margin: float) -> float:
        """The value that lies past the threshold by a margin."""
        return self.alike(self.alike(threshold) - margin)

    def is_match(self, value, threshold: float):
        """Whether it is the same person: beyond the threshold, strictly, as false accept rates are counted."""
        return self.margin(value, threshold) < 0

    def may_match(self, value: float, threshold: float) -> bool:
        """Whether a verdict calls it the same person: on the threshold too, and where the value is no number."""
        return not self.margin(value, threshold) > 0

    def most_alike(self, values: Tensor, dim: int | tuple[int, ...] = ()) -> Tensor:
        """The value of the most alike pair, over a dimension or over all of them."""
        return self.alike(self.alike(values).amax(dim))

    def least_alike(self, values: Tensor, dim: int | tuple[int, ...] = ()) -> Tensor:
        """The value of the least alike pair, over a dimension or over all of them."""
        return self.alike(self.alike(values).amin(dim))


METRICS = {
    "cosine": Metric("similarity", -1.0, 1.0, higher_is_alike=True, angular=True),
    "euclidean": Metric("distance", 0.0, math.inf, higher_is_alike=False, angular=False),
}

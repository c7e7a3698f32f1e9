"""The layers of a fused IResNet as an ONNX file describes them: shapes first, copies of the tensors only when asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import require
from ..networks.iresnet import EPSILON, fold_batch_norm
from ..weights_file import DOWNLOAD_AGAIN
from .graph import Constant


@dataclass(frozen=True)
class Norm:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, each of them [C]."""

    parts: tuple[Constant, ...]
    epsilon: float

    @property
    def channels(self) -> int:
        return self.parts[0].shape[0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(zip(("weight", "bias", "running_mean", "running_var"), (c.shape for c in self.parts), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """For the network's own epsilon: another one of the file goes into the weight."""
        gamma, beta, mean, variance = self.read()
        weight = gamma.double() * ((variance.double() + EPSILON) / (variance.double() + self.epsilon)).sqrt()
        return {"weight": weight.float(), "bias": beta, "running_mean": mean, "running_var": variance}

    def read(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gamma, beta, mean, variance = (constant.read() for constant in self.parts)
        where = self.parts[3]
        require(
            bool((variance >= 0).all()) and self.epsilon > 0,
            f"{where.where}: the variances {where.proto.name!r} are negative, or their epsilon {self.epsilon} is not "
            "positive",
            DOWNLOAD_AGAIN,
        )
        return gamma, beta, mean, variance


@dataclass(frozen=True)
class Convolution:
    """A convolution with the normalisation after it, if any, and a number that its input is multiplied by."""

    weight: Constant
    bias: Constant | None
    norm: Norm | None
    stride: int
    input_scale: float = 1.0

    @property
    def channels(self) -> int:
        return self.weight.shape[0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": self.weight.shape, "bias": (self.channels,)}

    def tensors(self) -> dict[str, Tensor]:
        weight = self.weight.read() * self.input_scale
        bias = torch.zeros(self.channels) if self.bias is None else self.bias.read()
        if self.norm is not None:
            weight, bias = fold_batch_norm(weight, bias, *self.norm.read(), self.norm.epsilon)
        return {"weight": weight.float(), "bias": bias.float()}


@dataclass(frozen=True)
class PRelu:
    """x where it is positive, slope * x elsewhere.

    Args:
        slope: [C], whatever axes of length 1 the file adds.
        channels: C.
    """

    slope: Constant
    channels: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.channels,)}

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.slope.read().flatten()}


@dataclass(frozen=True)
class Linear:
    """A fully connected layer.

    Args:
        weight: [out, in], or [in, out] where `transposed`.
        bias: [out] or [1, out]; None for none.
        transposed: how the weight lies in the file.
    """

    weight: Constant
    bias: Constant | None
    transposed: bool

    @property
    def outputs(self) -> int:
        return self.weight.shape[-1 if self.transposed else 0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shape = self.weight.shape[::-1] if self.transposed else self.weight.shape
        return {"weight": shape, "bias": (self.outputs,)}

    def tensors(self) -> dict[str, Tensor]:
        weight = self.weight.read()
        weight = weight.T.contiguous() if self.transposed else weight
        bias = torch.zeros(self.outputs) if self.bias is None else self.bias.read().flatten()
        return {"weight": weight, "bias": bias}


Layer = Norm | Convolution | PRelu | Linear

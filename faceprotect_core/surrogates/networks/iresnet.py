"""IResNet: the ArcFace ResNets of InsightFace's arcface_torch (w600k_r50, glintr100 and their like).

Deng et al., "ArcFace" (2019), with the units of Duta et al., "Improved Residual Networks" (2020), as published in
recognition/arcface_torch/backbones/iresnet.py. The ONNX files of the InsightFace packs hold the fused form: every
normalisation that follows a convolution is folded into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..architecture import Architecture

# depth -> units of each stage; the stages' channels
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
CHANNELS = (64, 128, 256, 512)
EMBEDDING_DIM = 512
EPSILON = 1e-5
LICENCE = (
    "InsightFace's own weights (buffalo, antelope, arcface_torch): non-commercial research only; AuraFace's glintr100: "
    "Apache-2.0. The file does not tell which it is: check where yours comes from"
)


class Unit(nn.Module):
    """Two 3 x 3 convolutions, the second with the stride, beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, fused: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in, eps=EPSILON)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=fused)
        self.bn2 = _folded_norm(channels_out, fused)
        self.prelu = nn.PReLU(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride, padding=1, bias=fused)
        self.bn3 = _folded_norm(channels_out, fused)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=fused)
            self.downsample = nn.Sequential(convolution, _folded_norm(channels_out, fused))

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


class IResNet(nn.Module):
    """RGB in [-1, 1], [B, 3, 112, 112] -> embeddings [B, 512], not normalised.

    Args:
        units: how many units each of the four stages has.
        channels: of each stage.
        fused: normalisations that follow a convolution are folded into it, which then has a bias.
    """

    def __init__(self, units: Sequence[int], channels: Sequence[int] = CHANNELS, fused: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=fused)
        self.bn1 = _folded_norm(channels[0], fused)
        self.prelu = nn.PReLU(channels[0])
        channels_in = channels[0]
        for stage, (count, channels_out) in enumerate(zip(units, channels, strict=True), start=1):
            first = Unit(channels_in, channels_out, 2, fused)
            others = (Unit(channels_out, channels_out, 1, fused) for _ in range(count - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))
            channels_in = channels_out
        self.bn2 = nn.BatchNorm2d(channels_in, eps=EPSILON)
        self.fc = nn.Linear(channels_in * 7 * 7, EMBEDDING_DIM)
        self.features = nn.BatchNorm1d(EMBEDDING_DIM, eps=EPSILON)

    def forward(self, image: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(image)))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    """The IResNet, fused or not, that has exactly these tensors; None for other networks.

    Names and shapes tell it all: torchvision's ResNets share some of the names.
    """
    found = {name: tuple(shape) for name, shape in shapes.items() if not name.endswith(".num_batches_tracked")}
    fused = "conv1.bias" in found
    for depth, units in UNITS.items():
        stages = [len(_children(found, f"layer{stage}")) for stage in range(1, 5)]
        if tuple(stages) == units and found == _shapes(units, fused):
            return _architecture(depth, fused)
    return None


def fold_batch_norm(
    weight: Tensor, bias: Tensor | None, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64 of the convolution that equals this one with a normalisation after it.

    Args:
        weight: [O, I, K, K].
        bias: [O], or None.
        gamma: the normalisation's, [O], as are beta, mean and variance.
        epsilon: the normalisation's.
    """
    scale = gamma.double() / (variance.double() + epsilon).sqrt()
    offset = -mean.double() if bias is None else bias.double() - mean.double()
    return weight.double() * scale[:, None, None, None], offset * scale + beta.double()


def _architecture(depth: int, fused: bool) -> Architecture:
    return Architecture(
        name=f"IResNet-{depth} (fused)" if fused else f"IResNet-{depth}",
        build=partial(IResNet, UNITS[depth], fused=fused),
        thresholds_source="none: we found no published cosine threshold at a false accept rate for such weights",
        source="ArcFace IResNet of InsightFace (arcface_torch, the packs buffalo and antelopev2) or AuraFace",
        licence=LICENCE,
    )


def _shapes(units: Sequence[int], fused: bool) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = IResNet(units, fused=fused).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}


def _children(names: Mapping[str, object], parent: str) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith(f"{parent}.")}


def _folded_norm(channels: int, fused: bool) -> nn.Module:
    return nn.Identity() if fused else nn.BatchNorm2d(channels, eps=EPSILON)

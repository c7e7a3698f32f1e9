"""MobileFaceNet (Chen et al., "MobileFaceNets" (2018)), as in InsightFace_Pytorch, facexlib and mobile_face.pth."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import Architecture

EMBEDDING_DIM = 512


class Conv(nn.Module):
    """Convolution without bias, batch normalisation and, unless it is linear, PReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, padding: int = 0,
        groups: int = 1, linear: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)
        if not linear:
            self.prelu = nn.PReLU(channels_out)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.linear else self.prelu(x)


class DepthWise(nn.Module):
    """Widen with 1 x 1, filter each channel with 3 x 3, narrow with 1 x 1; with a shortcut where `adds`."""

    def __init__(self, channels_in: int, channels_out: int, wide: int, stride: int = 1, adds: bool = False):
        super().__init__()
        self.adds = adds
        self.conv = Conv(channels_in, wide)
        self.conv_dw = Conv(wide, wide, 3, stride, padding=1, groups=wide)
        self.project = Conv(wide, channels_out, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.adds else y


class Residual(nn.Module):
    """Depth-wise blocks with shortcuts, one after another."""

    def __init__(self, channels: int, count: int, wide: int):
        super().__init__()
        self.model = nn.Sequential(*(DepthWise(channels, channels, wide, adds=True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MobileFaceNet(nn.Module):
    """RGB in [-1, 1], [B, 3, 112, 112] -> embeddings [B, 512] of length 1."""

    def __init__(self):
        super().__init__()
        self.conv1 = Conv(3, 64, 3, stride=2, padding=1)
        self.conv2_dw = Conv(64, 64, 3, padding=1, groups=64)
        self.conv_23 = DepthWise(64, 64, 128, stride=2)
        self.conv_3 = Residual(64, 4, 128)
        self.conv_34 = DepthWise(64, 128, 256, stride=2)
        self.conv_4 = Residual(128, 6, 256)
        self.conv_45 = DepthWise(128, 128, 512, stride=2)
        self.conv_5 = Residual(128, 2, 256)
        self.conv_6_sep = Conv(128, 512)
        self.conv_6_dw = Conv(512, 512, 7, groups=512, linear=True)
        self.linear = nn.Linear(512, EMBEDDING_DIM, bias=False)
        self.bn = nn.BatchNorm1d(EMBEDDING_DIM)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(image))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        x = self.conv_6_dw(self.conv_6_sep(x)).flatten(1)
        return F.normalize(self.bn(self.linear(x)))


ARCHITECTURE = Architecture(
    name="MobileFaceNet",
    build=MobileFaceNet,
    thresholds={0.1: 0.183635, 0.01: 0.301611, 0.001: 0.380878},
    thresholds_source="AMT-GAN release, for its own mobile_face.pth; other weights of this kind need their own. "
    "Doubtful: users found 46 % of clean photos above them",
    source="MobileFaceNet of InsightFace_Pytorch or facexlib",
    licence="no licence known for the usual files; trained on data for non-commercial research (MS-Celeb-1M and "
    "its like): check the licence of your file",
    # InsightFace's own mobile network (mbf) has others.
    tensors={
        "conv1.conv.weight": (64, 3, 3, 3),
        "conv_23.conv_dw.conv.weight": (128, 1, 3, 3),
        "conv_6_dw.conv.weight": (512, 1, 7, 7),
        "linear.weight": (EMBEDDING_DIM, 512),
    },
)

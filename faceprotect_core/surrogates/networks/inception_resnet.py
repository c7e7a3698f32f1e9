"""InceptionResnetV1 (Szegedy et al., "Inception-v4" (2016)), the network of FaceNet: facenet.pth and facenet-pytorch's
20180402-114759-vggface2.pt and 20180408-102900-casia-webface.pt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import Architecture

EMBEDDING_DIM = 512
BATCH_NORM_EPS = 1e-3


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel=1, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """Branches side by side, their channels joined."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.names = [f"branch{index}" for index in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in self.names], 1)


class ResidualBranches(Branches):
    """x plus the scaled projection of the joined branches, and ReLU unless it is the last block."""

    def __init__(self, joined: int, channels: int, scale: float, *branches: nn.Module, last: bool = False):
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale, self.last = scale, last

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.conv2d(super().forward(x))
        return x if self.last else F.relu(x)


def _block35() -> ResidualBranches:
    return ResidualBranches(
        96, 256, 0.17,
        Conv(256, 32),
        nn.Sequential(Conv(256, 32), Conv(32, 32, 3, padding=1)),
        nn.Sequential(Conv(256, 32), Conv(32, 32, 3, padding=1), Conv(32, 32, 3, padding=1)),
    )  # fmt: skip


def _factorised_block(channels: int, narrow: int, length: int, scale: float, last: bool = False) -> ResidualBranches:
    """Block17 and Block8: a filter of length x length as one along rows, then one along columns."""
    factorised = nn.Sequential(
        Conv(channels, narrow),
        Conv(narrow, narrow, (1, length), padding=(0, length // 2)),
        Conv(narrow, narrow, (length, 1), padding=(length // 2, 0)),
    )
    return ResidualBranches(2 * narrow, channels, scale, Conv(channels, narrow), factorised, last=last)


class InceptionResnetV1(nn.Module):
    """RGB in [-1, 1], [B, 3, 160, 160] -> embeddings [B, 512] of length 1."""

    def __init__(self):
        super().__init__()
        self.conv2d_1a = Conv(3, 32, 3, stride=2)
        self.conv2d_2a = Conv(32, 32, 3)
        self.conv2d_2b = Conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = Conv(64, 80)
        self.conv2d_4a = Conv(80, 192, 3)
        self.conv2d_4b = Conv(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = Branches(
            Conv(256, 384, 3, stride=2),
            nn.Sequential(Conv(256, 192), Conv(192, 192, 3, padding=1), Conv(192, 256, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_2 = nn.Sequential(*(_factorised_block(896, 128, 7, 0.10) for _ in range(10)))
        self.mixed_7a = Branches(
            nn.Sequential(Conv(896, 256), Conv(256, 384, 3, stride=2)),
            nn.Sequential(Conv(896, 256), Conv(256, 256, 3, stride=2)),
            nn.Sequential(Conv(896, 256), Conv(256, 256, 3, padding=1), Conv(256, 256, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_3 = nn.Sequential(*(_factorised_block(1792, 192, 3, 0.20) for _ in range(5)))
        self.block8 = _factorised_block(1792, 192, 3, 1.0, last=True)
        self.last_linear = nn.Linear(1792, EMBEDDING_DIM, bias=False)
        self.last_bn = nn.BatchNorm1d(EMBEDDING_DIM, eps=BATCH_NORM_EPS)

    def forward(self, image: Tensor) -> Tensor:
        x = self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(image))))
        x = self.repeat_1(self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x))))
        x = self.repeat_2(self.mixed_6a(x))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        return F.normalize(self.last_bn(self.last_linear(x.mean((2, 3)))))


ARCHITECTURE = Architecture(
    name="InceptionResnetV1",
    build=InceptionResnetV1,
    input_size=160,
    # Trained and tested on upright MTCNN boxes with a wide margin: about 3 distances between the eyes wide and 3.5
    # high. The ArcFace template is 3.2 wide and high; our detector's tight box, 2.2, would cut too much off.
    template="arcface_112",
    thresholds={0.1: 0.256587, 0.01: 0.409131, 0.001: 0.591191},
    thresholds_source="AMT-GAN release, for its own facenet.pth; other weights of this kind need their own",
    ignored=("logits.",),
    source="FaceNet of facenet-pytorch",
    licence="facenet-pytorch's code is MIT; its weights were trained on VGGFace2 or CASIA-WebFace, data for "
    "non-commercial research: check the licence of your file",
    tensors={
        "conv2d_1a.conv.weight": (32, 3, 3, 3),
        "repeat_3.0.conv2d.weight": (1792, 384, 1, 1),
        "last_linear.weight": (EMBEDDING_DIM, 1792),
    },
)

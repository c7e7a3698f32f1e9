"""IR and IR-SE: the ArcFace ResNets of InsightFace_Pytorch and face.evoLVe (irse50.pth, ir152.pth, facexlib's ArcFace).

A pre-activated ResNet (Deng et al., "ArcFace" (2019), section 3.1) with, in IR-SE, squeeze-and-excitation (Hu et al.,
2018) at the end of each unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import Architecture

# depth -> units of each stage; the stages' channels
UNITS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
CHANNELS = (64, 128, 256, 512)
EMBEDDING_DIM = 512
# (depth, squeeze-and-excitation) -> the file of the AMT-GAN release and its cosine thresholds
RELEASED = {
    (50, True): ("irse50.pth", {0.1: 0.144840, 0.01: 0.241045, 0.001: 0.312703}),
    (152, False): ("ir152.pth", {0.1: 0.094632, 0.01: 0.166788, 0.001: 0.227922}),
}
LICENCE = (
    "no licence known for the usual files; trained on data for non-commercial research (MS-Celeb-1M and its like): "
    "check the licence of your file"
)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number in (0, 1) computed from all channels' means."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.fc2(F.relu(self.fc1(means))).sigmoid()


class Unit(nn.Module):
    """Two 3 x 3 convolutions, the second with the stride, beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, se: bool):
        super().__init__()
        if channels_in == channels_out:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            *([SqueezeExcitation(channels_out)] if se else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IR(nn.Module):
    """RGB in [-1, 1], [B, 3, 112, 112] -> embeddings [B, 512].

    Args:
        depth: 50, 100 or 152.
        se: with squeeze-and-excitation (IR-SE).
        normalise: to length 1, as the published forward of irse50 does and the one of ir152 does not.
    """

    def __init__(self, depth: int, se: bool = False, normalise: bool = False):
        super().__init__()
        self.normalise = normalise
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, EMBEDDING_DIM),
            nn.BatchNorm1d(EMBEDDING_DIM),
        )
        self.body = nn.Sequential(*_units(depth, se))

    def forward(self, image: Tensor) -> Tensor:
        embedding = self.output_layer(self.body(self.input_layer(image)))
        return F.normalize(embedding) if self.normalise else embedding


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    """The IR or IR-SE that has these tensors; None for other networks, its near relatives among them.

    CurricularFace's has the same units and a last normalisation without weight and bias; AdaFace's has one
    normalisation more in each unit; both would need other steps after the same names.
    """
    expected = {
        "input_layer.0.weight": (64, 3, 3, 3),
        "output_layer.3.weight": (EMBEDDING_DIM, 512 * 7 * 7),
        "output_layer.4.weight": (EMBEDDING_DIM,),
        "body.0.res_layer.2.weight": (64,),
        "body.0.res_layer.3.weight": (64, 64, 3, 3),
    }
    units = {name.split(".")[1] for name in shapes if name.startswith("body.")}
    depth = next((depth for depth, stages in UNITS.items() if sum(stages) == len(units)), None)
    fits = all(shapes.get(name) == shape for name, shape in expected.items())
    if depth is None or not fits or "body.0.res_layer.2.running_mean" in shapes:
        return None
    return _architecture(depth, "body.0.res_layer.5.fc1.weight" in shapes)


def _architecture(depth: int, se: bool) -> Architecture:
    file, thresholds = RELEASED.get((depth, se), ("", {}))
    return Architecture(
        name=f"IR-SE-{depth}" if se else f"IR-{depth}",
        build=partial(IR, depth, se, normalise=se),
        thresholds=thresholds,
        thresholds_source=file and f"AMT-GAN release, for its own {file}; other weights of this kind need their own",
        source="ArcFace ResNet of InsightFace_Pytorch, face.evoLVe or facexlib",
        licence=LICENCE,
    )


def _units(depth: int, se: bool) -> list[Unit]:
    """Every stage halves the size in its first unit, the first stage too."""
    units, channels_in = [], CHANNELS[0]
    for channels, count in zip(CHANNELS, UNITS[depth], strict=True):
        for index in range(count):
            units.append(Unit(channels_in, channels, 1 if index else 2, se))
            channels_in = channels
    return units

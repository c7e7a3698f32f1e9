"""Three small recognisers of different build, to measure with: an SE-ResNet, a mobile network, a ConvNeXt.

They are trained by train_recognizers.py on the photos of a few hundred people, and so they are weak; the package does
not ship their weights. What they are good for: a recogniser that an optimiser never saw, of a kind that it never saw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checks import require
from ..surrogates import FRSurrogate, load_surrogate

DIM = 256


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 8, 1)
        self.excite = nn.Conv2d(channels // 8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class _ResidualUnit(nn.Module):
    """He et al., "Identity Mappings in Deep Residual Networks" (2016), with ArcFace's PReLU and an SE gate."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            _SqueezeExcitation(channels_out),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class SmallResNet(nn.Module):
    """RGB in [-1, 1], [B, 3, 96, 96] -> [B, 256]: eight residual units with squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.PReLU(32)
        )  # fmt: skip
        shapes = ((32, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 192, 2), (192, 192, 1))
        self.units = nn.Sequential(*(_ResidualUnit(*shape) for shape in shapes))
        self.head = nn.Sequential(nn.BatchNorm2d(192), nn.Flatten(), nn.Dropout(0.4), nn.Linear(192 * 36, DIM))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.units(self.stem(image)))


class _InvertedResidual(nn.Module):
    """Sandler et al., "MobileNetV2" (2018)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int = 3):
        super().__init__()
        wide = channels_in * expansion
        self.adds = stride == 1 and channels_in == channels_out
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
            nn.Conv2d(wide, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class SmallMobile(nn.Module):
    """RGB in [-1, 1], [B, 3, 112, 112] -> [B, 256]: inverted residuals and a global depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        shapes = (
            (32, 40, 2), (40, 40, 1), (40, 80, 2), (80, 80, 1), (80, 80, 1), (80, 128, 2), (128, 128, 1)
        )  # fmt: skip
        self.blocks = nn.Sequential(*(_InvertedResidual(*shape) for shape in shapes))
        self.wide = nn.Sequential(nn.Conv2d(128, 384, 1, bias=False), nn.BatchNorm2d(384), nn.ReLU())
        self.pool = nn.Sequential(nn.Conv2d(384, 384, 7, groups=384, bias=False), nn.BatchNorm2d(384), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(384, DIM))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.pool(self.wide(self.blocks(self.stem(image)))))


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _ConvNeXtBlock(nn.Module):
    """Liu et al., "A ConvNet for the 2020s" (2022), without the layer scale."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels), _ChannelNorm(channels),
            nn.Conv2d(channels, 3 * channels, 1), nn.GELU(), nn.Conv2d(3 * channels, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SmallConvNeXt(nn.Module):
    """RGB in [-1, 1], [B, 3, 128, 128] -> [B, 256]: patches of 4 x 4, wide depthwise kernels, no batch statistics."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 48, 4, 4), _ChannelNorm(48), _ConvNeXtBlock(48)]
        for channels_in, channels_out, blocks in ((48, 96, 2), (96, 192, 3)):
            layers += [_ChannelNorm(channels_in), nn.Conv2d(channels_in, channels_out, 2, 2)]
            layers += [_ConvNeXtBlock(channels_out) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, _ChannelNorm(192))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(192, DIM))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image).mean((2, 3)))


@dataclass(frozen=True)
class SmallSpec:
    """A small recogniser: its network, how its face is cut out, and how it is trained."""

    build: Callable[[], nn.Module]
    input_size: int
    template: str
    lr: float
    steps: int
    dim: int = DIM


SMALL = {
    "small_resnet": SmallSpec(SmallResNet, 96, "arcface_112", 2e-3, 1500),
    "small_mobile": SmallSpec(SmallMobile, 112, "arcface_112", 3e-3, 1500),
    "small_convnext": SmallSpec(SmallConvNeXt, 128, "arcface_112", 1.5e-3, 1500),
}


def save_small(network: nn.Module, thresholds: Mapping[float, float], path: Path) -> None:
    """Weights in float16; the thresholds (FAR -> cosine) go into the file's metadata."""
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
    }
    save_file(halves, path, {"thresholds": json.dumps({str(far): value for far, value in thresholds.items()})})


def load_small(path: Path) -> FRSurrogate:
    """A file of `save_small` as a surrogate in float32; its name without the ending is a key of SMALL."""
    require(path.stem in SMALL, f"{path.name} is none of the small recognisers", f"name it {' or '.join(SMALL)}")
    spec = SMALL[path.stem]
    module = spec.build()
    with safe_open(path, "pt") as file:
        thresholds = json.loads(file.metadata()["thresholds"])
        module.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    return FRSurrogate(
        module.eval().requires_grad_(False),
        spec.input_size,
        name=path.stem,
        template=spec.template,
        thresholds={float(far): value for far, value in thresholds.items()},
        thresholds_source="the people whom it was not trained on",
        source="faceprotect_core.evaluation.train_recognizers",
        licence="that of the photos it was trained on",
    )


def load_recognizer(name: str) -> FRSurrogate:
    """A built-in surrogate, a small recogniser's file, or any weights file."""
    return load_small(Path(name)) if Path(name).stem in SMALL else load_surrogate(name)

"""IResNet: the published names and shapes, and the fused form gives what the unfused one gives."""

import pytest
import torch
from torch import nn

from faceprotect_core.surrogates.networks.iresnet import UNITS, IResNet, fold_batch_norm, recognise
from onnx_models import random_iresnet

NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def empty(depth, fused=False):
    with torch.device("meta"):
        return IResNet(UNITS[depth], fused=fused)


def fused(network, units, channels):
    """The network with its normalisations folded, written out by hand."""
    tensors = network.state_dict()
    pairs = {"conv1": "bn1"}
    for name, module in network.named_modules():
        if hasattr(module, "downsample"):
            pairs |= {f"{name}.conv1": f"{name}.bn2", f"{name}.conv2": f"{name}.bn3"}
            if not isinstance(module.downsample, nn.Identity):
                pairs[f"{name}.downsample.0"] = f"{name}.downsample.1"
    for conv, norm in pairs.items():
        statistics = [tensors.pop(f"{norm}.{part}") for part in NORM]
        tensors.pop(f"{norm}.num_batches_tracked")
        weight, bias = fold_batch_norm(tensors[f"{conv}.weight"], None, *statistics, epsilon=1e-5)
        tensors |= {f"{conv}.weight": weight.float(), f"{conv}.bias": bias.float()}
    folded = IResNet(units, channels, fused=True).eval()
    folded.load_state_dict(tensors)
    return folded


@pytest.mark.parametrize(
    ("units", "channels"),
    [((2, 1, 1, 1), (4, 6, 8, 8)), ((3, 4, 14, 3), (8,) * 4), ((2, 2, 2, 2), (64, 128, 256, 512))],
)
def test_fused_equals_unfused(image, units, channels):
    network = random_iresnet(units, channels)
    with torch.no_grad():
        expected = network(image)
        embedding = fused(network, units, channels)(image)
    assert embedding.shape == (2, 512) and 0.3 < embedding.std() < 3
    assert (embedding - expected).abs().max() < 1e-4


def test_folding_keeps_the_convolutions_own_bias():
    conv, norm = nn.Conv2d(3, 5, 3).double(), nn.BatchNorm2d(5).double().eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.1, 2)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    weight, bias = fold_batch_norm(conv.weight, conv.bias, *(getattr(norm, part) for part in NORM), norm.eps)
    assert torch.allclose(nn.functional.conv2d(x, weight, bias), norm(conv(x)), atol=1e-12)


def test_names_and_shapes_are_arcface_torchs():
    shapes = shapes_of(empty(50))
    assert shapes["conv1.weight"] == (64, 3, 3, 3) and "conv1.bias" not in shapes
    assert shapes["layer3.13.conv2.weight"] == (256, 256, 3, 3) and "layer3.14.bn1.weight" not in shapes
    assert shapes["layer1.0.downsample.0.weight"] == (64, 64, 1, 1)
    assert shapes["layer1.0.downsample.1.running_var"] == (64,) and "layer1.1.downsample.0.weight" not in shapes
    assert shapes["layer4.0.bn1.weight"] == (256,) and shapes["layer4.0.prelu.weight"] == (512,)
    assert shapes["bn2.weight"] == (512,) and shapes["fc.weight"] == (512, 25088) and shapes["fc.bias"] == (512,)
    assert shapes["features.weight"] == shapes["features.running_mean"] == (512,)
    # Published parameter counts of arcface_torch's iresnet18, 34, 50 and 100, in millions.
    counts = {depth: sum(p.numel() for p in empty(depth).parameters()) / 1e6 for depth in UNITS}
    assert counts == pytest.approx({18: 24.0, 34: 34.1, 50: 43.6, 100: 65.2}, abs=0.1)


@pytest.mark.parametrize("depth", UNITS)
@pytest.mark.parametrize("is_fused", [False, True])
def test_every_depth_is_recognised_from_names_and_shapes(depth, is_fused):
    shapes = shapes_of(empty(depth, is_fused))
    architecture = recognise(shapes)
    assert architecture.name == f"IResNet-{depth}" + (" (fused)" if is_fused else "")
    without_counters = {name: shape for name, shape in shapes.items() if "num_batches" not in name}
    assert recognise(without_counters).name == architecture.name
    with torch.device("meta"):
        assert shapes_of(architecture.build()) == shapes
    assert (architecture.input_size, architecture.template) == (112, "arcface_112")
    assert (architecture.colour_order, architecture.value_range) == ("RGB", (-1.0, 1.0))
    assert not architecture.thresholds and architecture.thresholds_source.startswith("none")
    assert "non-commercial" in architecture.licence and "Apache-2.0" in architecture.licence


def test_other_networks_are_not_recognised():
    shapes = shapes_of(empty(50))
    assert recognise({}) is None
    assert recognise({"layer1.0.conv1.weight": (64, 64, 3, 3), "fc.weight": (1000, 512)}) is None
    assert recognise(shapes | {"fc.weight": (256, 25088)}) is None
    assert recognise(shapes | {"layer1.0.bn4.weight": (64,)}) is None
    assert recognise({name: shape for name, shape in shapes.items() if name != "bn2.bias"}) is None
    assert recognise({name: shape for name, shape in shapes.items() if not name.startswith("layer3.13.")}) is None
    assert recognise(shapes_of(random_iresnet())) is None

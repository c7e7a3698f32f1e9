"""ONNX files of IResNets as InsightFace's packs have them, made on the fly with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from faceprotect_core.surrogates.architecture import Architecture
from faceprotect_core.surrogates.networks.iresnet import CHANNELS, IResNet

THIN_UNITS = (2, 1, 1, 1)
THIN_CHANNELS = (4, 6, 8, 8)
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


def random_iresnet(units=THIN_UNITS, channels=THIN_CHANNELS, fused: bool = False, seed: int = 0) -> IResNet:
    """An IResNet whose normalisations do something: statistics as after training, no two of them alike."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.device("meta"):
        network = IResNet(units, channels, fused)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = (3 / module.weight[0].numel()) ** 0.5
            uniform(module.weight, -bound, bound)
            if module.bias is not None:
                uniform(module.bias, -0.2, 0.2)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            uniform(module.weight, 0.6, 1.4)
            uniform(module.bias, -0.3, 0.3)
            uniform(module.running_mean, -0.3, 0.3)
            uniform(module.running_var, 0.3, 2.0)
            module.num_batches_tracked.zero_()
        elif isinstance(module, nn.PReLU):
            uniform(module.weight, 0.0, 0.5)
    _calibrate(network, torch.rand(1, 3, 112, 112, generator=generator) * 2 - 1)
    return network


def _calibrate(network: IResNet, images: Tensor) -> None:
    """Scales each unit's input normalisation to what comes in, so that a deep network's values stay near 1."""

    def scale(norm: nn.BatchNorm2d | nn.BatchNorm1d, inputs: tuple[Tensor]) -> None:
        norm.running_var *= inputs[0].var()

    norms = [module for name, module in network.named_modules() if name.endswith(("bn1", "bn2", "features"))]
    hooks = [
        norm.register_forward_pre_hook(scale) for norm in norms if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)
    ]
    network(images)
    for hook in hooks:
        hook.remove()


def write_iresnet_onnx(path: Path, network: IResNet | None = None, **options) -> Path:
    """The file of `iresnet_model`; of an IResNet-18 with random weights (96 MB) unless a network is given."""
    if network is None:
        network = random_iresnet((2, 2, 2, 2), CHANNELS)
    onnx.save_model(iresnet_model(network, **options), path)
    return path


def iresnet_model(network: IResNet, **options) -> ModelProto:
    """A network as an ONNX model, laid out as torch's exporter lays it out; options: the fields of `Layout`."""
    writer = _Writer(Layout(**options))
    value = writer.image()
    value = writer.conv(value, network.conv1, network.bn1)
    value = writer.prelu(value, network.prelu)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for unit in stage:
            value = writer.unit(value, unit)
    value = writer.norm(value, network.bn2)
    value = writer.fully_connected(value, network.fc)
    value = writer.norm(value, network.features)
    return writer.model(value)


@dataclass(frozen=True)
class Layout:
    """How a file says the same thing.

    folded: normalisations after a convolution are folded into it.
    dtype: of the weights.
    typed: weights in float_data (float16: int32_data) instead of raw_data.
    shared: equal tensors are stored once and given on by Identity nodes, as torch's exporter does.
    constants: weights in Constant nodes instead of initialisers.
    preprocessing: (x - 127.5) / 128 inside, for x in 0..255, and dropout before the flattening: mxnet's converter.
    epsilon: written instead of torch's, with variances that make up for it.
    reshape: Reshape instead of Flatten; transposed: the Gemm's weight as [in, out].
    opset: version of the operators.
    casts: Cast nodes around the network, as the converter to float16 writes them.
    """

    folded: bool = True
    dtype: type = np.float32
    typed: bool = False
    shared: bool = False
    constants: bool = False
    preprocessing: bool = False
    epsilon: float = 1e-5
    reshape: bool = False
    transposed: bool = False
    casts: bool = False
    opset: int = 12


@dataclass
class _Writer:
    layout: Layout
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    stored: dict[bytes, str] = field(default_factory=dict)

    def node(self, operator: str, *inputs: str, **attributes) -> str:
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def tensor(self, values: Tensor | np.ndarray, integer: bool = False) -> str:
        array = np.ascontiguousarray(values, dtype=np.int64 if integer else self.layout.dtype)
        name = f"onnx::{len(self.nodes)}_{len(self.tensors)}"
        key = repr(array.shape).encode() + array.tobytes()
        if self.layout.shared and key in self.stored:
            return self.node("Identity", self.stored[key])
        proto = numpy_helper.from_array(array, name)
        if self.layout.typed and not integer:
            proto = helper.make_tensor(name, TYPES[array.dtype], array.shape, array.ravel())
        if self.layout.constants:
            return self.node("Constant", value=proto)
        self.tensors.append(proto)
        self.stored[key] = name
        return name

    def image(self) -> str:
        if self.layout.preprocessing:
            centred = self.node("Sub", "input.1", self.tensor(np.array(127.5)))
            return self.node("Mul", centred, self.tensor(np.array([1 / 128])))
        if self.layout.casts:
            return self.node("Cast", "input.1", to=TensorProto.FLOAT16)
        return "input.1"

    def conv(self, value: str, conv: nn.Conv2d, norm: nn.Module) -> str:
        weight, bias = conv.weight, conv.bias
        folds = self.layout.folded and not isinstance(norm, nn.Identity)
        if folds:
            weight, bias = _folded(conv, norm)
        inputs = [value, self.tensor(weight), *([] if bias is None else [self.tensor(bias)])]
        size = conv.kernel_size[0]
        value = self.node(
            "Conv",
            *inputs,
            dilations=[1, 1],
            group=1,
            kernel_shape=[size, size],
            pads=[conv.padding[0]] * 4,
            strides=list(conv.stride),
        )
        return value if folds or isinstance(norm, nn.Identity) else self.norm(value, norm)

    def norm(self, value: str, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> str:
        variance = norm.running_var.double() + norm.eps - self.layout.epsilon
        parts = (norm.weight, norm.bias, norm.running_mean, variance)
        inputs = [self.tensor(part) for part in parts]
        return self.node("BatchNormalization", value, *inputs, epsilon=self.layout.epsilon, momentum=0.9)

    def prelu(self, value: str, prelu: nn.PReLU) -> str:
        return self.node("PRelu", value, self.tensor(prelu.weight[:, None, None]))

    def unit(self, x: str, unit: nn.Module) -> str:
        value = self.conv(self.norm(x, unit.bn1), unit.conv1, unit.bn2)
        value = self.conv(self.prelu(value, unit.prelu), unit.conv2, unit.bn3)
        shortcut = x if isinstance(unit.downsample, nn.Identity) else self.conv(x, *unit.downsample)
        return self.node("Add", value, shortcut)

    def fully_connected(self, value: str, fc: nn.Linear) -> str:
        if self.layout.preprocessing:
            value = self.node("Dropout", value)
        if self.layout.reshape:
            value = self.node("Reshape", value, self.tensor(np.array([0, -1]), integer=True))
        else:
            value = self.node("Flatten", value, axis=1)
        weight = self.tensor(fc.weight.T if self.layout.transposed else fc.weight)
        transposed = 0 if self.layout.transposed else 1
        return self.node("Gemm", value, weight, self.tensor(fc.bias), alpha=1.0, beta=1.0, transB=transposed)

    def model(self, value: str) -> ModelProto:
        if self.layout.casts:
            value = self.node("Cast", value, to=TensorProto.FLOAT)
        kind = TensorProto.FLOAT if self.layout.casts else TYPES[np.dtype(self.layout.dtype)]
        image = helper.make_tensor_value_info("input.1", kind, ["None", 3, 112, 112])
        embedding = helper.make_tensor_value_info(value, kind, ["None", 512])
        graph = helper.make_graph(self.nodes, "torch-jit-export", [image], [embedding], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.layout.opset)], ir_version=7)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return conv.weight.double() * scale[:, None, None, None], norm.bias.double() - norm.running_mean.double() * scale


THIN = Architecture("thin", partial(IResNet, THIN_UNITS, THIN_CHANNELS, fused=True))


def known(shapes):
    """Recognises the thin network, and no other."""
    with torch.device("meta"):
        state = THIN.build().state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items() if "num_batches" not in name}
    return THIN if shapes == wanted else None


def nodes(model, operator):
    return [node for node in model.graph.node if node.op_type == operator]


def set_attribute(node, name, value):
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))

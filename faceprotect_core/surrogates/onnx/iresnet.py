"""The way through an ONNX graph that is wired like an IResNet, layer by layer. Nothing of the graph is run.

The parameters are taken in the order in which the graph uses them, and every node on the way must be where an IResNet
has it: a graph of other wiring is refused, since the same tensors would mean another network.
"""

from __future__ import annotations

from onnx import NodeProto

from .graph import Graph
from .layers import Convolution, Layer, Linear, Norm, PRelu

# A network of an older converter has its preprocessing inside: (x - 127.5) * factor, for x in 0..255.
MIDDLE_GREY = 127.5


def find_layers(graph: Graph) -> dict[str, Layer]:
    """The layers of a fused IResNet by their names in `IResNet`; no tensor is copied yet.

    Raises:
        ProtectionError: the graph is wired in another way, or a node's attributes or shapes are others.
    """
    value, scale = _preprocessing(graph)
    value, conv1 = _convolution(graph, graph.reader(value, "Conv"), 3, scale)
    graph.require(conv1.stride == 1, "halves the image in its first convolution")
    value, prelu = _prelu(graph, graph.reader(value, "PRelu"), conv1.channels)
    layers: dict[str, Layer] = {"conv1": conv1, "prelu": prelu}
    stage, index = 0, 0
    while len(graph.readers(value)) == 2:
        value, unit = _unit(graph, value)
        stage, index = (stage + 1, 0) if "downsample.0" in unit else (stage, index + 1)
        layers |= {f"layer{stage}.{index}.{name}": layer for name, layer in unit.items()}
    value, layers["bn2"] = _norm(graph, graph.reader(value, "BatchNormalization"))
    value, layers["fc"] = _linear(graph, _flatten(graph, value))
    value, layers["features"] = _norm(graph, graph.reader(value, "BatchNormalization"))
    graph.require(value == graph.output, f"gives {graph.output!r} as its output, expected the embedding {value!r}")
    return layers


def _preprocessing(graph: Graph) -> tuple[str, float]:
    """The value that the first convolution reads, and what it is for an image in [-1, 1]: the image times a number."""
    if [node.op_type for node in graph.readers(graph.image)] != ["Sub"]:
        return graph.image, 1.0
    subtraction = graph.reader(graph.image, "Sub")
    grey = _number(graph, subtraction)
    graph.require(grey == MIDDLE_GREY, f"subtracts {grey:g} from the image, expected {MIDDLE_GREY}")
    product = graph.reader(subtraction.output[0], "Mul")
    factor = _number(graph, product)
    return product.output[0], MIDDLE_GREY * factor


def _number(graph: Graph, node: NodeProto) -> float:
    """The second operand of a subtraction or a product."""
    constant = graph.constant(node, 1)
    graph.require(
        constant.shape in ((), (1,)),
        f"has a {node.op_type} with a constant of shape {constant.shape}, expected one number",
    )
    return constant.read().item()


def _unit(graph: Graph, x: str) -> tuple[str, dict[str, Layer]]:
    """Normalisation, convolution, PReLU, convolution; added to x itself, or to its 1 x 1 convolution."""
    readers = {node.op_type: node for node in graph.readers(x)}
    graph.require(
        readers.keys() in ({"BatchNormalization", "Add"}, {"BatchNormalization", "Conv"}),
        f"has {sorted(readers)} after {x!r}, expected a BatchNormalization and a shortcut",
    )
    value, bn1 = _norm(graph, readers["BatchNormalization"])
    value, conv1 = _convolution(graph, graph.reader(value, "Conv"), 3)
    value, prelu = _prelu(graph, graph.reader(value, "PRelu"), conv1.channels)
    value, conv2 = _convolution(graph, graph.reader(value, "Conv"), 3)
    layers: dict[str, Layer] = {"bn1": bn1, "conv1": conv1, "prelu": prelu, "conv2": conv2}
    total, stride = graph.reader(value, "Add"), 1
    if "Conv" in readers:
        shortcut, downsample = _convolution(graph, readers["Conv"], 1)
        stride, layers["downsample.0"] = 2, downsample
        graph.require(downsample.stride == stride, f"has a shortcut after {x!r} that does not halve the size")
        other = graph.reader(shortcut, "Add")
    else:
        other = readers["Add"]
    graph.require(
        other is total and len(total.input) == 2, f"adds {value!r} to something else than its unit's shortcut"
    )
    strides = (conv1.stride, conv2.stride)
    graph.require(strides == (1, stride), f"has a unit after {x!r} with strides {strides}, expected {(1, stride)}")
    return total.output[0], layers


def _convolution(graph: Graph, node: NodeProto, size: int, scale: float = 1.0) -> tuple[str, Convolution]:
    weight = graph.constant(node, 1)
    graph.require(
        len(weight.shape) == 4 and weight.shape[2:] == (size, size),
        f"has a Conv ({node.output[0]!r}) with a kernel of shape {weight.shape}, expected {size} x {size}",
    )
    attributes = graph.require_attributes(node, auto_pad=b"NOTSET", dilations=[1, 1], group=1, pads=[size // 2] * 4)
    strides, kernel = attributes["strides"], attributes["kernel_shape"]
    graph.require(
        strides in ([1, 1], [2, 2]) and kernel in ([], [size, size]),
        f"has a Conv ({node.output[0]!r}) with strides {strides} and kernel_shape {kernel}",
    )
    bias = graph.constant(node, 2) if len(node.input) > 2 and node.input[2] else None
    graph.require(bias is None or bias.shape == weight.shape[:1], f"has a Conv ({node.output[0]!r}) with a wrong bias")
    value, norm = node.output[0], None
    if [reader.op_type for reader in graph.readers(value)] == ["BatchNormalization"]:
        value, norm = _norm(graph, graph.reader(value, "BatchNormalization"))
        graph.require(norm.channels == weight.shape[0], f"normalises {norm.channels} of {weight.shape[0]} channels")
    return value, Convolution(weight, bias, norm, strides[0], scale)


def _norm(graph: Graph, node: NodeProto) -> tuple[str, Norm]:
    """`spatial` says nothing here: with parameters of shape [C], each channel is normalised as a whole."""
    attributes = graph.require_attributes(node, training_mode=0)
    # Before operator set 14, more outputs than one are what says training.
    graph.require(len(node.output) == 1, f"has a BatchNormalization ({node.output[0]!r}) in training mode")
    parts = tuple(graph.constant(node, index) for index in range(1, 5))
    graph.require(
        len({part.shape for part in parts}) == 1 and len(parts[0].shape) == 1,
        f"has a BatchNormalization ({node.output[0]!r}) of shapes {[part.shape for part in parts]}",
    )
    return node.output[0], Norm(parts, attributes["epsilon"])


def _prelu(graph: Graph, node: NodeProto, channels: int) -> tuple[str, PRelu]:
    slope = graph.constant(node, 1)
    graph.require(
        slope.shape in ((channels,), (channels, 1, 1), (1, channels, 1, 1)),
        f"has a PRelu ({node.output[0]!r}) with a slope of shape {slope.shape}, expected {channels} numbers",
    )
    return node.output[0], PRelu(slope, channels)


def _flatten(graph: Graph, value: str) -> NodeProto:
    """The fully connected layer after the node that makes [B, C, H, W] to [B, C * H * W]."""
    readers = [node.op_type for node in graph.readers(value)]
    if readers == ["Reshape"]:
        node = graph.reader(value, "Reshape")
        graph.require_attributes(node, allowzero=0)
        sizes = graph.constant(node, 1).read_integers()
        graph.require(
            len(sizes) == 2 and sizes[0] in (-1, 0, 1) and sizes != [-1, -1],
            f"reshapes to {sizes}, expected [batch, -1]",
        )
    else:
        node = graph.reader(value, "Flatten")
        graph.require_attributes(node, axis=1)
    return graph.reader(node.output[0], "Gemm")


def _linear(graph: Graph, node: NodeProto) -> tuple[str, Linear]:
    attributes = graph.require_attributes(node, alpha=1.0, beta=1.0, transA=0)
    weight = graph.constant(node, 1)
    bias = graph.constant(node, 2) if len(node.input) > 2 and node.input[2] else None
    graph.require(len(weight.shape) == 2, f"has a Gemm ({node.output[0]!r}) with a weight of shape {weight.shape}")
    layer = Linear(weight, bias, transposed=not attributes["transB"])
    graph.require(
        bias is None or bias.shape in ((layer.outputs,), (1, layer.outputs)),
        f"has a Gemm ({node.output[0]!r}) with {layer.outputs} outputs and another bias",
    )
    return node.output[0], layer

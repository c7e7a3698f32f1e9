"""The graph of an ONNX model as plain data: which node reads which value, and the constants. Nothing of it is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from torch import Tensor

from ...checks import require, require_finite
from ..weights_file import DOWNLOAD_AGAIN, first_of, require_short_names

# Operator -> its attributes with their defaults; a node with another attribute is refused.
OPERATORS: dict[str, dict[str, Any]] = {
    "Add": {},
    "BatchNormalization": {"epsilon": 1e-5, "momentum": 0.9, "spatial": 1, "training_mode": 0},
    "Cast": {"to": TensorProto.FLOAT, "saturate": 1},
    "Constant": {"value": None},
    "Conv": {"auto_pad": b"NOTSET", "dilations": [1, 1], "group": 1, "kernel_shape": [], "pads": [0] * 4}
    | {"strides": [1, 1]},
    "Dropout": {"ratio": 0.5, "seed": 0},
    "Flatten": {"axis": 1},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "Identity": {},
    "Mul": {},
    "PRelu": {},
    "Reshape": {"allowzero": 0},
    "Sub": {},
}
MIN_OPSET = 7  # before, an operator's defaults are training and other rules of broadcasting
ATTRIBUTE_TYPES = {
    float: AttributeProto.FLOAT,
    int: AttributeProto.INT,
    bytes: AttributeProto.STRING,
    list: AttributeProto.INTS,
    type(None): AttributeProto.TENSOR,
}
# These give their first input on: dropout does nothing outside training, and all is computed in float32.
PASSES_ON = ("Cast", "Dropout", "Identity")
FLOAT_TYPES: dict[int, np.dtype] = {TensorProto.FLOAT: np.dtype("<f4"), TensorProto.FLOAT16: np.dtype("<f2")}
INTEGER_TYPES: dict[int, np.dtype] = {TensorProto.INT64: np.dtype("<i8")}
TYPED_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.FLOAT16: "int32_data",
    TensorProto.INT64: "int64_data",
}
SUPPORTED = (
    "use the recognition file of an InsightFace pack, w600k_r50.onnx (buffalo_l) or glintr100.onnx (antelopev2, "
    "AuraFace), or another IResNet of InsightFace's arcface_torch, exported in float32 or float16"
)


@dataclass(frozen=True)
class Constant:
    """A constant of the graph, not copied before `read`.

    Args:
        proto: as it is in the file.
        where: the file's name, for messages.
    """

    proto: TensorProto
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.proto.dims)

    def read(self) -> Tensor:
        """A copy in float32.

        Raises:
            ProtectionError: it is no float32 or float16, has fewer or more values than its shape, or is not finite.
        """
        tensor = torch.from_numpy(self._array(FLOAT_TYPES).astype(np.float32))
        require_finite(tensor, f"{self.where}: the tensor {self.proto.name!r}", DOWNLOAD_AGAIN)
        return tensor

    def read_integers(self) -> list[int]:
        return self._array(INTEGER_TYPES).ravel().tolist()

    def _array(self, types: dict[int, np.dtype]) -> np.ndarray:
        proto, what = self.proto, f"{self.where}: the tensor {self.proto.name!r}"
        require(
            proto.data_type in types,
            f"{what} is of ONNX type {proto.data_type}, expected {' or '.join(str(dtype) for dtype in types.values())}",
            "use the file in float32 or float16, not a quantised one",
        )
        dtype = types[proto.data_type]
        typed = getattr(proto, TYPED_FIELDS[proto.data_type])
        found = len(proto.raw_data) / dtype.itemsize if proto.HasField("raw_data") else len(typed)
        require(
            min(proto.dims, default=1) >= 0 and found == math.prod(proto.dims),
            f"{what} has shape {list(proto.dims)} and {found:g} values",
            DOWNLOAD_AGAIN,
        )
        return onnx.numpy_helper.to_array(proto)


class Graph:
    """One input, one output, and nodes of known operators in between.

    Its `image` and `output` are the names of the values that go in and come out; `constants` has initialisers and
    constant nodes, by every name they go by.

    Args:
        model: as it is in the file.
        where: the file's name, for messages.

    Raises:
        ProtectionError: unknown operators, weights elsewhere, or wires that lead nowhere.
    """

    def __init__(self, model: ModelProto, where: str):
        graph = model.graph
        self.where = where
        _require_known(model, where)
        names = [proto.name for proto in graph.initializer]
        self.require(len(names) == len(set(names)), "has initialisers of the same name")
        self.constants = {proto.name: Constant(proto, where) for proto in graph.initializer}
        self.image = self._image(graph)
        self._values = {self.image: self.image}  # a value's names -> its first name
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            self._add(node)
        outputs = [value.name for value in graph.output]
        self.require(len(outputs) == 1, f"has {len(outputs)} outputs, expected one")
        self.output = self._values.get(outputs[0])

    def require(self, condition: bool, problem: str) -> None:
        """Refuses the file for what its graph is."""
        require(condition, f"{self.where} is no IResNet that can be read: it {problem}", SUPPORTED)

    def readers(self, value: str) -> list[NodeProto]:
        """The nodes that read a value, in the graph's order, one that reads it twice two times."""
        return self._readers.get(value, [])

    def reader(self, value: str, operator: str) -> NodeProto:
        """The only node that reads a value, which must be of this operator."""
        found = [node.op_type for node in self.readers(value)]
        self.require(found == [operator], f"has {found or 'nothing'} after {value!r}, expected one {operator}")
        return self.readers(value)[0]

    def constant(self, node: NodeProto, index: int) -> Constant:
        """A node's input that must be a constant."""
        name = node.input[index] if index < len(node.input) else ""
        self.require(name in self.constants, f"has a {node.op_type} whose input {index} {name!r} is no constant")
        return self.constants[name]

    def attributes(self, node: NodeProto) -> dict[str, Any]:
        """A node's attributes, the defaults of those it does not name among them."""
        defaults, given = OPERATORS[node.op_type], {}
        for attribute in node.attribute:
            kind = ATTRIBUTE_TYPES[type(defaults.get(attribute.name))]
            self.require(
                attribute.name in defaults and attribute.type == kind,
                f"has a {node.op_type} with the attribute {attribute.name!r} (type {attribute.type})",
            )
            given[attribute.name] = onnx.helper.get_attribute_value(attribute)
        return defaults | given

    def require_attributes(self, node: NodeProto, **expected: object) -> dict[str, Any]:
        attributes = self.attributes(node)
        for name, value in expected.items():
            self.require(
                attributes[name] == value,
                f"has a {node.op_type} ({node.output[0]!r}) with {name} {attributes[name]}, expected {value}",
            )
        return attributes

    def _image(self, graph: GraphProto) -> str:
        """The input that is no initialiser: [batch, 3, 112, 112], whose sizes may be left open."""
        inputs = [value for value in graph.input if value.name not in self.constants]
        self.require(len(inputs) == 1, f"has the inputs {[value.name for value in inputs]}, expected one image")
        image = inputs[0].type.tensor_type
        self.require(image.elem_type in FLOAT_TYPES, f"has an input of ONNX type {image.elem_type}, expected floats")
        sizes = [size.dim_value for size in image.shape.dim]
        fits = len(sizes) == 4 and all(
            found in (0, expected) for found, expected in zip(sizes[1:], (3, 112, 112), strict=True)
        )
        self.require(fits, f"has an input of sizes {sizes} (0: open), expected [batch, 3, 112, 112]")
        return inputs[0].name

    def _add(self, node: NodeProto) -> None:
        """Nodes come in topological order: one that reads a value that is not there yet is refused."""
        attributes = self.attributes(node)
        for name in node.input:
            self.require(
                not name or name in self.constants or name in self._values,
                f"has a {node.op_type} that reads {name!r}, and nothing before it computes that",
            )
        taken = [name for name in node.output if name in self.constants or name in self._values]
        self.require(len(node.output) > 0 and not taken, f"has a {node.op_type} that computes {taken or 'nothing'}")
        output = node.output[0]
        if node.op_type == "Constant":
            self.require(attributes["value"] is not None, f"has a Constant {output!r} without a tensor")
            self.constants[output] = Constant(attributes["value"], self.where)
        elif node.op_type in PASSES_ON:
            self._pass_on(node, attributes)
        else:
            self._values[output] = output
            for name in node.input:
                if name in self._values:
                    self._readers.setdefault(self._values[name], []).append(node)

    def _pass_on(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        if node.op_type == "Cast":
            self.require(attributes["to"] in FLOAT_TYPES, f"has a Cast to ONNX type {attributes['to']}")
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            training = self.constant(node, 2).proto
            self.require(not any(training.raw_data) and not any(training.int32_data), "has a Dropout in training mode")
        self.require(any(node.input[:1]), f"has a {node.op_type} that reads nothing")
        source, output = node.input[0], node.output[0]
        if source in self.constants:
            self.constants[output] = self.constants[source]
        else:
            self._values[output] = self._values[source]


def _require_known(model: ModelProto, where: str) -> None:
    """Known operators only, and all weights in the file itself."""
    graph = model.graph
    require_short_names((value.name for value in (*graph.input, *graph.initializer)), where)
    for node in graph.node:
        attributes = (attribute.name for attribute in node.attribute)
        require_short_names((node.op_type, node.domain, *node.input, *node.output, *attributes), where)
    require(len(graph.node) > 0, f"{where} is no ONNX model: it has no nodes", DOWNLOAD_AGAIN)
    # protobuf gives text that is no UTF-8 as bytes.
    domains = {str(node.domain) for node in graph.node} - {"", "ai.onnx"}
    found = {str(node.op_type) for node in graph.node}
    unknown = sorted(found - OPERATORS.keys()) + sorted(domains)
    require(
        not unknown and not model.functions and not graph.sparse_initializer,
        f"{where} is no IResNet: it has {first_of(unknown) or 'functions or sparse tensors'}, and an IResNet has only "
        f"{first_of(sorted(OPERATORS))}. Detectors, landmark and age models and other recognisers cannot be read",
        SUPPORTED,
    )
    opsets = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    require(
        len(opsets) == 1 and opsets[0] >= MIN_OPSET,
        f"{where} is written in the ONNX operator sets {opsets}, expected one from {MIN_OPSET} on",
        SUPPORTED,
    )
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    external = [
        str(proto.name) for proto in tensors if proto.data_location == TensorProto.EXTERNAL or proto.external_data
    ]
    require(
        not external,
        f"{where} keeps its weights in another file ({first_of(external)}), and such files are not read",
        "save the model in one file, with onnx.save_model(onnx.load(...), ..., save_as_external_data=False)",
    )
    groups = {a.i for node in graph.node if node.op_type == "Conv" for a in node.attribute if a.name == "group"}
    require(
        groups <= {1},
        f"{where} is no IResNet: it has depthwise convolutions, as InsightFace's MobileFaceNet has (w600k_mbf.onnx, "
        "buffalo_s), which cannot be read",
        SUPPORTED,
    )

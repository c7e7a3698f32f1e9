"""A graph that is wired in another way than an IResNet is refused: the same tensors would be another network."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from faceprotect_core.checks import ProtectionError
from onnx_models import iresnet_model, nodes, set_attribute

PLAIN_UNIT = 1  # of the thin network: the unit whose shortcut has no convolution


def stride_of_a_convolution(model):
    set_attribute(nodes(model, "Conv")[1], "strides", [2, 2])


def stride_of_a_shortcut(model):
    kernels = {tensor.name: list(tensor.dims[2:]) for tensor in model.graph.initializer}
    shortcut = next(node for node in nodes(model, "Conv") if kernels[node.input[1]] == [1, 1])
    set_attribute(shortcut, "strides", [1, 1])


def uneven_stride(model):
    set_attribute(nodes(model, "Conv")[2], "strides", [2, 1])


def stem_stride(model):
    set_attribute(nodes(model, "Conv")[0], "strides", [2, 2])


def no_padding(model):
    set_attribute(nodes(model, "Conv")[1], "pads", [0, 0, 0, 0])


def default_padding(model):
    node = nodes(model, "Conv")[1]
    node.attribute.remove(next(attribute for attribute in node.attribute if attribute.name == "pads"))


def automatic_padding(model):
    set_attribute(nodes(model, "Conv")[1], "auto_pad", "SAME_LOWER")


def dilation(model):
    set_attribute(nodes(model, "Conv")[1], "dilations", [2, 2])


def other_kernel(model):
    set_attribute(nodes(model, "Conv")[1], "kernel_shape", [5, 5])


def unknown_attribute(model):
    set_attribute(nodes(model, "Add")[0], "axis", 1)


def attribute_of_another_type(model):
    set_attribute(nodes(model, "BatchNormalization")[0], "epsilon", "1e-5")


def add_from_the_unit_before(model):
    before, unit = nodes(model, "Add")[:2]
    unit.input[1] = before.input[0]


def add_of_a_value_to_itself(model):
    unit = nodes(model, "Add")[PLAIN_UNIT]
    unit.input[1] = unit.input[0]


def add_of_the_normalised_value(model):
    nodes(model, "Add")[PLAIN_UNIT].input[1] = nodes(model, "BatchNormalization")[PLAIN_UNIT].output[0]


def no_prelu(model):
    prelu = nodes(model, "PRelu")[1]
    for node in model.graph.node:
        node.input[:] = [prelu.input[0] if name == prelu.output[0] else name for name in node.input]
    model.graph.node.remove(prelu)


def swapped_operands(model):
    nodes(model, "PRelu")[0].input[:] = list(nodes(model, "PRelu")[0].input)[::-1]


def slope_along_another_axis(model):
    slope = next(t for t in model.graph.initializer if t.name == nodes(model, "PRelu")[0].input[1])
    slope.dims[:] = [1, 1, 4]


def weights_that_are_computed(model):
    conv = nodes(model, "Conv")[0]
    product = helper.make_node("Mul", [conv.input[1], conv.input[1]], ["squared"])
    conv.input[1] = "squared"
    model.graph.node.insert(0, product)


def scaled_fully_connected(model):
    set_attribute(nodes(model, "Gemm")[0], "alpha", 0.5)


def transposed_input(model):
    set_attribute(nodes(model, "Gemm")[0], "transA", 1)


def flattened_elsewhere(model):
    set_attribute(nodes(model, "Flatten")[0], "axis", 2)


def normalisation_in_training(model):
    set_attribute(nodes(model, "BatchNormalization")[0], "training_mode", 1)


def normalisation_with_statistics_out(model):
    nodes(model, "BatchNormalization")[0].output.extend(["mean", "variance"])


def another_output(model):
    model.graph.output[0].name = nodes(model, "Gemm")[0].output[0]


def two_outputs(model):
    model.graph.output.append(model.graph.output[0])


def two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))


def channels_last(model):
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 112, 112, 3]))


def another_size(model):
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 224, 224]))


def integer_image(model):
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input.1", TensorProto.UINT8, [1, 3, 112, 112]))


def backwards(model):
    order = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(order)


def a_circle(model):
    model.graph.node.insert(0, helper.make_node("Identity", ["b"], ["a"]))
    model.graph.node.insert(1, helper.make_node("Identity", ["a"], ["b"]))


def a_name_twice(model):
    nodes(model, "Conv")[1].output[0] = nodes(model, "Conv")[0].output[0]


def an_initialiser_twice(model):
    model.graph.initializer.append(model.graph.initializer[0])


def an_identity_of_nothing(model):
    model.graph.node.add(op_type="Identity", output=["more"])


def a_cast_of_no_name(model):
    model.graph.node.add(op_type="Cast", input=[""], output=["more"])


WIRINGS = {
    stride_of_a_convolution: r"strides \(2, 2\), expected \(1, 2\)",
    stride_of_a_shortcut: "shortcut .* does not halve",
    uneven_stride: r"strides \[2, 1\]",
    stem_stride: "halves the image in its first convolution",
    no_padding: r"pads \[0, 0, 0, 0\], expected \[1, 1, 1, 1\]",
    default_padding: r"pads \[0, 0, 0, 0\], expected \[1, 1, 1, 1\]",
    automatic_padding: "auto_pad",
    dilation: "dilations",
    other_kernel: "kernel_shape",
    unknown_attribute: "Add with the attribute 'axis'",
    attribute_of_another_type: "attribute 'epsilon'",
    add_from_the_unit_before: "expected one Add",
    add_of_a_value_to_itself: "has .* after",
    add_of_the_normalised_value: r"\['Conv', 'Add'\] after",
    no_prelu: "expected one PRelu",
    swapped_operands: "is no constant",
    slope_along_another_axis: r"slope of shape \(1, 1, 4\)",
    weights_that_are_computed: "'squared' is no constant",
    scaled_fully_connected: "alpha 0.5, expected 1.0",
    transposed_input: "transA 1, expected 0",
    flattened_elsewhere: "axis 2, expected 1",
    normalisation_in_training: "training_mode 1, expected 0",
    normalisation_with_statistics_out: "training mode",
    another_output: "as its output",
    two_outputs: "2 outputs",
    two_inputs: "'mask'",
    channels_last: r"\[1, 112, 112, 3\]",
    another_size: r"\[1, 3, 224, 224\]",
    integer_image: "ONNX type 2",
    backwards: "nothing before it computes",
    a_circle: "nothing before it computes",
    a_name_twice: "computes",
    an_initialiser_twice: "same name",
    an_identity_of_nothing: "has a Identity that reads nothing",
    a_cast_of_no_name: "has a Cast that reads nothing",
}


@pytest.mark.parametrize("change", WIRINGS, ids=lambda change: change.__name__)
def test_a_graph_of_other_wiring_is_refused(model, read, change):
    change(model)
    with pytest.raises(ProtectionError, match=f"{WIRINGS[change]}.*How to fix: use the recognition file"):
        read(model)


LONG = "n" * 10_000
LONG_NAMES = {
    "operator": lambda graph: setattr(graph.node[0], "op_type", LONG),
    "attribute": lambda graph: setattr(graph.node[0].attribute[0], "name", LONG),
    "value": lambda graph: graph.node[3].input.append(LONG),
    "tensor": lambda graph: setattr(graph.initializer[0], "name", LONG),
    "image": lambda graph: setattr(graph.input[0], "name", LONG),
}


@pytest.mark.parametrize("what", LONG_NAMES)
def test_a_name_that_no_message_could_hold_is_refused(model, read, what):
    LONG_NAMES[what](model.graph)
    with pytest.raises(ProtectionError, match="has a name of 10000 letters"):
        read(model)


def test_preprocessing_of_another_kind_is_refused(network, read):
    model = iresnet_model(network, preprocessing=True)
    grey = next(t for t in model.graph.initializer if t.name == nodes(model, "Sub")[0].input[1])
    grey.CopyFrom(numpy_helper.from_array(np.array(123.0, np.float32), grey.name))
    with pytest.raises(ProtectionError, match=r"subtracts 123 from the image, expected 127.5"):
        read(model)
    nodes(model, "Sub")[0].input[:] = list(nodes(model, "Sub")[0].input)[::-1]
    with pytest.raises(ProtectionError, match="is no constant"):
        read(model)


def test_dropout_in_training_and_odd_reshapes_are_refused(network, read):
    model = iresnet_model(network, preprocessing=True)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "ratio"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    nodes(model, "Dropout")[0].input.extend(["ratio", "training"])
    with pytest.raises(ProtectionError, match="Dropout in training mode"):
        read(model)
    model = iresnet_model(network, reshape=True)
    shape = next(t for t in model.graph.initializer if t.name == nodes(model, "Reshape")[0].input[1])
    shape.CopyFrom(numpy_helper.from_array(np.array([49, -1]), shape.name))
    with pytest.raises(ProtectionError, match=r"reshapes to \[49, -1\]"):
        read(model)

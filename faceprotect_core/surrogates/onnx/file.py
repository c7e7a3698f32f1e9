"""An ONNX file of an InsightFace pack -> the tensors of a fused IResNet. The graph is read, never run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...checks import ProtectionError, given, require
from ..architecture import Architecture
from ..networks.iresnet import CHANNELS, EMBEDDING_DIM, UNITS, recognise
from ..weights_file import DOWNLOAD_AGAIN

if TYPE_CHECKING:
    from onnx import ModelProto

    from .layers import Layer

Recogniser = Callable[[Mapping[str, tuple[int, ...]]], Architecture | None]
MAX_BYTES = 2**30  # IResNet-100 in float32 has 0.25 GiB


def read_onnx(path: Path, known: Recogniser = recognise) -> tuple[Architecture, dict[str, Tensor]]:
    """The network in an ONNX file, and its tensors in float32 by the names of its state dictionary.

    Normalisations after a convolution are folded into it where the file has them still. Nothing is copied before names,
    shapes and wiring are those of a network that `known` knows.

    Raises:
        ProtectionError: the package `onnx` is missing; the file is missing or damaged, keeps its weights elsewhere, or
            holds another network.
    """
    _require_onnx(path)
    from .graph import Graph
    from .iresnet import find_layers

    model = _parsed(path)
    try:
        layers = find_layers(Graph(model, path.name))
    except UnicodeDecodeError as error:
        raise _broken(path, "it has names that are no text") from error
    architecture = _architecture(layers, known, path)
    with torch.inference_mode(False):
        tensors = {
            f"{layer_name}.{name}": tensor
            for layer_name, layer in layers.items()
            for name, tensor in layer.tensors().items()
        }
    return architecture, tensors


def _require_onnx(path: Path) -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ProtectionError(
            f"{path.name}: reading .onnx files needs the Python package onnx ({error})",
            "install it into ComfyUI's Python with `pip install onnx`, and start ComfyUI again; or use a .safetensors "
            "or .pth file",
        ) from error


def _parsed(path: Path) -> ModelProto:
    """The model as it lies in the file; weights that it keeps in other files are not touched."""
    import onnx
    from google.protobuf.message import DecodeError

    require(path.is_file(), f"there is no file {path}", "check the name, or choose another file")
    size = path.stat().st_size
    require(size > 0, f"{path.name} is empty", DOWNLOAD_AGAIN)
    require(
        size <= MAX_BYTES,
        f"{path.name} has {size / 2**30:.1f} GiB, expected at most {MAX_BYTES / 2**30:g} GiB for a recogniser",
        "choose another file; large models are no face recognisers",
    )
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, UnicodeDecodeError) as error:
        raise _broken(path, str(error)) from error


def _architecture(layers: Mapping[str, Layer], known: Recogniser, path: Path) -> Architecture:
    shapes = {
        f"{layer_name}.{name}": shape for layer_name, layer in layers.items() for name, shape in layer.shapes().items()
    }
    stages = range(1, len([name for name in layers if name.endswith("downsample.0")]) + 1)
    units = [sum(name.startswith(f"layer{stage}.") and name.endswith(".bn1") for name in layers) for stage in stages]
    return given(
        known(shapes),
        f"{path.name} is an IResNet of an unknown size: {units} units, {shapes['conv1.weight'][0]} channels after the "
        f"first convolution, embeddings of {shapes['fc.weight'][0]} values",
        f"use one with {' or '.join(str(list(units)) for units in UNITS.values())} units, {CHANNELS[0]} channels and "
        f"{EMBEDDING_DIM} values",
    )


def _broken(path: Path, reason: str) -> ProtectionError:
    size = path.stat().st_size
    return ProtectionError(f"{path.name} ({size} bytes) is no complete ONNX file: {reason.rstrip('.')}", DOWNLOAD_AGAIN)

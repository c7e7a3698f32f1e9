"""A TensorFlow.js graph model -> its nodes and constant tensors, without TensorFlow. The graph is read, never run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import ProtectionError, require

MAX_BYTES = 2**28  # of one file; a recogniser for browsers has some MB
DTYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int32": np.dtype("<i4")}


@dataclass(frozen=True)
class Node:
    """A step of the network: its kind, by TensorFlow's name, and the names of the nodes that it takes."""

    kind: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class TFJSNetwork:
    """Nodes by name; the node behind each output, by the output's name; constants by name, float32 or int32."""

    nodes: dict[str, Node]
    outputs: dict[str, str]
    constants: dict[str, np.ndarray]


def read_tfjs(path: Path, fix: str) -> TFJSNetwork:
    """The graph model whose topology is in the JSON file `path` and whose weights lie in files beside it.

    Args:
        fix: what an error tells the user to do.

    Raises:
        ProtectionError: a file is missing, too large or damaged, or its weights are stored in another way than float32,
            int32 or float32 as float16.
    """
    try:
        model = json.loads(_bytes(path, fix))
        nodes = {node["name"]: _node(node) for node in model["modelTopology"]["node"]}
        outputs = {name: _name(output["name"]) for name, output in model["signature"]["outputs"].items()}
        constants = {}
        for group in model["weightsManifest"]:
            constants |= _constants(path, group, fix)
    except ProtectionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # json's and unicode's errors are ValueErrors
        raise ProtectionError(
            f"{path.name} is no complete TensorFlow.js graph model: {type(error).__name__}: {error}", fix
        ) from error
    return TFJSNetwork(nodes, outputs, constants)


def _node(node: Mapping[str, Any]) -> Node:
    return Node(node["op"], tuple(_name(name) for name in node.get("input", ())))


def _name(tensor: str) -> str:
    """The name of a tensor's node: what is before the colon and the output's number."""
    return tensor.split(":")[0]


def _constants(path: Path, group: Mapping[str, Any], fix: str) -> dict[str, np.ndarray]:
    """The weights of one group: they lie one after the other in its files, as if those were one."""
    for name in group["paths"]:
        # The name comes from the file: it must not lead elsewhere.
        require(Path(name).name == name, f"{path.name} has its weights in {name!r}, not in a file beside it", fix)
    data, at, constants = b"".join(_bytes(path.parent / name, fix) for name in group["paths"]), 0, {}
    for weight in group["weights"]:
        stored, dtype = weight.get("quantization", weight)["dtype"], weight["dtype"]
        require(
            stored in DTYPES and (stored == dtype or (stored, dtype) == ("float16", "float32")),
            f"{path.name} stores the {dtype} tensor {weight['name']} as {stored}",
            fix,
        )
        count = int(np.prod(weight["shape"]))
        values = np.frombuffer(data, DTYPES[stored], count, at).reshape(weight["shape"])
        constants[weight["name"]] = values.astype(DTYPES[dtype])
        at += values.nbytes
    require(at == len(data), f"{path.name} describes {at} bytes of weights, its files have {len(data)}", fix)
    return constants


def _bytes(path: Path, fix: str) -> bytes:
    require(path.is_file(), f"there is no file {path}", fix)
    size = path.stat().st_size
    require(size <= MAX_BYTES, f"{path.name} has {size} bytes, expected at most {MAX_BYTES}", fix)
    return path.read_bytes()

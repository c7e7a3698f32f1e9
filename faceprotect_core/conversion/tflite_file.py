"""A TensorFlow Lite file -> its operators and constant tensors, without TensorFlow. The graph is read, never run.

The file is a flatbuffer: tables that know by position where their fields lie, all offsets counted in bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checks import ProtectionError, require

MAX_BYTES = 2**28  # a recogniser for phones has some MB
IDENTIFIER = b"TFL3"  # at byte 4
# Fields by their position in TensorFlow Lite's schema, version 3.
CODES, SUBGRAPHS, BUFFERS = 1, 2, 4  # of the model
CODE_BEFORE_127, CODE = 0, 3  # of an operator code
TENSORS, OPERATORS = 0, 3  # of a subgraph
SHAPE, TYPE, BUFFER = 0, 1, 2  # of a tensor
CODE_INDEX, INPUTS, OUTPUTS = 0, 1, 2  # of an operator
DATA = 0  # of a buffer
FLOAT32 = 0  # a tensor's type


@dataclass(frozen=True)
class Operator:
    """A step of the network: its kind, by the schema's number, and the tensors it takes and gives, by position.

    An input that is left out is -1.
    """

    kind: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TFLiteNetwork:
    """The operators in the order in which they run, and float32 constants by their position among the tensors."""

    operators: tuple[Operator, ...]
    constants: dict[int, np.ndarray]


class Table:
    """A flatbuffer's table at a byte of `data`. A field that the file leaves out is 0 or empty."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at
        self.fields = at - _number(data, at, "<i")  # where each field lies; the first two values are sizes
        self.fields_end = self.fields + _number(data, self.fields, "<H")

    def _field(self, position: int) -> int:
        """The byte at which a field lies, 0 where it is left out."""
        entry = self.fields + 4 + 2 * position
        offset = _number(self.data, entry, "<H") if entry < self.fields_end else 0
        return self.at + offset if offset else 0

    def number(self, position: int, kind: str) -> int:
        """An integer, `kind` as in the module struct."""
        at = self._field(position)
        return _number(self.data, at, "<" + kind) if at else 0

    def _vector(self, position: int) -> tuple[int, int]:
        """The byte of a vector's first entry, and how many it has."""
        at = self._field(position)
        if not at:
            return 0, 0
        at += _number(self.data, at, "<I")
        return at + 4, _number(self.data, at, "<I")

    def array(self, position: int, kind: str) -> np.ndarray:
        """A vector of numbers, `kind` as in numpy: a copy, so that it does not hold the file's bytes."""
        start, count = self._vector(position)
        return np.frombuffer(self.data, "<" + kind, count, start).copy()

    def tables(self, position: int) -> list[Table]:
        """A vector of tables."""
        start, count = self._vector(position)
        ends = range(start, start + 4 * count, 4)
        return [Table(self.data, at + _number(self.data, at, "<I")) for at in ends]


def read_tflite(path: Path, fix: str) -> TFLiteNetwork:
    """The first subgraph of a TensorFlow Lite file; tensors that are not float32 or have no values are left out.

    Args:
        fix: what an error tells the user to do.

    Raises:
        ProtectionError: the file is missing, too large, damaged, or something else.
    """
    require(path.is_file(), f"there is no file {path}", fix)
    size = path.stat().st_size
    require(8 <= size <= MAX_BYTES, f"{path.name} has {size} bytes, expected 8 to {MAX_BYTES}", fix)
    data = path.read_bytes()
    found = data[4:8]
    require(found == IDENTIFIER, f"{path.name} is no TensorFlow Lite file: bytes 4 to 7 are {found!r}, not TFL3", fix)
    try:
        return _network(Table(data, _number(data, 0, "<I")))
    except (struct.error, ValueError, IndexError) as error:
        problem = f"{path.name} ({size} bytes) is no complete TensorFlow Lite file: {error}"
        raise ProtectionError(problem, fix) from error


def _network(model: Table) -> TFLiteNetwork:
    # Numbers above 127 do not fit into the old field: it holds 127 then.
    kinds = [max(code.number(CODE_BEFORE_127, "b"), code.number(CODE, "i")) for code in model.tables(CODES)]
    buffers, (subgraph, *_) = model.tables(BUFFERS), model.tables(SUBGRAPHS)
    operators = tuple(
        Operator(
            kinds[operator.number(CODE_INDEX, "I")],
            tuple(operator.array(INPUTS, "i4").tolist()),
            tuple(operator.array(OUTPUTS, "i4").tolist()),
        )
        for operator in subgraph.tables(OPERATORS)
    )
    constants = {}
    for position, tensor in enumerate(subgraph.tables(TENSORS)):
        buffer = buffers[tensor.number(BUFFER, "I")]
        if tensor.number(TYPE, "b") == FLOAT32 and (values := buffer.array(DATA, "u1")).size:
            constants[position] = values.view("<f4").reshape(tensor.array(SHAPE, "i4"))
    return TFLiteNetwork(operators, constants)


def _number(data: bytes, at: int, kind: str) -> int:
    if at < 0:  # struct would count from the end
        raise IndexError(f"an offset leads to byte {at}")
    return struct.unpack_from(kind, data, at)[0]

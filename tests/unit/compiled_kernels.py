"""python compiled_kernels.py [[CAPABILITY, DTYPE, DIM], ...]: the kernels compiled for GPUs that are not here.

Prints as JSON the most bytes of shared memory that one of them takes, for each case. A process of its own, whose Triton
compiles into a folder of its own.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["TRITON_CACHE_DIR"] = (cache := tempfile.TemporaryDirectory()).name  # compiled anew, and nothing is left
sys.path.append(str(Path(__file__).parents[2]))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from faceprotect_core import attention_kernels

NUMBERS = {"float32": "*fp32", "bfloat16": "*bf16"}
ROWS = {"squares", "log_sum", "unchanged_log_sum", "slant", "level", "weight"}  # always float32
SCALARS = {"count": "i32", "heads": "i32", "scale": "fp32"}


def compiled(kernel, capability: int, dtype: str, dim: int):
    width = max(16, triton.next_power_of_2(dim))
    blocks = attention_kernels.blocks_for(width, getattr(torch, dtype))
    constants = {"DIM": dim, "WIDTH": width, "ROWS": blocks.rows, "COLUMNS": blocks.columns}

    def kind(name: str) -> str:
        return SCALARS.get(name) or ("*fp32" if name in ROWS else NUMBERS[dtype])

    signature = {name: "constexpr" if name in constants else kind(name) for name in kernel.arg_names}
    pointers = (index for index, name in enumerate(kernel.arg_names) if signature[name].startswith("*"))
    aligned = {(index,): [["tt.divisibility", 16]] for index in pointers}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def main() -> None:
    kernels = [getattr(attention_kernels, name) for name in ("_forward", "_backward_of_queries", "_backward_of_keys")]
    cases = json.loads(sys.argv[1])
    print(json.dumps([max(compiled(kernel, *case).metadata.shared for kernel in kernels) for case in cases]))  # noqa: T201


if __name__ == "__main__":
    main()

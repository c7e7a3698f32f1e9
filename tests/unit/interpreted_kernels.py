"""python interpreted_kernels.py: the kernels on a CPU, by Triton's interpreter, against PyTorch in float64.

A process of its own: Triton reads TRITON_INTERPRET when it is imported. Prints relative_errors as JSON.
"""

import json
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.append(str(Path(__file__).parents[2]))

import torch
from triton.runtime import interpreter

from faceprotect_core.attention_kernels import FusedComparison
from faceprotect_core.fused_attention import relative_errors

# Images, heads, tokens (which fill their blocks, or do not), and the size of a head.
SHAPES = ((2, 2, 70, 40), (1, 3, 64, 8), (1, 1, 33, 160))


def let_numbers_be_indices() -> None:
    """Triton 3.6's interpreter takes int() of an array of one element for range(), which NumPy 2.4 refuses."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def errors(dtype: torch.dtype, images: int, heads: int, tokens: int, dim: int) -> list[float]:
    torch.manual_seed(0)
    inputs = [torch.randn(images, tokens, heads, dim).to(dtype) for _ in range(5)]
    return list(relative_errors(FusedComparison.apply, inputs).values())


def loss_of_equal_maps() -> float:
    query, key, value = (torch.randn(1, 2, 70, 40) for _ in range(3))
    return FusedComparison.apply(query, key, value, (query, key))[1].item()


def main() -> None:
    let_numbers_be_indices()
    measured = {"equal maps": loss_of_equal_maps()}
    for name in ("float32", "float16"):  # the interpreter knows no bfloat16
        measured[name] = {str(shape): errors(getattr(torch, name), *shape) for shape in SHAPES}
    print(json.dumps(measured))  # noqa: T201


if __name__ == "__main__":
    main()

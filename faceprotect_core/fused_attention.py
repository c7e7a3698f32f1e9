"""Self-attention maps compared in kernels of our own (attention_kernels.py), on GPUs where those prove right.

They need an NVIDIA GPU of 2020 or later (compute capability 8.0) and Triton, which PyTorch brings on Linux. Everywhere
else, and where they do not give what PyTorch gives, PyTorch computes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import Capture, Comparison, StructureLoss, compare
from .model import SelfAttention

# The largest of relative_errors that are taken. Rounding gives less than a fifth of it: in float32, and by what float16
# shows, which has three bits more, in bfloat16.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
# Of a head. Larger ones, which Stable Diffusion 1.x has where there are few tokens, do not fit.
LARGEST_DIM = {torch.float32: 128, torch.bfloat16: 256}
NAMES = ("output", "structure loss", "gradient of the queries", "gradient of the keys", "gradient of the values")


def kernels_for(query: Tensor) -> Comparison:
    """The fused Comparison. Raises RuntimeError or ImportError where it cannot run."""
    if torch.version.hip is not None or torch.cuda.get_device_capability(query.device) < (8, 0):
        raise RuntimeError("this needs an NVIDIA GPU with compute capability 8.0 or more")
    from .attention_kernels import FusedComparison

    return FusedComparison.apply


@dataclass(eq=False)
class FusedAttention:
    """A Comparison by kernels where they work, and by PyTorch elsewhere.

    For each number format (float32, bfloat16) and size of the heads it is decided once, at the first call: the kernels
    are compiled, and their results and gradients are held against PyTorch's in float64. Where that fails the log says
    why.

    device: where kernels are tried. kernels_for: gives them, for tests without a GPU.
    """

    device: str = "cuda"
    kernels_for: Callable[[Tensor], Comparison] = kernels_for
    chosen: dict[Hashable, Comparison] = field(default_factory=dict)

    def use_in(self, self_attention: SelfAttention | None) -> None:
        """What captures the unchanged run or compares with it does so with the kernels."""
        if isinstance(self_attention, Capture | StructureLoss):
            self_attention.comparison = self

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, reference: tuple[Tensor, Tensor]):
        kind = query.device, query.dtype, query.shape[-1]
        if kind not in self.chosen:
            self.chosen[kind] = self._choice(query)
        return self.chosen[kind](query, key, value, reference)

    def _choice(self, query: Tensor) -> Comparison:
        if query.device.type != self.device or query.shape[-1] > LARGEST_DIM.get(query.dtype, 0):
            return compare
        try:
            kernels = self.kernels_for(query)
            _require_right(kernels, query)
            return kernels
        except Exception as error:  # also of a compiler, or of a Triton, that we do not know
            kind = f"{str(query.dtype).removeprefix('torch.')}, heads of {query.shape[-1]}"
            logging.warning("FaceProtect: no fused attention for %s, PyTorch computes it: %s", kind, error)
            return compare


def _require_right(kernels: Comparison, like: Tensor) -> None:
    """Raises RuntimeError where the kernels do not give what `compare` gives."""
    generator = torch.Generator(like.device).manual_seed(0)
    shape = 2, 80, 3, like.shape[-1]  # tokens that do not fill their blocks
    with torch.inference_mode(False), torch.enable_grad():
        inputs = [torch.randn(shape, generator=generator, device=like.device).to(like.dtype) for _ in range(5)]
        errors = relative_errors(kernels, inputs)
    for name, error in errors.items():
        if not error <= TOLERANCE[like.dtype]:
            raise RuntimeError(f"the {name} of the kernels is wrong by {error:.1e}")


def relative_errors(comparison: Comparison, inputs: list[Tensor]) -> dict[str, float]:
    """NAMES -> the largest difference from what `compare` gives in float64, in units of the largest number there.

    inputs: query, key, value and the reference's query and key, [B, tokens, heads, dim] each.
    """
    found, expected = _results(comparison, inputs), _results(compare, [tensor.double() for tensor in inputs])
    return {
        name: ((ours.double() - right).abs().max() / right.abs().max()).item()
        for name, ours, right in zip(NAMES, found, expected, strict=True)
    }


def _results(comparison: Comparison, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """What NAMES says."""
    query, key, value, *reference = (tensor.transpose(1, 2) for tensor in inputs)
    trained = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    output, difference = comparison(*trained, tuple(reference))
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).reshape(output.shape)
    weighted = (output * weights).sum() + 1e4 * difference.sum()  # both of them count in the gradients
    return output.detach(), difference.detach(), *torch.autograd.grad(weighted, trained)

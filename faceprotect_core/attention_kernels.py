"""Attention that compares its maps with a reference's in three Triton kernels: no map ever leaves the chip.

The same as `compare` in attention.py, for NVIDIA GPUs; fused_attention.py says where they are used. Triton comes with
PyTorch on Linux, and compiles a kernel when it is first called.

Softmax is taken in powers of two: p = 2^(s - log_sum), s = q.k * scale. Per row of a map (a query), with the maps p and
unchanged u: squares = sum (p - u)^2, slant = sum (p - u) p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = tl.constexpr(1.4426950408889634)


class FusedComparison(torch.autograd.Function):
    """A Comparison (see attention.py) of tensors in float32 or bfloat16; the mean squared difference is float32."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, reference: tuple[Tensor, Tensor]):
        inputs = [_tokens_first(tensor) for tensor in (query, key, value, *reference)]
        launch = _Launch(inputs[0])
        output = torch.empty_like(inputs[2])
        squares, *rows = (launch.row_numbers() for _ in range(4))  # rows: log_sum, unchanged_log_sum, slant
        launch(_forward, *inputs, output, squares, *rows)
        ctx.save_for_backward(*inputs, output, *rows)
        return output.transpose(1, 2), squares.sum((1, 2)) / _map_size(query)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_output: Tensor, of_mean: Tensor):
        *inputs, output, log_sum, unchanged_log_sum, slant = ctx.saved_tensors
        launch = _Launch(inputs[0])
        of_output = _tokens_first(of_output)
        weight = (2.0 / _map_size(inputs[0].transpose(1, 2)) * of_mean).float()  # of a difference, [B]
        of_query, of_key, of_value = (torch.empty_like(tensor) for tensor in inputs[:3])
        level = launch.row_numbers()  # sum of p times its gradient
        logs = log_sum, unchanged_log_sum
        launch(_backward_of_queries, *inputs, output, of_output, weight, *logs, slant, level, of_query)
        launch(_backward_of_keys, *inputs, of_output, weight, *logs, level, of_key, of_value)
        return of_query.transpose(1, 2), of_key.transpose(1, 2), of_value.transpose(1, 2), None


def _tokens_first(tensor: Tensor) -> Tensor:
    """[B, heads, tokens, dim] -> [B, tokens, heads, dim], which is how a projection left it."""
    return tensor.transpose(1, 2).contiguous()


def _map_size(query: Tensor) -> int:
    return query.shape[1] * query.shape[2] ** 2


@dataclass(frozen=True)
class Blocks:
    """How much of a map a program has at once, and how many warps work on it."""

    rows: int
    columns: int
    warps: int
    stages: int


def blocks_for(width: int, dtype: torch.dtype) -> Blocks:
    """What keeps numbers in registers, and within the 99 KB of shared memory that small cards have.

    width: of a head, up to a power of two.
    """
    if dtype == torch.float32:
        return Blocks(32, 32, warps=4, stages=2) if width <= 64 else Blocks(16, 16, warps=4, stages=1)
    if width <= 64:
        return Blocks(64, 64, warps=4, stages=2)
    return Blocks(64, 32, warps=4, stages=2) if width <= 128 else Blocks(32, 32, warps=4, stages=1)


class _Launch:
    """A program for every block of rows, image and head."""

    def __init__(self, query: Tensor):
        self.query = query
        self.images, self.tokens, self.heads, self.dim = query.shape
        self.width = max(16, triton.next_power_of_2(self.dim))
        self.blocks = blocks_for(self.width, query.dtype)

    def row_numbers(self) -> Tensor:
        shape = self.images, self.heads, self.tokens
        return torch.empty(shape, dtype=torch.float32, device=self.query.device)

    def __call__(self, kernel, *tensors: Tensor) -> None:
        blocks = self.blocks
        grid = triton.cdiv(self.tokens, blocks.rows), self.images * self.heads
        with torch.cuda.device_of(self.query):  # Triton launches on the device in force
            kernel[grid](
                *tensors,
                self.tokens,
                self.heads,
                self.dim**-0.5 * LOG2_E.value,
                DIM=self.dim,
                WIDTH=self.width,
                ROWS=blocks.rows,
                COLUMNS=blocks.columns,
                num_warps=blocks.warps,
                num_stages=blocks.stages,
            )


@triton.jit
def _load(tensor, tokens, image, head, count, heads, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """[tokens, WIDTH] of [B, tokens, heads, dim], 0 outside."""
    columns = tl.arange(0, WIDTH)
    at = ((image * count + tokens) * heads + head)[:, None] * DIM + columns[None, :]
    inside = (tokens < count)[:, None] & (columns < DIM)[None, :]
    return tl.load(tensor + at, mask=inside, other=0.0)


@triton.jit
def _store(tensor, values, tokens, image, head, count, heads, DIM: tl.constexpr, WIDTH: tl.constexpr):
    columns = tl.arange(0, WIDTH)
    at = ((image * count + tokens) * heads + head)[:, None] * DIM + columns[None, :]
    inside = (tokens < count)[:, None] & (columns < DIM)[None, :]
    tl.store(tensor + at, values.to(tensor.dtype.element_ty), mask=inside)


@triton.jit
def _product(a, b):
    """In float32 or as exact: tensor cores, three passes for float32."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _log_sum(
    q, key, scale, image, head,
    count, heads, DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """log2 of the sum of a row's powers."""
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(0, count, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        k = _load(key, columns, image, head, count, heads, DIM, WIDTH)
        s = tl.where((columns < count)[None, :], _product(q, tl.trans(k)) * scale, float("-inf"))
        larger = tl.maximum(largest, tl.max(s, 1))
        total = total * tl.exp2(largest - larger) + tl.sum(tl.exp2(s - larger[:, None]), 1)
        largest = larger
    return largest + tl.log2(total)


@triton.jit
def _forward(
    query, key, value, unchanged_query, unchanged_key, output, squares, log_sum, unchanged_log_sum, slant,
    count, heads, scale, DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    q = _load(query, rows, image, head, count, heads, DIM, WIDTH)
    unchanged_q = _load(unchanged_query, rows, image, head, count, heads, DIM, WIDTH)
    logs = _log_sum(q, key, scale, image, head, count, heads, DIM, WIDTH, ROWS, COLUMNS)
    unchanged_logs = _log_sum(unchanged_q, unchanged_key, scale, image, head, count, heads, DIM, WIDTH, ROWS, COLUMNS)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    square, slanted = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for first in range(0, count, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        inside = (columns < count)[None, :]
        k = _load(key, columns, image, head, count, heads, DIM, WIDTH)
        unchanged_k = _load(unchanged_key, columns, image, head, count, heads, DIM, WIDTH)
        p = tl.where(inside, tl.exp2(_product(q, tl.trans(k)) * scale - logs[:, None]), 0.0)
        u = tl.exp2(_product(unchanged_q, tl.trans(unchanged_k)) * scale - unchanged_logs[:, None])
        difference = p - tl.where(inside, u, 0.0)
        square += tl.sum(difference * difference, 1)
        slanted += tl.sum(difference * p, 1)
        v = _load(value, columns, image, head, count, heads, DIM, WIDTH)
        out += _product(p.to(v.dtype), v)
    _store(output, out, rows, image, head, count, heads, DIM, WIDTH)
    at = tl.program_id(1) * count + rows
    tl.store(squares + at, square, mask=rows < count)
    tl.store(log_sum + at, logs, mask=rows < count)
    tl.store(unchanged_log_sum + at, unchanged_logs, mask=rows < count)
    tl.store(slant + at, slanted, mask=rows < count)


@triton.jit
def _backward_of_queries(
    query, key, value, unchanged_query, unchanged_key, output, of_output, weight, log_sum, unchanged_log_sum, slant,
    level, of_query,
    count, heads, scale, DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.program_id(1) * count + rows
    w = tl.load(weight + image)
    logs = tl.load(log_sum + at, mask=rows < count, other=0.0)
    unchanged_logs = tl.load(unchanged_log_sum + at, mask=rows < count, other=0.0)
    q = _load(query, rows, image, head, count, heads, DIM, WIDTH)
    unchanged_q = _load(unchanged_query, rows, image, head, count, heads, DIM, WIDTH)
    of_out = _load(of_output, rows, image, head, count, heads, DIM, WIDTH)
    out = _load(output, rows, image, head, count, heads, DIM, WIDTH)
    levels = tl.sum(of_out.to(tl.float32) * out.to(tl.float32), 1)
    levels += w * tl.load(slant + at, mask=rows < count, other=0.0)
    tl.store(level + at, levels, mask=rows < count)
    of_q = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, count, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        inside = (columns < count)[None, :]
        k = _load(key, columns, image, head, count, heads, DIM, WIDTH)
        unchanged_k = _load(unchanged_key, columns, image, head, count, heads, DIM, WIDTH)
        v = _load(value, columns, image, head, count, heads, DIM, WIDTH)
        p = tl.exp2(_product(q, tl.trans(k)) * scale - logs[:, None])
        u = tl.exp2(_product(unchanged_q, tl.trans(unchanged_k)) * scale - unchanged_logs[:, None])
        of_p = _product(of_out, tl.trans(v)) + w * (p - u)
        of_s = tl.where(inside, p * (of_p - levels[:, None]), 0.0)
        of_q += _product(of_s.to(k.dtype), k)
    _store(of_query, of_q * (scale / LOG2_E), rows, image, head, count, heads, DIM, WIDTH)


@triton.jit
def _backward_of_keys(
    query, key, value, unchanged_query, unchanged_key, of_output, weight, log_sum, unchanged_log_sum, level,
    of_key, of_value,
    count, heads, scale, DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The maps transposed: a program has ROWS keys, and goes through the queries."""
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    keys = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    w = tl.load(weight + image)
    k = _load(key, keys, image, head, count, heads, DIM, WIDTH)
    unchanged_k = _load(unchanged_key, keys, image, head, count, heads, DIM, WIDTH)
    v = _load(value, keys, image, head, count, heads, DIM, WIDTH)
    of_k, of_v = tl.zeros([ROWS, WIDTH], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, count, COLUMNS):
        queries = first + tl.arange(0, COLUMNS)
        at = tl.program_id(1) * count + queries
        logs = tl.load(log_sum + at, mask=queries < count, other=0.0)
        unchanged_logs = tl.load(unchanged_log_sum + at, mask=queries < count, other=0.0)
        levels = tl.load(level + at, mask=queries < count, other=0.0)
        q = _load(query, queries, image, head, count, heads, DIM, WIDTH)
        unchanged_q = _load(unchanged_query, queries, image, head, count, heads, DIM, WIDTH)
        of_out = _load(of_output, queries, image, head, count, heads, DIM, WIDTH)
        p = tl.exp2(_product(k, tl.trans(q)) * scale - logs[None, :])
        u = tl.exp2(_product(unchanged_k, tl.trans(unchanged_q)) * scale - unchanged_logs[None, :])
        of_v += _product(p.to(of_out.dtype), of_out)
        of_p = _product(v, tl.trans(of_out)) + w * (p - u)
        of_s = p * (of_p - levels[None, :])
        of_k += _product(of_s.to(q.dtype), q)
    _store(of_key, of_k * (scale / LOG2_E), keys, image, head, count, heads, DIM, WIDTH)
    _store(of_value, of_v, keys, image, head, count, heads, DIM, WIDTH)

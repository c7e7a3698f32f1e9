"""Self-attention maps of the unchanged run, and the structure loss that holds the changed run to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..checks import given, require
from ..progress import OnStep, Step
from ..protocols import Denoiser
from .inversion import Trajectory

# Elements of the maps that are computed at once: what a CPU's cache holds, and enough to fill a GPU.
ELEMENTS_AT_ONCE = {"cpu": 2**21, "cuda": 2**25}
HELD_AT_MOST = 2**25  # elements of the maps of all steps: 128 MB, and as much again in each pass


def attention_maps(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(dim)) in float32 or better: [B, heads, tokens, dim] -> [B, heads, tokens, tokens]."""
    with _tensor_cores(query):
        return _scores(_float32(query), _float32(key)).softmax(dim=-1)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Q K^T / sqrt(dim)."""
    scale = query.shape[-1] ** -0.5
    if not _fuses(query):
        return query @ key.transpose(-2, -1) * scale
    queries, keys = query.flatten(0, 1), key.flatten(0, 1).transpose(-2, -1)
    scores = torch.baddbmm(query.new_empty(1, 1, 1), queries, keys, beta=0, alpha=scale)
    return scores.unflatten(0, query.shape[:2])


def _softmax_backward(gradient: Tensor, maps: Tensor) -> Tensor:
    """The gradient of the scores from that of their softmax, which is overwritten."""
    if not _fuses(maps):
        return gradient.sub_((gradient * maps).sum(-1, keepdim=True)).mul_(maps)
    return torch._softmax_backward_data(gradient, maps, -1, maps.dtype)


def _fuses(tensor: Tensor) -> bool:
    """A GPU saves passes over the maps. A CPU gains nothing, and rounds as the formulas of the release do."""
    return tensor.is_cuda


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@contextmanager
def _tensor_cores(like: Tensor) -> Iterator[None]:
    """On a GPU, products in TF32 where the network computes in bfloat16: all bits of a bfloat16 number fit in a TF32
    one, and the sums are float32 all the same."""
    if not (like.is_cuda and like.dtype == torch.bfloat16):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True, eq=False)
class SelfAttentionReference:
    """What the unchanged run looked like inside.

    Args:
        queries_and_keys: one dictionary per denoising step (noisiest first): layer -> (query, key), each
            [B, heads, tokens, dim]. They stand for the maps at a fraction of the memory.
        latent: where the unchanged run ends, [B, C, h, w].
    """

    queries_and_keys: tuple[dict[str, tuple[Tensor, Tensor]], ...]
    latent: Tensor

    @property
    def map_elements(self) -> int:
        """How many elements the maps of all steps have."""
        pairs = (pair for layers in self.queries_and_keys for pair in layers.values())
        return sum(len(query) * _map_size(query, key) for query, key in pairs)

    def maps(self) -> tuple[dict[str, Tensor], ...]:
        """The maps that the queries and keys stand for."""
        return tuple(
            {layer: _by_rows(query, key) for layer, (query, key) in layers.items()} for layers in self.queries_and_keys
        )


@dataclass(eq=False)
class Capture:
    """Self-attention that remembers queries and keys."""

    queries_and_keys: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.queries_and_keys[layer] = (query.detach().clone(), key.detach().clone())
        return torch.cat([_attend(query[:, :, rows], key, value)[0] for rows in _rows(query, key)], dim=2)


@dataclass(eq=False)
class StructureLoss:
    """Self-attention that adds up how far its maps are from the reference's (the paper's structure loss).

    Per layer: mean squared error over heads, queries and keys; summed over layers.

    Args:
        reference: layer -> (query, key) of the unchanged run at the same step, each [B, heads, tokens, dim].
        loss: the sum so far; [B] after the forward pass.
        maps: layer -> the reference's maps, where there is memory to hold them; a pass then holds its own, too.
    """

    reference: dict[str, tuple[Tensor, Tensor]]
    loss: Tensor | float = 0.0
    maps: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        reference, unchanged = self._reference_of(layer, query), self.maps.get(layer)
        output, difference = _ComparedAttention.apply(query, key, value, reference, unchanged)
        self.loss = self.loss + difference
        return output

    def _reference_of(self, layer: str, query: Tensor) -> tuple[Tensor, Tensor]:
        found = self.reference.get(layer)
        return given(
            found if found and found[0].shape == query.shape else None,
            f"the self-attention reference does not fit the model at layer {layer}: expected {list(query.shape)}, "
            f"captured {list(found[0].shape) if found else 'nothing'}",
            "capture the self-attention again with the same model and trajectory",
        )


class _ComparedAttention(torch.autograd.Function):
    """Attention, and the mean squared difference [B] of its maps from the reference's.

    Some rows (queries) of the maps are computed at a time, and again in the backward pass: what is kept are queries,
    keys and values. At 4096 tokens a held map of 8 heads would be 0.5 GB a layer and step. Where the reference's maps
    are held (`unchanged`), so are these; the results are the same, bit for bit.
    """

    @staticmethod
    def forward(
        ctx, query: Tensor, key: Tensor, value: Tensor, reference: tuple[Tensor, Tensor], unchanged: Tensor | None
    ):
        ctx.reference, ctx.unchanged = reference, unchanged
        output, held, squares = [], [], 0.0
        for rows in _rows(query, key):
            part, maps = _attend(query[:, :, rows], key, value)
            output.append(part)
            if unchanged is None:
                difference = maps.sub_(_unchanged(reference, rows))
            else:
                held.append(maps)
                difference = maps - unchanged[:, :, rows]
            squares = squares + torch.linalg.vector_norm(difference.flatten(1), dim=1).square()
        ctx.save_for_backward(query, key, value, *held)
        return torch.cat(output, dim=2), squares / _map_size(query, key)

    @staticmethod
    @once_differentiable
    def backward(ctx, output_gradient: Tensor, difference_gradient: Tensor):
        tensors = ctx.saved_tensors  # read once: a recomputed block gives them out once
        saved, held = tensors[:3], tensors[3:]
        query, key, value = (tensor.to(difference_gradient.dtype) for tensor in saved)
        output_gradient = output_gradient.to(value.dtype)
        weight = (2.0 / _map_size(query, key) * difference_gradient)[:, None, None, None]
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        with _tensor_cores(saved[0]):
            for number, rows in enumerate(_rows(query, key)):
                maps = held[number] if held else attention_maps(query[:, :, rows], key)
                of_value += maps.transpose(-2, -1) @ output_gradient[:, :, rows]
                if held:
                    difference = maps - ctx.unchanged[:, :, rows]
                else:
                    difference = _unchanged(ctx.reference, rows)
                    torch.sub(maps, difference, out=difference)
                of_maps = (output_gradient[:, :, rows] @ value.transpose(-2, -1)).addcmul_(difference, weight)
                del difference
                of_scores = _softmax_backward(of_maps, maps)
                of_query[:, :, rows] = of_scores @ key
                of_key += of_scores.transpose(-2, -1) @ query[:, :, rows]
        scale = query.shape[-1] ** -0.5
        of_query, of_key = of_query.mul_(scale), of_key.mul_(scale)
        gradients = (of_query, of_key, of_value)
        return *(gradient.to(tensor.dtype) for gradient, tensor in zip(gradients, saved, strict=True)), None, None


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the maps of some rows."""
    maps = attention_maps(query, key)
    return maps.to(value.dtype) @ value, maps


def _unchanged(reference: tuple[Tensor, Tensor], rows: slice) -> Tensor:
    query, key = reference
    return attention_maps(query[:, :, rows], key)


def _by_rows(query: Tensor, key: Tensor) -> Tensor:
    return torch.cat([attention_maps(query[:, :, rows], key) for rows in _rows(query, key)], dim=2)


def _rows(query: Tensor, key: Tensor) -> list[slice]:
    """The queries in parts of at most ELEMENTS_AT_ONCE elements of the maps."""
    batch, heads, queries, _ = query.shape
    at_once = ELEMENTS_AT_ONCE.get(query.device.type, ELEMENTS_AT_ONCE["cuda"])
    step = max(1, at_once // (batch * heads * key.shape[2]))
    return [slice(start, start + step) for start in range(0, queries, step)]


def _map_size(query: Tensor, key: Tensor) -> int:
    return query.shape[1] * query.shape[2] * key.shape[2]


@torch.no_grad()
def capture_self_attention(
    denoiser: Denoiser, trajectory: Trajectory, embeddings: Tensor, on_step: OnStep | None = None
) -> SelfAttentionReference:
    """Denoises the unchanged latent once with the learned embeddings and keeps what every self-attention layer saw.

    Args:
        denoiser: the U-Net.
        trajectory: of `ddim_invert`.
        embeddings: [depth, B, tokens, dim] of `learn_null_text`, noisiest step first.
        on_step: called after every step.

    Raises:
        ProtectionError: embeddings of another trajectory, or a model without self-attention.
    """
    require_embeddings(trajectory, embeddings, "Self-Attention Capture")
    latent = trajectory.latents[-1]
    captured = []
    for step in range(trajectory.depth):
        capture = Capture()
        latent = trajectory.denoise_step(denoiser, latent, step, embeddings[step], capture)
        captured.append(capture.queries_and_keys)
        if on_step:
            on_step(Step("capture", step + 1, trajectory.depth))
    require(
        bool(captured[0]),
        "Self-Attention Capture: the model has no self-attention layers",
        "use a Stable Diffusion 1.x or 2.x model, or leave the structure loss out",
    )
    return SelfAttentionReference(tuple(captured), latent)


def require_embeddings(trajectory: Trajectory, embeddings: Tensor, where: str) -> None:
    """Refuses embeddings that are not [depth, B, tokens, dim] of this trajectory; where: the block, for messages."""
    expected = [trajectory.depth, trajectory.latents[0].shape[0]]
    require(
        embeddings.ndim == 4 and list(embeddings.shape[:2]) == expected,
        f"{where}: the null-text embeddings are {list(embeddings.shape)}, "
        f"the trajectory needs [{expected[0]}, {expected[1]}, tokens, dim]",
        "learn the embeddings again from this trajectory",
    )

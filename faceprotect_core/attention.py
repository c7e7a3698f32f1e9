"""Self-attention maps of the unchanged run, and the structure loss that holds the changed run to them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .checks import require
from .inversion import OnStep, Trajectory
from .model import Denoiser


def attention_maps(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(dim)) in float32 or better: [B, heads, tokens, dim] -> [B, heads, tokens, tokens]."""
    if query.dtype in (torch.float16, torch.bfloat16):
        query, key = query.float(), key.float()
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)


@dataclass(frozen=True, eq=False)
class SelfAttentionReference:
    """What the unchanged run looked like inside.

    queries_and_keys: one dictionary per denoising step (noisiest first): layer -> (query, key), each
        [B, heads, tokens, dim]. They stand for the maps at a fraction of the memory.
    latent: where the unchanged run ends, [B, C, h, w].
    """

    queries_and_keys: tuple[dict[str, tuple[Tensor, Tensor]], ...]
    latent: Tensor


@dataclass(eq=False)
class Capture:
    """Self-attention that remembers queries and keys."""

    queries_and_keys: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.queries_and_keys[layer] = (query.detach().clone(), key.detach().clone())
        return attention_maps(query, key).to(value.dtype) @ value


@dataclass(eq=False)
class StructureLoss:
    """Self-attention that adds up how far its maps are from the reference's (the paper's structure loss).

    Per layer: mean squared error over heads, queries and keys; summed over layers. loss: [B] after the forward pass.
    """

    reference: dict[str, tuple[Tensor, Tensor]]
    loss: Tensor | float = 0.0

    def __call__(self, layer: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        maps = attention_maps(query, key)
        with torch.no_grad():
            unchanged = attention_maps(*self._reference_of(layer, query))
        self.loss = self.loss + (maps - unchanged).square().flatten(1).mean(1)
        return maps.to(value.dtype) @ value

    def _reference_of(self, layer: str, query: Tensor) -> tuple[Tensor, Tensor]:
        found = self.reference.get(layer)
        require(
            found is not None and found[0].shape == query.shape,
            f"the self-attention reference does not fit the model at layer {layer}: expected {list(query.shape)}, "
            f"captured {list(found[0].shape) if found else 'nothing'}",
            "capture the self-attention again with the same model and trajectory",
        )
        return found


@torch.no_grad()
def capture_self_attention(
    denoiser: Denoiser, trajectory: Trajectory, embeddings: Tensor, on_step: OnStep | None = None
) -> SelfAttentionReference:
    """Denoises the unchanged latent once with the learned embeddings and keeps what every self-attention layer saw.

    embeddings: [depth, B, tokens, dim], noisiest step first.
    """
    require_embeddings(trajectory, embeddings, "Self-Attention Capture")
    latent = trajectory.latents[-1]
    captured = []
    for step in range(trajectory.depth):
        capture = Capture()
        latent = trajectory.denoise_step(denoiser, latent, step, embeddings[step], capture)
        captured.append(capture.queries_and_keys)
        if on_step:
            on_step({"stage": "capture", "step": step + 1, "steps": trajectory.depth})
    require(
        bool(captured[0]),
        "Self-Attention Capture: the model has no self-attention layers",
        "use a Stable Diffusion 1.x or 2.x model, or leave the structure loss out",
    )
    return SelfAttentionReference(tuple(captured), latent)


def require_embeddings(trajectory: Trajectory, embeddings: Tensor, where: str) -> None:
    expected = [trajectory.depth, trajectory.latents[0].shape[0]]
    require(
        embeddings.ndim == 4 and list(embeddings.shape[:2]) == expected,
        f"{where}: the null-text embeddings are {list(embeddings.shape)}, "
        f"the trajectory needs [{expected[0]}, {expected[1]}, tokens, dim]",
        "learn the embeddings again from this trajectory",
    )

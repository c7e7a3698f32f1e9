"""Bytes instead of seconds: what one step of the method holds, counted on torch's meta device, where a tensor has a
shape and no content. The real shapes take seconds and no memory.

Counted is what torch allocates for tensors, forward and backward: an operation's own workspace, what the allocator
keeps, and the process are not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from faceprotect_core import IdentityObjective, Trajectory, capture_self_attention
from faceprotect_core.method import attention
from faceprotect_core.method.attention import StructureLoss

from .models import TOKENS, Setup, Shape, smooth_noise, surrogate
from .release import Sampling, latent_loss
from .ways import Prepared, Way, prepare

DEPTH = 3


@dataclass(frozen=True)
class Bytes:
    """held: what autograd keeps for the backward pass, each storage once. peak: of all tensors that are there at once,
    before, in and after the backward pass. The weights are in neither."""

    held: int
    peak: int


@dataclass(frozen=True)
class Count:
    """One iteration of each stage. dtype: of the U-Net. weights: bytes of U-Net, autoencoder and surrogates."""

    dtype: str
    weights: int
    null_text: Bytes
    latent: Bytes

    @property
    def peak(self) -> int:
        return max(self.null_text.peak, self.latent.peak)


def count(setup: Setup, way: Way, like: str) -> Count:
    """What a way holds. like: the device whose number of rows of attention maps at once is taken, cuda or cpu."""
    with _rows_as_on(like, setup.image.device.type), _fused_attention():
        prepared = prepare(way, setup)
        stages = (partial(_null_text, prepared), partial(_released if way.released else _latent, prepared))
        null_text, latent = (Bytes(held_bytes(stage, prepared.weights()), peak_bytes(stage)) for stage in stages)
    dtype = str(prepared.unet.dtype).removeprefix("torch.")
    return Count(dtype, sum(weight.nbytes for weight in prepared.weights()), null_text, latent)


def shape_only(shape: Shape, size: int, surrogates: Sequence[str] | None = None) -> Setup:
    """`models.build` on the meta device."""
    networks = [surrogate(name) for name in surrogates or shape.surrogates]
    objective = IdentityObjective(networks, target=smooth_noise(1, size, seed=1))
    objective.surrogates = tuple(network.to("meta") for network in networks)
    objective.target = [embedding.to("meta") for embedding in objective.target]
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(sample_size=64, **shape.unet), AutoencoderKL(**shape.vae)
        context, image = torch.empty(1, TOKENS, unet.config.cross_attention_dim), torch.empty(1, 3, size, size)
    unet, vae = (network.eval().requires_grad_(False) for network in (unet, vae))
    return Setup(unet, vae, objective.surrogates, context, image, objective)


def _trajectory(setup: Setup) -> Trajectory:
    """Latents of the right shape: an inversion looks at its numbers, which meta tensors have not."""
    channels, side = setup.vae.config.latent_channels, setup.image.shape[-1] // 8
    latents = [setup.image.new_zeros(1, channels, side, side) for _ in range(DEPTH + 1)]
    return Trajectory(tuple(latents), setup.schedule, "published")


def _null_text(way: Prepared) -> tuple[Tensor, Tensor]:
    """The loss of an iteration of `learn_null_text`, and what it is derived by."""
    trajectory = _trajectory(way.setup)
    embedding = way.setup.context.clone().requires_grad_()
    denoised = trajectory.denoise_step(way.denoiser, trajectory.latents[-1], 0, embedding)
    return (denoised - trajectory.latents[-2]).square().mean(), embedding


def _latent(way: Prepared) -> tuple[Tensor, Tensor]:
    """The same of `optimize_latent`, with the structure's reference."""
    trajectory = _trajectory(way.setup)
    embeddings = way.setup.context.expand(DEPTH, 1, -1, -1)
    reference = capture_self_attention(way.denoiser, trajectory, embeddings)
    start = latent = trajectory.latents[-1].clone().requires_grad_()
    structure = 0.0
    for step in range(DEPTH):
        layers = StructureLoss(reference.queries_and_keys[step])
        latent = trajectory.denoise_step(way.denoiser, latent, step, embeddings[step], layers)
        structure = structure + layers.loss
    image = way.codec.decode(latent)
    return (0.003 * way.setup.objective(image) + structure).sum(), start


def _released(way: Prepared) -> tuple[Tensor, Tensor]:
    """The same in the release's formulation."""
    latents = list(_trajectory(way.setup).latents)
    sampling, embeddings = Sampling(way.denoiser, way.setup.schedule, latents), [way.setup.context] * DEPTH
    latent = latents[-1].clone().requires_grad_()
    return latent_loss(sampling, way.codec, latents[-1], latent, embeddings, way.setup.objective), latent


def held_bytes(stage: Callable[[], tuple[Tensor, Tensor]], weights: Iterable[Tensor]) -> int:
    """What autograd keeps once the loss is there."""
    known = {tensor.untyped_storage()._cdata for tensor in weights}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # itself, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = stage()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in known)


def peak_bytes(stage: Callable[[], tuple[Tensor, Tensor]]) -> int:
    """What is there at once, at the worst moment of the loss and its gradient."""
    with Alive() as alive:
        torch.autograd.grad(*stage())
    return alive.peak


class Alive(TorchDispatchMode):
    """Bytes of the tensors that operations made within it and that are still there, each storage once.

    now, peak: bytes.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._there: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in given | self._there:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._there.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, address, size)

    def _remove(self, address: int, size: int) -> None:
        self._there.discard(address)
        self.now -= size


def _storages(tree) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


@contextmanager
def _rows_as_on(like: str, device: str) -> Iterator[None]:
    """Attention maps are computed on `device` in parts as large as on another."""
    there = attention.ELEMENTS_AT_ONCE.copy()
    try:
        attention.ELEMENTS_AT_ONCE[device] = there[like]
        yield
    finally:
        attention.ELEMENTS_AT_ONCE.clear()
        attention.ELEMENTS_AT_ONCE.update(there)


@contextmanager
def _fused_attention() -> Iterator[None]:
    """On the meta device torch computes attention the plain way and holds the maps, which it does on no other."""
    original = F.scaled_dot_product_attention
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention_of(query: Tensor, key: Tensor, value: Tensor, attn_mask=None, dropout_p=0.0, is_causal=False):
        if not query.is_meta:
            return original(query, key, value, attn_mask, dropout_p, is_causal)
        return fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask)[0]

    F.scaled_dot_product_attention = attention_of
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original

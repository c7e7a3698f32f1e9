"""The protocols that everything else is built on. Adapters: diffusers_backend (the library on its own), nodes/host
(inside ComfyUI)."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

SelfAttention = Callable[[str, Tensor, Tensor, Tensor], Tensor]
"""(layer name, query, key, value: [B, heads, tokens, dim]) -> attention output [B, heads, tokens, dim]."""

Bottleneck = Callable[[Tensor], Tensor]
"""What the U-Net's middle block gives, [B, channels, h, w] -> what the path up gets instead, of the same shape."""


class Denoiser(Protocol):
    """The U-Net."""

    def __call__(
        self, latent: Tensor, timestep: int, context: Tensor, self_attention: SelfAttention | None = None
    ) -> Tensor:
        """Noise prediction (epsilon), [B, C, h, w], differentiable in latent and context.

        latent: scaled latent [B, C, h, w]. timestep: training timestep. context: [B, tokens, dim].
        self_attention, when given, computes every self-attention layer.
        """
        ...


class BottleneckDenoiser(Denoiser, Protocol):
    """A U-Net whose bottleneck can be seen and changed."""

    def __call__(
        self,
        latent: Tensor,
        timestep: int,
        context: Tensor,
        self_attention: SelfAttention | None = None,
        bottleneck: Bottleneck | None = None,
    ) -> Tensor:
        """As a Denoiser, differentiable in what bottleneck, when given, makes of the middle block's output, too.

        For this call alone: the network is nobody else's with it.
        """
        ...


class ImageCodec(Protocol):
    """The autoencoder."""

    def encode(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [0, 1] -> scaled latent [B, C, H/8, W/8]."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent -> image [B, 3, H, W]; about [0, 1], differentiable, NOT clamped."""
        ...


def decoder_of_changes(codec: ImageCodec) -> Callable[[Tensor], Tensor]:
    """What decodes latents whose difference is wanted: `codec.light`, a cheaper decoder of the same latents, where the
    codec has one; else `codec.decode`, which it is like."""
    return getattr(codec, "light", None) or codec.decode

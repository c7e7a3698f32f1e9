"""A full decoder for the image and a small one for its gradient: less memory and time, for a gradient that is near."""

import torch
from torch import Tensor

from ..protocols import ImageCodec


class StraightThroughCodec:
    """An ImageCodec whose images are the full codec's, bit for bit, and whose gradient is that of another decoder.

    decode(z) = F(z) + G(z) - G(z), where the full decoder F and the last G count as constants in the gradient (the
    straight-through estimator; Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013).

    Args:
        full: makes the images, and encodes.
        gradient: decodes the same latents to images of the same size, as TAESD does for Stable Diffusion's autoencoder.
    """

    def __init__(self, full: ImageCodec, gradient: ImageCodec):
        self.full, self.gradient = full, gradient

    def encode(self, image: Tensor) -> Tensor:
        return self.full.encode(image)

    def decode(self, latent: Tensor) -> Tensor:
        with torch.no_grad():
            image = self.full.decode(latent)
        if not (torch.is_grad_enabled() and latent.requires_grad):
            return image
        near = self.gradient.decode(latent)
        return image + (near - near.detach())  # the bracket is exactly 0

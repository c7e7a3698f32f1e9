"""TensorFlow's SAME padding, for networks that were made with it."""

import torch.nn.functional as F
from torch import Tensor


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """[B, C, H, W] with the zeros around it that make a convolution give ceil(side / stride) values a side.

    An odd number of zeros has the larger half after: 0 before and 1 after for a kernel of 3, stride 2, an even side.
    """
    wanted = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    if not any(wanted):
        return x
    down, across = wanted
    return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))

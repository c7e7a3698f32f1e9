"""TensorFlow's SAME padding, for networks that were made with it."""

import torch.nn.functional as F
from torch import Tensor


def conv2d_same(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, groups: int = 1) -> Tensor:
    """F.conv2d of [B, C, H, W], with the zeros around it that make it give ceil(side / stride) values a side.

    An odd number of zeros has the larger half after: 0 before and 1 after for a kernel of 3, stride 2, an even side.
    An even number is the convolution's own padding, without a padded copy.
    """
    kernel = weight.shape[-1]
    down, across = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
    if down % 2 == 0 and across % 2 == 0:
        return F.conv2d(x, weight, bias, stride, (down // 2, across // 2), groups=groups)
    x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return F.conv2d(x, weight, bias, stride, groups=groups)

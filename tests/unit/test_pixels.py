"""Images and their pixels: what a file holds comes back bit-equal, whatever it is between 0 and 1."""

import numpy as np
import pytest
import torch

from faceprotect_core.pixels import as_saved, from_pixels, to_pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_comes_back_bit_equal(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    pixels = np.stack([levels, levels[::-1], np.roll(levels, 7)], axis=-1).reshape(16, -1, 3)
    image = from_pixels(pixels)
    assert image.shape == (3, *pixels.shape[:2]) and image.dtype == torch.float32 and image.is_contiguous()
    assert np.array_equal(to_pixels(image, dtype), pixels) and to_pixels(image, dtype).flags.c_contiguous
    assert torch.equal(image[0, 0, 1:2], torch.tensor([1.0]) / np.iinfo(dtype).max)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_what_is_saved_is_what_is_read(dtype):
    image = torch.linspace(-0.2, 1.2, 3 * 20 * 30, dtype=dtype).reshape(3, 20, 30)
    before = image.clone()
    read = from_pixels(to_pixels(image), image)
    assert read.dtype == dtype and torch.equal(read, as_saved(image)) and torch.equal(read, as_saved(read))
    assert torch.equal(image, before)


def test_a_pixel_array_that_is_read_only_or_turned_is_taken():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    pixels.flags.writeable = False
    assert np.array_equal(to_pixels(from_pixels(pixels[:, ::-1])), pixels[:, ::-1])
    assert from_pixels(pixels[..., :1]).add_(1).min() >= 1 and pixels.max() == 23

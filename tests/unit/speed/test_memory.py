"""The model of memory that ComfyUI is told: near what was measured, and scaled with what is held."""

import pytest

from benchmarks.count import count, shape_only
from benchmarks.models import MODELS
from benchmarks.ways import WAYS
from faceprotect_core.speed.memory import MB, decoder_bytes, optimization_bytes, tiny_decoder_bytes, unet_bytes

SHAPE = (1, 4, 64, 64)  # of a photo of 512 pixels


@pytest.mark.parametrize(
    "found, measured",
    [
        (unet_bytes(SHAPE, 4, 320, False), 1405), (unet_bytes(SHAPE, 4, 320, True), 293),
        (decoder_bytes(SHAPE, 4, 128, False), 6033), (decoder_bytes(SHAPE, 4, 128, True), 2639),
        (tiny_decoder_bytes((1, 4, 32, 32), 4, False), 186), (tiny_decoder_bytes((1, 4, 32, 32), 4, True), 152),
    ],
)  # fmt: skip
def test_it_is_what_was_measured_with_stable_diffusion(found, measured):
    assert found == pytest.approx(measured * MB, rel=0.03)


def test_it_grows_with_images_pixels_width_and_the_size_of_a_number():
    one = unet_bytes(SHAPE, 4, 320, False)
    assert unet_bytes((3, 4, 64, 64), 4, 320, False) == unet_bytes((1, 4, 64, 192), 4, 320, False) == 3 * one
    assert unet_bytes(SHAPE, 2, 320, False) == unet_bytes(SHAPE, 4, 160, False) == one / 2


def counted_and_estimated(size: int, low: bool):
    """SDXL in the real shape, on torch's meta device: weights and all, depth 3, in bfloat16."""
    way = WAYS["bfloat16 small" if low else "bfloat16"]
    shape = (1, 4, size // 8, size // 8)
    step, decoding = unet_bytes(shape, 2, 320, low, sdxl=True), decoder_bytes(shape, 2, 128, low)
    return count(shape_only(MODELS["sdxl"], size, ("mobile_face",)), way, "cuda"), optimization_bytes(step, 3, decoding)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "gigabytes"), [(768, 12), (1024, 16)])
def test_sdxl_fits_in_low_memory_and_the_estimate_is_near_what_is_counted(size, gigabytes):
    counted, estimated = counted_and_estimated(size, low=True)
    assert counted.weights + counted.peak < gigabytes * 1e9
    assert estimated == pytest.approx(counted.latent.peak, rel=0.2)


@pytest.mark.slow
def test_with_ample_memory_too_the_estimate_of_sdxl_is_near_what_is_counted():
    counted, estimated = counted_and_estimated(768, low=False)
    assert estimated == pytest.approx(counted.latent.peak, rel=0.2)


def test_with_cuda_graphs_more_is_kept():
    assert optimization_bytes(10.0, 3, 5.0) == 35.0 < optimization_bytes(10.0, 3, 5.0, cuda_graphs=True)

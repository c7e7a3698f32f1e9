"""The fused kernels on a GPU: they are used there, and give what PyTorch gives."""

import pytest
import torch

from benchmarks.models import MODELS, build
from benchmarks.ways import WAYS, prepare
from faceprotect_core.attention import compare
from faceprotect_core.fused_attention import TOLERANCE, FusedAttention, relative_errors


@pytest.fixture(autouse=True)
def kernels_work():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the kernels need compute capability 8.0")


# The heads of Stable Diffusion 1.5 at 512 pixels, of 2.x, of the demo model, and tokens that fill no block.
SHAPES = [(1, 4096, 8, 40), (1, 1024, 8, 80), (2, 256, 8, 160), (1, 64, 8, 160), (1, 4096, 5, 64), (2, 77, 3, 32)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_loss_and_gradients_are_pytorchs(dtype, shape, caplog):
    generator = torch.Generator("cuda").manual_seed(0)
    inputs = [torch.randn(shape, generator=generator, device="cuda").to(dtype) for _ in range(5)]
    fused = FusedAttention()
    assert max(relative_errors(fused, inputs).values()) < TOLERANCE[dtype]
    assert not caplog.records, caplog.text
    used_kernels = next(iter(fused.chosen.values())) is not compare
    assert used_kernels == (dtype == torch.bfloat16 or shape[-1] <= 128)


@pytest.mark.parametrize("way", ["fused", "fused graphs"])
def test_the_method_gives_the_same_protection(way, caplog, monkeypatch):
    """Of few iterations, and without TF32: AdamW makes much of rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    setup = build(MODELS["reduced"], 128, "cuda")
    plain, fused = prepare(WAYS["exact"], setup), prepare(WAYS[way], setup)
    expected, found = plain(2, 3), fused(2, 3)
    assert not caplog.records, caplog.text
    assert found.history["structure"][0] == [0.0]  # the unchanged run has the same rounding
    assert (found.image - expected.image).abs().mean() < 1e-3
    of_found, of_expected = (torch.tensor(one.history["identity"]) for one in (found, expected))
    torch.testing.assert_close(of_found, of_expected, rtol=0.02, atol=1e-3)

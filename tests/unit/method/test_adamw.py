"""AdamW is torch.optim's, without what its import costs."""

import subprocess
import sys
from pathlib import Path

import torch

from faceprotect_core.method.adamw import AdamW

ROOT = Path(__file__).resolve().parents[3]


def test_the_steps_are_those_of_torch_bit_for_bit():
    generator = torch.manual_seed(0)
    value = torch.randn(2, 3, 5, generator=generator)
    theirs = value.clone().requires_grad_()
    ours, torchs = AdamW(value, 0.05), torch.optim.AdamW([theirs], lr=0.05)
    for _ in range(30):
        gradient = torch.randn(value.shape, generator=generator)
        ours.step(gradient)
        theirs.grad = gradient.clone()
        torchs.step()
        assert torch.equal(value, theirs.detach())


def test_a_photo_is_protected_without_the_compiler():
    """torch._dynamo, which torch.optim imports, takes longer to load than light and shade takes for a face."""
    code = (
        "import sys, torch; from faceprotect_core.method.light_and_shade import *;"
        "protect_by_light(torch.rand(1, 3, 32, 32), lambda image: image.mean((1, 2, 3)),"
        "LightAndShadeSettings(grid=4, iterations=2)); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

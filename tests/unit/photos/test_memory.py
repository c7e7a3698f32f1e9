"""Memory: what is an error for the lack of it; and a photo of 24 megapixels in less than 6 GB, in a process of its own,
whose peak is that of this photo alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faceprotect_core import ProtectionError
from faceprotect_core.checks import out_of_memory

PROGRAM = """
import sys

import skimage.data
import torch

from faceprotect_core import load_surrogate
from faceprotect_core.speed.cost import process_peak
from faceprotect_core.demo import load_demo_model
from faceprotect_core.photos.photo import protect_photo
from faceprotect_core.photos.settings import DIFFUSION, PRESETS
from faceprotect_core.pixels import from_pixels

astronaut = from_pixels(skimage.data.astronaut())[None]
photo = torch.full((3, 4000, 6000), 0.5)
for factor, top, left in ((6, 400, 50), (2, 1200, 4200)):  # faces of 570 and 190 pixels
    face = torch.nn.functional.interpolate(astronaut, scale_factor=factor, mode="bilinear")[0]
    photo[:, top : top + face.shape[1], left : left + face.shape[2]] = face
way = sys.argv[1]
settings = PRESETS[way]["balanced"].tuned(iterations=2)
if way == DIFFUSION:
    settings = settings.tuned(null_text_iterations=1)
model = load_demo_model() if way == DIFFUSION else None
judge = load_surrogate("mobileface")
result = protect_photo(photo, [load_surrogate("dlib_resnet")], settings, model=model, judge=judge)
assert len(result.faces) == 2 and not torch.equal(result.image, photo)
print(process_peak())
"""


@pytest.mark.parametrize("way", ["light and shade", "diffusion"])
def test_24_megapixels_in_less_than_6_gigabytes(record_property, way):
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", PROGRAM, way], cwd=root, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    gigabytes = int(run.stdout) / 1e9
    record_property("gigabytes", gigabytes)
    assert gigabytes < 6


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 b."), True),
        (RuntimeError("the shapes do not match"), False),
        (ProtectionError("the inverted latent has a NaN", "load the photo again"), False),
    ],
)
def test_too_little_memory_is_told_from_other_errors(error, is_it):
    assert out_of_memory(error) == is_it

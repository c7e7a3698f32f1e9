"""ComfyUI's dynamic loader, its default on a GPU: weights are paged in as needed, which autograd cannot follow.

In a process of its own: make gpu.
"""

import sys

import pytest
import torch

from checkpoints import SD1, write_checkpoint
from comfyui_models import load, protect


@pytest.fixture(scope="module")
def dynamic(comfyui_installation, request):
    """What ComfyUI's main.py does before and after it loads its modules."""
    if "comfy.model_management" in sys.modules:
        pytest.skip("ComfyUI was loaded without its dynamic loader in this process: run make gpu")
    control = pytest.importorskip("comfy_aimdo.control")
    control.init()
    pack = request.getfixturevalue("pack")
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    assert control.init_devices([(torch.cuda.current_device(), 0)]), "comfy-aimdo does not work on this machine"
    control.set_log_warning()
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
    return pack


def test_a_paged_model_gives_the_same_protection(dynamic, tmp_path):
    checkpoint = tmp_path / "checkpoints" / write_checkpoint(tmp_path, SD1, text_encoder=False)
    images = []
    with torch.inference_mode():
        model, vae = load(checkpoint)
        assert model.is_dynamic()
        for _ in range(2):
            result, denoiser, _ = protect(dynamic, model, vae, SD1.context, low=False)
            assert not denoiser.patcher.is_dynamic() and result.image.is_cuda
            images.append(result.image.cpu())
    assert (images[0] - images[1]).abs().max() < 1e-3

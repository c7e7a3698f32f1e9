"""Models that were distilled to a few steps are known by name, title or scheduler, and warned of."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from faceprotect_core.models import distilled_warning, load_model
from tiny_diffusers import write_tiny_diffusers

DISTILLED = (
    "sd_xl_turbo_1.0_fp16",
    "sdxl_lightning_4step",
    "Hyper-SDXL-8steps",
    "dreamshaperXL_lightningDPMSDE",
    "x_lcm",
)
PLAIN = ("sd_xl_base_1.0", "v1-5-pruned-emaonly", "juggernautXL_v9", "noobaiXL-VPred-1.0", "realvisxl_v4.0", "hyperion")
SCHEDULERS = {
    "Turbo's": ({"timestep_spacing": "trailing"}, True),
    "LCM's": ({"_class_name": "LCMScheduler"}, True),
    "SDXL's": ({"timestep_spacing": "leading", "_class_name": "EulerDiscreteScheduler"}, False),
    "zero terminal SNR": ({"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, False),
}


@pytest.mark.parametrize("name", [*DISTILLED, *PLAIN])
def test_a_name_tells(tmp_path, name):
    said = distilled_warning(tmp_path / f"{name}.safetensors")
    assert (name in DISTILLED) == said.startswith(f"Warning: '{name}.safetensors' sounds like a distilled model")
    assert str(tmp_path) not in said


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({"modelspec.title": "SDXL Turbo"}, "has the title 'SDXL Turbo'"), ({"modelspec.title": "SDXL"}, ""), (None, "")],
)
def test_the_title_in_the_header_tells(tmp_path, metadata, said):
    save_file({"x": torch.zeros(1)}, tmp_path / "mine.safetensors", metadata)
    found = distilled_warning(tmp_path / "mine.safetensors")
    assert said in found and bool(found) == bool(said)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_of_a_folder_tells_when_it_is_loaded(tmp_path, caplog, name):
    """With a warning in the log; the model is loaded all the same."""
    changes, distilled = SCHEDULERS[name]
    folder = write_tiny_diffusers(tmp_path / "mine")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with caplog.at_level(logging.WARNING, "faceprotect.models"):
        assert load_model(str(folder)).size == 64
    said = "\n".join(record.getMessage() for record in caplog.records if record.name == "faceprotect.models")
    assert distilled == ("Warning: 'mine' has the scheduler of a distilled model" in said)

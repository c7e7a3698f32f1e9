"""The published release, run in float64 on tiny random networks, with every intermediate recorded."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from faceprotect_core import DDIMSchedule, FRSurrogate, IdentityObjective
from faceprotect_core.diffusers_backend import DiffusersCodec, DiffusersDenoiser

FOLDER = Path(__file__).parents[1] / "data" / "golden"
RECORDS = ("impersonation", "obfuscation_cropped")


@dataclass
class Golden:
    settings: dict
    record: dict[str, torch.Tensor]
    denoiser: DiffusersDenoiser
    codec: DiffusersCodec
    surrogates: list[FRSurrogate]
    schedule: DDIMSchedule

    @property
    def latent(self) -> torch.Tensor:
        return self.record["inversion.00"]

    @property
    def context(self) -> torch.Tensor:
        return self.record["null_context"]

    def image(self, name: str) -> torch.Tensor:
        """In [0, 1]; the record is in [-1, 1]."""
        return self.record[name] / 2 + 0.5

    def objective(self) -> IdentityObjective:
        crop_box = self.settings["crop_box_xyxy"]
        source = self.image("image") if self.settings["obfuscation"] else None
        objective = IdentityObjective(self.surrogates, self.image("target"), source, crop_box)
        return objective


def load_golden(name: str, dtype: torch.dtype = torch.float64) -> Golden:
    folder = FOLDER / name
    settings = json.loads((folder / "settings.json").read_text())
    record = {k: v.to(dtype) for k, v in load_file(folder / "record.safetensors").items()}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").to(dtype).eval().requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(dtype).eval().requires_grad_(False)
    schedule = DDIMSchedule.from_alphas_cumprod(
        record["alphas_cumprod"], settings["num_inference_steps"], settings["steps_offset"]
    )
    return Golden(
        settings, record, DiffusersDenoiser(unet), DiffusersCodec(vae), _surrogates(folder, settings, dtype), schedule
    )


def _surrogates(folder: Path, settings: dict, dtype: torch.dtype) -> list[FRSurrogate]:
    weights = load_file(folder / "surrogates.safetensors")
    found = []
    for name, shape in settings["surrogates"].items():
        c, size = shape["channels"], shape["input_size"]
        net = nn.Sequential(
            nn.Conv2d(3, c, 5, 2, 2),
            nn.Tanh(),
            nn.Conv2d(c, 2 * c, 3, 2, 1),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * c, shape["embedding"]),
        )
        prefix = f"{name}.net."
        net.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        found.append(FRSurrogate(net.to(dtype), input_size=size, name=name))
    return found

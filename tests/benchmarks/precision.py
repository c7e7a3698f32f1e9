"""python -m tests.benchmarks.precision: what bfloat16 does to the protection, with the demo model.

Each photo is protected in float32 and in bfloat16, and compared with another photo of the same person.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from faceprotect_core.faces import detect_faces
from faceprotect_core.folders.protector import Choice, PhotoProtector, load_protector
from faceprotect_core.folders.work import Original
from faceprotect_core.photos.read import read_photo
from faceprotect_core.photos.settings import DIFFUSION, PRESETS
from faceprotect_core.speed.cuda_graphs import Recorder
from faceprotect_core.verify.verdict import JUDGE

COLUMNS = ("s a face", "distance to the original", "to another photo", "PSNR in the mask, dB", "protected")


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    protectors = {"float32": load_protector(Choice(DIFFUSION, preset=chosen.preset, device=chosen.device))}
    protectors["bfloat16"] = in_bfloat16(protectors["float32"])
    if chosen.device == "cuda":
        protectors["bfloat16, CUDA graphs"] = recorded(protectors["bfloat16"])
    photos = sorted(chosen.images.glob("*_a.jpg"))[: chosen.people]
    rows = {name: [] for name in protectors}
    for path in photos:
        photo, other = (read_photo(one).image for one in (path, path.with_name(path.name.replace("_a.", "_b."))))
        for name, protector in protectors.items():
            rows[name].append(measure(protector, photo, other))
            print(f"{path.name}, {name}: {rows[name][-1][0]:.0f} s", flush=True)
    print(f"\n| {' | '.join((f'{chosen.preset}, {len(photos)} people', *COLUMNS))} |")
    print(f"|{' --- |' * (len(COLUMNS) + 1)}")
    for name, measured in rows.items():
        print(f"| {name} | {' | '.join(f'{mean(column):.3f}' for column in zip(*measured, strict=True))} |")


def in_bfloat16(protector: PhotoProtector) -> PhotoProtector:
    """A copy whose U-Net and autoencoder compute in bfloat16; latents, losses and optimiser stay in float32."""
    model = copy.deepcopy(protector.model)
    model.denoiser.unet.bfloat16()
    model.codec.vae.bfloat16()
    return replace(protector, model=model)


def recorded(protector: PhotoProtector) -> PhotoProtector:
    """Replayed as CUDA graphs, which are made with the first photo."""
    recorder = Recorder()
    denoiser, codec = recorder.denoiser(protector.model.denoiser), recorder.codec(protector.model.codec)
    model = replace(protector.model, denoiser=denoiser, codec=codec)
    return replace(protector, model=model, surrogates=recorder.surrogates(protector.surrogates))


def measure(protector: PhotoProtector, photo: Tensor, other: Tensor) -> tuple[float, ...]:
    """COLUMNS of a photo [3, H, W] with one face."""
    start = time.monotonic()
    (result,) = protector.protect([Original(photo)])
    seconds = time.monotonic() - start
    if isinstance(result, Exception):
        raise result
    (verdict,), surrogate = result.faces, protector.judging
    (score,) = (one for one in verdict.scores if one.role == JUDGE)
    with torch.no_grad():
        device = protector.choice.device
        protected, other = result.image[None].to(device), other.to(device)
        protected = surrogate.embed(protected, verdict.face)
        reference = surrogate.embed(other[None], detect_faces(other, protector.detector)[:1])
    changed = result.mask[0] > 0
    error = (result.image - photo)[:, changed].square().mean().item()
    distance = surrogate.distance(protected, reference).item()
    return seconds, score.after, distance, -10 * math.log10(error), float(verdict.protected)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.precision", description=__doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of photos NAME_a.jpg and NAME_b.jpg of one person each")
    add("--people", type=int, default=12, help="how many of them (12)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--preset", choices=list(PRESETS[DIFFUSION]), default="fast")
    return parser


if __name__ == "__main__":
    main()

"""Presets from nothing and from the network's change: what is compared, and that it is kept."""

import json

import pytest
import torch

from faceprotect_core.evaluation import starts
from faceprotect_core.evaluation.starts import measured, protected, rows_of, start_for, table
from faceprotect_core.evaluation.training.ways import aim_of, by_network
from faceprotect_core.faces import crop_face
from faceprotect_core.instant.protect import load_protector_network

FEW = {"fast: 1": ("fast", 1, False), "fast: the network, then 1": ("fast", 1, True)}


@pytest.fixture(scope="module")
def crop(astronaut, face):
    return crop_face(astronaut, face)


def test_every_preset_stands_beside_fewer_iterations_after_the_network():
    assert rows_of(["fast"]) == {
        "fast: 24": ("fast", 24, False),
        "fast: the network, then 8": ("fast", 8, True),
        "fast: the network, then 12": ("fast", 12, True),
        "fast: the network, then 16": ("fast", 16, True),
    }


def test_light_and_shade_starts_at_the_networks_plane_and_diffusion_at_its_picture_inverted(crop):
    (looked,) = by_network(load_protector_network())([crop])
    assert torch.equal(start_for(aim_of("fast"), crop), looked.value)
    aim = aim_of("diffusion, fast")
    denoiser, codec, _ = aim.diffusion
    start = start_for(aim, crop)
    plain = codec.encode(crop.image[None])
    assert start.shape == plain.shape[1:] and not torch.equal(start, plain[0])
    assert not torch.equal(
        protected(crop, "diffusion, fast", 1, True).image, protected(crop, "diffusion, fast", 1, False).image
    )


def test_what_was_measured_is_kept_and_shown(crop, tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "rows_of", lambda _presets: FEW)
    out = tmp_path / "starts.json"
    first = measured([crop], [crop], ["fast"], out)
    monkeypatch.setattr(starts, "protected", lambda *_: pytest.fail("measured twice"))
    assert measured([crop], [crop], ["fast"], out) == first == json.loads(out.read_text())
    nothing, looks = (first[row][0] for row in FEW)
    assert nothing["PSNR"] > looks["PSNR"] and nothing["matched at FAR 0.01"] == 1
    assert looks["judge past its threshold"] > nothing["judge past its threshold"]
    header, _, one, other = table(first).splitlines()
    assert header.count("|") == one.count("|") == other.count("|")
    assert one.startswith(f"| fast: 1 | {nothing['PSNR']:.1f} |") and other.endswith("of 1 |")

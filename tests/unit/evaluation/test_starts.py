"""Presets from nothing and from the network's change: what is compared, and that it is kept."""

import json
from dataclasses import replace

import pytest
import torch

from faceprotect_core.evaluation import starts
from faceprotect_core.evaluation.first_versions import Panel
from faceprotect_core.evaluation.starts import measured, protected, rows_of, start_for, table
from faceprotect_core.evaluation.training.ways import aim_of, by_network
from faceprotect_core.faces import crop_face
from faceprotect_core.instant.protect import load_protector_network
from faceprotect_core.photos.batch import CropProtector
from faceprotect_core.photos.settings import LIGHT, PRESETS

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


def test_light_and_shade_starts_at_the_networks_plane_and_diffusion_at_its_picture_inverted(crop, monkeypatch):
    (looked,) = by_network(load_protector_network())([crop])
    assert torch.equal(start_for(aim_of("fast"), crop), looked.value)
    aim = aim_of("diffusion, fast")
    denoiser, codec, _ = aim.diffusion
    start = start_for(aim, crop)
    plain = codec.encode(crop.image[None])
    assert start.shape == plain.shape[1:] and not torch.equal(start, plain[0])
    seen, lit_by = [], aim_of("fast")
    monkeypatch.setattr(CropProtector, "__call__", lambda self, crops, starts: seen.append((self, starts)) or ["image"])
    assert protected(crop, aim, True) == protected(crop, lit_by, False) == "image"
    (diffused, [begun]), (lit, none) = seen
    assert diffused.aim is aim and torch.equal(begun, start) and lit.aim is lit_by and none is None


def test_what_was_measured_is_kept_and_shown(crop, tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "rows_of", lambda _presets: FEW)
    panel, out = Panel([crop], [crop]), tmp_path / "starts.json"
    first = measured(panel, ["fast"], out)
    monkeypatch.setattr(starts, "protected", lambda *_: pytest.fail("measured twice"))
    assert measured(panel, ["fast"], out) == first and len(json.loads(out.read_text())) == 2
    nothing, looks = (first[row][0] for row in FEW)
    assert nothing["PSNR"] > looks["PSNR"] and nothing["matched, strict"] == 1
    assert looks["past"] > nothing["past"]
    header, _, one, other = table(first).splitlines()
    assert header.count("|") == one.count("|") == other.count("|")
    assert one.startswith(f"| fast: 1 | {nothing['PSNR']:.1f} |") and other.endswith("of 1 |")


def test_other_settings_and_other_people_are_measured_anew(crop, tmp_path):
    out, settings = tmp_path / "kept.json", PRESETS[LIGHT]["fast"]
    other = replace(crop, image=crop.image.flip(2))
    both, one = Panel([crop, other], [crop, other]), Panel([other], [other])
    asked = []
    for panel, wanted in ((both, settings), (one, settings), (one, settings.tuned(iterations=3))):
        found = panel.kept(out, "row", wanted, lambda number: asked.append(number) or len(asked))
    assert asked == [0, 1, 0] and found == [3] and both.kept(out, "row", settings, pytest.fail) == [1, 2]


def test_the_panel_says_what_is_seen_and_who_knows_the_face(crop):
    panel = Panel([crop], [crop])
    same, grey = panel.numbers(0, crop.image), panel.numbers(0, torch.full_like(crop.image, 0.5))
    assert same["PSNR"] > 50 and same["SSIM"] > 0.99 and same["CIEDE2000"] < 0.5 and grey["CIEDE2000"] > 5
    assert [same[name] for name in ("matched, strict", "matched, lenient", "all on the photo itself")] == [1, 1, 0]
    assert [grey[name] for name in ("matched, strict", "matched, lenient", "all on the photo itself")] == [0, 0, 1]
    assert same["past"] < 0 < grey["past"]

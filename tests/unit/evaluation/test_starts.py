"""Presets from nothing and from the network's change: what is compared, and that it is kept."""

import json
from dataclasses import replace

import pytest
import torch

from faceprotect_core import ProtectionError
from faceprotect_core.evaluation import starts
from faceprotect_core.evaluation.first_versions import Panel
from faceprotect_core.evaluation.starts import measured, rows_of, table
from faceprotect_core.evaluation.training.ways import aim_of
from faceprotect_core.faces import crop_face
from faceprotect_core.instant import protect
from faceprotect_core.photos.batch import CropProtector
from faceprotect_core.photos.settings import LIGHT, PRESETS


@pytest.fixture(scope="module")
def crop(astronaut, face):
    return crop_face(astronaut, face)


def few(preset: str) -> dict:
    """Rows of one iteration, from nothing and after the network."""
    aim = aim_of(preset)
    nothing, begun = (replace(aim.settings, head_start=begins).tuned(iterations=1) for begins in (False, True))
    return {"nothing": replace(aim, settings=nothing), "the network": replace(aim, settings=begun)}


@pytest.mark.parametrize("preset, whole, parts", [("fast", 24, (8, 12, 16)), ("diffusion, strong", 36, (12, 18, 24))])
def test_every_preset_stands_beside_fewer_iterations_after_the_network(preset, whole, parts):
    (nothing, aim), *begun = rows_of([preset]).items()
    assert nothing == f"{preset}: {whole}" and aim.settings == replace(aim_of(preset).settings, head_start=False)
    for few, (row, aim) in zip(parts, begun, strict=True):
        assert row == f"{preset}: the network, then {few}" and aim.settings.head_start
        assert aim.settings.after_head_start.method.iterations == few


def test_without_the_network_there_is_no_table_of_what_begins_there(tmp_path, monkeypatch):
    monkeypatch.setattr(protect, "WEIGHTS", tmp_path / "nowhere.safetensors")
    protect.load_protector_network.cache_clear()
    for asked in (lambda: rows_of(["fast"]), lambda: aim_of("diffusion, fast")):
        with pytest.raises(ProtectionError, match="missing from the package"):
            asked()
    protect.load_protector_network.cache_clear()


def test_what_was_measured_is_kept_and_shown(crop, tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "rows_of", lambda _presets: few("fast"))
    panel, out = Panel([crop], [crop]), tmp_path / "starts.json"
    first = measured(panel, ["fast"], out)
    monkeypatch.setattr(CropProtector, "__call__", lambda *_: pytest.fail("measured twice"))
    assert measured(panel, ["fast"], out) == first and len(json.loads(out.read_text())) == 2
    nothing, looks = (people[0] for people in first.values())
    assert nothing["PSNR"] > looks["PSNR"] and nothing["matched, strict"] == 1
    assert looks["past"] > nothing["past"]
    header, _, one, other = table(first).splitlines()
    assert header.count("|") == one.count("|") == other.count("|")
    assert one.startswith(f"| nothing | {nothing['PSNR']:.1f} |") and other.endswith("of 1 |")


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

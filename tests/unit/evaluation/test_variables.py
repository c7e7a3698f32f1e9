"""The variables that are compared: each changes what it says and nothing else."""

import pytest
import torch

from faceprotect_core import IdentityObjective, Settings
from faceprotect_core.evaluation import variables
from faceprotect_core.evaluation.variables import (
    CURVE,
    CURVED,
    EQUAL_MARGIN,
    Colour,
    Comparison,
    TwoScales,
    curve,
    table,
)
from faceprotect_core.faces import crop_face, find_face
from faceprotect_core.method.light_and_shade import LightAndShade, LightAndShadeSettings
from tiny import random_image, tiny_surrogate

SETTINGS = LightAndShadeSettings(grid=32)


@pytest.fixture
def photo():
    return torch.full((1, 3, 64, 64), 0.5)


@pytest.fixture
def mask():
    inside = torch.zeros(1, 1, 64, 64)
    inside[..., 16:48, 16:48] = 1
    return inside


@pytest.mark.parametrize("kind", [LightAndShade, TwoScales, Colour])
def test_every_variable_changes_the_mask_alone_in_proportion_to_its_value(kind, photo, mask):
    variable = kind(photo, mask, SETTINGS)
    value = variable.start + torch.randn(variable.start.shape, generator=torch.Generator().manual_seed(1))
    change = variable.render(value).image - photo
    assert torch.equal(change[:, :, :16], torch.zeros(1, 3, 16, 64))
    assert change[:, :, 16:48, 16:48].square().mean().sqrt() > 0.02
    torch.testing.assert_close(variable.render(value / 2).image - photo, change / 2)
    same = torch.equal(change[:, 0], change[:, 1])
    assert same == (kind is not Colour)


def test_the_coarse_scale_moves_whole_cells(photo, mask):
    variable = TwoScales(photo, mask, SETTINGS)
    value = torch.zeros_like(variable.start)
    value[:, 1, :, 16:] = 1
    change = variable.render(value).image - photo
    left, right = change[0, 0, 20:44, 16:28].mean(), change[0, 0, 20:44, 36:48].mean()
    assert right - left > 5 / 255


@pytest.mark.parametrize("name", ["latent", "semantic"])
def test_with_the_model_too_the_mask_alone_is_changed(name, demo, monkeypatch):
    monkeypatch.setattr(variables, "DIFFUSED", Settings(depth=1, null_text_iterations=0, iterations=2, output="detail"))
    photo, mask = random_image(dtype=torch.float32), torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    objective = IdentityObjective([tiny_surrogate(dtype=torch.float32)], source=photo)
    change = variables.variables(demo)[name](photo, mask, objective)
    assert torch.equal(change[:, :, :16], torch.zeros(1, 3, 16, 64)) and change.abs().max() > 1e-4


def test_who_cannot_be_brought_to_the_margin_is_counted_and_not_averaged():
    numbers = dict.fromkeys(("psnr", "ssim", "ciede2000", "ciede2000 95 %", "seconds"), 1.0)
    numbers |= dict.fromkeys(["on the other photo", *(f"after {n}" for n in ("jpeg 50", "half size"))], 0.1)
    numbers |= dict.fromkeys([f"after {n}" for n in ("vae", "ddim", "mirrored")], -0.1)
    people = {"1": {"light": numbers | {"factor": 1.0}}, "2": {"light": numbers | {"factor": None, "psnr": 99.0}}}
    # The numbers are from before MS-SSIM was measured.
    assert "| light | 1 of 2 | 1.000 | 1.000 | - | 1.000 | 1.000 | 1.000 |" in table(people)


def test_the_curve_is_the_mean_over_those_who_have_one():
    def grown(start: float) -> dict:
        return {str(part): dict.fromkeys(CURVED, start + part) for part in CURVE}

    people = {"1": {"light": {"curve": grown(0.0)}, "latent": {}}, "2": {"light": {"curve": grown(1.0)}}}
    first, _, *rows = curve(people).splitlines()
    assert first == "| factor | light: margin, psnr, ciede2000, ms-ssim |"
    assert rows[0] == "| 0.6 | 1.100, 1.100, 1.100, 1.100 |" and len(rows) == len(CURVE)
    assert curve({"1": {"latent": {}}}) == ""


def test_the_equal_margin_is_where_the_judge_is_that_far_past_and_the_curve_goes_through_it(astronaut):
    photo = crop_face(astronaut, find_face(astronaut), 256).image[None]
    comparison = Comparison()
    comparison.variables = {"head over heels": lambda *_: photo.flip(2) - photo}
    comparison.processings = {}
    rows, _ = comparison.person(photo, photo, ["head over heels"])
    row = rows["head over heels"]
    low, _, middle, *_ = (row["curve"][str(part)] for part in CURVE)
    assert low["margin"] < middle["margin"] == pytest.approx(EQUAL_MARGIN, abs=0.01)
    assert low["psnr"] > middle["psnr"] == pytest.approx(row["psnr"])
    assert low["ciede2000"] < middle["ciede2000"] == pytest.approx(row["ciede2000"])

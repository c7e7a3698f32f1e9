"""The variables that are compared: each changes what it says and nothing else, and the difference is the eye's."""

import pytest
import torch

from faceprotect_core import IdentityObjective, Settings
from faceprotect_core.evaluation import variables
from faceprotect_core.evaluation.variables import Colour, TwoScales, ciede2000, table
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
    change = variables.Variables(demo).all()[name](photo, None, mask, objective)
    assert torch.equal(change[:, :, :16], torch.zeros(1, 3, 16, 64)) and change.abs().max() > 1e-4


def test_the_difference_is_the_eyes(photo, mask):
    assert ciede2000(photo, photo, mask) == (0.0, 0.0)
    lighter = torch.where(mask > 0, photo + 0.04, photo)
    mean, worst = ciede2000(photo, lighter, mask)
    assert 3 < mean < 5 and worst == pytest.approx(mean, rel=1e-3)  # CIE 1976 lightness 53.4 against 57.4


def test_who_cannot_be_brought_to_the_margin_is_counted_and_not_averaged():
    numbers = dict.fromkeys(("psnr", "ssim", "ciede2000", "ciede2000 95 %", "seconds"), 1.0)
    numbers |= dict.fromkeys(["on the other photo", *(f"after {n}" for n in ("jpeg 50", "half size"))], 0.1)
    numbers |= dict.fromkeys([f"after {n}" for n in ("vae", "ddim", "mirrored")], -0.1)
    people = {"1": {"light": numbers | {"factor": 1.0}}, "2": {"light": numbers | {"factor": None, "psnr": 99.0}}}
    assert "| light | 1 of 2 | 1.000 |" in table(people)

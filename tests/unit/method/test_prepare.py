"""Settings are the paper's; a photo is prepared once and attacked as often as one likes."""

import inspect
from dataclasses import asdict

import pytest
import torch

from faceprotect_core import ProtectionError, Settings, optimize_latent, prepare, protect
from golden import load_golden
from tiny import CountingDenoiser

PUBLISHED = {
    "depth": 3, "pairing": "published", "null_text_iterations": 20, "null_text_lr": 0.1, "structure": True,
    "iterations": 35, "lr": 0.01, "objective_weight": 0.003, "output": "published", "fidelity_weight": 0.0,
    "keep_colours": False, "early_stop": False,
}  # fmt: skip
OTHERS = {
    "depth": 2, "pairing": "exact", "null_text_iterations": 1, "null_text_lr": 0.2, "structure": False,
    "iterations": 3, "lr": 0.02, "objective_weight": 0.1, "output": "detail", "fidelity_weight": 2.0,
    "keep_colours": True, "early_stop": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    return load_golden("impersonation")


def test_the_defaults_are_the_published_values():
    assert asdict(Settings()) == PUBLISHED
    defaults = {name: one.default for name, one in inspect.signature(protect).parameters.items()}
    assert {name: defaults[name] for name in PUBLISHED} == PUBLISHED
    known = inspect.signature(optimize_latent).parameters
    assert all(
        known[name].default == value for name, value in PUBLISHED.items() if name in known and name != "structure"
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_keyword_of_protect_is_the_setting_of_that_name(monkeypatch, name):
    seen = []

    def note(*arguments, **_):
        seen.append(arguments[-1])
        return prepared

    prepared = type("", (), {"optimize": staticmethod(note)})
    monkeypatch.setitem(protect.__globals__, "prepare", note)
    protect(None, None, None, None, None, **{name: OTHERS[name]})
    assert seen == [Settings(**{name: OTHERS[name]})] * 2


def test_one_photo_prepared_once_is_attacked_several_times_as_by_protect(golden):
    denoiser, image = CountingDenoiser(golden.denoiser), golden.image("image")
    parts = denoiser, golden.codec, image, golden.context
    base = Settings(depth=2, null_text_iterations=1, iterations=2)
    prepared = prepare(*parts, base)
    passes = len(denoiser.timesteps)
    attacks = [base, Settings(iterations=3, lr=0.05, output="detail"), Settings(iterations=1, structure=False)]
    results = [prepared.optimize(denoiser, golden.codec, golden.objective(), one) for one in attacks]
    assert len(denoiser.timesteps) == passes + 2 * (3 + 4 + 2), "nothing is prepared again"
    for one, result in zip(attacks, results, strict=True):
        settings = asdict(one) | {"depth": 2, "null_text_iterations": 1}
        whole = protect(*parts, golden.objective(), **settings)
        assert torch.equal(result.image, whole.image) and torch.equal(result.latent, whole.latent)
        assert result.history == whole.history


def test_a_structure_that_was_not_captured_is_not_left_out_silently(golden):
    parts = golden.denoiser, golden.codec, golden.image("image"), golden.context
    prepared = prepare(*parts, Settings(depth=1, null_text_iterations=0, structure=False))
    assert prepared.structure is None
    with pytest.raises(ProtectionError, match="prepared without it.*How to fix: prepare the photo with structure=True"):
        prepared.optimize(golden.denoiser, golden.codec, golden.objective())

"""The presets, value by value: what a preset does never changes by accident."""

from dataclasses import asdict

import pytest

from faceprotect_core.photos.settings import DIFFUSION, LIGHT, PRESETS, PhotoSettings

SHARED = {
    "size": 256, "margin": 0.1, "steepness": 6.0, "jitter": 1, "tries": 3, "insists": False, "network": False,
    "head_start": False,
}  # fmt: skip
LIT = {"grid": 64, "iterations": 45, "lr": 0.25, "fidelity_weight": 1.0, "seed": 0}
DIFFUSED = {
    "depth": 1, "pairing": "exact", "null_text_iterations": 10, "null_text_lr": 0.1, "structure": True,
    "iterations": 24, "lr": 0.1, "objective_weight": 0.003, "output": "detail", "fidelity_weight": 0.3,
    "keep_colours": True, "early_stop": False, "margin": 0.13, "head_start": True,
}  # fmt: skip
FAST = {"iterations": 24, "lr": 0.4, "fidelity_weight": 0.7}
EXPECTED = {
    (LIGHT, "instant"): SHARED
    | LIT
    | {"margin": 0.12, "network": True, "tries": 4, "iterations": 3, "fidelity_weight": 0.7},
    (LIGHT, "fast"): SHARED | LIT | FAST | {"margin": 0.12},
    (LIGHT, "balanced"): SHARED | LIT,
    (LIGHT, "strong"): SHARED | LIT | {"iterations": 60, "margin": 0.4, "fidelity_weight": 0.4},
    (DIFFUSION, "fast"): SHARED
    | DIFFUSED
    | {"null_text_iterations": 5, "iterations": 16, "lr": 0.12, "fidelity_weight": 0.2},
    (DIFFUSION, "balanced"): SHARED | DIFFUSED,
    (DIFFUSION, "strong"): SHARED
    | DIFFUSED
    | {"depth": 3, "null_text_iterations": 20, "iterations": 36, "fidelity_weight": 0.1, "margin": 0.2},
}
FURTHER = {
    (LIGHT, "instant"): FAST | {"network": False},
    (LIGHT, "fast"): {"margin": 0.22, "iterations": 12, "fidelity_weight": 0.35},
    (LIGHT, "balanced"): {"margin": 0.2, "iterations": 23, "fidelity_weight": 0.5},
    (LIGHT, "strong"): {"margin": 0.5, "iterations": 30, "fidelity_weight": 0.2},
    (DIFFUSION, "fast"): {"margin": 0.23, "iterations": 8, "fidelity_weight": 0.1},
    (DIFFUSION, "balanced"): {"margin": 0.23, "iterations": 12, "fidelity_weight": 0.15},
    (DIFFUSION, "strong"): {"margin": 0.3, "iterations": 18, "fidelity_weight": 0.05},
}


def effective(settings: PhotoSettings) -> dict:
    """All that its way looks at."""
    return {name: getattr(settings, name) for name in SHARED} | asdict(settings.method)


@pytest.mark.parametrize("way, name", EXPECTED)
def test_every_value_of_a_preset_is_the_one_that_was_measured(way, name):
    settings = PRESETS[way][name]
    assert settings.way == way and effective(settings) == EXPECTED[way, name]
    insists = {"insists": not settings.network}
    assert effective(settings.further) == pytest.approx(EXPECTED[way, name] | FURTHER[way, name] | insists)


def test_there_are_no_other_presets():
    assert [(way, name) for way, presets in PRESETS.items() for name in presets] == list(EXPECTED)


@pytest.mark.parametrize("name, left", [("fast", 8), ("balanced", 12), ("strong", 18)])
def test_a_head_start_takes_half_of_the_iterations_and_nothing_else(name, left):
    settings = PRESETS[DIFFUSION][name]
    assert settings.after_head_start == settings.tuned(iterations=left)
    assert settings.tuned(iterations=1).after_head_start.method.iterations == 1

"""`python -m faceprotect_core protect`: what it says, how it exits, what its options choose; and the real thing."""

import io
from dataclasses import replace

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from faceprotect_core import __main__ as command
from faceprotect_core import load_surrogate
from faceprotect_core.checks import ProtectionError
from faceprotect_core.files import sha256_of
from faceprotect_core.folders import protector as protector_module
from faceprotect_core.folders.protector import Choice, load_protector
from faceprotect_core.instant import protect as instant
from faceprotect_core.photos import words
from faceprotect_core.photos.settings import DIFFUSION, LIGHT, PRESETS, PhotoSettings
from folder_photos import FakeProtector, record, write_photo
from folder_photos import run_protect as run
from tiny import tiny_surrogate


def test_the_command_says_what_happens_and_exits_with_0(folders, fake, capsys):
    assert run(*folders) == 0
    lines = capsys.readouterr().out.splitlines()
    said = "Protected, 1 face. fake, not used to make this, says distance 0.81; the same person below 0.60."
    assert lines[0].startswith(f"1 of 3  a.png  {said} 0 s")
    assert lines[3] == "3 photos: 3 protected, 0 already done, 0 failed."
    assert lines[4:] == [words.scope()] and all(words.scope() not in line for line in lines[:4]), "once, at the end"
    assert run(*folders) == 0
    assert f"1 of 3  a.png  already done. {said}\n" in capsys.readouterr().out


def test_a_failed_photo_exits_with_1(folders, fake, capsys):
    fake.protected = False
    assert run(*folders) == 1
    out = capsys.readouterr().out
    assert "FAILED: " in out and "How to fix: " in out and "Nothing was written" in out


WRONG = {
    "a missing folder": lambda source, target: (source / "nowhere", target),
    "the same folder": lambda source, target: (source, source),
    "no output folder": lambda source, target: (source,),
    "an unknown preset": lambda source, target: (source, target, "--preset", "best"),
    "faces that are none": lambda source, target: (source, target, "--faces", "left"),
    "a quality of 0": lambda source, target: (source, target, "--quality", "0"),
    "a min_face of 0": lambda source, target: (source, target, "--min-face", "0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_exits_with_2_and_writes_nothing(folders, fake, capsys, name):
    source, target = folders
    try:
        code = run(*WRONG[name](source, target))
    except SystemExit as exit_:  # argparse's own
        code = exit_.code
    assert code == 2 and capsys.readouterr().err
    assert fake.calls == 0 and not target.exists()


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate"), MemoryError()])
def test_too_little_memory_for_the_models_is_one_sentence(folders, monkeypatch, capsys, error):
    def load(choice):
        raise error

    monkeypatch.setattr(protector_module, "load_protector", load)
    assert run(*folders) == 2
    assert capsys.readouterr().err == (
        "error: there is not enough memory. How to fix: close other programs, or use --device cpu.\n"
    )


@pytest.mark.parametrize("role", ["judge", "surrogates"])
def test_a_recogniser_without_a_threshold_is_refused_before_the_first_photo(monkeypatch, role):
    """It would fail after each photo was protected."""
    load = protector_module.load_surrogate
    nobody = tiny_surrogate(seed=0, dtype=torch.float32)
    monkeypatch.setattr(
        protector_module, "load_surrogate", lambda name: nobody if name == "nobody.onnx" else load(name)
    )
    choice = Choice(judge="nobody.onnx") if role == "judge" else Choice(surrogates=("faceres", "nobody.onnx"))
    with pytest.raises(ProtectionError, match=f"no threshold is known for {nobody.name}.*How to fix"):
        load_protector(choice)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--goal", "impersonate"), "no target"),
        (("--target", "x.png"), "needs none"),
        (("--device", "cuda"), "no CUDA device"),
        (("--model", "nowhere"), "scheduler_config.json"),
        (("--way", "light-and-shade", "--model", "demo"), "needs no model"),
        (("--surrogate", "mobileface", "--judge", "mobileface"), "the judge mobileface is the same network"),
        (("--surrogate", "nobody"), "'nobody' is not a built-in surrogate"),
        (("--judge", "nobody.pth"), "nobody.pth"),
    ],
)
def test_wrong_choices_exit_with_2(folders, capsys, monkeypatch, arguments, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*folders, *arguments) == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_says_how_to_go_on(folders, fake, capsys):
    fake.error = {2: KeyboardInterrupt()}
    assert run(*folders) == 130
    assert "go on" in capsys.readouterr().err


def test_the_choices_reach_the_protector(folders, monkeypatch):
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or FakeProtector())
    run(*folders, "--preset", "fast", "--faces", "0,2", "--goal", "synthetic", "--min-face", "40", "--threshold", "0.5")
    assert chosen == [Choice(preset="fast", which="0,2", goal="synthetic", min_face=40, threshold=0.5)]


BUILT_IN = ("mobilefacenet", "faceres", "mobileface")


@pytest.mark.parametrize(
    "arguments, surrogates, judge",
    [
        ((), BUILT_IN, "dlib_resnet"),
        (("--judge", "none"), BUILT_IN, "none"),
        (("--judge", "faceres"), ("mobilefacenet", "mobileface"), "faceres"),
        (("--judge", "mine.pth"), BUILT_IN, "mine.pth"),
        (("--surrogate", "mine.pth", "faceres"), ("mine.pth", "faceres"), "dlib_resnet"),
        (("--surrogate", "dlib_resnet", "mobilefacenet"), ("dlib_resnet", "mobilefacenet"), "faceres"),
        (("--surrogate", "dlib_resnet", *BUILT_IN), ("dlib_resnet", *BUILT_IN), "none"),
        (("--surrogate", "dlib_resnet", "--judge", "dlib_resnet"), ("dlib_resnet",), "dlib_resnet"),
    ],
)
def test_the_judge_is_one_that_is_not_used_unless_it_was_named(folders, monkeypatch, arguments, surrogates, judge):
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or FakeProtector())
    run(*folders, *arguments)
    assert chosen == [Choice(surrogates=surrogates, judge=judge)]


@pytest.mark.parametrize(
    "arguments, way, model",
    [
        ((), LIGHT, None),
        (("--way", "light-and-shade"), LIGHT, None),
        (("--way", "diffusion"), DIFFUSION, None),
        (("--model", "demo"), DIFFUSION, "demo"),
        (("--way", "diffusion", "--model", "some/folder"), DIFFUSION, "some/folder"),
    ],
)
def test_a_model_that_is_named_chooses_diffusion(folders, monkeypatch, arguments, way, model):
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or FakeProtector())
    run(*folders, *arguments)
    (choice,) = chosen
    assert (choice.chosen_way, choice.model) == (way, model)


@pytest.mark.parametrize("way, model", [(None, None), (DIFFUSION, None), (None, "demo")])
def test_the_settings_of_the_record_name_way_model_and_recognisers(way, model):
    settings = load_protector(Choice(way, model, surrogates=("mobileface", "faceres"))).settings
    assert settings["way"] == (LIGHT if (way, model) == (None, None) else DIFFUSION)
    assert settings["model"] == (None if settings["way"] == LIGHT else "demo")
    assert (settings["model_sha256"] is None) == (settings["way"] == LIGHT)
    assert [name.split()[0] for name in settings["surrogates"]] == ["mobileface", "faceres"]
    assert all(len(name.split()[1]) == 16 for name in settings["surrogates"])
    assert settings["judge"].startswith("dlib_resnet ") and settings["photo_settings"]["way"] == settings["way"]


def test_where_instant_has_a_part_they_name_its_network():
    wanted = ("instant", LIGHT, "dodge"), ("strong", LIGHT, "dodge"), ("fast", DIFFUSION, "dodge")
    wanted = *wanted, ("fast", DIFFUSION, "synthetic")
    chosen = [Choice(way, preset=one, surrogates=("mobileface",), goal=goal) for one, way, goal in wanted]
    digests, whole = [load_protector(one).settings["network_sha256"] for one in chosen], sha256_of(instant.WEIGHTS)
    assert digests == [whole, None, whole, None]


def test_a_network_of_instant_that_is_damaged_is_said_before_the_first_photo(tmp_path, monkeypatch):
    ways = (LIGHT, "instant"), (DIFFUSION, "fast")
    chosen = [Choice(way, preset=preset, surrogates=("mobileface",)) for way, preset in ways]
    monkeypatch.setattr(instant, "WEIGHTS", tmp_path / "protector.safetensors")
    instant.WEIGHTS.write_bytes(b"cut short")
    instant.load_protector_network.cache_clear()
    with pytest.raises(ProtectionError, match="of instant cannot be read"):
        load_protector(chosen[0])
    load_protector(chosen[1])  # which begins at the photo
    instant.load_protector_network.cache_clear()


def test_where_the_network_of_instant_was_taken_out_diffusion_is_loaded_and_names_none(tmp_path, monkeypatch):
    monkeypatch.setattr(instant, "WEIGHTS", tmp_path / "nowhere.safetensors")
    instant.load_protector_network.cache_clear()
    chosen = Choice(DIFFUSION, surrogates=("mobileface",))
    assert load_protector(chosen).settings["network_sha256"] is None
    with pytest.raises(ProtectionError, match="missing from the package"):
        load_protector(replace(chosen, way=LIGHT, preset="instant"))
    instant.load_protector_network.cache_clear()


def test_without_a_judge_the_record_says_so_and_another_judge_is_another_setting():
    chosen = [Choice(surrogates=("mobileface",), judge=name) for name in ("none", "faceres", "dlib_resnet")]
    settings = [load_protector(choice).settings for choice in chosen]
    assert settings[0]["judge"] is None and len({str(one) for one in settings}) == 3


@pytest.mark.parametrize(
    "choice, message",
    [
        (Choice(preset="best"), "no preset 'best'"),
        (Choice(way=LIGHT, model="demo"), "needs no model"),
        (Choice(surrogates=()), "no recogniser is named"),
        (Choice(surrogates=("dlib_resnet",)), "the judge dlib_resnet is the same network as dlib_resnet"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice, message):
    with pytest.raises(ProtectionError, match=f"{message}.*How to fix"):
        load_protector(choice)


def test_names_that_the_terminal_cannot_show_do_not_stop_it(folders, fake, monkeypatch):
    source, target = folders
    write_photo(source / "äöü ✓.png")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(command.sys, "stdout", stream)
    assert run(source, target) == 0


# The real thing


def load_weak(name: str):
    """Recognisers whose thresholds few iterations reach."""
    return load_surrogate(name, threshold=0.05 if name == "dlib_resnet" else 0.9)


WEAK = {
    LIGHT: PhotoSettings(margin=0.15, tries=1).tuned(iterations=2, lr=0.25, fidelity_weight=0.2),
    DIFFUSION: replace(PRESETS[DIFFUSION]["fast"], margin=0.15, tries=1).tuned(
        null_text_iterations=1, iterations=4, lr=0.06, fidelity_weight=0.0, objective_weight=0.01
    ),
}


@pytest.mark.parametrize("way, batch", [(LIGHT, 1), (LIGHT, 2), (DIFFUSION, 2)])
def test_a_real_photo_is_protected_by_the_command_and_only_its_face_changes(tmp_path, monkeypatch, capsys, way, batch):
    pixels = skimage.data.astronaut()
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "astronaut.png")
    Image.fromarray(pixels[300:, 300:]).save(tmp_path / "in" / "nobody.png")
    monkeypatch.setattr(protector_module, "load_surrogate", load_weak)
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: load_protector(choice, WEAK[way]))
    options = ["--batch", batch, "--way", way.replace(" ", "-"), "--surrogate", "mobileface"]
    assert run(tmp_path / "in", tmp_path / "out", *options) == 1
    out = capsys.readouterr().out
    assert "1 of 2  astronaut.png  Protected, 1 face. dlib_resnet, not used to make this, says distance 0." in out
    assert "nobody.png  FAILED: no face found" in out
    written = np.asarray(Image.open(tmp_path / "out" / "astronaut.png"))
    changed = (written != pixels).any(-1)
    assert changed[80:160, 190:260].mean() > 0.2 and not changed[300:].any()
    entry = record(tmp_path / "out")["astronaut.png"]
    (face,) = entry["faces"]
    judge, used = face["scores"]
    assert (judge["recogniser"], judge["role"], judge["knew"]) == ("dlib_resnet", "judge", True)
    assert judge["before"] < 0.01 and judge["after"] > 0.05 and face["evidence"]
    assert used["before"] > 0.99 and used["after"] < 0.9
    assert entry["settings"]["way"] == way and f"distance {judge['after']:.2f}" in entry["verdict"]

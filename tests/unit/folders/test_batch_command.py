"""`protect --batch N`: what reaches the protector, and what the terminal says of faces that are at work together."""

import pytest
from PIL import Image

from faceprotect_core import __main__ as command
from faceprotect_core.folders import protector as protector_module
from faceprotect_core.folders.protector import Choice
from faceprotect_core.photos import words
from faceprotect_core.progress import Step
from ray_work import Inverter


def test_the_command_hands_the_size_of_a_batch_to_the_protector(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8), "white").save(tmp_path / "in" / "a.png")
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or Inverter())
    folders = [str(tmp_path / "in"), str(tmp_path / "out")]
    assert command.main(["protect", *folders, "--batch", "3"]) == command.main(["protect", *folders]) == 0
    assert chosen == [Choice(batch=3), Choice()]


def test_a_batch_of_none_exits_with_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["protect", str(tmp_path), str(tmp_path / "out"), "--batch", "0"])
    assert stopped.value.code == 2 and "--batch: 0 is not 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("photos", "said"), [(1, "a.png"), (4, "a.png and 3 more")])
def test_the_terminal_says_which_photos_are_at_work(photos, said):
    assert words.photos_at_work("a.png", photos) == said == words.photos_at_work(said, 1)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({}, ""),
        ({"face": 1, "faces": 1, "at_once": 1}, ""),
        ({"face": 2, "faces": 3, "at_once": 1}, "face 2 of 3, "),
        ({"face": 3, "faces": 5, "at_once": 2}, "faces 2 to 3 of 5, "),
    ],
)
def test_the_terminal_says_which_faces_are_at_work(event, said):
    assert words.doing(Step("protection", 1, 2, **event)) == f"{said}protecting, step 1 of 2"

"""The table of the presets, and when a file of numbers is gone on with."""

import pytest
import skimage.data
from PIL import Image

from faceprotect_core.__main__ import main
from faceprotect_core.evaluation import presets
from faceprotect_core.evaluation.presets import AFTER, HEADER, table
from faceprotect_core.photos.settings import BUILT_IN_JUDGE, DIFFUSION, PRESETS
from tiny_diffusers import write_tiny_diffusers

MARGINS = {"0.1": -0.1, "0.01": 0.1, "0.001": 0.2}
NOW = {
    "seconds": 9.0, "protected": True, "asked": 1, "psnr": 34.8, "ssim": 0.982,
    "before": {BUILT_IN_JUDGE: dict.fromkeys(MARGINS, -0.3)}, "after": {BUILT_IN_JUDGE: MARGINS},
    "judge_after": {name: MARGINS for name in AFTER}, "ms_ssim": 0.987, "ciede2000": 2.04, "ciede2000_95": 5.96,
}  # fmt: skip


def test_every_row_has_the_columns_of_the_header():
    lines = table({"light, balanced": {"1": NOW, "2": NOW}}).splitlines()
    assert lines[0] == HEADER and {line.count("|") for line in lines} == {HEADER.count("|")}
    assert lines[-1].endswith("| 34.8 (34.8) | 0.982 | 0.987 | 2.0 | 6.0 | 9.0 |")
    assert lines[-1].startswith("| light, balanced | 2 of 2 | 0 | 100% | 0% |")


@pytest.fixture
def faces(tmp_path):
    """Two photos of one person, of another size than the model's."""
    folder, astronaut = tmp_path / "faces", Image.fromarray(skimage.data.astronaut())
    folder.mkdir()
    astronaut.crop((80, 0, 400, 300)).save(folder / "1_a.png")
    astronaut.crop((100, 0, 380, 280)).save(folder / "1_b.png")
    return folder


def test_one_command_measures_them_with_a_model_of_the_users_and_goes_on_after_a_stop(faces, tmp_path, monkeypatch):
    """Which presets, with which model, on which photos; random weights would leave no face to be measured."""
    measured = []

    class Noted(presets.Evaluation):
        def person(self, photo, other):
            size = self.settings.size, self.model.size, self.model.denoiser.pooled is not None
            measured.append((*size, tuple(photo.shape), tuple(other.shape)))
            return NOW

    monkeypatch.setattr(presets, "Evaluation", Noted)
    monkeypatch.setitem(PRESETS, DIFFUSION, {name: PRESETS[DIFFUSION][name] for name in ("fast", "balanced")})
    model, out = write_tiny_diffusers(tmp_path / "mine", sdxl=True), tmp_path / "out"
    command = ["evaluate", "--presets", "--images", str(faces), "--model", str(model), "--out", str(out)]
    assert main(command) == 0
    assert measured == 2 * [(64, 64, True, (3, 300, 320), (3, 280, 280))]
    said = (out / "presets.md").read_text()
    assert said.startswith("The presets of diffusion with mine (SHA-256 ") and "crops of 64 pixels, 1 people" in said
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")]
    assert rows == ["preset", "---", "unprotected", "diffusion, fast", "diffusion, balanced"]
    assert str(tmp_path) not in said
    assert main(command) == 0 and len(measured) == 2 and (out / "presets.md").read_text() == said
    monkeypatch.setitem(PRESETS[DIFFUSION], "fast", PRESETS[DIFFUSION]["fast"].tuned(iterations=3))
    assert main(command) == 0 and len(measured) == 3, "what was made with other settings is measured again"

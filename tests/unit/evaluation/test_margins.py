"""First versions scaled to margins: further past is more to see, and what was measured is kept."""

import json

import pytest

from faceprotect_core.evaluation import margins
from faceprotect_core.evaluation.first_versions import Panel
from faceprotect_core.evaluation.margins import measured, table
from faceprotect_core.faces import crop_face

MARGINS = (0.0, 0.12, 9.0)  # as it comes, more, and out of reach


@pytest.fixture(scope="module")
def panel(astronaut, face):
    crop = crop_face(astronaut, face)
    return Panel([crop], [crop])


@pytest.mark.slow
def test_further_past_the_thresholds_is_more_to_see(panel, tmp_path, monkeypatch):
    out = tmp_path / "margins.json"
    found = measured(panel, "instant", MARGINS, out)
    near, further, never = (found[str(margin)][0] for margin in MARGINS)
    assert near["PSNR"] > further["PSNR"] and near["past"] < further["past"]
    assert [one["reached"] for one in (near, further, never)] == [1, 1, 0]
    monkeypatch.setattr(margins, "scaled", lambda *_: pytest.fail("measured twice"))
    assert measured(panel, "instant", MARGINS, out) == found and len(json.loads(out.read_text())) == 1
    header, _, *rows = table(found).splitlines()
    assert [row.split(" | ")[:2] for row in rows] == [["| 0.0", "1 of 1"], ["| 0.12", "1 of 1"], ["| 9.0", "0 of 1"]]
    assert all(row.count("|") == header.count("|") for row in rows)

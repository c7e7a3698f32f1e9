"""The table of the presets: what an earlier version did not measure is a dash, and all else still stands there."""

from faceprotect_core.evaluation.presets import AFTER, HEADER, table
from faceprotect_core.photos.settings import BUILT_IN_JUDGE

MARGINS = {"0.1": -0.1, "0.01": 0.1, "0.001": 0.2}
BEFORE = {
    "seconds": 9.0, "protected": True, "asked": 1, "psnr": 34.8, "ssim": 0.982,
    "before": {BUILT_IN_JUDGE: dict.fromkeys(MARGINS, -0.3)}, "after": {BUILT_IN_JUDGE: MARGINS},
    "judge_after": {name: MARGINS for name in AFTER},
}  # fmt: skip
NOW = BEFORE | {"ms_ssim": 0.987, "ciede2000": 2.04, "ciede2000_95": 5.96}


def test_every_row_has_the_columns_of_the_header():
    lines = table({"light, balanced": {"1": NOW, "2": NOW}}).splitlines()
    assert lines[0] == HEADER and {line.count("|") for line in lines} == {HEADER.count("|")}
    assert lines[-1].endswith("| 34.8 (34.8) | 0.982 | 0.987 | 2.0 | 6.0 | 9.0 |")
    assert lines[-1].startswith("| light, balanced | 2 of 2 | 0 | 100% | 0% |")


def test_a_file_that_was_begun_by_an_earlier_version_is_still_read():
    row = table({"light, balanced": {"1": BEFORE, "2": NOW}}).splitlines()[-1]
    assert row.endswith("| 34.8 (34.8) | 0.982 | - | - | - | 9.0 |")

"""The looks are measured where they are said to be: the composed photos, the edge of a face, and grey."""

import numpy as np
import pytest
import torch
from PIL import Image

from faceprotect_core.evaluation.looks import grey
from faceprotect_core.evaluation.looks.composed import Composition, beard, composed, fringe, glasses, light_from
from faceprotect_core.evaluation.looks.edge import RESAMPLED, beyond_outline, edge_of
from faceprotect_core.faces import detect_faces, face_mask
from faceprotect_core.pixels import as_saved

SIDE = 256


def photo(*paint, synthetic: bool = False, degrees: float = 0.0, scene: bool = False) -> torch.Tensor:
    return composed(Composition(synthetic, SIDE, 1.3, degrees, scene, paint))


@pytest.fixture(scope="module")
def plain():
    return photo()


def test_composed_photos_are_the_same_every_time_and_of_8_bits(plain):
    assert torch.equal(photo(), plain) and torch.equal(as_saved(plain), plain)


@pytest.mark.parametrize("paint", [beard, fringe, glasses])
def test_what_is_painted_crosses_the_outline_of_the_face(paint, plain, detector):
    (face,) = detect_faces(plain, detector)
    beyond, radius = beyond_outline(face, SIDE, SIDE)
    painted = (photo(paint) - plain).abs().amax(0) > 0.1
    assert (painted & (beyond > 2)).sum() > 5 and (painted & (beyond < -2)).sum() > 100
    assert not (painted & (beyond > radius)).any()


def test_a_lamp_at_one_side_leaves_the_other_dark(plain):
    lit = photo(light_from(-1))
    assert lit[..., :64].mean() > plain[..., :64].mean() and lit[..., 192:].mean() < plain[..., 192:].mean() / 2


def test_a_tilted_head_is_tilted_clockwise_and_found(detector):
    (face,) = detect_faces(photo(synthetic=True, degrees=20, scene=True), detector)
    x, y = face.five_points[1] - face.five_points[0]
    assert np.degrees(np.arctan2(y, x)) == pytest.approx(20, abs=4)


def test_nothing_is_outside_of_a_change_within_the_mask(plain, detector):
    (face,) = detect_faces(plain, detector)
    finished = plain + 10 / 255 * face_mask([face], SIDE, SIDE)
    edge = edge_of(plain, finished, face, scale=1.0)
    assert (edge.outside, edge.farthest) == (0, 0.0) and 0 < edge.steepest < 1.5


def test_one_pixel_of_an_ear_is_noticed(plain, detector):
    (face,) = detect_faces(plain, detector)
    beyond, _ = beyond_outline(face, SIDE, SIDE)
    row = round(face.five_points[2][1])
    column = int((beyond[row, : SIDE // 2] > 3).nonzero()[-1])
    finished = plain.clone()
    finished[0, row, column] += 1 / 255
    edge = edge_of(plain, finished, face, scale=1.0)
    assert edge.outside == 1 and RESAMPLED < edge.farthest == pytest.approx(beyond[row, column].item())


def test_a_seam_is_steep_where_it_is(plain, detector):
    (face,) = detect_faces(plain, detector)
    hard = face_mask([face], SIDE, SIDE, feather=0)
    edge = edge_of(plain, plain + 10 / 255 * hard, face, scale=1.0)
    column, row = edge.place
    beyond, _ = beyond_outline(face, SIDE, SIDE)
    assert edge.steepest == pytest.approx(10, abs=0.01) and abs(beyond[row, column]) < 2


@pytest.mark.parametrize(("mode", "written", "kept"), [("L", "L", 1), ("L", "RGB", 0), ("RGB", "RGB", 1)])
def test_a_file_counts_as_grey_in_the_mode_that_it_came_in(mode, written, kept, tmp_path, plain, detector, monkeypatch):
    original = tmp_path / "1_a.png"
    Image.fromarray((plain.permute(1, 2, 0) * 255).byte().numpy()).save(original)

    def copied(source, out, _):
        out.mkdir()
        Image.open(source / "1_a.png").convert(written).save(out / "1_a.png")

    monkeypatch.setattr(grey, "protect_folder", copied)
    monkeypatch.setattr(grey, "load_protector", lambda choice: None)
    count = grey.Count(detector)
    grey.by_command([original], mode, "fast", count)
    assert count.row("command", 1) == f"| command | 1 of 1 | {kept} | 1 | 0.0 |"

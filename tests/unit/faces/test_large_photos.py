"""Faces are found down to `min_face` in photos of any size, in bounded memory, and where the photo lies turned."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from faceprotect_core.faces import detect_faces, find_again, overlap
from faceprotect_core.faces.detect import LEVEL_PIXELS, smallest_in_one_pass
from faceprotect_core.faces.windows import score_windows

SIZES = (115, 133, 150, 168, 185, 203, 220, 238)  # pixels: of the faces
ROWS, COLUMNS, HEAD_SIDE = slice(24, 216), slice(112, 304), 192  # of the head in the portrait


@pytest.mark.parametrize("megapixels", [3, 12, 24])
def test_eight_faces_are_found_in_a_photo_of_any_size(astronaut, detector, face, megapixels):
    photo, boxes = group(astronaut, face, megapixels)
    passes = []
    found = detect_faces(photo, spying(detector, passes), min_face=80)
    assert len(found) == len(boxes)
    for box in boxes:
        assert max(overlap(one.box_xyxy, box) for one in found) > 0.5
    assert max(passes) <= LEVEL_PIXELS < photo[0].numel() or megapixels == 3
    assert sum(passes) < 1.5 * photo[0].numel() / (1 - 25 / 36), "tiles overlap by little"


def test_tiles_have_the_windows_of_one_pass(astronaut, detector):
    """The first level of 1000 x 1200 pixels, in 20 tiles: also where a tile ends in a face."""
    photo = F.interpolate(astronaut[None, :, :400, :480], size=(1000, 1200), mode="bilinear")[0]
    with torch.no_grad():
        whole = score_windows(detector.scorer, photo, 0.0, 80, photo[0].numel())
        tiled = score_windows(detector.scorer, photo, 0.0, 80, 250_000)
    assert whole
    for score, box in whole:
        near = [other for other, at in tiled if overlap(box, at) > 0.8]
        assert near and max(near) > score - 0.1


def test_a_level_of_the_photos_own_size_is_the_same_in_tiles(astronaut, detector):
    photo, passes = astronaut.repeat(1, 2, 2)[:, :900, :1000], []
    with torch.no_grad():
        spy = spying(detector, passes).scorer
        tiled = dict(own_size(score_windows(spy, photo, 0.0, 80, 400_000)))
        whole = dict(own_size(score_windows(detector.scorer, photo, 0.0, 80, 900_000)))
    assert max(passes) <= 400_000 and whole and tiled.keys() == whole.keys()
    assert all(math.isclose(tiled[box], whole[box], abs_tol=1e-4) for box in whole)


def test_a_smaller_min_face_enlarges_tile_by_tile(astronaut, detector):
    small = F.interpolate(astronaut[None], scale_factor=0.4, mode="bilinear", antialias=True)[0]  # a face of 45 pixels
    photo, passes = torch.full((3, 1000, 1400), 0.5), []
    photo[:, 500 : 500 + small.shape[1], 600 : 600 + small.shape[2]] = small
    assert detect_faces(photo, detector) == []
    (found,) = detect_faces(photo, spying(detector, passes), min_face=40)
    assert 35 < found.box_xyxy[2] - found.box_xyxy[0] < 60 and max(passes) <= LEVEL_PIXELS


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photo_that_lies_turned_is_turned_where_no_face_is_upright(astronaut, detector, face, turns):
    """At a threshold at which the face is found upright only."""
    photo = torch.rot90(astronaut, turns, (1, 2))
    assert detect_faces(photo, detector, threshold=1.0, turned=False) == []
    (found,) = detect_faces(photo, detector, threshold=1.0)
    to_photo = {1: lambda x, y: (y, 511 - x), 2: lambda x, y: (511 - x, 511 - y), 3: lambda x, y: (511 - y, x)}[turns]
    for points, expected in ((found.landmarks, face.landmarks), (found.mesh, face.mesh)):
        assert np.abs(np.stack(to_photo(*np.array(expected).T), axis=1) - points).max() < 2
    middle = [(box[0] + box[2], box[1] + box[3]) for box in (found.box_xyxy, face.box_xyxy)]
    assert np.abs(np.array(middle[0]) / 2 - to_photo(*(np.array(middle[1]) / 2))).max() < 2
    assert found.lies_turned and not face.lies_turned and not found.doubtful


def test_a_large_turned_photo_is_searched_for_small_faces_too(astronaut, detector):
    """The large face shows which turn is right; the small one, of 100 pixels, must not be left out then."""
    photo = torch.full((3, 2400, 2800), 0.5)
    photo[:, :1536, :1536] = F.interpolate(astronaut[None], scale_factor=3, mode="bilinear")[0]
    photo[:, 1800:2312, 2000:2512] = astronaut
    found = detect_faces(photo.rot90(2, (1, 2)), detector)
    small, large = sorted(face.box_xyxy[2] - face.box_xyxy[0] for face in found)
    assert small < 120 and large > 240 and all(face.lies_turned for face in found)


@pytest.mark.parametrize("side", [500, 1000, 2000])
def test_a_face_is_found_again_without_levels_on_which_it_is_far_too_large(astronaut, detector, side):
    photo = F.interpolate(astronaut[None, :, ROWS, COLUMNS], size=(side, side), mode="bilinear", antialias=True)[0]
    levels, fewer = [], []
    face = detect_faces(photo, spying(detector, levels), min_face=max(80, smallest_in_one_pass(photo)))[0]
    found = find_again(photo, face, spying(detector, fewer))
    size = face.box_xyxy[2] - face.box_xyxy[0]
    assert overlap(found.box_xyxy, face.box_xyxy) > 0.5
    assert np.abs(np.subtract(found.landmarks, face.landmarks)).max() < 0.03 * size
    levels, fewer = np.sqrt(levels), np.sqrt(fewer)  # the sides, with the margin around
    assert len(fewer) < len(levels) and np.abs(fewer - levels[-len(fewer) :]).max() <= 3  # rounded level by level
    assert 1 <= fewer[0] / (side * 80 / (0.6 * size)) < 1.2 * 1.05


def group(astronaut, face, megapixels: int) -> tuple[torch.Tensor, list[np.ndarray]]:
    """A photo of 4 : 3 with eight faces of SIZES, and their boxes."""
    height = int(math.sqrt(megapixels * 1e6 * 3 / 4))
    photo, boxes = torch.full((3, height, height * 4 // 3), 0.5), []
    box = np.array(face.box_xyxy)
    for size, (row, column) in zip(SIZES, product(range(2), range(4)), strict=True):
        side = round(size * HEAD_SIDE / (box[2] - box[0] + 1))
        left, top = int((column + 0.5) * height / 3 - side / 2), int((row + 0.5) * height / 2 - side / 2)
        head = F.interpolate(astronaut[None, :, ROWS, COLUMNS], size=(side, side), mode="bilinear", antialias=True)[0]
        photo[:, top : top + side, left : left + side] = head
        start = (COLUMNS.start, ROWS.start) * 2
        boxes.append((box - start) * (side / HEAD_SIDE) + (left, top) * 2)
    return photo, boxes


def own_size(windows):
    """(box, score) of those of 80 pixels."""
    return [(tuple(round(v, 3) for v in box), score) for score, box in windows if box[2] - box[0] < 80]


def spying(detector, passes: list[int]):
    """The detector, noting how many pixels go through its network in each pass."""

    class Spy(nn.Module):
        def forward(self, image, top):
            passes.append(image.shape[-2] * image.shape[-1])
            return detector.scorer(image, top)

    return replace(detector, scorer=Spy())

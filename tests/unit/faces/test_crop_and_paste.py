"""A face is cut out, changed, and only the change comes back: the rest of the photo stays bit-equal, at any size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from faceprotect_core import ProtectionError
from faceprotect_core.faces import (
    TEMPLATES,
    Face,
    align_face,
    choose_faces,
    crop_face,
    detect_faces,
    face_mask,
    faces_in_boxes,
    faces_in_mask,
    find_face,
    paste_faces,
)
from faceprotect_core.faces.again import moved


def resized(image: torch.Tensor, factor: float) -> torch.Tensor:
    mode = {"scale_factor": factor, "mode": "bilinear", "antialias": True}
    return torch.nn.functional.interpolate(image[None], **mode)[0].clamp(0, 1)


def scaled(face: Face, factor: float) -> Face:
    box = tuple((value + 0.5) * factor - 0.5 for value in face.box_xyxy)
    shift = factor / 2 - 0.5
    return replace(face.transformed(np.array([[factor, 0.0, shift], [0.0, factor, shift]])), box_xyxy=box)


def noise_like(image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.rand(image.shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ crop


@pytest.mark.parametrize("size", [64, 256, 512])
def test_the_eyes_are_level_and_where_ffhq_has_them(astronaut, face, size):
    crop = crop_face(astronaut, face, size)
    points, template = np.array(crop.face.landmarks), np.array(TEMPLATES["ffhq_256"].points)
    assert crop.image.shape == (3, size, size)
    assert np.abs((points + 0.5) * 256 / size - 0.5 - template).max() < 12
    eyes = points[[2, 3]].mean(0), points[[0, 1]].mean(0)
    assert abs(eyes[0][1] - eyes[1][1]) < 0.04 * size


def test_the_face_is_found_in_the_crop_where_the_crop_says(astronaut, face):
    crop = crop_face(astronaut, face, 256)
    found = detect_faces(crop.image)[0]
    assert np.abs(np.subtract(found.landmarks, crop.face.landmarks)).max() < 5
    assert np.abs(np.subtract(found.box_xyxy, crop.face.box_xyxy)).max() < 20


def test_a_turned_face_is_turned_upright_unless_told_otherwise(astronaut):
    turned = torch.rot90(astronaut, 1, (1, 2))  # anticlockwise: x', y' = y, 511 - x
    face = find_face(astronaut)
    points = tuple((y, 511 - x) for x, y in face.landmarks)
    left, top, right, bottom = face.box_xyxy
    turned_face = Face((top, 511 - right, bottom, 511 - left), face.score, points)
    upright, straight = crop_face(astronaut, face, 128).image, crop_face(turned, turned_face, 128).image
    assert (upright - straight).abs().max() < 1e-4
    as_it_lies = crop_face(turned, turned_face, 128, upright=False)
    assert as_it_lies.to_photo[0, 1] == as_it_lies.to_photo[1, 0] == 0
    assert abs(as_it_lies.face.landmarks[0][0] - as_it_lies.face.landmarks[2][0]) < 20  # the eyes are one above another


def test_a_crop_reaches_over_the_edge_of_the_photo_by_mirroring(astronaut, face):
    cut = astronaut[:, 100:, 180:]
    crop = crop_face(cut, moved(face, -180, -100), 256)
    assert crop.image.min() >= 0 and crop.image.max() <= 1
    assert (crop.image.amax((0, 1)) > 0.05).all()  # no black border


def test_crop_scale_shows_more_of_the_photo(astronaut, face):
    near, far = crop_face(astronaut, face, 128), crop_face(astronaut, face, 128, crop_scale=1.5)
    assert far.photo_pixels_per_pixel == pytest.approx(1.5 * near.photo_pixels_per_pixel)
    middle = np.array([63.5, 63.5, 1])
    assert near.to_photo @ middle == pytest.approx(far.to_photo @ middle)


def test_the_paste_mask_is_whole_wherever_the_optimizer_may_change(astronaut, face):
    for options in ({}, {"crop_scale": 1.6}, {"mask_scale": 0.7}, {"keep": [moved(face, 60, 0)]}):
        crop = crop_face(astronaut, face, 256, **options)
        assert (crop.paste_mask[crop.mask > 0] == 1).all(), options
        assert crop.paste_mask.max() == 1 and crop.mask.max() > 0.99, options


def test_a_mask_far_from_the_border_is_the_face_mask_itself(astronaut, face):
    crop = crop_face(astronaut, face, 256, crop_scale=1.3)
    assert torch.equal(crop.mask, face_mask([crop.face], 256, 256))


def test_the_mask_of_a_large_photo_is_that_of_a_small_one(face):
    small = face_mask([face], 512, 512)
    large = face_mask([moved(face, 1000, 2000)], 3000, 2000)
    assert torch.equal(large[:, 2000:2512, 1000:1512] > 0, small > 0)
    assert (large[:, 2000:2512, 1000:1512] - small).abs().max() < 1e-4
    assert large.sum() == pytest.approx(small.sum().item(), rel=1e-5)


def test_the_mask_of_two_faces_that_touch_is_the_larger_of_both(face):
    neighbour = moved(face, 40, 10)
    both, one, other = (face_mask(faces, 512, 512) for faces in ([face, neighbour], [face], [neighbour]))
    assert torch.equal(both, torch.maximum(one, other))


# ------------------------------------------------------------------------------------------------ paste


@pytest.mark.parametrize("factor", [0.4, 1, 2.7])
@pytest.mark.parametrize("size", [64, 256])
def test_outside_the_mask_every_pixel_is_bit_equal(astronaut, face, factor, size):
    photo = resized(astronaut, factor)
    crop = crop_face(photo, scaled(face, factor), size)
    image, mask = paste_faces(photo, [crop], noise_like(crop.image)[None])
    outside = (mask == 0).expand_as(photo)
    assert torch.equal(image[outside], photo[outside])
    assert 0.02 < (mask > 0).float().mean() < 0.3
    assert (image != photo).any(0)[mask[0] == 1].float().mean() > 0.99


def test_strength_zero_is_the_photo(astronaut, face):
    crop = crop_face(astronaut, face)
    image, _ = paste_faces(astronaut, [crop], noise_like(crop.image)[None], strength=0)
    assert torch.equal(image, astronaut)


def test_an_unchanged_crop_gives_the_photo_even_beyond_the_range(astronaut, face):
    photo = astronaut * 1.2 - 0.1  # values below 0 and above 1 are not clamped where nothing changes
    crop = crop_face(photo, face)
    assert torch.equal(paste_faces(photo, [crop], crop.image[None])[0], photo)


def test_the_input_is_not_changed(astronaut, face):
    before = astronaut.clone()
    crop = crop_face(astronaut, face)
    kept = crop.image.clone()
    paste_faces(astronaut, [crop], noise_like(crop.image)[None])
    assert torch.equal(astronaut, before) and torch.equal(crop.image, kept)


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_a_smooth_change_arrives_where_it_was_made(astronaut, face, factor):
    """A patch brighter by 0.1 at the nose, seen in the photo through another warp than the one that pasted it."""
    photo = resized(astronaut, factor) * 0.8
    here = scaled(face, factor)
    crop = crop_face(photo, here, 256)
    x, y = crop.face.landmarks[4]
    ys, xs = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    bump = 0.1 * torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 12**2))
    image, _ = paste_faces(photo, [crop], (crop.image + bump)[None])
    seen = align_face(image, here, "ffhq_256") - align_face(photo, here, "ffhq_256")
    assert (seen - bump).abs().max() < 0.006


def test_two_faces_are_two_single_pastes(astronaut, face):
    photo = torch.cat([astronaut, astronaut], 2)
    faces = [face, moved(face, 512, 0)]
    crops = [crop_face(photo, one, 128) for one in faces]
    changed = [noise_like(crops[0].image, seed) for seed in (0, 1)]
    both, mask = paste_faces(photo, crops, torch.stack(changed))
    one_by_one = photo
    for crop, image in zip(crops, changed, strict=True):
        one_by_one, _ = paste_faces(one_by_one, [crop], image[None])
    assert torch.equal(both, one_by_one)
    assert (mask[..., :512] > 0).any() and (mask[..., 512:] > 0).any()


def test_a_face_to_be_left_alone_stays_bit_equal_however_near_it_is(astronaut, face):
    neighbour = moved(face, 70, 20)
    crop = crop_face(astronaut, face, 256, keep=[neighbour])
    image, mask = paste_faces(astronaut, [crop], noise_like(crop.image)[None])
    left, top, right, bottom = (round(value) for value in neighbour.box_xyxy)
    assert torch.equal(image[:, top : bottom + 1, left : right + 1], astronaut[:, top : bottom + 1, left : right + 1])
    assert (mask > 0).any()
    alone = crop_face(astronaut, face, 256)
    lost = (alone.mask > 0.5) & (crop.mask == 0)  # the optimizer does not spend change on the neighbour, either
    assert lost.float().mean() > 0.02


def test_nothing_changes_outside_a_drawn_mask(astronaut, face):
    drawn = torch.zeros(512, 512)
    drawn[100:150, 190:240] = 1
    crop = crop_face(astronaut, face, 256, drawn=drawn)
    image, mask = paste_faces(astronaut, [crop], noise_like(crop.image)[None])
    assert torch.equal(image[:, drawn == 0], astronaut[:, drawn == 0])
    assert (mask[0][drawn == 0] == 0).all() and mask.max() == 1


# ------------------------------------------------------------------------------------------------ choose


def test_faces_are_numbered_from_the_left_and_chosen(face):
    big = scaled(face, 2)  # its centre lies to the right
    right = moved(face, 900, 0)
    faces = [right, big, face]
    assert choose_faces(faces, "all") == [face, big, right]
    assert choose_faces(faces, "largest") == [big]
    assert choose_faces(faces, "2, 0") == [face, right]
    assert choose_faces([], "all") == []


@pytest.mark.parametrize("which", ["3", "0, 7", "-1", "first", "", "1;2", "²"])
def test_a_face_that_is_not_there_is_an_error(face, which):
    with pytest.raises(ProtectionError, match="numbered 0 to 1.*How to fix"):
        choose_faces([face, moved(face, 100, 0)], which)


def test_faces_are_chosen_by_a_mask_and_by_boxes(face):
    faces = [face, moved(face, 200, 0)]
    mask = torch.zeros(512, 512)
    mask[:, 300:] = 1
    assert faces_in_mask(faces, mask) == [faces[1]]
    assert faces_in_boxes(faces, [(150, 50, 280, 200)]) == [faces[0]]
    assert faces_in_mask([moved(face, 900, 0)], mask) == []  # a centre outside of the photo


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("size", [0, 63, 100, 257])
def test_a_size_that_no_model_takes(astronaut, face, size):
    with pytest.raises(ProtectionError, match=f"size of the crop is {size} pixels.*How to fix"):
        crop_face(astronaut, face, size)


def test_what_does_not_belong_together_is_refused(astronaut, face):
    crop = crop_face(astronaut, face, 64)
    with pytest.raises(ProtectionError, match="1 faces were cut out, and 2 come back"):
        paste_faces(astronaut, [crop], torch.stack([crop.image, crop.image]))
    with pytest.raises(ProtectionError, match="the photo is 500 x 512 pixels.*512 x 512"):
        paste_faces(astronaut[:, :, :500], [crop], crop.image[None])
    with pytest.raises(ProtectionError, match="64 x 64 pixels and comes back as 128 x 128"):
        paste_faces(astronaut, [crop], torch.zeros(1, 3, 128, 128))
    with pytest.raises(ProtectionError, match="NaN"):
        paste_faces(astronaut, [crop], torch.full_like(crop.image, torch.nan)[None])
    with pytest.raises(ProtectionError, match="mask is .*10, 10.*512, 512"):
        crop_face(astronaut, face, 64, drawn=torch.ones(10, 10))
    with pytest.raises(ProtectionError, match="mask around it is empty"):
        crop_face(astronaut, face, 64, drawn=torch.zeros(512, 512))

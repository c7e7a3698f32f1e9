"""What is skin, eyes, brows and lips, and where the outline of a face is softer because the mesh is unsure of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from faceprotect_core import ProtectionError
from faceprotect_core.faces import crop_face, eye_shadow, face_mask, face_regions
from faceprotect_core.faces.face import DISAGREEING, NOSE_TIP
from faceprotect_core.faces.mask import SIDES
from faceprotect_core.faces.mesh import BROWS, EYES, LIDS, LIPS, MOUTH

SIZE = (512, 512)


def at(mask: torch.Tensor, point) -> float:
    x, y = (round(float(value)) for value in point)
    return float(mask[0, y, x])


def looking_aside(face, share: float):
    """The tip of the nose is that share of the way from the middle of the face to its right side in the image."""
    mesh = face.mesh.copy()
    left, right = mesh[list(SIDES)]
    mesh[NOSE_TIP] = (left + right) / 2 + share * (right - left) / 2
    return replace(face, mesh=mesh)


@pytest.fixture(scope="module")
def sure(face):
    return replace(looking_aside(face, 0.0), disagreement=0.0)


@pytest.fixture(scope="module")
def regions(face):
    return face_regions(face, *SIZE)


# ------------------------------------------------------------------------------------------------ the parts


def test_every_part_is_where_it_should_be(face, regions):
    assert list(regions) == ["skin", "eyes", "brows", "lips"]
    left_eye, right_eye, nose, _, _ = face.five_points
    lower_lip = (face.mesh[14] + face.mesh[17]) / 2
    for brow in BROWS:
        below, above = face.mesh[brow[2]], face.mesh[brow[7]]
        assert at(regions["brows"], (below + above) / 2) > 0.5
    for name, point in {"eyes": left_eye, "skin": nose, "lips": lower_lip}.items():
        assert at(regions[name], point) == 1
        assert all(at(regions[other], point) == 0 for other in regions if other != name)
    assert at(regions["eyes"], right_eye) == 1


def test_the_inside_of_an_open_mouth_is_no_part(face, regions):
    """She smiles: teeth are neither lips nor skin."""
    teeth = face.mesh[list(MOUTH)].mean(0)
    assert all(at(mask, teeth) == 0 for mask in regions.values()) and at(face_mask([face], *SIZE), teeth) == 1


def test_the_parts_share_the_face_and_never_go_beyond_it(face, regions):
    total, whole = sum(regions.values()), face_mask([face], *SIZE)
    assert all(float(mask.min()) >= 0 and mask.shape == (1, *SIZE) for mask in regions.values())
    assert float(total.max()) <= 1 + 1e-6 and (total[whole == 0] == 0).all()
    x, y = face.mesh[list(MOUTH)].T
    total[:, int(y.min()) : int(y.max()) + 2, int(x.min()) : int(x.max()) + 2] = 1
    assert float(total[whole == 1].min()) > 1 - 1e-6  # nothing is left out but the inside of the mouth


def test_the_parts_are_soft_and_have_the_sizes_of_their_outlines(face, regions):
    def area(outlines) -> float:
        return sum(
            abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
            for x, y in (face.mesh[list(one)].T for one in outlines)
        )

    for name, outlines in {"eyes": EYES, "brows": BROWS}.items():
        assert float((regions[name] > 0).sum()) == pytest.approx(area(outlines), rel=0.06)
    # Lips share their inner edge with the mouth, and lose at their outer edge what they have of the mouth's.
    assert float(regions["lips"].sum()) == pytest.approx(area([LIPS]) - area([MOUTH]), rel=0.06)
    assert all(((mask > 0) & (mask < 1)).any() for mask in regions.values())


def test_eye_shadow_is_the_skin_around_the_eyes(face, regions):
    shadow = eye_shadow(face, *SIZE)
    assert (shadow <= regions["skin"]).all()
    for eye, lid in zip(EYES, LIDS, strict=True):
        upper_lid, middle = face.mesh[lid[4]], face.mesh[list(eye)].mean(0)
        assert at(shadow, (upper_lid + face.mesh[eye[4]]) / 2) > 0.5 and at(shadow, middle) == 0


def test_the_parts_are_carried_along_into_a_crop(astronaut, face):
    crop = crop_face(astronaut, face, 256)
    regions = face_regions(crop.face, 256, 256)
    assert float(regions["lips"].sum()) > 100
    assert all((mask[crop.paste_mask == 0] == 0).all() for mask in regions.values())


def test_without_a_mesh_there_are_no_parts(face):
    with pytest.raises(ProtectionError, match=r"no mesh.*How to fix"):
        face_regions(replace(face, mesh=None), *SIZE)


# ------------------------------------------------------------------------------------------------ where it is unsure


@pytest.mark.parametrize("share", [-0.39, 0.0, 0.39])
def test_a_face_that_is_sure_has_the_same_feather_all_around(sure, share):
    looking = looking_aside(sure, share)
    assert torch.equal(face_mask([looking], *SIZE), face_mask([looking], *SIZE, everywhere_sure=True))


@pytest.mark.parametrize("share", [-0.8, 0.8])
def test_the_far_side_of_a_turned_face_is_softer_and_the_near_side_is_not(sure, share):
    """The nose is seen nearer to the side that is turned away."""
    looking = looking_aside(sure, share)
    mask, same = face_mask([looking], *SIZE), face_mask([looking], *SIZE, everywhere_sure=True)
    softer = (mask < same)[0]
    x = np.arange(SIZE[1]) - looking.mesh[list(SIDES)].mean(0)[0]
    columns = torch.from_numpy(x * np.sign(share) > 0)
    assert (mask <= same).all() and softer[:, columns].sum() > 1000
    assert softer[:, ~columns].sum() < 0.2 * softer[:, columns].sum()  # around chin and forehead, and no further
    assert torch.equal(mask > 0, same > 0) and float(mask.max()) == 1


def test_a_doubtful_face_is_softer_all_around(sure):
    mask, same = (face_mask([replace(sure, disagreement=u)], *SIZE) for u in (2 * DISAGREEING, DISAGREEING))
    inside = (same > 0.1) & (same < 0.9)
    assert (mask[inside] < same[inside]).all() and torch.equal(mask > 0, same > 0)
    assert torch.equal(same, face_mask([sure], *SIZE))


def test_pasting_does_not_weaken_what_a_softer_mask_allowed(astronaut, sure):
    for face in (looking_aside(sure, 0.9), replace(sure, disagreement=1.0)):
        crop = crop_face(astronaut, face, 256)
        assert (crop.paste_mask[crop.mask > 0] == 1).all()

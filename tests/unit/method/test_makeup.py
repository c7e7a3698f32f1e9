"""The makeup loss: exact histogram matching, region by region, beside the identity loss, whose goal it leaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.exposure import match_histograms

from comfyui import PACK
from demo import portrait
from faceprotect_core import IdentityObjective, ProtectionError
from faceprotect_core.evaluation.painted import painted
from faceprotect_core.faces import crop_face, find_face
from faceprotect_core.method.light_and_shade import LightAndShadeSettings, protect_by_light
from faceprotect_core.method.peers.makeup import WEIGHTS, MakeupLoss, for_makeup, makeup_regions, match_histogram
from faceprotect_core.method.protect import PAPER, Settings
from faceprotect_core.pixels import from_pixels

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def crop(astronaut, face):
    return crop_face(astronaut, face, 256)


@pytest.fixture(scope="module")
def photo(crop):
    return crop.image[None]


@pytest.fixture(scope="module")
def reference():
    """Her portrait, painted: [1, 3, 180, 180], and its face."""
    plain = from_pixels(portrait())
    found = find_face(plain)
    return painted(plain, found)[None], found


@pytest.fixture(scope="module")
def makeup(photo, crop, reference):
    return MakeupLoss(photo, [crop.face], *reference)


def colours(image: torch.Tensor, face, name: str) -> torch.Tensor:
    """[3, N]: the pixels of a region."""
    return image[:, makeup_regions(face, *image.shape[1:])[name][0] > 0.5]


# ------------------------------------------------------------------------------------------------ histograms


@pytest.mark.parametrize("sizes", [(500, 800), (900, 40), (30, 1), (1, 30)])
def test_histograms_are_matched_as_scikit_image_matches_them(sizes):
    random = np.random.default_rng(sum(sizes))
    values, wanted = (random.integers(0, 256, size) / 255 for size in sizes)  # with many ties, as photos have
    found = match_histogram(torch.from_numpy(values), torch.from_numpy(wanted**2)).numpy()
    assert found == pytest.approx(match_histograms(values[None], wanted[None] ** 2)[0], abs=1e-12)


def test_the_matched_values_are_distributed_as_the_reference_and_keep_their_order():
    generator = torch.Generator().manual_seed(0)
    values, wanted = torch.rand(4000, generator=generator), torch.rand(3000, generator=generator) ** 3
    found = match_histogram(values, wanted)
    assert torch.equal(found[values.argsort()], found.sort().values)
    shares = torch.linspace(0, 1, 21)
    assert torch.allclose(found.quantile(shares), wanted.quantile(shares), atol=2e-3)
    assert torch.allclose(match_histogram(values, values), values, atol=1e-6)


# ------------------------------------------------------------------------------------------------ the loss


def test_the_regions_are_apart_and_inside_the_face(crop):
    regions = makeup_regions(crop.face, 256, 256)
    assert list(regions) == list(WEIGHTS)
    total = sum(regions.values())
    assert float(total.max()) <= 1 + 1e-6 and (total[crop.paste_mask == 0] == 0).all()
    assert all(float(mask.min()) >= 0 and float(mask.sum()) > 100 for mask in regions.values())


def test_the_target_has_the_references_colours_in_each_region_and_the_photos_elsewhere(photo, crop, reference, makeup):
    shares = torch.linspace(0.05, 0.95, 10)
    for name in WEIGHTS:
        for mine, wanted in zip(
            colours(makeup.target[0], crop.face, name), colours(reference[0][0], reference[1], name), strict=True
        ):
            assert torch.allclose(mine.quantile(shares), wanted.quantile(shares), atol=4 * LEVEL)
    outside = sum(makeup.regions.values()).expand_as(photo) == 0
    assert torch.equal(makeup.target[outside], photo[outside])


def test_the_loss_is_the_weighted_mean_square_over_each_region(photo, makeup):
    apart = (photo - makeup.target).square().mean(1, keepdim=True)
    expected = sum(WEIGHTS[name] * np.average(apart, weights=mask) for name, mask in makeup.regions.items())
    assert makeup(photo).item() == pytest.approx(float(expected), rel=1e-5)
    assert makeup(makeup.target).item() == 0 < makeup(photo).item()


def test_its_gradient_leads_to_the_target_and_is_0_elsewhere(photo, makeup):
    image = photo.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(makeup(image).sum(), image)
    regions = sum(makeup.regions.values()).expand_as(photo)
    assert (gradient[regions == 0] == 0).all()
    assert (gradient * (photo - makeup.target) >= 0).all() and gradient.abs().max() > 0
    assert makeup(photo - 100 * gradient).item() < makeup(photo).item()


def test_a_batch_equals_single_runs(photo, crop, reference, makeup):
    mirrored_light = (photo * 0.8).clamp(0, 1)
    both = MakeupLoss(torch.cat([photo, mirrored_light]), [crop.face] * 2, *reference)
    alone = MakeupLoss(mirrored_light, [crop.face], *reference)
    expected = torch.cat([makeup(photo), alone(mirrored_light)])
    assert torch.allclose(both(torch.cat([photo, mirrored_light])), expected, rtol=1e-5)


def test_a_region_without_weight_is_left_alone(photo, crop, reference):
    lips_only = MakeupLoss(photo, [crop.face], *reference, {"eye shadow": 0.0, "skin": 0.0})
    image = photo.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lips_only(image).sum(), image)
    assert (gradient[(lips_only.regions["lips"] == 0).expand_as(photo)] == 0).all() and gradient.any()


def test_a_grey_photo_has_a_grey_target_and_a_coloured_one_beside_it_not(photo, crop, reference):
    grey = photo.mean(1, keepdim=True).expand_as(photo).contiguous()
    target = MakeupLoss(torch.cat([grey, photo]), [crop.face] * 2, *reference).target
    spread = target.amax(1) - target.amin(1)
    assert float(spread[0].max()) == 0 < float(spread[1].max())
    assert not torch.equal(target[:1], grey)


def test_without_a_mesh_a_face_for_each_photo_or_a_weight_it_is_refused(photo, crop, reference):
    for faces, weights, what in (
        ([replace(crop.face, mesh=None)], {}, "no mesh"),
        ([crop.face] * 2, {}, "faces of 2 images, and 1 photos"),
        ([crop.face], {"lips": -1.0}, "weights are"),
        ([crop.face], dict.fromkeys(WEIGHTS, 0.0), "weights are"),
        ([crop.face], {"hair": 1.0}, "weights are"),
    ):
        with pytest.raises(ProtectionError, match=f"{what}.*How to fix"):
            MakeupLoss(photo, faces, *reference, weights)
    tiny = reference[0][:, :, ::12, ::12], reference[1].transformed(np.array([[1 / 12, 0, 0], [0, 1 / 12, 0]]))
    with pytest.raises(ProtectionError, match=r"the reference shows \d+ pixels of lips.*How to fix"):
        MakeupLoss(photo, [crop.face], *tiny)


# ------------------------------------------------------------------------------------------------ beside the identity


@pytest.fixture(scope="module")
def identity(photo, crop, recognizer):
    return IdentityObjective([recognizer], source=photo, face=crop.face, source_face=crop.face, margin=0.05)


def test_it_is_added_to_the_loss_with_its_weight_and_changes_no_goal(photo, makeup, identity):
    both = identity.plus(makeup, 30.0)
    image = (photo * 0.9).clamp(0, 1)
    assert both(image).item() == pytest.approx((identity(image) + 30 * makeup(image)).item(), rel=1e-5)
    assert both.at(3)(image).item() == pytest.approx(both(image).item(), rel=1e-6)
    assert both.through(identity.surrogates)(image).item() == both(image).item()
    assert both.margin == identity.margin and torch.equal(both.past(image), identity.past(image))
    assert torch.equal(both.reached(image), identity.reached(image)) and both.report(image) == identity.report(image)
    assert not identity.beside and isinstance(both, IdentityObjective)


def test_light_and_shade_comes_closer_to_the_references_lightness(photo, crop, makeup, identity):
    settings = LightAndShadeSettings(iterations=12, lr=0.25)
    plain, made_up = (
        protect_by_light(photo, objective, settings, mask=crop.mask[None]).rendering.image
        for objective in (identity, identity.plus(makeup, 60.0))
    )
    assert makeup(made_up).item() < 0.8 * makeup(plain).item()
    assert torch.equal(made_up[:, :, crop.mask[0] == 0], photo[:, :, crop.mask[0] == 0])


def test_the_shipped_reference_is_what_the_script_paints(reference):
    shipped = from_pixels(np.asarray(Image.open(PACK / "workflows" / "faceprotect_makeup.png")))
    assert (shipped - reference[0][0]).abs().mean() < LEVEL
    plain = from_pixels(portrait())
    lips = colours(plain, reference[1], "lips").mean(1), colours(shipped, reference[1], "lips").mean(1)
    assert lips[1][0] - lips[1][1] > lips[0][0] - lips[0][1] + 0.15  # redder
    hair = (slice(None), slice(0, 20), slice(60, 120))
    assert (shipped[hair] - plain[hair]).abs().max() <= LEVEL / 2


def test_with_makeup_colours_may_change_and_steps_are_small():
    large = Settings(lr=0.1, iterations=24, keep_colours=True, fidelity_weight=0.3)
    assert for_makeup(large) == replace(large, lr=0.02, iterations=40, keep_colours=False)
    assert for_makeup(PAPER) == PAPER

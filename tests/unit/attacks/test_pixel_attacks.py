"""The noise-based baselines: inside their budget, as published, and past a real recogniser's threshold."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from demo import portrait
from faceprotect_core import IdentityObjective, ProtectionError
from faceprotect_core.attacks.input_diversity import diversified, random_affine, resize_and_pad
from faceprotect_core.attacks.pixel_attacks import MMD_WIDTHS, PUBLISHED, _naturalness_loss, attack_pixels
from faceprotect_core.faces import face_mask, find_face
from faceprotect_core.pixels import from_pixels
from tiny import random_image, tiny_surrogate

METHODS = list(PUBLISHED)
PHOTO, OTHER, THIRD = (random_image(size=32, seed=seed, dtype=torch.float32) for seed in range(3))
NETWORK = tiny_surrogate(dtype=torch.float32)
QUICK = {name: replace(settings, iterations=5) for name, settings in PUBLISHED.items()}


def dodge(photo=PHOTO):
    return IdentityObjective([NETWORK], source=photo)


def attack(method, photo=PHOTO, objective=None, **options):
    settings = replace(QUICK[method], **options.pop("settings", {}))
    return attack_pixels(photo, objective or dodge(photo), method, settings=settings, **options)


# ------------------------------------------------------------------------------------------------ the budget


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.01, 0.03, 0.05, 0.2])
@pytest.mark.parametrize("method", METHODS)
def test_no_value_leaves_the_budget_by_even_one_rounding(method, epsilon):
    photo = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    photo[0, 0] = 0.0
    photo[0, 1] = 1.0
    changed = attack(method, photo, settings={"epsilon": epsilon})
    assert (changed - photo).abs().max() <= epsilon
    assert 0 <= changed.min() and changed.max() <= 1
    assert (changed - photo).abs().max() > 0.9 * epsilon


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_8_bit_photo_stays_in_the_budget(method):
    photo = PHOTO.mul(255).round() / 255
    saved = attack(method, photo).mul(255).round()
    assert (saved - photo.mul(255).round()).abs().max() <= round(PUBLISHED[method].epsilon * 255)


@pytest.mark.parametrize("method", METHODS)
def test_where_the_mask_is_0_pixels_are_bit_equal_and_between_the_budget_shrinks(method):
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:16], mask[..., 16:] = 0.25, 1.0
    changed = attack(method, mask=mask)
    assert torch.equal(changed[..., :8], PHOTO[..., :8])
    assert torch.equal(changed, attack(method, mask=mask[0]))
    change = (changed - PHOTO).abs()
    assert 0 < change[..., 8:16].max() <= PUBLISHED[method].epsilon / 4 < change[..., 16:].max()


# ------------------------------------------------------------------------------------------------ the same again


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_always_gives_the_same_photo_and_another_seed_another(method):
    first, again, other = (attack(method, settings={"seed": seed}) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_single_runs(method):
    photos = torch.cat([PHOTO, OTHER, THIRD]).double()
    network = tiny_surrogate()
    together = attack(method, photos, IdentityObjective([network], source=photos))
    for k in range(3):
        alone = attack(method, photos[k : k + 1], IdentityObjective([network], source=photos[k : k + 1]))
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_given_is_not_changed(method):
    photo, mask, objective = PHOTO.clone(), torch.rand(1, 1, 32, 32), dodge()
    before = photo.clone(), mask.clone(), objective.surrogates, torch.get_rng_state()
    attack(method, photo, objective, mask=mask)
    assert torch.equal(photo, before[0]) and torch.equal(mask, before[1])
    assert objective.surrogates is before[2] and torch.equal(torch.get_rng_state(), before[3])
    assert photo.grad is None and not photo.requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nothing", [{"iterations": 0}, {"epsilon": 0.0}])
def test_no_iterations_or_no_budget_is_the_photo(method, nothing):
    changed = attack(method, settings=nothing)
    assert torch.equal(changed, PHOTO) and changed is not PHOTO


# ------------------------------------------------------------------------------------------------ as published


def test_the_published_numbers():
    """Of 255, as the releases have them: epsilon, step, iterations."""
    found = {n: (255 * s.epsilon, 255 * s.step_size, s.iterations, s.momentum) for n, s in PUBLISHED.items()}
    expected = {
        "pgd": (8, 2, 10, 0), "mi_fgsm": (16, 1.6, 10, 1), "ti_dim": (16, 1.6, 10, 1), "tip_im": (12, 0.18, 100, 1),
    }  # fmt: skip
    assert {n: pytest.approx(values) for n, values in expected.items()} == found


def impersonate(target=OTHER):
    return IdentityObjective([NETWORK], target=target)


def gradient_of(objective, image):
    image = image.clone().requires_grad_()
    return torch.autograd.grad(objective(image).sum(), image)[0]


def test_one_step_of_mi_fgsm_is_that_of_the_fast_gradient_sign():
    changed = attack("mi_fgsm", objective=impersonate(), settings={"iterations": 1, "epsilon": 0.02})
    expected = (PHOTO - 0.02 * gradient_of(impersonate(), PHOTO).sign()).clamp(0, 1)
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-6)


def test_mi_fgsm_sums_gradients_of_unit_size():
    """Equation 6, with the mean absolute value for the sum, as the release has it."""
    changed = attack("mi_fgsm", objective=impersonate(), settings={"iterations": 2, "epsilon": 0.02, "momentum": 0.5})
    image, velocity = PHOTO, 0.0
    for _ in range(2):
        gradient = gradient_of(impersonate(), image)
        velocity = 0.5 * velocity + gradient / gradient.abs().mean()
        image = (image - 0.01 * velocity.sign()).clamp(0, 1)
    torch.testing.assert_close(changed, image, rtol=0, atol=1e-6)


def test_ti_dim_smooths_the_gradient_with_a_kernel_of_15_pixels():
    from scipy.stats import norm

    line = torch.tensor(norm.pdf([k * 3 / 7 for k in range(-7, 8)]), dtype=torch.float32)
    kernel = torch.outer(line, line) / torch.outer(line, line).sum()
    gradient = gradient_of(impersonate(), PHOTO)
    smooth = F.conv2d(gradient.transpose(0, 1), kernel[None, None], padding=7).transpose(0, 1)
    settings = {"iterations": 1, "epsilon": 0.02, "diversity": "none"}
    changed = attack("ti_dim", objective=impersonate(), settings=settings)
    torch.testing.assert_close(changed, (PHOTO - 0.02 * smooth.sign()).clamp(0, 1), rtol=0, atol=1e-6)


def test_a_step_of_tip_im_follows_the_gradient_with_the_step_size_as_root_mean_square():
    settings = {"iterations": 1, "epsilon": 0.2, "reach": 0.05, "diversity": "none"}
    change = attack("tip_im", PHOTO * 0.5 + 0.25, impersonate(), settings=settings) - (PHOTO * 0.5 + 0.25)
    assert change.square().mean().sqrt().item() == pytest.approx(0.01, rel=1e-4)
    gradient = gradient_of(impersonate(), PHOTO * 0.5 + 0.25)
    assert F.cosine_similarity(change.flatten(), -gradient.flatten(), dim=0) > 0.9999


def test_the_naturalness_loss_is_the_maximum_mean_discrepancy():
    """The biased estimate for one image each: k(x, x) + k(y, y) - 2 k(x, y), per image of a batch."""
    images, photos = torch.cat([PHOTO, OTHER]), torch.cat([PHOTO + 0.01, OTHER])

    def kernel(x, y):
        return sum(torch.exp(-(255 * (x - y)).square().sum() / (2 * width)) for width in MMD_WIDTHS)

    expected = [kernel(x, x) + kernel(y, y) - 2 * kernel(x, y) for x, y in zip(images, photos, strict=True)]
    torch.testing.assert_close(_naturalness_loss(images, photos), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert expected[0] > 0 and expected[1] == 0


def test_a_higher_naturalness_stays_closer_to_the_photo():
    near, far = (attack("tip_im", settings={"iterations": 20, "naturalness": gamma}) for gamma in (10.0, 0.0))
    assert (near - PHOTO).square().mean() < 0.8 * (far - PHOTO).square().mean()


def test_tip_im_chooses_per_image_the_target_that_it_comes_closest_to():
    """A target that looks nearly like the photo is chosen before one that does not."""
    photos = torch.cat([PHOTO, OTHER])
    near = [impersonate(0.9 * one + 0.1 * THIRD) for one in (PHOTO, OTHER)]
    chosen = attack("tip_im", photos, near)
    for k in range(2):
        alone = attack("tip_im", photos[k : k + 1], near[k])
        torch.testing.assert_close(chosen[k : k + 1], alone, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------ input diversity


@pytest.mark.parametrize("draw", [resize_and_pad, random_affine])
def test_a_changed_input_is_of_the_same_size_and_another_one_each_time(draw):
    one, same, other = (draw(torch.Generator().manual_seed(seed))(PHOTO) for seed in (1, 1, 2))
    assert one.shape == PHOTO.shape and torch.equal(one, same) and not torch.equal(one, other)


def test_resize_and_pad_keeps_the_values_and_adds_nothing_but_the_ground():
    image = PHOTO + 0.1
    changed = resize_and_pad(torch.Generator().manual_seed(5))(image)
    filled = changed != 0
    rows, columns = filled.any(3).sum(2).unique(), filled.any(2).sum(2).unique()
    assert rows.numel() == columns.numel() == 1 and 29 <= rows.item() < 32 and rows.item() == columns.item()
    assert torch.isin(changed[filled], image).all()


def test_each_network_sees_its_own_input_changed():
    """The change comes after the alignment and resizing, and outside is the middle of the network's range."""
    seen = []
    network = replace(NETWORK, module=lambda x: seen.append(x) or NETWORK.module(x), value_range=(0.0, 4.0))
    objective = IdentityObjective([network], source=PHOTO)
    plain = seen.pop()
    assert plain.max() > 3
    loss = diversified(objective, lambda x: torch.zeros_like(x), 0)(PHOTO)
    assert (seen[0] == 2).all() and seen[0].shape == plain.shape and loss.shape == (1,)


# ------------------------------------------------------------------------------------------------ what it does


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_goes_down_and_every_iteration_is_told(method):
    events, photos = [], torch.cat([PHOTO, OTHER])
    objective = IdentityObjective([NETWORK], source=photos, target=THIRD)
    changed = attack(method, photos, objective, on_step=events.append)
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
    assert all(event.stage == "protection" and event.steps == 5 for event in events)
    assert all(len(event.losses["identity"]) == 2 and event.image.shape == photos.shape for event in events)
    if PUBLISHED[method].diversity == "none":
        assert events[-1].losses["identity"] == pytest.approx(objective(events[-1].image).tolist(), abs=1e-6)
    assert (objective(changed) < objective(photos)).all()


@pytest.mark.parametrize("method", METHODS)
def test_dodging_gets_away_from_the_start_where_the_loss_has_no_gradient(method):
    assert gradient_of(dodge(), PHOTO).abs().sum() < 1e-4
    changed = attack(method)
    assert dodge()(changed) < dodge()(PHOTO) - 1e-3


def test_the_first_random_step_is_not_kept_by_the_momentum():
    """The second step follows the gradient there alone."""
    settings = {"iterations": 2, "epsilon": 0.02}
    events = []
    changed = attack("mi_fgsm", settings=settings, on_step=events.append)
    middle = events[1].image
    free = (PHOTO > 0.02) & (PHOTO < 0.98)
    assert ((middle - PHOTO).abs() - 0.01)[free].abs().max() < 1e-6
    expected = (middle - 0.01 * gradient_of(dodge(), middle).sign()).clamp(0, 1)
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def head():
    """The astronaut's head at 256 pixels, with 8-bit values."""
    photo = from_pixels(portrait())[None]
    return F.interpolate(photo, (256, 256), mode="bilinear").mul(255).round() / 255


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gets_past_a_real_recognisers_threshold_within_its_published_budget(method, head, recognizer):
    """As a stranger would see it: rounded to 8 bits, the face found again. The recogniser is the one worked against."""
    face = find_face(head[0])
    objective = IdentityObjective([recognizer], source=head, face=face, source_face=face)
    mask = face_mask([face], 256, 256)
    saved = attack_pixels(head, objective, method, mask=mask).mul(255).round() / 255
    before, after = recognizer.embed(head, face), recognizer.embed(saved, find_face(saved[0]))
    assert recognizer.distance(before, after) > 0.6
    assert (saved - head).abs().max() <= PUBLISHED[method].epsilon + 1e-6
    assert torch.equal(saved * (mask == 0), head * (mask == 0))


# ------------------------------------------------------------------------------------------------ errors


class Broken:
    def __call__(self, image):
        return image.sum((1, 2, 3)) * float("nan")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": PHOTO[0]}, "expects an RGB image"),
        ({"image": PHOTO[:, :1]}, "expects an RGB image"),
        ({"image": torch.full_like(PHOTO, float("nan"))}, "NaN"),
        ({"image": PHOTO * 2}, "clamp the image"),
        ({"method": "fgsm"}, "use one of pgd, mi_fgsm, ti_dim, tip_im"),
        ({"objective": []}, "no objective"),
        ({"objective": Broken()}, "the loss of iteration 0"),
        ({"objective": IdentityObjective([NETWORK], source=torch.cat([PHOTO, OTHER]))}, "has 2 photos"),
        ({"mask": torch.ones(1, 1, 16, 32)}, "the mask is"),
        ({"mask": torch.ones(2, 1, 32, 32)}, "the mask is"),
        ({"mask": torch.ones(3, 32, 32)}, "the mask is"),
        ({"mask": torch.ones(32, 32)}, "the mask is"),
        ({"mask": torch.full((1, 1, 32, 32), 2.0)}, "leaves"),
        ({"mask": torch.full((1, 1, 32, 32), float("nan"))}, "NaN"),
        ({"settings": replace(PUBLISHED["pgd"], epsilon=8.0)}, "8 of 255 is 0.031"),
        ({"settings": replace(PUBLISHED["pgd"], epsilon=float("nan"))}, "8 of 255 is 0.031"),
        ({"settings": replace(PUBLISHED["pgd"], iterations=-1)}, "iterations -1"),
        ({"settings": replace(PUBLISHED["ti_dim"], kernel=14)}, "odd width"),
        ({"settings": replace(PUBLISHED["ti_dim"], diversity="crop")}, "'crop'"),
        ({"settings": replace(PUBLISHED["pgd"], step="max")}, "'max'"),
    ],
)
def test_what_cannot_be_attacked_is_refused_with_a_remedy(change, says):
    arguments = {"image": PHOTO, "objective": dodge(), "method": "pgd"} | change
    with pytest.raises(ProtectionError, match=says) as error:
        attack_pixels(**arguments)
    assert "How to fix: " in str(error.value)

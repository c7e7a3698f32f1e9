"""Light and shade: the photo keeps its colours and all that is not masked, and changes as much as it was told to; and
the one loop that this and the noisy latent go through."""

import pytest
import torch

from faceprotect_core import (
    IdentityObjective,
    ProtectionError,
    capture_self_attention,
    ddim_invert,
    learn_null_text,
    load_surrogate,
    optimize_latent,
)
from faceprotect_core.faces import face_mask, find_face
from faceprotect_core.method.light_and_shade import (
    AMPLITUDE,
    LightAndShade,
    LightAndShadeSettings,
    protect_by_light,
)
from faceprotect_core.method.optimizer import NoisyLatent
from faceprotect_core.method.restraint.fidelity import Fidelity
from faceprotect_core.method.variables import Rendering, optimize
from golden import load_golden
from tiny import random_image, tiny_surrogate

QUICK = LightAndShadeSettings(grid=8, iterations=4, fidelity_weight=0.0)
PHOTO = 0.25 + 0.5 * random_image(size=48)  # so far from 0 and 1 that nothing clips
MASK = torch.zeros(1, 1, 48, 48, dtype=torch.float64)
MASK[:, :, 10:40, 8:44] = 1.0
MASK[:, :, 10:14] *= torch.linspace(0.2, 0.8, 4, dtype=torch.float64)[:, None]  # soft at its edge
NETWORK = tiny_surrogate(seed=0, thresholds={0.01: 0.5})


def dodge(photo=PHOTO, **options) -> IdentityObjective:
    return IdentityObjective([NETWORK], source=photo, **options)


def protect(photo=PHOTO, settings=QUICK, mask=MASK, objective=None, **options):
    return protect_by_light(photo, objective or dodge(photo), settings, mask=mask, **options)


def change_of(result, photo=PHOTO) -> torch.Tensor:
    return result.rendering.image - photo


def with_settings(**changed) -> LightAndShadeSettings:
    return LightAndShadeSettings(**(vars(QUICK) | changed))


# ------------------------------------------------------------------------------------------------ what changes


def test_where_the_mask_is_0_every_pixel_is_bit_equal_and_where_it_is_1_it_changes():
    result = protect()
    outside = (MASK == 0).expand_as(PHOTO)
    assert torch.equal(result.rendering.image[outside], PHOTO[outside])
    assert (change_of(result)[MASK.expand_as(PHOTO) == 1] != 0).float().mean() > 0.99


def test_bit_equal_also_where_the_photo_is_out_of_range():
    """Adding 0 and clamping would change it."""
    photo = PHOTO.clone()
    photo[..., 0, 0] = 1.0 + 1e-9
    assert torch.equal(protect(photo).rendering.image[..., 0, 0], photo[..., 0, 0])


def test_the_change_is_the_plane_enlarged_and_as_large_as_the_mask_lets_it():
    variable = LightAndShade(PHOTO, MASK, QUICK)
    flat = variable.render(torch.full_like(variable.start, 2.0)).image - PHOTO
    torch.testing.assert_close(flat, 2.0 * AMPLITUDE * MASK.expand_as(PHOTO), rtol=0, atol=1e-12)


def test_where_it_would_leave_the_range_it_is_clipped():
    photo = PHOTO.clone()
    photo[..., :24] = 1.0
    variable = LightAndShade(photo, MASK, QUICK)
    image = variable.render(20.0 * variable.start).image
    assert image.min() >= 0 and image.max() <= 1 and (image[..., :24] < 1).any()


def test_red_green_and_blue_change_alike_so_that_grey_stays_grey():
    change = change_of(protect())
    assert (change - change[:, :1]).abs().max() < 1e-15 and change.abs().max() > 0.01
    grey = PHOTO[:, :1].expand(-1, 3, -1, -1).contiguous()
    image = protect(grey).rendering.image
    assert torch.equal(image[:, 0], image[:, 1]) and torch.equal(image[:, 0], image[:, 2])
    assert not torch.equal(image, grey)


def test_the_change_is_as_coarse_as_its_plane():
    """Of a plane of 4 x 4 values nothing varies from pixel to pixel as it does of one of 48 x 48."""
    rough = {}
    for grid in (4, 48):
        change = change_of(protect(settings=with_settings(grid=grid), mask=None))[:, 0]
        rough[grid] = change.diff(n=2).std() / change.std()
    assert rough[4] < 0.05 < 0.5 < rough[48]


def test_more_fidelity_weight_changes_the_photo_less():
    lax, strict = (protect(settings=with_settings(fidelity_weight=w, iterations=8)) for w in (0.0, 1000.0))
    fidelity = Fidelity(PHOTO, MASK)
    assert fidelity(strict.rendering.image) < 0.7 * fidelity(lax.rendering.image)
    shown = protect(settings=with_settings(fidelity_weight=2.0)).rendering
    torch.testing.assert_close(shown.losses["fidelity"], 2 * fidelity(shown.image))


def test_fidelity_is_weighed_against_all_recognisers_together():
    """The same photo, whether a recogniser counts 1, counts 3, or is there three times."""
    settings = with_settings(fidelity_weight=3.0)
    photo = protect(settings=settings).rendering.image
    for networks, weights in (([NETWORK], [3.0]), ([NETWORK] * 3, None)):
        louder = IdentityObjective(networks, source=PHOTO, weights=weights)
        assert louder.weight == 3.0
        torch.testing.assert_close(
            protect(settings=settings, objective=louder).rendering.image, photo, atol=1e-6, rtol=0
        )
    assert IdentityObjective([NETWORK] * 3, source=PHOTO, reduction="mean").weight == 1.0


def test_the_rendering_is_differentiable_to_the_last_digit():
    photo, mask = PHOTO[:, :, 16:32, 16:32], MASK[:, :, 16:32, 16:32]
    variable = LightAndShade(photo, mask, with_settings(grid=4, fidelity_weight=3.0))
    value = variable.start.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: variable.render(x).image, (value,))
    assert torch.autograd.gradcheck(lambda x: variable.render(x).losses["fidelity"], (value,))


# ------------------------------------------------------------------------------------------------ how it runs


def test_the_loss_goes_down_and_against_a_real_recogniser_the_photo_passes_its_threshold(astronaut):
    photo = astronaut[None, :, 0:256, 100:356]
    face = find_face(photo[0])
    network = load_surrogate("mobileface")
    objective = IdentityObjective([network], source=photo, face=face, source_face=face, margin=0.25, steepness=6.0)
    mask = face_mask([face], 256, 256)[None]
    result = protect_by_light(photo, objective, LightAndShadeSettings(iterations=12), mask=mask)
    losses = [loss for (loss,) in result.history["identity"]]
    assert len(losses) == len(result.history["fidelity"]) == 12
    assert losses[-1] < 0.5 * losses[0]
    before, after = (objective.past(image).item() for image in (photo, result.rendering.image))
    assert before == pytest.approx(network.threshold() - 1, abs=1e-4)
    assert after > before + 0.4 and after > 0  # no longer the same person, without any diffusion model
    assert torch.equal(result.rendering.image[mask.expand_as(photo) == 0], photo[mask.expand_as(photo) == 0])


def test_the_seed_makes_the_start_and_nothing_else_does():
    first, again = protect(), protect()
    assert torch.equal(first.rendering.image, again.rendering.image) and torch.equal(first.value, again.value)
    torch.rand(3)  # other random numbers make no difference
    assert torch.equal(protect().value, first.value)
    other = protect(settings=with_settings(seed=1))
    assert not torch.equal(other.rendering.image, first.rendering.image)
    state = torch.get_rng_state()
    protect()
    assert torch.equal(torch.get_rng_state(), state)


def test_without_iterations_the_photo_has_the_light_of_the_start():
    result = protect(settings=with_settings(iterations=0))
    assert result.history == {"identity": [], "fidelity": []}
    variable = LightAndShade(PHOTO, MASK, QUICK)
    assert torch.equal(result.value, variable.start)
    assert torch.equal(result.rendering.image, variable.render(variable.start).image)


def test_a_batch_equals_single_photos():
    photos = torch.cat([PHOTO, 0.25 + 0.5 * random_image(size=48, seed=5), PHOTO.flip(3) * 0.9])
    masks = torch.cat([MASK, MASK.flip(3), MASK.flip(2)])
    together = protect(photos, mask=masks, objective=dodge(photos))
    for k in range(3):
        photo = photos[k : k + 1]
        alone = protect(photo, mask=masks[k : k + 1], objective=dodge(photo))
        torch.testing.assert_close(together.rendering.image[k : k + 1], alone.rendering.image, rtol=0, atol=1e-9)
        for name in ("identity", "fidelity"):
            assert [now[k] for now in together.history[name]] == pytest.approx([one for (one,) in alone.history[name]])


def test_one_mask_may_serve_all_photos_of_a_batch():
    photos = torch.cat([PHOTO, PHOTO.flip(3)])
    same = protect(photos, mask=MASK, objective=dodge(photos))
    both = protect(photos, mask=MASK.repeat(2, 1, 1, 1), objective=dodge(photos))
    assert torch.equal(same.rendering.image, both.rendering.image)


def test_it_goes_on_from_where_an_earlier_run_stopped():
    first = protect(settings=with_settings(iterations=6))
    more = protect(settings=with_settings(iterations=0), start=first.value)
    assert torch.equal(more.rendering.image, first.rendering.image)
    further = protect(settings=with_settings(iterations=6), start=first.value)
    assert further.history["identity"][0] == pytest.approx(dodge()(first.rendering.image).tolist())
    assert further.history["identity"][-1][0] < first.history["identity"][-1][0]


def test_the_start_is_not_changed_by_going_on_from_it():
    first = protect()
    kept = first.value.clone()
    protect(start=first.value)
    assert torch.equal(first.value, kept)


def test_it_stops_as_soon_as_the_margin_is_reached_and_not_before():
    whole = protect(settings=with_settings(iterations=10))
    passed = [1 + loss for (loss,) in whole.history["identity"]]  # the cosine before each iteration
    threshold = (passed[0] + passed[-1]) / 2
    network = tiny_surrogate(seed=0, thresholds={0.01: threshold})
    objective = IdentityObjective([network], source=PHOTO, margin=0.0)
    result = protect(settings=with_settings(iterations=10), objective=objective, early_stop=True)
    steps = len(result.history["identity"])
    assert steps == next(number for number, cosine in enumerate(passed) if cosine <= threshold)
    assert 0 < steps < 10 and objective.reached(result.rendering.image).all()
    shorter = protect(settings=with_settings(iterations=steps), objective=objective)
    assert torch.equal(result.rendering.image, shorter.rendering.image)


def test_every_iteration_is_reported():
    events = []
    result = protect(on_step=events.append)
    assert [event.step for event in events] == [1, 2, 3, 4] and {event.steps for event in events} == {4}
    assert [event.losses["identity"] for event in events] == result.history["identity"]
    assert all(event.stage == "protection" and event.image.shape == PHOTO.shape for event in events)


# ------------------------------------------------------------------------------------------------ refusals

NAN = PHOTO.clone()
NAN[0, 1, 3, 4] = float("nan")
REFUSALS = {
    "a photo with NaN": (lambda: protect(NAN, objective=dodge()), "1 of 6912 values that are NaN"),
    "a grey photo": (lambda: protect(PHOTO[:, :1], objective=dodge()), r"\[1, 1, 48, 48\]"),
    "a mask of another size": (lambda: protect(mask=MASK[..., :40]), r"the mask is \[1, 1, 48, 40\], the photo \["),
    "a mask without its axes": (lambda: protect(mask=MASK[0, 0]), r"the mask is \[48, 48\]"),
    "two masks for one photo": (lambda: protect(mask=MASK.repeat(2, 1, 1, 1)), r"the mask is \[2, 1, 48, 48\]"),
    "a plane that is too coarse": (lambda: protect(settings=with_settings(grid=3)), "grid is 3"),
    "a plane that is too fine": (lambda: protect(settings=with_settings(grid=257)), "grid is 257"),
    "a negative weight": (lambda: protect(settings=with_settings(fidelity_weight=-1.0)), "fidelity_weight is -1"),
    "a weight of NaN": (lambda: protect(settings=with_settings(fidelity_weight=float("nan"))), "weight is nan"),
    "a negative number of iterations": (lambda: protect(settings=with_settings(iterations=-1)), "got -1, "),
    "no learning rate": (lambda: protect(settings=with_settings(lr=0.0)), "got 4, 0.0"),
    "a loss of NaN": (
        lambda: protect(objective=lambda image: image.flatten(1).mean(1) * float("nan")),
        "Light and Shade: the loss of iteration 1 has 1 of 1 values that are NaN",
    ),
    "a margin that cannot be reached": (
        lambda: protect(objective=lambda image: image.flatten(1).mean(1), early_stop=True),
        "early_stop needs an objective that can be reached",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_with_a_reason_and_a_remedy(name):
    call, message = REFUSALS[name]
    with pytest.raises(ProtectionError, match=message) as error:
        call()
    assert "How to fix: " in str(error.value)


# ------------------------------------------------------------------------------------------------ the one loop


@pytest.mark.parametrize("output", ["published", "detail"])
def test_the_generic_loop_over_the_noisy_latent_is_optimize_latent_bit_by_bit(output):
    golden = load_golden("impersonation")
    image, mask = random_image(), torch.rand(1, 1, 64, 64, dtype=torch.float64)
    trajectory = ddim_invert(golden.denoiser, golden.codec.encode(image), golden.context, golden.schedule, depth=1)
    embeddings = learn_null_text(golden.denoiser, trajectory, golden.context, iterations=0)
    structure = capture_self_attention(golden.denoiser, trajectory, embeddings)
    objective = IdentityObjective([NETWORK], source=image)
    detail = {"image": image, "mask": mask} if output == "detail" else {}
    given = (golden.denoiser, golden.codec, trajectory, embeddings)
    expected = optimize_latent(
        *given, objective, structure=structure, iterations=3, lr=0.05, output=output, fidelity_weight=0.5, **detail
    )
    variable = NoisyLatent(*given, structure, detail.get("image"), detail.get("mask"), 0.5 * 0.003)
    found = optimize(variable, objective, iterations=3, lr=0.05, objective_weight=0.003)
    assert torch.equal(found.value, expected.latent) and not torch.equal(found.value, trajectory.latents[-1])
    assert torch.equal(found.rendering.image.clamp(0, 1), expected.image)
    assert torch.equal(found.rendering.decoded, expected.decoded_latent)
    assert found.history == expected.history and list(found.history) == ["identity", "structure"]


class Point:
    """A variable of two numbers that is its own photo."""

    losses = ("length",)

    def __init__(self):
        self.start = torch.tensor([[2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)

    def render(self, value):
        return Rendering(value, {"length": value.square().sum(1)})


def test_the_loop_is_adamw_on_whatever_is_rendered():
    target = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    found = optimize(
        Point(), lambda value: (value - target).square().sum(1), iterations=5, lr=0.1, objective_weight=3.0
    )
    value = Point().start.clone().requires_grad_()
    adam = torch.optim.AdamW([value], lr=0.1)
    for _ in range(5):
        adam.zero_grad()
        (3 * (value - target).square().sum() + value.square().sum()).backward()
        adam.step()
    torch.testing.assert_close(found.value, value.detach(), rtol=0, atol=1e-12)
    assert len(found.history["length"]) == 5 and found.history["length"][0] == [5.0, 9.25]


def test_the_objective_is_asked_for_each_iteration_where_it_can_be():
    class Numbered:
        asked: list = []

        def at(self, iteration):
            self.asked.append(iteration)
            return lambda value: value.sum(1)

    optimize(Point(), Numbered(), iterations=3, lr=0.1)
    assert Numbered.asked == [0, 1, 2]

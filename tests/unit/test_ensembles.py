"""Several surrogates: weights, the lagging one, random views, several targets, momentum, stopping early."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from faceprotect_core import (
    IdentityObjective,
    ProtectionError,
    RandomViews,
    capture_self_attention,
    ddim_invert,
    learn_null_text,
    optimize_latent,
)
from golden import load_golden
from tiny import random_image, tiny_surrogate

SOURCE, OTHER = random_image(), random_image(seed=1)
NETWORKS = [tiny_surrogate(seed=seed, name=f"network {seed}", thresholds={0.01: 0.5}) for seed in range(3)]


def losses(image=OTHER, **options):
    return torch.stack([IdentityObjective([one], source=SOURCE, **options)(image) for one in NETWORKS])


def same(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_without_options_it_is_the_plain_sum_of_the_paper():
    objective = IdentityObjective(NETWORKS, source=SOURCE)
    same(objective(OTHER), losses().sum(0))
    same(objective.at(7)(OTHER), objective(OTHER))


# ------------------------------------------------------------------------------------------------ weights


def test_weights_multiply_each_surrogates_loss():
    objective = IdentityObjective(NETWORKS, source=SOURCE, weights=[1, 0, 2.5])
    same(objective(OTHER), losses()[0] + 2.5 * losses()[2], 1e-6)


def test_a_lagging_surrogate_weighs_more_and_all_weights_together_stay_the_same():
    objective = IdentityObjective(NETWORKS, source=SOURCE, lagging=10.0)
    cosines = losses()[:, 0] + 1  # the loss is cos - 1; the thresholds are equal
    weights = 3 * F.softmax(10 * cosines, 0)
    same(objective(OTHER)[0], (weights * losses()[:, 0]).sum(), 1e-6)
    assert weights.argmax() == cosines.argmax()


def test_lagging_counts_from_each_surrogates_own_threshold():
    strict = replace(NETWORKS[0], thresholds={0.01: -0.9})  # hardly reachable: this one lags
    objective = IdentityObjective([strict, *NETWORKS[1:]], source=SOURCE, lagging=100.0)
    same(objective(OTHER), 3 * losses()[0], 1e-6)


def test_a_surrogate_that_is_past_its_margin_takes_no_weight_from_the_others():
    done = replace(NETWORKS[0], thresholds={0.01: 2.0})  # always past
    image = OTHER.clone().requires_grad_()
    options = dict(source=SOURCE, margin=0.1)
    with_done = IdentityObjective([done, NETWORKS[1]], lagging=5.0, **options)(image)
    alone = IdentityObjective([NETWORKS[1]], **options)(image)
    gradients = [torch.autograd.grad(loss.sum(), image)[0] for loss in (with_done, alone)]
    assert gradients[1].abs().max() > 0
    same(gradients[0], 2 * gradients[1], 1e-9)


def test_where_every_surrogate_is_done_lagging_leaves_a_finite_loss_without_a_gradient():
    done = [replace(one, thresholds={0.01: 2.0}) for one in NETWORKS]
    image = OTHER.clone().requires_grad_()
    loss = IdentityObjective(done, source=SOURCE, margin=0.1, lagging=5.0)(image)
    assert torch.isfinite(loss).all()
    assert torch.autograd.grad(loss.sum(), image, allow_unused=True, materialize_grads=True)[0].abs().max() == 0


def test_every_option_gives_a_batch_what_single_images_get():
    images, source = random_image(3, seed=2), random_image(3, seed=3)
    options = dict(weights=[1, 2, 3], lagging=8.0, views=RandomViews(2, seed=4), margin=0.2)
    together = IdentityObjective(NETWORKS, source=source, **options)(images, 5)
    for k in range(3):
        alone = IdentityObjective(NETWORKS, source=source[k : k + 1], **options)(images[k : k + 1], 5)
        same(together[k : k + 1], alone, 1e-5)


# ------------------------------------------------------------------------------------------------ views


def test_with_views_the_loss_is_the_mean_over_the_image_and_its_views():
    views = RandomViews(3, seed=1)
    objective = IdentityObjective(NETWORKS, source=SOURCE, views=views)
    plain = IdentityObjective(NETWORKS, source=SOURCE)
    expected = torch.stack([plain(view) for view in views(OTHER, 6)]).mean(0)
    same(objective.at(6)(OTHER), expected)
    assert (objective.at(7)(OTHER) - expected).abs() > 1e-6


# ------------------------------------------------------------------------------------------------ targets


def test_several_target_photos_are_one_person():
    targets = random_image(4, seed=9)
    objective = IdentityObjective(NETWORKS[:1], target=targets, average_targets=True)
    directions = F.normalize(NETWORKS[0].embed(targets), dim=1)
    expected = 1 - F.cosine_similarity(NETWORKS[0].embed(OTHER), directions.mean(0, keepdim=True))
    same(objective(OTHER), expected)
    assert objective(random_image(2)).shape == (2,)


def test_the_average_of_a_cosine_network_respects_the_mean_of_its_embeddings():
    shifted = replace(NETWORKS[0], embedding_mean=torch.full((12,), 3.0, dtype=torch.float64))
    embeddings = torch.randn(5, 12, dtype=torch.float64) + 3.0
    average = shifted.average(embeddings)
    directions = F.normalize(embeddings - 3.0, dim=1).mean(0, keepdim=True)
    same(shifted.cosine(average, embeddings[:1]), F.cosine_similarity(directions, embeddings[:1] - 3.0))


def test_the_average_of_a_euclidean_network_is_the_mean(recognizer):
    embeddings = torch.randn(5, 128)
    assert torch.equal(recognizer.average(embeddings), embeddings.mean(0, keepdim=True))


# ------------------------------------------------------------------------------------------------ the optimizer


@pytest.fixture(scope="module")
def golden():
    return load_golden("impersonation")


def optimize(golden, image, objective, **options):
    latent = golden.codec.encode(image)
    trajectory = ddim_invert(golden.denoiser, latent, golden.context, golden.schedule, depth=1)
    embeddings = learn_null_text(golden.denoiser, trajectory, golden.context, iterations=0)
    structure = capture_self_attention(golden.denoiser, trajectory, embeddings)
    settings = dict(structure=structure, iterations=4, lr=0.05, output="detail", image=image) | options
    return optimize_latent(golden.denoiser, golden.codec, trajectory, embeddings, objective, **settings)


def test_momentum_is_the_sum_of_unit_gradients_that_fade(golden):
    """AdamW divides by the size of the gradient, so the first step is the same and the next is not."""
    seen = {}
    for factor in (0.0, 0.9):
        objective = IdentityObjective(NETWORKS, source=OTHER)
        seen[factor] = [
            optimize(golden, SOURCE, objective, iterations=steps, momentum=factor).latent for steps in (1, 3)
        ]
    same(seen[0.0][0], seen[0.9][0], 1e-3)  # of a step of 0.05; AdamW adds its eps to gradients of another size
    assert (seen[0.0][1] - seen[0.9][1]).abs().max() > 1e-3


def test_the_rule_of_momentum():
    from faceprotect_core.optimizer import _Momentum

    first, second = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    unit = [one / one.abs().mean((1, 2, 3), keepdim=True) for one in (first, second)]
    rule = _Momentum(0.5)
    rule(first)
    same(rule(second), 0.5 * unit[0] + unit[1], 1e-6)
    assert torch.equal(_Momentum(0.0)(first), first)
    assert torch.equal(_Momentum(0.5)(torch.zeros_like(first)), torch.zeros_like(first))


def test_at_the_start_of_dodging_momentum_does_not_make_a_direction_of_rounding_errors(golden):
    """The gradient of cos(x, source) is 0 at the source itself."""
    objective = IdentityObjective(NETWORKS, source=SOURCE)
    plain, summed = (optimize(golden, SOURCE, objective, iterations=1, momentum=factor).latent for factor in (0, 0.9))
    assert (plain - summed).abs().max() < 0.05 / 10  # a tenth of the learning rate


def reachable(golden, image, part: float, **options):
    """An objective whose threshold the plain run passes after about `part` of its way."""
    network = tiny_surrogate(seed=0)
    end = optimize(golden, image, IdentityObjective([network], source=image), iterations=8)
    drop = 1 - network.cosine(network.embed(end.image), network.embed(image)).max().item()
    threshold = 1 - part * drop
    return IdentityObjective([replace(network, thresholds={0.01: threshold})], source=image, margin=0.0, **options)


def test_it_stops_once_every_surrogate_is_past_its_margin(golden):
    objective = reachable(golden, SOURCE, 0.5)
    stopped = optimize(golden, SOURCE, objective, iterations=8, early_stop=True)
    iterations = len(stopped.history["identity"])
    assert 0 < iterations < 8
    assert objective.reached(stopped.image).all()
    shorter = optimize(golden, SOURCE, objective, iterations=iterations)
    assert torch.equal(stopped.image, shorter.image)
    before = optimize(golden, SOURCE, objective, iterations=iterations - 1)
    assert not objective.reached(before.image).any()


def test_in_a_batch_each_image_stops_when_it_would_alone(golden):
    images = torch.cat([random_image(seed=20), random_image(seed=24) * 0.5])
    network = tiny_surrogate(seed=0, thresholds={0.01: 0.97})

    def run(photos):
        objective = IdentityObjective([network], source=photos, margin=0.0, views=RandomViews(1))
        return optimize(golden, photos, objective, iterations=12, early_stop=True, momentum=0.5)

    together, alone = run(images), [run(images[k : k + 1]) for k in range(2)]
    lengths = [len(one.history["identity"]) for one in alone]
    assert lengths[0] != lengths[1], "both stop at once: the test would show nothing"
    assert len(together.history["identity"]) == max(lengths)
    for k in range(2):
        same(together.image[k : k + 1], alone[k].image, 1e-5)


def test_a_photo_that_is_past_the_margin_from_the_start_is_left_as_it_is(golden):
    network = replace(NETWORKS[0], thresholds={0.01: 2.0})
    objective = IdentityObjective([network], source=SOURCE, margin=0.1)
    result = optimize(golden, SOURCE, objective, early_stop=True)
    assert torch.equal(result.image, SOURCE) and result.history["identity"] == []


# ------------------------------------------------------------------------------------------------ refusals

NO_THRESHOLD = tiny_surrogate(name="nameless")
REFUSALS = {
    "too few weights": (lambda: IdentityObjective(NETWORKS, source=SOURCE, weights=[1, 1]), r"\[1, 1\], for 3"),
    "a negative weight": (lambda: IdentityObjective(NETWORKS[:1], source=SOURCE, weights=[-1]), r"\[-1\]"),
    "a weight of NaN": (lambda: IdentityObjective(NETWORKS[:1], source=SOURCE, weights=[float("nan")]), "nan"),
    "no weight at all": (lambda: IdentityObjective(NETWORKS[:1], source=SOURCE, weights=[0]), "all weights are 0"),
    "a negative lagging": (lambda: IdentityObjective(NETWORKS, source=SOURCE, lagging=-1.0), "lagging is -1.0"),
    "a margin without a threshold": (
        lambda: IdentityObjective([*NETWORKS, NO_THRESHOLD], source=SOURCE, margin=0.1), "is known for nameless",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_with_a_reason_and_a_remedy(name):
    call, message = REFUSALS[name]
    with pytest.raises(ProtectionError, match=message) as error:
        call()
    assert "How to fix: " in str(error.value)


def test_stopping_early_needs_a_margin_and_an_objective_that_can_be_reached(golden):
    with pytest.raises(ProtectionError, match="no margin"):
        optimize(golden, SOURCE, IdentityObjective(NETWORKS, source=SOURCE), early_stop=True)
    with pytest.raises(ProtectionError, match="can be reached"):
        optimize(golden, SOURCE, lambda image: image.flatten(1).mean(1), early_stop=True)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_is_below_1(golden, momentum):
    with pytest.raises(ProtectionError, match="momentum"):
        optimize(golden, SOURCE, IdentityObjective(NETWORKS, source=SOURCE), momentum=momentum)


def test_lagging_works_without_thresholds():
    networks = [replace(one, thresholds={}) for one in NETWORKS]
    objective = IdentityObjective(networks, source=SOURCE, lagging=10.0)
    weights = 3 * F.softmax(10 * (losses()[:, 0] + 1), 0)
    same(objective(OTHER)[0], (weights * losses()[:, 0]).sum(), 1e-6)

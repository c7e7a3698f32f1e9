"""Several surrogates: weights, steepness, jitter of the alignment, several targets, stopping early."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from faceprotect_core import (
    AlignmentJitter,
    IdentityObjective,
    ProtectionError,
    capture_self_attention,
    ddim_invert,
    learn_null_text,
    optimize_latent,
)
from faceprotect_core.faces import Face
from faceprotect_core.faces.again import moved
from faceprotect_core.method.objectives import LEAD
from faceprotect_core.surrogates import FRSurrogate
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


# ------------------------------------------------------------------------------------------------ steepness

MARGIN = 0.2


def behind(image=OTHER) -> torch.Tensor:
    """[surrogates, B]: how far each lies before its margin; the threshold is 0.5 for all."""
    cosines = torch.stack([one.cosine(one.embed(image), one.embed(SOURCE)) for one in NETWORKS])
    return MARGIN - (0.5 - cosines)


@pytest.mark.parametrize("steepness", [1.0, 6.0, 40.0])
def test_with_steepness_the_loss_is_its_equation(steepness):
    objective = IdentityObjective(NETWORKS, source=SOURCE, margin=MARGIN, steepness=steepness)
    expected = F.softplus(steepness * behind() + LEAD) / steepness
    same(objective(OTHER), expected.sum(0), 1e-9)


def test_a_surrogate_that_is_further_behind_is_pushed_harder_and_one_that_is_far_past_hardly():
    """The weight of a surrogate is sigmoid(steepness * how far behind + LEAD): at the margin most of the force."""
    now, steepness, pushes = behind()[:, 0], 6.0, []
    for past in (-0.5, 0.0, 0.5, 2.0):
        # A threshold that leaves the network so far past its margin.
        threshold = 0.5 + float(now[0]) + past
        network = replace(NETWORKS[0], thresholds={0.01: threshold})
        image = OTHER.clone().requires_grad_()
        loss = IdentityObjective([network], source=SOURCE, margin=MARGIN, steepness=steepness)(image)
        plain = IdentityObjective([network], source=SOURCE)(image)
        steep, full = (torch.autograd.grad(one.sum(), image)[0] for one in (loss, plain))
        weight = (steep * full).sum() / full.square().sum()
        same(steep, weight * full, 1e-9)
        same(weight, torch.tensor(-steepness * past + LEAD).double().sigmoid(), 1e-6)
        pushes.append(weight.item())
    assert pushes == sorted(pushes, reverse=True) and pushes[0] > 0.98 and pushes[-1] < 1e-4
    assert 0.8 < pushes[1] < 0.95  # at the margin itself


def test_without_steepness_pushing_ends_at_the_margin():
    done = replace(NETWORKS[0], thresholds={0.01: 2.0})  # always past
    image = OTHER.clone().requires_grad_()
    loss = IdentityObjective([done], source=SOURCE, margin=0.1)(image)
    assert torch.autograd.grad(loss.sum(), image, allow_unused=True, materialize_grads=True)[0].abs().max() == 0
    soft = IdentityObjective([done], source=SOURCE, margin=0.1, steepness=1.0)(image)
    assert 0 < torch.autograd.grad(soft.sum(), image)[0].abs().max()


def test_a_target_is_pulled_by_the_same_rule():
    target, steepness = random_image(seed=7), 6.0
    objective = IdentityObjective(NETWORKS, target=target, margin=MARGIN, steepness=steepness)
    cosines = torch.stack([one.cosine(one.embed(OTHER), one.embed(target)) for one in NETWORKS])
    expected = F.softplus(steepness * (MARGIN - (cosines - 0.5)) + LEAD) / steepness
    same(objective(OTHER), expected.sum(0), 1e-9)


def test_steepness_is_differentiable_to_the_last_digit():
    image = random_image(size=20).requires_grad_()
    network = tiny_surrogate(thresholds={0.01: 0.5})
    objective = IdentityObjective([network], source=SOURCE, margin=MARGIN, steepness=6.0)
    assert torch.autograd.gradcheck(objective, (image,))


# ------------------------------------------------------------------------------------------------ jitter


def aligning(seed: int = 0, dtype=torch.float64):
    """A tiny network that aligns by the landmarks."""
    return tiny_surrogate(seed=seed, dtype=dtype, name=f"network {seed}", template="dlib_150", thresholds={0.01: 0.5})


FACE = Face((12.0, 12.0, 52.0, 52.0), 1.0, ((44.0, 26.0), (36.0, 26.4), (19.0, 26.0), (27.0, 26.4), (31.5, 40.0)))
ALIGNING = [aligning(seed) for seed in range(3)]
SEEN = {"source": SOURCE, "face": FACE, "source_face": FACE}


def test_with_jitter_the_loss_is_the_mean_over_wrong_alignments_every_other_one_mirrored():
    jitter = AlignmentJitter(2, seed=1)
    objective = IdentityObjective(ALIGNING, **SEEN, jitter=jitter)

    def seen(k: int, one, copy: int) -> torch.Tensor:
        return one.embed(OTHER, jitter(FACE, 6, k, copy), mirrored=(k + copy) % 2 == 1)

    expected = sum(
        one.cosine(seen(k, one, copy), one.embed(SOURCE, FACE)) - 1 for k, one in enumerate(ALIGNING) for copy in (0, 1)
    )
    same(objective.at(6)(OTHER), expected / 2, 1e-9)


def test_mirrored_is_the_face_with_left_and_right_exchanged():
    for one in ALIGNING:
        same(one.embed(OTHER, mirrored=True), one.embed(OTHER.flip(3)), 1e-9)
        as_it_is, mirrored = (one.embed(OTHER, FACE, mirrored=mirrored) for mirrored in (False, True))
        assert not torch.equal(as_it_is, mirrored)
        same(one.embed_both_ways(OTHER, FACE), torch.stack([as_it_is, mirrored]), 1e-9)


def test_with_jitter_past_counts_the_mirror_image_too():
    plain, jittered = (IdentityObjective(ALIGNING, **SEEN, jitter=AlignmentJitter(copies)) for copies in (0, 1))
    seen = [one.embed(OTHER, FACE, mirrored=mirrored) for mirrored in (False, True) for one in ALIGNING]
    source = [one.embed(SOURCE, FACE) for one in ALIGNING] * 2
    far = [one.margin(a, b).item() for one, a, b in zip(ALIGNING * 2, seen, source, strict=True)]
    assert plain.past(OTHER).item() == pytest.approx(min(far[: len(ALIGNING)]))
    assert jittered.past(OTHER).item() == pytest.approx(min(far))


@pytest.mark.parametrize("copies", [0, 1])
def test_past_asks_those_that_weigh_most_first_and_nobody_after_one_that_knows_every_face(copies, monkeypatch):
    asked = []

    def noting(name: str):
        kept = getattr(FRSurrogate, name)
        monkeypatch.setattr(FRSurrogate, name, lambda self, *a, **k: asked.append(self.name) or kept(self, *a, **k))

    options = {"weights": [1.0, 3.0, 2.0], "jitter": AlignmentJitter(copies)}
    objective = IdentityObjective([replace(one, name=str(k)) for k, one in enumerate(ALIGNING)], **SEEN, **options)
    noting("embed_both_ways" if copies else "embed")
    far = objective.past(OTHER)
    assert asked == ["1", "2", "0"]
    asked.clear()
    assert torch.equal(objective.past(OTHER, far.item()), far) and len(asked) == 3, "as far as is wanted: all say so"
    asked.clear()
    assert far <= objective.past(OTHER, 1e3) < 1e3 and asked == ["1"]
    asked.clear()
    objective.past(torch.cat([SOURCE, OTHER]), far.item())
    assert asked == ["1", "2", "0"], "the second image may be as far as is wanted"


def test_every_iteration_and_surrogate_and_copy_is_aligned_in_its_own_way():
    class Noted(AlignmentJitter):
        drawn: list = []

        def __call__(self, face, *draw):
            self.drawn.append((draw, super().__call__(face, *draw).landmarks[0]))
            return super().__call__(face, *draw)

    objective = IdentityObjective(ALIGNING, **SEEN, jitter=Noted(2))
    for iteration in (0, 1):
        objective(OTHER, iteration)
    assert len(Noted.drawn) == len({draw for draw, _ in Noted.drawn}) == len({eye for _, eye in Noted.drawn}) == 12


def test_jitter_is_seeded_and_another_draw_is_another_loss():
    def loss(iteration: int, seed: int = 0) -> torch.Tensor:
        return IdentityObjective(ALIGNING, **SEEN, jitter=AlignmentJitter(1, seed=seed))(OTHER, iteration)

    assert torch.equal(loss(3), loss(3))
    assert (loss(3) - loss(4)).abs() > 1e-6 and (loss(3) - loss(3, seed=1)).abs() > 1e-6
    right = IdentityObjective(ALIGNING, **SEEN)
    assert torch.equal(right.at(3)(OTHER), right.at(4)(OTHER))


def test_jitter_is_differentiable_in_the_image():
    image = random_image(size=64, seed=5)[:, :, 10:54, 10:54].clone().requires_grad_()
    there = Face((2, 2, 42, 42), 1.0, tuple((x - 10, y - 10) for x, y in FACE.landmarks))
    objective = IdentityObjective(ALIGNING[:1], source=SOURCE, face=there, source_face=FACE, jitter=AlignmentJitter(2))
    (gradient,) = torch.autograd.grad(objective.at(2)(image).sum(), image)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        slope = (objective.at(2)(image + 1e-6 * direction) - objective.at(2)(image - 1e-6 * direction)) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6) and slope.abs() > 1e-6


def test_what_is_reached_and_reported_is_asked_of_the_right_alignment():
    jittered = IdentityObjective(ALIGNING, **SEEN, margin=0.0, jitter=AlignmentJitter(1, (0.3, 0.3)))
    plain = IdentityObjective(ALIGNING, **SEEN, margin=0.0)
    still = IdentityObjective(ALIGNING, **SEEN, margin=0.0, jitter=AlignmentJitter(1, (0.0, 0.0)))
    assert torch.equal(jittered.past(OTHER), still.past(OTHER)) and jittered.report(OTHER) == plain.report(OTHER)
    same(jittered.past(OTHER), plain.past(OTHER), 1e-12)  # a face and its mirror image in one pass round differently
    assert (jittered(OTHER, 1) - plain(OTHER, 1)).abs() > 1e-6


def test_every_option_gives_a_batch_what_single_images_get():
    images, source = random_image(3, seed=2), random_image(3, seed=3)
    faces = [FACE, moved(FACE, 2, 1), moved(FACE, -1, 3)]
    options = dict(weights=[1, 2, 3], jitter=AlignmentJitter(2, seed=4), margin=0.2, steepness=6.0)
    together = IdentityObjective(ALIGNING, source=source, face=faces, source_face=faces, **options)(images, 5)
    for k in range(3):
        known = dict(source=source[k : k + 1], face=faces[k], source_face=faces[k])
        alone = IdentityObjective(ALIGNING, **known, **options)(images[k : k + 1], 5)
        same(together[k : k + 1], alone, 1e-9)


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
        objective = IdentityObjective([network], source=photos, margin=0.0)
        return optimize(golden, photos, objective, iterations=12, early_stop=True)

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
    "a negative steepness": (
        lambda: IdentityObjective(NETWORKS, source=SOURCE, margin=0.1, steepness=-1.0), "steepness is -1.0",
    ),
    "an infinite steepness": (
        lambda: IdentityObjective(NETWORKS, source=SOURCE, margin=0.1, steepness=float("inf")), "steepness is inf",
    ),
    "steepness without a margin": (
        lambda: IdentityObjective(NETWORKS, source=SOURCE, steepness=6.0), "the margin past the thresholds None",
    ),
    "jitter without a face": (
        lambda: IdentityObjective(NETWORKS, source=SOURCE, jitter=AlignmentJitter(1)), "there is no face to align",
    ),
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

"""The semantic variable: an offset in the U-Net's bottleneck, bounded, for this run alone; the noisy latent stays."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from faceprotect_core import IdentityObjective, ProtectionError, prepare
from faceprotect_core.diffusers_backend import DiffusersDenoiser
from faceprotect_core.method.optimizer import NoisyLatent
from faceprotect_core.method.peers.semantic import BottleneckOffset, SemanticSettings, protect_by_semantics
from faceprotect_core.method.protect import Settings
from golden import load_golden
from tiny import CountingDenoiser, random_image, tiny_surrogate

QUICK = SemanticSettings(depth=2, null_text_iterations=1, iterations=4, lr=0.2, output="detail", bound=3.0)
MASK = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
MASK[:, :, 8:56, 16:40] = 1.0


@pytest.fixture(scope="module")
def golden():
    return load_golden("impersonation")


@pytest.fixture(scope="module")
def prepared(golden):
    return prepare(golden.denoiser, golden.codec, random_image(), golden.context, QUICK)


def dodge(photo) -> IdentityObjective:
    return IdentityObjective([tiny_surrogate()], source=photo)


def protect(golden, prepared, settings=QUICK, **options):
    objective = options.pop("objective", None) or dodge(prepared.photo)
    return protect_by_semantics(golden.denoiser, golden.codec, prepared, objective, settings, **options)


def run_of(golden, prepared, photo=None, denoiser=None) -> NoisyLatent:
    given = (golden.codec, prepared.trajectory, prepared.embeddings, prepared.structure, photo, None)
    return NoisyLatent(denoiser or golden.denoiser, *given)


class Watching:
    """A BottleneckDenoiser that remembers what the path up got, and what the self-attention saw."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.bottlenecks, self.latents = [], []

    def __call__(self, latent, timestep, context, self_attention=None, bottleneck=None):
        def watched(value):
            self.bottlenecks.append(value if bottleneck is None else bottleneck(value))
            return self.bottlenecks[-1]

        self.latents.append(latent)
        return self.denoiser(latent, timestep, context, self_attention, watched)


def random_value(variable: BottleneckOffset, size: float = 1.0) -> torch.Tensor:
    noise = torch.randn(variable.start.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return size * noise


# ------------------------------------------------------------------------------------------------ the variable


def test_an_offset_of_nothing_is_the_unchanged_run_bit_by_bit(golden, prepared):
    for photo in (None, prepared.photo):
        run = run_of(golden, prepared, photo)
        variable = BottleneckOffset(run, 3.0, seed=0)
        found, expected = variable.render(torch.zeros_like(variable.start)), run.render(run.start)
        assert torch.equal(found.image, expected.image) and torch.equal(found.decoded, expected.decoded)
        assert torch.equal(found.losses["structure"], expected.losses["structure"])
    assert torch.equal(found.image, prepared.photo)


def test_the_seed_makes_the_start_and_nothing_else_does(golden, prepared):
    first, again, other = (
        protect(golden, prepared, replace(QUICK, iterations=0, seed=seed)).value for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other) and 0 < first.abs().max() < 0.1
    state = torch.get_rng_state()
    protect(golden, prepared)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bound", [0.03, 3.0])
def test_no_value_of_the_bottleneck_moves_further_than_the_bound_and_one_offset_serves_all_steps(
    golden, prepared, bound
):
    """In units of each step's own bottleneck, from where the same latent without an offset would have it."""
    watching = Watching(golden.denoiser)
    variable = BottleneckOffset(run_of(golden, prepared, denoiser=watching), bound, seed=0)
    spreads = [seen.std() for seen in watching.bottlenecks]
    assert spreads[0] != spreads[1]
    for size in (0.3, 100.0):
        watching.latents.clear(), watching.bottlenecks.clear()
        variable.render(random_value(variable, size))
        moved, latents = list(watching.bottlenecks), list(watching.latents)
        units = []
        for step, latent in enumerate(latents):
            watching.bottlenecks.clear()
            prepared.trajectory.denoise_step(watching, latent, step, prepared.embeddings[step])
            units.append((moved[step] - watching.bottlenecks[0]) / spreads[step])
        torch.testing.assert_close(units[0], units[1], rtol=0, atol=1e-9)
        furthest = units[0].abs().max().item()
        assert furthest == pytest.approx(bound, rel=1e-6) if size > 1 else 0 < furthest < bound


def test_the_gradient_is_that_of_the_rendering(golden, prepared):
    variable = BottleneckOffset(run_of(golden, prepared), 3.0, seed=0)
    value = random_value(variable).requires_grad_()

    def loss(value):
        rendering = variable.render(value)
        return rendering.image.square().sum() + 1e4 * rendering.losses["structure"].sum()

    (gradient,) = torch.autograd.grad(loss(value), value)
    direction, step = random_value(variable).flip(-1), 1e-5
    with torch.no_grad():
        slope = (loss(value + step * direction) - loss(value - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)
    assert gradient.abs().min() > 0


def test_with_depth_1_nothing_changes_on_the_path_down(golden, prepared):
    """What the paper names as its future work for speed: there is no gradient through it, and it could be kept."""
    shallow = prepare(golden.denoiser, golden.codec, prepared.photo, golden.context, replace(QUICK, depth=1))
    first = shallow.trajectory.latents[-1], shallow.trajectory.steps[0][0], shallow.embeddings[0]
    queries: dict[str, list] = {}

    def attend(layer, query, key, value):
        queries.setdefault(layer, []).append(query)
        return nn.functional.scaled_dot_product_attention(query, key, value)

    golden.denoiser(*first, attend)
    golden.denoiser(*first, attend, lambda bottleneck: (bottleneck + 1.0).requires_grad_())
    for layer, (unchanged, moved) in queries.items():
        constant = torch.equal(unchanged, moved), moved.grad_fn is None
        assert constant == ((False, False) if layer.startswith("up") else (True, True)), layer


# ------------------------------------------------------------------------------------------------ how it runs


def test_the_loss_goes_down_while_the_noisy_latent_stays(golden, prepared):
    watching = Watching(golden.denoiser)
    result = protect_by_semantics(watching, golden.codec, prepared, dodge(prepared.photo), replace(QUICK, iterations=8))
    losses = [loss for (loss,) in result.history["identity"]]
    assert losses[-1] < losses[0] and len(result.history["structure"]) == 8
    assert not torch.equal(result.rendering.image, prepared.photo)
    assert all(torch.equal(latent, prepared.trajectory.latents[-1]) for latent in watching.latents[::2])
    assert len(watching.latents) == 2 * (1 + 8 + 1), "one run to measure the bottleneck, one an iteration, a last one"


def test_where_the_mask_is_0_every_pixel_is_bit_equal_and_grey_stays_grey(golden, prepared):
    changed = protect(golden, prepared, mask=MASK).rendering.image
    outside = (MASK == 0).expand_as(changed)
    assert torch.equal(changed[outside], prepared.photo[outside]) and not torch.equal(changed, prepared.photo)
    grey = random_image()[:, :1].expand(-1, 3, -1, -1).contiguous()
    grey_prepared = prepare(golden.denoiser, golden.codec, grey, golden.context, QUICK)
    image = protect(golden, grey_prepared).rendering.image
    assert torch.equal(image[:, 0], image[:, 1]) and torch.equal(image[:, 0], image[:, 2])
    assert not torch.equal(image, grey)


def test_a_batch_equals_single_photos(golden):
    photos = torch.cat([random_image(), random_image(seed=5)])
    settings = replace(QUICK, fidelity_weight=1.0)

    def protected(photos):
        prepared = prepare(golden.denoiser, golden.codec, photos, golden.context, settings)
        return protect(golden, prepared, settings).rendering.image

    for k in range(2):
        torch.testing.assert_close(protected(photos)[k : k + 1], protected(photos[k : k + 1]), rtol=0, atol=1e-7)


def test_it_goes_on_from_where_an_earlier_run_stopped(golden, prepared):
    first = protect(golden, prepared)
    kept = first.value.clone()
    same = protect(golden, prepared, replace(QUICK, iterations=0), start=first.value)
    assert torch.equal(same.rendering.image, first.rendering.image)
    further = protect(golden, prepared, start=first.value)
    objective = dodge(prepared.photo)
    assert further.history["identity"][0] == pytest.approx(objective(first.rendering.image).tolist())
    assert torch.equal(first.value, kept)


# ------------------------------------------------------------------------------------------------ the network


def hooks(denoiser) -> list:
    return [hook for module in denoiser.unet.modules() for hook in module._forward_hooks]


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_network_is_as_it_was_afterwards_also_after_an_exception(golden, prepared, low_memory):
    denoiser = DiffusersDenoiser(golden.denoiser.unet, low_memory=low_memory)
    latent, context = prepared.trajectory.latents[-1], prepared.embeddings[0]
    before = denoiser(latent, 101, context)
    moved = denoiser(latent, 101, context, bottleneck=lambda bottleneck: bottleneck + 1.0)
    assert not torch.equal(moved, before)

    def fails(_bottleneck):
        assert len(hooks(denoiser)) == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        denoiser(latent, 101, context, bottleneck=fails)
    assert not hooks(denoiser)
    assert torch.equal(denoiser(latent, 101, context), before)


def test_less_memory_gives_the_same(golden, prepared):
    gradients = []
    for low_memory in (False, True):
        denoiser = DiffusersDenoiser(golden.denoiser.unet, low_memory=low_memory)
        variable = BottleneckOffset(run_of(golden, prepared, denoiser=denoiser), 3.0, seed=0)
        value = random_value(variable).requires_grad_()
        rendering = variable.render(value)
        loss = rendering.image.sum() + rendering.losses["structure"].sum()
        gradients.append(torch.autograd.grad(loss, value)[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_in_bfloat16_the_offset_is_added_in_the_networks_precision(prepared):
    golden = load_golden("impersonation", torch.float32)
    denoiser = DiffusersDenoiser(golden.denoiser.unet.to(torch.bfloat16))
    photo = prepared.photo.float()
    own = prepare(denoiser, golden.codec, photo, golden.context, QUICK)
    result = protect_by_semantics(denoiser, golden.codec, own, dodge32(photo), QUICK)
    assert result.value.dtype == result.rendering.image.dtype == torch.float32
    assert torch.isfinite(result.rendering.image).all() and result.value.any()


def dodge32(photo) -> IdentityObjective:
    return IdentityObjective([tiny_surrogate(dtype=torch.float32)], source=photo)


# ------------------------------------------------------------------------------------------------ refusals

REFUSALS = {
    "no bound": (replace(QUICK, bound=0.0), "Semantic Offset: bound is 0.0"),
    "a bound of NaN": (replace(QUICK, bound=float("nan")), "bound is nan"),
    "no bound at all": (replace(QUICK, bound=float("inf")), "bound is inf"),
    "an unknown output": (replace(QUICK, output="other"), "Semantic Offset: output .*'other'"),
    "a negative number of iterations": (replace(QUICK, iterations=-1), "Semantic Offset: .*got -1"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_with_a_reason_and_a_remedy(golden, prepared, name):
    settings, message = REFUSALS[name]
    with pytest.raises(ProtectionError, match=message) as error:
        protect(golden, prepared, settings)
    assert "How to fix: " in str(error.value)


def test_a_mask_needs_detail_and_a_structure_that_is_wanted_must_have_been_captured(golden, prepared):
    with pytest.raises(ProtectionError, match="a mask works with output"):
        protect(golden, prepared, replace(QUICK, output="published"), mask=MASK)
    with pytest.raises(ProtectionError, match="prepared without it"):
        protect(golden, replace(prepared, structure=None))


def test_a_loss_of_nan_is_refused(golden, prepared):
    with pytest.raises(ProtectionError, match="Semantic Offset: the loss of iteration 1"):
        protect(golden, prepared, objective=lambda image: image.flatten(1).mean(1) * float("nan"))


def test_its_settings_are_those_of_the_latent_in_small_steps():
    latent = Settings(depth=1, output="detail", lr=0.02)
    own = {"lr": 0.05, "bound": 200.0, "seed": 0}
    assert asdict(SemanticSettings.like(latent)) == asdict(latent) | own
    assert asdict(SemanticSettings.like(replace(latent, lr=0.1, iterations=24))) == asdict(latent) | own | {
        "iterations": 40
    }


def test_other_denoisers_are_passed_by(golden, prepared):
    """A Denoiser without a bottleneck cannot be used, and says so before anything is optimised."""
    with pytest.raises(TypeError, match="bottleneck"):
        protect_by_semantics(CountingDenoiser(golden.denoiser), golden.codec, prepared, dodge(prepared.photo), QUICK)

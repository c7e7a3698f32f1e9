"""What the library promises about the method, on tiny random networks."""

import pytest
import torch

from faceprotect_core import (
    DDIMSchedule,
    FRSurrogate,
    IdentityObjective,
    capture_self_attention,
    ddim_invert,
    learn_null_text,
    optimize_latent,
    protect,
)
from faceprotect_core.diffusers_backend import DiffusersDenoiser
from golden import load_golden
from tiny import CountingCodec, CountingDenoiser, random_image, tiny_surrogate

SETTINGS = dict(null_text_iterations=2, iterations=3)


@pytest.fixture(scope="module")
def golden():
    return load_golden("impersonation")


def protect_tiny(golden, image, objective=None, **overrides):
    objective = objective or IdentityObjective([tiny_surrogate()], source=image)
    settings = SETTINGS | overrides
    return protect(golden.denoiser, golden.codec, image, golden.context, objective, **settings)


def same(a, b, atol=1e-7):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# ------------------------------------------------------------------------------------------------ work


@pytest.mark.parametrize("depth", [1, 3])
def test_a_third_of_the_work_of_the_release(golden, depth):
    denoiser, codec = CountingDenoiser(golden.denoiser), CountingCodec(golden.codec)
    trajectory = ddim_invert(denoiser, golden.latent, golden.context, golden.schedule, depth)
    assert len(denoiser.timesteps) == depth

    denoiser.timesteps.clear()
    embeddings = learn_null_text(denoiser, trajectory, golden.context, iterations=4)
    assert len(denoiser.timesteps) == depth * 4 + depth - 1

    denoiser.timesteps.clear()
    structure = capture_self_attention(denoiser, trajectory, embeddings)
    assert len(denoiser.timesteps) == depth

    denoiser.timesteps.clear()
    objective = golden.objective()
    optimize_latent(denoiser, codec, trajectory, embeddings, objective, structure=structure, iterations=5)
    assert len(denoiser.timesteps) == 5 * depth + depth, "one run per iteration and one of the final latent"
    assert codec.decodes == 5 + 1
    assert set(denoiser.batches) == {1}


# ------------------------------------------------------------------------------------------------ timesteps


def test_the_published_pairing_is_one_level_off_and_the_exact_one_is_not(golden):
    schedule = DDIMSchedule.scaled_linear()
    published = ddim_invert(golden.denoiser, golden.latent, golden.context, schedule, pairing="published")
    exact = ddim_invert(golden.denoiser, golden.latent, golden.context, schedule, pairing="exact")
    assert published.steps == [(101, 51), (51, 1), (1, -1)]
    assert exact.steps == [(151, 101), (101, 51), (51, 1)]
    for a, b in zip(published.latents, exact.latents, strict=True):
        assert torch.equal(a, b)


def test_the_exact_pairing_undoes_the_inversion_of_a_denoiser_that_ignores_the_latent():
    def denoiser(latent, timestep, context, self_attention=None):
        return torch.ones_like(latent) * 0.3

    latent, context = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.zeros(1, 4, 8, dtype=torch.float64)
    trajectory = ddim_invert(denoiser, latent, context, DDIMSchedule.scaled_linear(), 5, "exact")
    back = trajectory.latents[-1]
    for step in range(5):
        back = trajectory.denoise_step(denoiser, back, step, context)
    same(back, latent)


@pytest.mark.parametrize("depth", [1, 2, 19, 20])
@pytest.mark.parametrize("pairing", ["published", "exact"])
def test_any_depth_up_to_the_number_of_steps(golden, depth, pairing):
    counting = CountingDenoiser(golden.denoiser)
    trajectory = ddim_invert(counting, golden.latent, golden.context, golden.schedule, depth, pairing)
    embeddings = learn_null_text(counting, trajectory, golden.context, iterations=1)
    assert trajectory.depth == depth and embeddings.shape[0] == depth
    assert 0 <= min(counting.timesteps) and max(counting.timesteps) <= 999
    assert torch.isfinite(embeddings).all()


# ------------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("structure", [True, False])
@pytest.mark.parametrize("pairing", ["published", "exact"])
def test_no_iterations_leave_the_photo_bit_equal(golden, structure, pairing):
    image = random_image()
    result = protect_tiny(golden, image, iterations=0, output="detail", structure=structure, pairing=pairing)
    assert torch.equal(result.image, image)


def test_no_iterations_end_where_the_unchanged_run_ends(golden):
    trajectory = ddim_invert(golden.denoiser, golden.latent, golden.context, golden.schedule)
    embeddings = learn_null_text(golden.denoiser, trajectory, golden.context, iterations=2)
    structure = capture_self_attention(golden.denoiser, trajectory, embeddings)
    objective = golden.objective()
    parts = (golden.denoiser, golden.codec, trajectory, embeddings, objective)
    result = optimize_latent(*parts, structure=structure, iterations=0)
    assert torch.equal(result.decoded_latent, structure.latent)
    assert torch.equal(result.latent, trajectory.latents[-1])


def test_outside_the_mask_pixels_are_bit_equal(golden):
    image, mask = random_image(), torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    mask[..., 20:40, 20:40] = 1
    result = protect_tiny(golden, image, output="detail", mask=mask, lr=0.1)
    outside = (mask == 0).expand_as(image)
    assert torch.equal(result.image[outside], image[outside])
    assert (result.image != image)[~outside].any()


def test_inputs_are_never_changed(golden):
    image = random_image()
    before, context = image.clone(), golden.context.clone()
    state = {k: v.clone() for k, v in golden.denoiser.unet.state_dict().items()}
    processors = [m.processor for n, m in golden.denoiser.unet.named_modules() if n.endswith("attn1")]
    protect_tiny(golden, image)
    assert torch.equal(image, before) and torch.equal(golden.context, context)
    assert all(torch.equal(v, state[k]) for k, v in golden.denoiser.unet.state_dict().items())
    assert processors == [m.processor for n, m in golden.denoiser.unet.named_modules() if n.endswith("attn1")]
    assert all(p.grad is None for p in golden.denoiser.unet.parameters())


def test_the_same_call_gives_the_same_bits(golden):
    image = random_image()
    assert torch.equal(protect_tiny(golden, image).image, protect_tiny(golden, image).image)


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("output", ["published", "detail"])
def test_a_batch_equals_the_single_runs(golden, output):
    images = random_image(batch=3)
    surrogates = [tiny_surrogate(seed=1), tiny_surrogate(size=20, seed=2)]
    together = protect_tiny(golden, images, IdentityObjective(surrogates, source=images), output=output)
    for index in range(3):
        image = images[index : index + 1]
        alone = protect_tiny(golden, image, IdentityObjective(surrogates, source=image), output=output)
        same(together.image[index : index + 1], alone.image, atol=1e-5)  # AdamW amplifies rounding
        for name in ("identity", "structure"):
            column = torch.tensor(together.history[name], dtype=torch.float64)[:, index]
            same(column, torch.tensor(alone.history[name], dtype=torch.float64)[:, 0], atol=1e-5)


# ------------------------------------------------------------------------------------------------ number formats


def test_a_v_prediction_model_gives_the_same_result_as_its_epsilon_twin(golden):
    """v = sqrt(a) eps - sqrt(1 - a) x_0: the twin predicts v, the adapter turns it back."""
    alphas = golden.schedule.alphas_cumprod
    unet = golden.denoiser.unet

    class VelocityUNet(torch.nn.Module):
        dtype = torch.float64

        def forward(self, latent, timestep, encoder_hidden_states):
            noise = unet(latent, timestep, encoder_hidden_states=encoder_hidden_states).sample
            alpha = alphas[timestep]
            clean = (latent - (1 - alpha).sqrt() * noise) / alpha.sqrt()
            return type("Output", (), {"sample": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean})

    velocity = DiffusersDenoiser(VelocityUNet(), "v_prediction", alphas)
    for timestep in (1, 101, 951):
        expected = golden.denoiser(golden.latent, timestep, golden.context)
        same(velocity(golden.latent, timestep, golden.context), expected)


def test_bfloat16_weights_keep_latents_losses_and_optimiser_in_float32():
    half, full = load_golden("impersonation", torch.bfloat16), load_golden("impersonation", torch.float32)
    latent, context = full.latent, full.context
    predicted, exact = (g.denoiser(latent, 101, context) for g in (half, full))
    assert predicted.dtype == torch.float32
    assert (predicted - exact).norm() < 0.1 * exact.norm()
    image = random_image(dtype=torch.float32)
    result = protect_tiny(half, image, IdentityObjective([tiny_surrogate(dtype=torch.float32)], source=image))
    assert result.image.dtype == result.latent.dtype == torch.float32
    assert torch.isfinite(result.image).all()


# ------------------------------------------------------------------------------------------------ objective


def cosine_loss(surrogate, image, other):
    return 1 - torch.nn.functional.cosine_similarity(surrogate.embed(image), surrogate.embed(other))


def test_the_identity_loss_is_the_papers():
    image, source, target = random_image(2, seed=1), random_image(2, seed=2), random_image(1, seed=3)
    surrogates = [tiny_surrogate(seed=1), tiny_surrogate(size=20, seed=2)]
    pull = sum(cosine_loss(s, image, target) for s in surrogates)
    push = sum(cosine_loss(s, image, source) for s in surrogates)
    same(IdentityObjective(surrogates, target=target)(image), pull)
    same(IdentityObjective(surrogates, source=source)(image), -push)
    same(IdentityObjective(surrogates, target, source)(image), pull - push)
    same(IdentityObjective(surrogates, target, source, reduction="mean")(image), (pull - push) / 2)


def test_the_crop_box_cuts_the_changed_image_only():
    image, source = random_image(seed=1), random_image(seed=2)
    surrogate = tiny_surrogate()
    cropped = IdentityObjective([surrogate], source=source, crop_box=(7.6, 5.2, 57.6, 55.3))(image)
    same(cropped, -cosine_loss(surrogate, image[:, :, 5:55, 8:58], source))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_with_a_margin_a_surrogate_is_left_alone_once_it_is_past_its_threshold(metric):
    source, image = random_image(seed=1), random_image(seed=2).requires_grad_()
    surrogate = tiny_surrogate(metric=metric, default_threshold=0.5)
    past = surrogate.margin(surrogate.embed(image), surrogate.embed(source)).item()
    free = IdentityObjective([surrogate], source=source)
    for margin, pushes in ((past + 0.01, True), (past - 0.01, False)):
        objective = IdentityObjective([surrogate], source=source, margin=margin)
        same(objective(image), free(image))
        (gradient,) = torch.autograd.grad(objective(image).sum(), image, allow_unused=True)
        assert bool(gradient.abs().sum() > 0) == pushes


def test_dodging_moves_away_and_impersonating_moves_closer(golden):
    image, target = random_image(), random_image(seed=9)
    surrogate = tiny_surrogate()
    weights = dict(iterations=8, objective_weight=1.0, structure=False)
    dodged = protect_tiny(golden, image, IdentityObjective([surrogate], source=image), **weights)
    mimicked = protect_tiny(golden, image, IdentityObjective([surrogate], target=target), **weights)
    assert dodged.history["identity"][-1] < dodged.history["identity"][0]
    assert mimicked.history["identity"][-1] < mimicked.history["identity"][0]


def test_the_structure_loss_holds_the_structure(golden):
    image = random_image()
    common = dict(iterations=8, objective_weight=0.1)
    free, held = (protect_tiny(golden, image, structure=flag, **common) for flag in (False, True))

    def drift(result):
        return (result.image - protect_tiny(golden, image, iterations=0).image).square().mean()

    assert drift(held) < drift(free)
    assert all(value == [0.0] for value in free.history["structure"])


def test_more_fidelity_weight_changes_the_photo_less(golden):
    image = random_image()
    common = dict(iterations=8, objective_weight=0.1, structure=False, output="detail")
    changes = [
        (protect_tiny(golden, image, fidelity_weight=weight, **common).image - image).square().mean()
        for weight in (0.0, 10.0)
    ]
    assert changes[1] < changes[0]


def test_detail_shows_the_surrogates_exactly_the_image_that_is_returned(golden):
    image, seen = random_image(), []
    inner = IdentityObjective([tiny_surrogate()], source=image)

    def objective(changed):
        seen.append(changed.detach().clone())
        return inner(changed)

    result = protect_tiny(golden, image, objective, output="detail", iterations=3)
    again = protect_tiny(golden, image, objective, output="detail", iterations=2)
    assert torch.equal(seen[2], again.image), "iteration 3 sees what 2 iterations return"
    assert result.image.min() >= 0 and result.image.max() <= 1


def test_a_surrogate_that_aligns_sees_the_aligned_face():
    from faceprotect_core.faces import Face, align_face

    points = ((40.0, 24.0), (34.0, 24.0), (18.0, 24.0), (25.0, 24.0), (29.0, 38.0))
    face = Face((12.0, 12.0, 48.0, 48.0), 1.0, points)
    image, source = random_image(seed=1), random_image(seed=2)
    net = tiny_surrogate().module
    surrogate = FRSurrogate(net, input_size=16, template="dlib_150")
    objective = IdentityObjective([surrogate], source=source, face=face, source_face=face)
    chips = [net(2 * align_face(x, face, "dlib_150", 16) - 1) for x in (image, source)]
    same(objective(image), torch.nn.functional.cosine_similarity(*chips) - 1)

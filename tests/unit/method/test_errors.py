"""It fails closed: every error says what, where, which value and how to fix it, and nothing is returned."""

import pytest
import torch

from faceprotect_core import (
    DDIMSchedule,
    IdentityObjective,
    ProtectionError,
    capture_self_attention,
    ddim_invert,
    learn_null_text,
    optimize_latent,
)
from golden import load_golden
from tiny import BrokenDenoiser, random_image, tiny_surrogate


@pytest.fixture(scope="module")
def golden():
    return load_golden("impersonation")


def invert(golden, **overrides):
    given = dict(denoiser=golden.denoiser, latent=golden.latent, context=golden.context, schedule=golden.schedule)
    return ddim_invert(**(given | overrides))


def optimize(golden, **overrides):
    trajectory = invert(golden)
    embeddings = learn_null_text(golden.denoiser, trajectory, golden.context, iterations=0)
    given = dict(
        denoiser=golden.denoiser,
        codec=golden.codec,
        trajectory=trajectory,
        embeddings=embeddings,
        objective=IdentityObjective([tiny_surrogate()], source=random_image()),
        iterations=1,
    )
    return optimize_latent(**(given | overrides))


IMAGE = random_image()
NAN_IMAGE = torch.full((1, 3, 64, 64), float("nan"), dtype=torch.float64)
CASES = {
    "depth 0": (lambda g: invert(g, depth=0), "depth must be 1 to 20, got 0"),
    "depth 21": (lambda g: invert(g, depth=21), "depth must be 1 to 20, got 21"),
    "unknown pairing": (lambda g: invert(g, pairing="other"), "'other'"),
    "latent of three dimensions": (lambda g: invert(g, latent=g.latent[0]), r"got \[4, 8, 8\]"),
    "NaN latent": (lambda g: invert(g, latent=g.latent * float("nan")), "256 of 256 values"),
    "two contexts for one image": (lambda g: invert(g, context=g.context.repeat(2, 1, 1)), r"got \[2, 16, 32\]"),
    "a model that returns NaN": (lambda g: invert(g, denoiser=BrokenDenoiser(g.denoiser, 1)), "DDIM Inversion"),
    "negative iterations": (lambda g: learn_null_text(g.denoiser, invert(g), g.context, -1), "got -1"),
    "NaN while learning": (
        lambda g: learn_null_text(BrokenDenoiser(g.denoiser, 2), invert(g), g.context, 3),
        "the loss of denoising step 0",
    ),
    "embeddings of another depth": (
        lambda g: capture_self_attention(g.denoiser, invert(g), torch.zeros(2, 1, 16, 32)),
        r"\[2, 1, 16, 32\], the trajectory needs \[3, 1",
    ),
    "NaN while optimising": (lambda g: optimize(g, denoiser=BrokenDenoiser(g.denoiser, 2)), "the loss of iteration 1 "),
    "detail without the photo": (lambda g: optimize(g, output="detail"), "no image is connected"),
    "a mask without detail": (lambda g: optimize(g, mask=torch.ones(1, 1, 64, 64)), "'published'"),
    "a photo of another size": (
        lambda g: optimize(g, output="detail", image=random_image(size=72)),
        r"\[1, 3, 72, 72\], the decoded latent \[1, 3, 64, 64\]",
    ),
    "a NaN photo": (lambda g: optimize(g, output="detail", image=NAN_IMAGE), "12288 of 12288 values"),
    "a grey photo": (
        lambda g: IdentityObjective([tiny_surrogate()], source=IMAGE[:, :1]),
        r"got shape \[1, 1, 64, 64\]",
    ),
    "an integer photo": (lambda g: g.codec.encode(IMAGE.byte()), "torch.uint8"),
    "a photo of 60 pixels": (lambda g: g.codec.encode(random_image(size=60)), "got 60 x 60"),
    "no surrogate": (lambda g: IdentityObjective([], source=IMAGE), "no surrogate"),
    "nobody to dodge or to look like": (
        lambda g: IdentityObjective([tiny_surrogate()]),
        "neither a source nor a target",
    ),
    "a crop box outside": (
        lambda g: IdentityObjective([tiny_surrogate()], source=IMAGE, crop_box=(70, 70, 90, 90))(IMAGE),
        "lies outside the image",
    ),
    "a reduction that is none": (
        lambda g: IdentityObjective([tiny_surrogate()], source=IMAGE, reduction="max"),
        "'max'",
    ),
    "alphas above 1": (lambda g: DDIMSchedule.from_alphas_cumprod(torch.ones(10) * 2), "alphas_cumprod"),
    "more steps than timesteps": (lambda g: DDIMSchedule.scaled_linear(num_inference_steps=2000), "got 2000"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_error_says_what_where_and_how_to_fix_it(golden, name):
    action, said = CASES[name]
    with pytest.raises(ProtectionError, match=said) as caught:
        action(golden)
    assert "How to fix: " in str(caught.value)

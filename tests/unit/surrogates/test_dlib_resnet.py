"""The built-in recogniser agrees with dlib; surrogates embed, compare and decide as their docstrings say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import nn

from faceprotect_core.faces import detect_faces
from faceprotect_core.pixels import from_pixels
from faceprotect_core.surrogates import BUILT_IN_SURROGATES, FRSurrogate, load_surrogate

CHECK = json.loads((Path(__file__).parents[2] / "data" / "face_checks.json").read_text())["recognizer_check"]


@pytest.fixture(scope="module")
def recognizer():
    return load_surrogate("dlib_resnet")


@pytest.fixture(scope="module")
def formula_image():
    x = np.linspace(0, 6, 150)
    image = 127 + 100 * np.sin(x[:, None, None] * [1, 2, 3] + x[None, :, None] * [2, 1, 0.5])
    return from_pixels(image.clip(0, 255).astype(np.uint8))[None]


@pytest.fixture(scope="module")
def astronaut():
    return from_pixels(skimage.data.astronaut())[None]


def test_the_descriptor_is_dlibs(recognizer, formula_image):
    descriptor = recognizer.embed(formula_image)[0]
    assert descriptor.shape == (128,)
    assert (descriptor - torch.tensor(CHECK["descriptor"])).abs().max() < 5e-4  # float16 weights; float32: 3e-7


def test_float64_and_float32_agree(recognizer, formula_image):
    double = recognizer.to(dtype=torch.float64)
    descriptor = double.embed(formula_image.double())
    assert descriptor.dtype == torch.float64
    assert (descriptor - recognizer.embed(formula_image)).abs().max() < 1e-6
    assert recognizer.embed(formula_image).dtype == torch.float32
    assert recognizer.embed(formula_image.double()).dtype == torch.float32


def test_a_person_matches_herself_and_not_a_coffee_cup(recognizer, astronaut):
    face = detect_faces(astronaut[0])[0]
    descriptor = recognizer.embed(astronaut, face)
    darker = recognizer.embed(0.7 * astronaut, face)
    cup = recognizer.embed(from_pixels(skimage.data.coffee())[None])
    assert recognizer.is_match(descriptor, darker).tolist() == [True]
    assert recognizer.is_match(descriptor, cup).tolist() == [False]
    assert recognizer.similarity(descriptor, darker) < 0.3 < 0.6 < recognizer.similarity(descriptor, cup)
    assert recognizer.cosine(descriptor, darker) > 0.9 > 0.3 > recognizer.cosine(descriptor, cup)


def test_a_batch_equals_single_images(recognizer, astronaut):
    face = detect_faces(astronaut[0])[0]
    batch = torch.cat([astronaut, astronaut.flip(1), 0.5 * astronaut])
    singles = torch.cat([recognizer.embed(image[None], face) for image in batch])
    assert (recognizer.embed(batch, face) - singles).abs().max() < 1e-6
    assert (recognizer.embed(batch, [face] * 3) - singles).abs().max() < 1e-6


@pytest.mark.parametrize("aligned", [False, True])
def test_the_gradient_in_the_image_is_exact(recognizer, astronaut, aligned):
    double = recognizer.to(dtype=torch.float64)
    face = detect_faces(astronaut[0])[0] if aligned else None
    image = astronaut.double() if aligned else F.interpolate(astronaut.double(), size=(97, 130))
    direction = torch.randn(1, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(image):
        return (double.embed(image, face) * direction).sum()

    image.requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(image), image)
    for channel, y, x in [(0, 90, 60), (1, 40, 100), (2, 70, 77)] if not aligned else [(0, 110, 230), (1, 130, 220)]:
        step = torch.zeros_like(image)
        step[0, channel, y, x] = 1e-6
        with torch.no_grad():
            slope = (score(image + step) - score(image - step)) / 2e-6
        assert gradient[0, channel, y, x].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-9)
        assert slope != 0


def test_weights_loaded_inside_inference_mode_still_carry_gradients(formula_image):
    with torch.inference_mode():
        recognizer = load_surrogate("dlib_resnet").to(dtype=torch.float64)
    image = formula_image.double().requires_grad_(True)
    recognizer.cosine(recognizer.embed(image), torch.ones(1, 128, dtype=torch.float64)).sum().backward()
    assert image.grad.abs().sum() > 0
    with torch.inference_mode():
        assert recognizer.embed(formula_image.double()).shape == (1, 128)


def test_embed_resizes_as_the_paper_does_and_does_not_clamp():
    surrogate = FRSurrogate(nn.Flatten().eval(), input_size=4)
    image = 3 * torch.rand(2, 3, 9, 7, dtype=torch.float64) - 1
    resized = F.interpolate(image, size=(4, 4), mode="bilinear", align_corners=False)
    assert torch.equal(surrogate.embed(image), (2 * resized - 1).flatten(1))
    with pytest.raises(ValueError, match=r"\(3, 9, 7\).*How to fix"):
        surrogate.embed(image[0])


def test_a_trainable_module_is_copied_not_changed():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 5)).train()
    surrogate = FRSurrogate(module, input_size=4)
    assert module.training and all(p.requires_grad for p in module.parameters())
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(surrogate.embed(image), surrogate.embed(image))
    assert not surrogate.embed(image).requires_grad
    double = surrogate.to(dtype=torch.float64)
    assert double is not surrogate and double.embed(image).dtype == torch.float64
    assert surrogate.embed(image).dtype == torch.float32


def test_margin_and_match_know_the_direction_of_the_metric():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    cosine = FRSurrogate(nn.Identity(), thresholds={0.1: 0.7, 0.01: 0.8})
    assert cosine.similarity(b, a).tolist() == pytest.approx([0.6, 1.0])
    assert cosine.margin(b, a, far=0.1).tolist() == pytest.approx([0.1, -0.3])
    assert cosine.margin(b, a).tolist() == pytest.approx([0.2, -0.2])
    assert cosine.is_match(b, a).tolist() == [False, True]
    euclidean = FRSurrogate(nn.Identity(), metric="euclidean", thresholds={0.1: 0.5}, default_threshold=0.9)
    assert euclidean.similarity(b, a).tolist() == pytest.approx([0.8**0.5, 0.0])
    assert euclidean.is_match(b, a).tolist() == [True, True]
    assert euclidean.is_match(b, a, far=0.1).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"rate of 0.02.*\[0.1\].*How to fix|How to fix.*\[0.1\]"):
        euclidean.margin(b, a, far=0.02)
    with pytest.raises(ValueError, match="How to fix"):
        FRSurrogate(nn.Identity()).is_match(a, a)
    with pytest.raises(ValueError, match="How to fix"):
        FRSurrogate(nn.Identity(), metric="l2")


def test_the_cosine_is_centred_where_embeddings_share_a_mean():
    mean = torch.tensor([5.0, 5.0])
    surrogate = FRSurrogate(nn.Identity(), embedding_mean=mean)
    a, b = mean + torch.tensor([[1.0, 0.0]]), mean + torch.tensor([[0.0, 1.0]])
    assert surrogate.cosine(a, b).item() == pytest.approx(0, abs=1e-6)
    assert surrogate.to(dtype=torch.float64).cosine(a.double(), a.double()).item() == pytest.approx(1)


def test_identical_embeddings_have_a_finite_gradient(recognizer):
    a = torch.ones(1, 128, requires_grad=True)
    (recognizer.margin(a, torch.ones(1, 128)) + recognizer.cosine(a, torch.ones(1, 128))).sum().backward()
    assert torch.isfinite(a.grad).all()


def test_thresholds_are_the_measured_ones(recognizer):
    assert recognizer.metric == "euclidean" and recognizer.input_size == 150
    assert recognizer.threshold() == 0.6476
    assert [recognizer.threshold(far) for far in (0.1, 0.01, 0.001)] == [0.7406, 0.6476, 0.5797]


def test_unknown_names_list_the_built_in_ones():
    names = ["dlib_resnet", "mobilefacenet", "faceres", "mobileface"]
    assert list(BUILT_IN_SURROGATES) == names
    with pytest.raises(ValueError, match=rf"not a built-in surrogate.*{re.escape(str(names))}"):
        load_surrogate("arcface")
    with pytest.raises(ValueError, match=r"there is no file .*irse50.pth"):
        load_surrogate(Path("models") / "irse50.pth")

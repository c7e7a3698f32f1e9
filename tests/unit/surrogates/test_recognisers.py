"""The three recognisers that came with converted weights: as their authors' networks, and as files like any other; how
good a recogniser is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from faceprotect_core import load_surrogate
from faceprotect_core.evaluation.recognition import similarities, verification_rates
from faceprotect_core.pixels import from_pixels
from faceprotect_core.surrogates import BUILT_IN_SURROGATES, WEIGHTS
from faceprotect_core.surrogates.networks import faceres, mobileface, mobilefacenet

# What the networks give for `formula_image`, from their authors' own weights, in float64.
EXPECTED = json.loads((Path(__file__).parents[2] / "data" / "recogniser_checks.json").read_text())["embeddings"]
NAMES = ("mobilefacenet", "faceres", "mobileface")
MODULES = {"mobilefacenet": mobilefacenet, "faceres": faceres, "mobileface": mobileface}
# Largest difference from the authors' weights, and length of the difference as a share: what float16 costs, measured.
COST = {"mobilefacenet": (0.0068, 0.0012), "faceres": (1e-8, 1e-8), "mobileface": (0.035, 0.0013)}
FINGERPRINTS = {
    "mobilefacenet": "4c9d3ad6641f3b239d65c64b8dfd91a91cfd84600f3d2a0ccaa8d43b9a9d0321",
    "faceres": "1c2f60e6ce761977dba013f6ad6a14dfb8999ed266eacdd3ec18550f3e98ceb6",
    "mobileface": "fe91ef633a130eaa83a5fda19363837e109daff3bd5151a5d71ba4e80d5cd496",
}


def formula_image(size: int) -> torch.Tensor:
    """[1, 3, size, size], values from 0 to 255: 127.5 + 127.5 sin(0.11 x + 0.07 y (c + 1) + c + 1)."""
    y, x = np.mgrid[0:size, 0:size]
    planes = [127.5 + 127.5 * np.sin(0.11 * x + 0.07 * y * (c + 1) + c + 1) for c in range(3)]
    return torch.from_numpy(np.stack(planes))[None]


@pytest.fixture(scope="module", params=NAMES)
def one(request):
    return load_surrogate(request.param)


def output_of(name: str, dtype=torch.float64) -> torch.Tensor:
    """[D]: the raw network on the formula image, which the record calls RGB, as it wants its pixels."""
    surrogate = load_surrogate(name).to(dtype=dtype)
    low, high = surrogate.value_range
    image = formula_image(surrogate.input_size) / 255 * (high - low) + low
    return surrogate.module((image if surrogate.colour_order == "RGB" else image.flip(1)).to(dtype))[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_embedding_is_the_authors_but_for_what_float16_costs(name):
    expected, found = torch.tensor(EXPECTED[name], dtype=torch.float64), output_of(name)
    largest, share = COST[name]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1.1 * largest
    assert (found - expected).norm() / expected.norm() < 1.1 * share


def test_a_network_whose_weights_were_float16_already_is_exact_to_float32():
    expected = torch.tensor(EXPECTED["faceres"])
    assert (output_of("faceres", torch.float32) - expected).norm() / expected.norm() < 1e-4


def test_embed_is_the_raw_network_on_the_image_as_it_wants_it(one):
    name = one.name
    image = formula_image(one.input_size).float() / 255
    embedding = one.embed(image)[0]
    assert (embedding - output_of(name, torch.float32)).abs().max() < 1e-4 * embedding.abs().max()


def test_what_is_blue_is_blue_to_faceres():
    surrogate, image = load_surrogate("faceres"), formula_image(224).float() / 255
    right, swapped = surrogate.embed(image), surrogate.embed(image.flip(1))
    expected = torch.tensor(EXPECTED["faceres"])[None]
    assert (right - swapped).norm() > 0.2 * right.norm()
    assert (right - expected).norm() < 1e-3 * (swapped - expected).norm()


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_in_the_image_is_the_slope(name, astronaut, face):
    """Along three directions of the whole photo, through the alignment; in float64, by central differences."""
    surrogate = load_surrogate(name).to(dtype=torch.float64)
    image = astronaut[None].double().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, surrogate.embed(image, face).shape[1], dtype=torch.float64, generator=generator)

    def score(image):
        return (surrogate.embed(image, face) * weights).sum()

    (gradient,) = torch.autograd.grad(score(image), image)
    for _ in range(3):
        step = torch.randn(image.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            slope = (score(image + 1e-9 * step) - score(image - 1e-9 * step)) / 2e-9
        # So near one another that hardly a value passes a corner of ReLU6 or PReLU between the two points.
        assert (gradient * step).sum().item() == pytest.approx(slope.item(), rel=1e-3)


@pytest.mark.parametrize("part", ["mobilefacenet", "mobileface", "faceres"])
def test_a_small_part_of_each_network_passes_gradcheck(part):
    torch.manual_seed(0)
    layers = {
        "mobilefacenet": lambda: mobilefacenet.Layer(4, 4, 3, stride=2, depthwise=True),
        "mobileface": lambda: mobileface.Stage(3, 4),
        "faceres": lambda: faceres.Block(4, 6, 2),
    }
    layer = layers[part]().double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    channels = 3 if part == "mobileface" else 4
    image = torch.randn(1, channels, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (image,))


def test_the_gradient_reaches_all_of_the_face_and_nothing_far_from_it(one, astronaut, face):
    image = astronaut[None].clone().requires_grad_(True)
    other = one.embed(astronaut[None].flip(3))
    one.cosine(one.embed(image, face), other).sum().backward()
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    assert torch.isfinite(image.grad).all()
    assert (image.grad[0, :, top:bottom, left:right] != 0).float().mean() > 0.98
    assert (image.grad[0, :, 350:] == 0).all()


# ------------------------------------------------------------------------------------------------ files like others


@pytest.mark.parametrize("name", NAMES)
def test_its_file_is_recognised_by_its_tensors_whatever_it_is_called(name, tmp_path):
    path = tmp_path / "unknown.safetensors"
    path.write_bytes((WEIGHTS / f"{name}.safetensors").read_bytes())
    built_in, found = load_surrogate(name), load_surrogate(path)
    assert found.name == "unknown" and built_in.name == name
    assert found.fingerprint == built_in.fingerprint
    for attribute in ("thresholds", "template", "colour_order", "value_range", "input_size", "metric", "licence"):
        assert getattr(found, attribute) == getattr(built_in, attribute), attribute
    assert torch.equal(found.embedding_mean, built_in.embedding_mean)


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_of_its_tensors_is_the_same_network_and_one_tensor_less_is_refused(name, tmp_path):
    tensors = load_file(WEIGHTS / f"{name}.safetensors")
    torch.save(tensors, tmp_path / "saved.pth")
    assert load_surrogate(tmp_path / "saved.pth").fingerprint == load_surrogate(name).fingerprint
    lacking = next(key for key in tensors if key.endswith("bias") or key.endswith("slope"))
    save_file({key: x for key, x in tensors.items() if key != lacking}, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=f"lacks {lacking}.*How to fix"):
        load_surrogate(tmp_path / "cut.safetensors")


def test_each_has_a_fingerprint_of_its_own_that_does_not_change(one):
    """Results name a network by it: a change of the weights, or of what is hashed, is no small thing."""
    assert one.fingerprint == FINGERPRINTS[one.name]
    assert one.to(dtype=torch.float64).to(dtype=torch.float32).fingerprint == one.fingerprint


def test_no_two_built_in_recognisers_are_the_same_network():
    assert len({load_surrogate(name).fingerprint for name in BUILT_IN_SURROGATES}) == 4


# ------------------------------------------------------------------------------------------------ thresholds


def test_thresholds_are_there_and_say_who_measured_them(one):
    assert list(one.thresholds) == [0.1, 0.01, 0.001]
    assert 0 < one.thresholds[0.1] < one.thresholds[0.01] < one.thresholds[0.001] < 1
    assert one.threshold() == one.thresholds[0.01]
    assert "CelebA-HQ" in one.thresholds_source and one.licence and one.source
    assert one.embedding_mean.shape == one.embed(torch.rand(1, 3, 64, 64))[0].shape


def test_a_person_matches_herself_and_not_a_coffee_cup(one, astronaut, face):
    import skimage.data

    cup = one.embed(from_pixels(skimage.data.coffee())[None])
    herself = one.embed(astronaut[None], face)
    assert one.is_match(herself, one.embed(0.7 * astronaut[None], face)).tolist() == [True]
    assert one.is_match(herself, cup).tolist() == [False]


def test_a_batch_equals_single_images(one, astronaut, face):
    batch = torch.stack([astronaut, 0.5 * astronaut])
    singles = torch.cat([one.embed(image[None], face) for image in batch])
    assert (one.embed(batch, [face] * 2) - singles).abs().max() < 1e-5 * singles.abs().max()


# ------------------------------------------------------------------------------------------------ how good is one?


def test_rates_of_a_table_made_by_hand():
    """Three people: the strangers have 0.1 to 0.6, and one genuine pair lies below two of them."""
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.45, 0.5], [0.4, 0.6, 0.7]])
    found = verification_rates(similarity, fars=(0.5, 0.17, 0.01))
    assert found.thresholds == pytest.approx({0.5: 0.3, 0.17: 0.5, 0.01: 0.6})
    assert found.true_accept == pytest.approx({0.5: 1.0, 0.17: 2 / 3, 0.01: 2 / 3})
    assert found.rank_1 == pytest.approx(2 / 3)


def test_a_threshold_lets_no_more_strangers_pass_than_it_says():
    similarity = torch.rand(40, 40, generator=torch.Generator().manual_seed(0))
    strangers = similarity[~torch.eye(40, dtype=torch.bool)]
    for far, threshold in verification_rates(similarity).thresholds.items():
        assert far - 1e-3 <= (strangers > threshold).float().mean() <= far


def test_a_distance_counts_as_less_alike(recognizer, astronaut):
    photos = [astronaut, astronaut.flip(2)]
    found = similarities(recognizer, photos, photos)
    assert found.diagonal().abs().max() < 1e-6 and (found <= 0).all() and found[0, 1] < -0.05

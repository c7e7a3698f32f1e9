"""The measurements of recognisers and of transfer: rates, equal PSNR, small recognisers, tables."""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from faceprotect_core import ProtectionError
from faceprotect_core.evaluation.quality import psnr
from faceprotect_core.evaluation.recognition import similarities, verification_rates
from faceprotect_core.evaluation.small_recognizers import (
    SMALL,
    SmallSpec,
    load_recognizer,
    load_small,
    save_small,
)
from faceprotect_core.evaluation.train_recognizers import (
    MARGIN,
    SCALE,
    FacePhotos,
    cosface,
    random_geometry,
    random_light,
    train,
)
from faceprotect_core.evaluation.transfer import PROCESSING, VARIANTS, away, summarize, to_psnr
from faceprotect_core.faces import align_face, find_face
from tiny import random_image, tiny_surrogate


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


@pytest.mark.parametrize("wanted", [28.0, 31.0, 36.0])
def test_a_change_is_brought_to_the_wanted_psnr(wanted):
    photo = random_image(dtype=torch.float32) * 0.6 + 0.2
    changed = photo + 0.05 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    scaled, factor = to_psnr(photo, changed, wanted)
    assert psnr(photo, scaled).item() == pytest.approx(wanted, abs=0.05)
    assert factor == pytest.approx(10 ** ((psnr(photo, changed).item() - wanted) / 20))
    assert torch.equal(scaled, scaled.mul(255).round().div(255))


def test_the_table_compares_only_photos_that_every_variant_has():
    left_out, seen = tiny_surrogate(name="left out", thresholds={0.01: 0.4}), tiny_surrogate(name="seen")

    def run(after: float) -> dict:
        found = {process: {"left out": after} for process in PROCESSING}
        return {"before": {"left out": 0.9}, "after": found, "seen": [0.3], "psnr": 30.0, "seconds": 2.0}

    results = {f"left out | {name}": {"0_a": run(0.3), "10_a": run(0.5)} for name in VARIANTS}
    results["left out | plain"].pop("10_a")
    table = summarize(results, {"left out": left_out, "seen": seen})
    assert "left out left out** (1 people; before: -0.500, 0 of 1 past)" in table
    assert "| plain | +0.100 | +0.100 | +0.100 | +0.100 | 1 of 1 | +0.300 | 30.0 | 2 |" in table
    assert away(left_out, 0.5) == pytest.approx(-0.1)


# ------------------------------------------------------------------------------------------------ small recognisers


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recogniser_is_saved_and_loaded_again(name, tmp_path, astronaut, face):
    torch.manual_seed(0)
    network = SMALL[name].build().eval()
    save_small(network, {0.1: 0.2, 0.01: 0.4}, tmp_path / f"{name}.safetensors")
    loaded = load_small(tmp_path / f"{name}.safetensors")
    assert load_recognizer(str(tmp_path / f"{name}.safetensors")).name == name
    assert load_recognizer("dlib_resnet").name == "dlib_resnet"
    assert loaded.thresholds == {0.1: 0.2, 0.01: 0.4} and loaded.threshold() == 0.4
    size = SMALL[name].input_size
    chips = align_face(astronaut[None], face, SMALL[name].template, size)
    with torch.no_grad():
        expected = network(chips * 2 - 1)
    assert F.cosine_similarity(loaded.embed(astronaut[None], face), expected).item() > 0.999  # stored in float16


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ProtectionError, match="other.safetensors is none of the small recognisers"):
        load_small(tmp_path / "other.safetensors")


def test_cosface_is_its_equation():
    embeddings, centres = torch.randn(4, 8), torch.randn(3, 8)
    labels = torch.tensor([0, 1, 2, 0])
    cosines = F.normalize(embeddings) @ F.normalize(centres).T
    logits = SCALE * cosines
    logits[range(4), labels] -= SCALE * MARGIN
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(cosface(embeddings, centres, labels), expected)


def test_augmentation_is_seeded_and_turns_about_the_middle():
    first, again = (random_geometry(64, 96, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    turns = torch.atan2(first[:, 1, 0], first[:, 1, 1].abs())
    assert 0.5 < turns.std() / math.radians(12) < 1.5
    middle = first @ torch.tensor([47.5, 47.5, 1.0])
    assert (middle[:, :2] - 47.5).abs().mean() < 0.1 * 96
    chips = torch.rand(8, 3, 32, 32)
    lights = [random_light(chips, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*lights) and lights[0].shape == chips.shape


@pytest.fixture(scope="module")
def photos(tmp_path_factory, astronaut):
    """Two photos each of two people, as far as the code can tell."""
    folder = tmp_path_factory.mktemp("faces")
    portrait = astronaut[:, :256, 100:356]
    for name, image in {"1_a": portrait, "1_b": portrait * 0.8, "2_a": portrait.flip(2), "2_b": portrait**1.5}.items():
        pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=95)
    return sorted(folder.glob("*.jpg"))


SPEC = SmallSpec(SMALL["small_convnext"].build, 64, "arcface_112", 1e-3, 2)


def test_training_looks_at_the_face_where_recognisers_do(photos, astronaut):
    faces = FacePhotos(photos, SPEC, torch.device("cpu"))
    assert faces.labels.tolist() == [0, 0, 1, 1]
    chip = faces.chips(torch.tensor([0]), torch.eye(3)[None])
    portrait = faces.images[0].float() / 255
    expected = align_face(portrait, find_face(portrait), SPEC.template, SPEC.input_size)
    assert (chip[0] - expected).abs().mean() < 0.02


def test_training_is_seeded_and_changes_the_weights(photos):
    faces = FacePhotos(photos, SPEC, torch.device("cpu"))
    first, again, other = (train("test", faces, SPEC, 2, seed).state_dict() for seed in (0, 0, 1))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]) and torch.isfinite(tensor).all()
    assert not torch.equal(first["head.1.weight"], other["head.1.weight"])

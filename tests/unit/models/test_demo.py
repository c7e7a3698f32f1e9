"""The demo model: what ships, and that the demo setting protects a real face against the real recogniser."""

from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from skimage.data import astronaut
from skimage.metrics import structural_similarity

from faceprotect_core import IdentityObjective, ProtectionError, load_surrogate, protect
from faceprotect_core.demo import WEIGHTS, load_demo_model, load_demo_weights
from faceprotect_core.demo.settings import DEMO, DEMO_MARGIN
from faceprotect_core.evaluation.people import split_identities
from faceprotect_core.faces import detect_faces, face_mask, find_face
from faceprotect_core.pixels import as_saved, from_pixels


@pytest.fixture(scope="module")
def portrait():
    """NASA's portrait of Eileen Collins, the head in the middle: [1, 3, 256, 256]."""
    crop = from_pixels(astronaut()[2:232, 100:330])[None]
    return torch.nn.functional.interpolate(crop, size=(256, 256), mode="bilinear", antialias=True)


def test_the_weights_are_small_and_say_that_they_are_for_research_only():
    files = sorted(WEIGHTS.glob("*.safetensors"))
    sizes = {file.stem: file.stat().st_size for file in files}
    assert sorted(sizes) == ["decoder", "null_context", "unet", "vae"]
    assert sizes.pop("decoder") <= 3_000_000 and sum(sizes.values()) <= 20_000_000
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["license"] == "research only"
            assert all(opened.get_tensor(name).dtype == torch.float16 for name in opened.keys())


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ProtectionError, match="unet.safetensors is missing.*How to fix: "):
        load_demo_weights(tmp_path)


def test_scaled_latents_have_unit_spread_in_every_channel(portrait):
    """One learning rate fits all channels only then; the spread over many photos is 1, over one it is near."""
    latent = load_demo_model()[1].encode(portrait)
    assert (latent.std((0, 2, 3)) > 0.3).all() and (latent.std((0, 2, 3)) < 3).all()


def test_every_tenth_identity_is_held_out(tmp_path):
    for identity in range(100, 130):
        for photo in "ab":
            (tmp_path / f"{identity}_{photo}.jpg").touch()
    train, held_out = split_identities(tmp_path)
    assert [path.name for path in held_out] == [f"{i}_{p}.jpg" for i in (100, 110, 120) for p in "ab"]
    assert len(train) == 54 and not set(train) & set(held_out)


def test_the_demo_setting_protects_a_real_face_against_the_real_recogniser(portrait):
    denoiser, codec, context = load_demo_model()
    recognizer, face = load_surrogate("dlib_resnet"), find_face(portrait[0])
    objective = IdentityObjective([recognizer], source=portrait, face=face, source_face=face, margin=DEMO_MARGIN)
    mask = face_mask([face], 256, 256)
    result = protect(denoiser, codec, portrait, context, objective, mask=mask, **asdict(DEMO))
    protected = as_saved(result.image)
    found = detect_faces(protected[0])
    assert found, "people still see a face, and so does the detector"
    original, changed = recognizer.embed(portrait, face), recognizer.embed(protected, found[0])
    assert not recognizer.is_match(original, changed)
    outside = (mask[None] == 0).expand_as(portrait)
    assert torch.equal(result.image[outside], portrait[outside])
    a, b = (image[0].movedim(0, -1).numpy() for image in (portrait, protected))
    assert structural_similarity(a, b, data_range=1, channel_axis=2) > 0.9

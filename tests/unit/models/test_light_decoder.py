"""The light decoder: its cost, how near it is to the autoencoder's, that changes alone go through it, its training."""

import argparse
import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from faceprotect_core import protect
from faceprotect_core.evaluation.training import light_decoder
from faceprotect_core.protocols import decoder_of_changes
from faceprotect_core.verify.quality import psnr


@pytest.fixture(scope="module")
def portrait(astronaut):
    return torch.nn.functional.interpolate(astronaut[None, :, 2:232, 100:330], size=(256, 256), mode="bilinear")


def test_it_computes_a_quarter_of_what_the_autoencoders_decoder_computes(demo):
    def operations(decode) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            decode(torch.zeros(1, 4, 32, 32))
        return counter.get_total_flops()

    codec = demo[1]
    assert operations(codec.light) < operations(codec.decode) / 4


def test_a_photo_is_decoded_nearly_as_well(demo, portrait):
    codec = demo[1]
    with torch.no_grad():
        latent = codec.encode(portrait)
        light, full = (psnr(portrait, decode(latent).clamp(0, 1)) for decode in (codec.light, codec.decode))
    assert light > full - 1.0


def test_a_change_of_the_latent_changes_the_image_as_it_does_through_the_autoencoder(demo, portrait):
    codec, generator = demo[1], torch.Generator().manual_seed(0)
    with torch.no_grad():
        latent = codec.encode(portrait)
        other = latent + 0.3 * torch.randn(latent.shape, generator=generator)
        light, full = (decode(other) - decode(latent) for decode in (codec.light, codec.decode))
    assert torch.nn.functional.cosine_similarity(light.flatten(), full.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("output", ["published", "detail"])
def test_changes_alone_go_through_it(demo, portrait, output, monkeypatch):
    denoiser, codec, context = demo
    used = set()
    for name in ("light", "decode"):
        original = getattr(codec, name)
        monkeypatch.setattr(codec, name, lambda latent, name=name, way=original: used.add(name) or way(latent))
    knobs = {"depth": 1, "null_text_iterations": 0, "structure": False, "iterations": 1, "output": output}
    protect(denoiser, codec, portrait, context, lambda image: image.mean((1, 2, 3)), **knobs)
    assert used == {"light" if output == "detail" else "decode"}


def test_a_codec_without_one_decodes_changes_itself():
    class Codec:
        def decode(self, latent):
            return latent

    codec = Codec()
    assert decoder_of_changes(codec) == codec.decode


def test_its_training_learns_and_goes_on_where_it_stopped(demo, portrait, tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(light_decoder.time, "monotonic", lambda: float(next(clock)))  # a step takes a second
    args = argparse.Namespace(seed=0, device=torch.device("cpu"), out=tmp_path, minutes=1.0)
    photos = portrait[:, :, 96:160, 96:160].mul(255).byte()
    pairs = light_decoder.make_pairs(torch.cat([photos, photos.flip(3)]), demo[1], args)
    chosen = torch.arange(2)

    def loss_of(decoder, generator):
        return light_decoder.distillation_loss(decoder, pairs, chosen, args.device)

    training = light_decoder.Distillation(args)
    with torch.no_grad():
        before = loss_of(training.model, None)
    decoder = training.run(loss_of, lambda decoder: None)
    with torch.no_grad():
        assert loss_of(decoder, None) < 0.9 * before
    again = light_decoder.Distillation(args)
    assert (again.step, again.spent) == (training.step, training.spent) == (60, 60.0)
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), again.model.parameters(), strict=True))

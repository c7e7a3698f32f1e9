"""Presets that begin at the change which instant would make."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from faceprotect_core import load_surrogate
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.faces import crop_face, detect_faces
from faceprotect_core.instant.protect import MORE
from faceprotect_core.method.inversion import ddim_invert
from faceprotect_core.method.protect import Prepared
from faceprotect_core.method.schedule import DDIMSchedule
from faceprotect_core.photos import batch
from faceprotect_core.photos.batch import Aim, CropProtector, find_aim
from faceprotect_core.photos.photo import CutPhoto, protect_photos
from faceprotect_core.photos.settings import BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS
from faceprotect_core.speed.cost import CostPredictor

LIT = replace(PRESETS[LIGHT]["strong"], size=128, tries=1, head_start=True).tuned(iterations=4)
DIFFUSED = replace(PRESETS[DIFFUSION]["fast"], size=128, tries=1).tuned(depth=2, null_text_iterations=1, iterations=2)
NO_IMAGES = None, None, None  # schedule, target and the face in it


@pytest.fixture(scope="module")
def network():
    return load_surrogate("mobileface")


@pytest.fixture(scope="module")
def portrait(astronaut):
    return astronaut[:, :300, 80:400]


@pytest.fixture(scope="module")
def crops(portrait):
    return [crop_face(photo, detect_faces(photo)[0], 128) for photo in (portrait, portrait.flip(2) * 0.8)]


@pytest.fixture(scope="module")
def three():
    return [load_surrogate(name) for name in BUILT_IN_SURROGATES]


@pytest.fixture(scope="module")
def looked(three, crops):
    """What instant makes of each."""
    settings = replace(PRESETS[LIGHT]["instant"], size=128)
    return CropProtector(Aim("dodge", three, settings, None, *NO_IMAGES))(crops)


@pytest.fixture
def begun(monkeypatch):
    """Where a run began, and how many iterations it was to take; light and shade, and diffusion."""
    found = []

    def by_light(image, objective, settings, *, start, **options):
        found.append((start, settings.iterations))
        return protect_by_light(image, objective, settings, start=start, **options)

    def optimize(prepared, denoiser, codec, objective, settings, *, start, **options):
        found.append((start, settings.iterations))
        return by_diffusion(prepared, denoiser, codec, objective, settings, start=start, **options)

    protect_by_light, by_diffusion = batch.protect_by_light, Prepared.optimize
    monkeypatch.setattr(batch, "protect_by_light", by_light)
    monkeypatch.setattr(Prepared, "optimize", optimize)
    return found


@pytest.mark.parametrize("at_once", [1, 2])
def test_light_and_shade_begins_at_instants_plane(three, crops, looked, begun, at_once):
    aim = Aim("dodge", three, LIT, None, *NO_IMAGES)
    outcomes = CropProtector(aim, at_once)(crops)
    assert len(begun) == 2 // at_once and {iterations for _, iterations in begun} == {2}
    starts = torch.cat([start for start, _ in begun])
    rounding = 0.01 if at_once > 1 else 0.0  # which looks amplify; values are about 1
    torch.testing.assert_close(starts, torch.stack([one.value for one in looked]), rtol=0, atol=rounding)
    plain = CropProtector(replace(aim, settings=replace(LIT, head_start=False).tuned(iterations=2)))(crops)
    assert not any(torch.equal(one.image, other.image) for one, other in zip(outcomes, plain, strict=True))


@pytest.mark.parametrize("at_once", [1, 2])
def test_diffusion_begins_at_instants_picture_inverted_into_the_latent(demo, three, crops, looked, begun, at_once):
    denoiser, codec, context = demo
    schedule, knobs = DDIMSchedule.scaled_linear(num_inference_steps=40), DIFFUSED.diffusion
    CropProtector(Aim("dodge", three, DIFFUSED, demo, schedule, None, None), at_once)(crops)
    assert len(begun) == 2 // at_once and {iterations for _, iterations in begun} == {1}
    latent = codec.encode(torch.stack([one.image for one in looked]))
    expected = ddim_invert(denoiser, latent, context, schedule, knobs.depth, knobs.pairing).latents[-1]
    torch.testing.assert_close(torch.cat([start for start, _ in begun]), expected, rtol=0, atol=1e-3)
    for image, other in ((crops[0].image, schedule), (looked[0].image, DDIMSchedule.scaled_linear())):
        own = ddim_invert(denoiser, codec.encode(image[None]), context, other, 2, knobs.pairing).latents[-1]
        assert (expected[0] - own[0]).abs().max() > 0.05, "of another picture or schedule it would be seen"


@pytest.mark.parametrize("settings", [LIT.tuned(iterations=6), DIFFUSED], ids=["light and shade", "diffusion"])
def test_a_face_that_is_pushed_further_goes_on_where_it_stopped(demo, portrait, crops, begun, settings):
    never = load_surrogate("mobileface", threshold=-0.99)
    cut = CutPhoto(portrait, crops[:1])
    (result,) = protect_photos([cut], [never], replace(settings, tries=3), model=demo)
    iterations = settings.method.iterations // 2
    further = settings.further
    assert not result.protected
    assert [one for _, one in begun] == [iterations, further.method.iterations, further.further.method.iterations]
    starts, _ = zip(*begun, strict=True)
    (one,) = CropProtector(Aim("dodge", [never], settings, demo, *NO_IMAGES))(crops[:1])
    assert torch.equal(starts[1][0], one.value) and not torch.equal(starts[2], starts[1])


def test_somebody_to_look_like_makeup_and_another_grid_begin_at_nothing(network, portrait, crops, begun, detector):
    target, makeup, grid = load_synthetic_target(), portrait[None], LIT.tuned(grid=32)
    wanted = ("synthetic", LIT, target, None), ("dodge", LIT, None, makeup), ("dodge", grid, None, None)
    for goal, settings, towards, worn in wanted:
        aim = find_aim(goal, [network], settings, None, None, towards, detector, worn)
        CropProtector(aim)(crops[:1])
    assert begun == [(None, 4)] * 3


@pytest.mark.parametrize("settings", [LIT, DIFFUSED], ids=["light and shade", "diffusion"])
def test_without_the_network_of_instant_it_begins_at_nothing_and_says_so_once(
    demo, network, crops, no_network, caplog, settings
):
    aim = Aim("dodge", [network], settings, demo, *NO_IMAGES)
    outcomes = CropProtector(aim)(crops)
    plain = CropProtector(replace(aim, settings=replace(settings, head_start=False)))(crops)
    assert all(torch.equal(one.image, other.image) for one, other in zip(outcomes, plain, strict=True))
    CropProtector(aim, preview=True)(crops[:1], on_step=lambda _: None)
    ((said, count),) = Counter(record.getMessage() for record in caplog.records).items()
    assert (
        said.startswith("FaceProtect: runs begin at the photo, and take all of their iterations: the ") and count == 1
    )


@pytest.mark.parametrize(
    "error", [ValueError("the loss is NaN"), torch.OutOfMemoryError("CUDA out of memory")], ids=["NaN", "memory"]
)
@pytest.mark.parametrize("settings", [LIT, DIFFUSED], ids=["light and shade", "diffusion"])
def test_where_instant_fails_the_run_begins_at_the_photo(demo, network, crops, settings, error, monkeypatch, caplog):
    aim = Aim("dodge", [network], settings, demo, *NO_IMAGES)
    plain = CropProtector(replace(aim, settings=replace(settings, head_start=False)))(crops[:1])

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(batch, "look", fails)
    outcomes = CropProtector(aim)(crops[:1])
    assert torch.equal(outcomes[0].image, plain[0].image) and "begun at" in caplog.text


def test_where_two_faces_are_too_many_for_instant_each_begins_there_alone(network, crops, begun, monkeypatch):
    def narrow(photo, *arguments, **options):
        if len(photo) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return look(photo, *arguments, **options)

    look = batch.look
    monkeypatch.setattr(batch, "look", narrow)
    protector = CropProtector(Aim("dodge", [network], LIT, None, *NO_IMAGES), at_once=2)
    assert not any(isinstance(one, Exception) for one in protector(crops)) and protector.at_once == 1
    assert [len(start) for start, _ in begun] == [1, 1]


@pytest.mark.parametrize("settings", [LIT, DIFFUSED], ids=["light and shade", "diffusion"])
def test_what_it_costs_is_said_for_what_is_done(demo, network, crops, settings, monkeypatch):
    predicted = []

    def passes(*arguments):
        predicted.append(arguments[-1].iterations)
        return batch.total([])

    monkeypatch.setattr(batch, "predict_cost", passes)
    monkeypatch.setattr(batch, "predict_light_cost", passes)
    for head_start in (True, False):
        aim = Aim("dodge", [network], replace(settings, head_start=head_start), demo, *NO_IMAGES)
        CropProtector(aim).cost(crops, CostPredictor())
    whole = settings.method.iterations
    assert predicted == [PRESETS[LIGHT]["instant"].light.iterations + MORE, whole // 2, whole]

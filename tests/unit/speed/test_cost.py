"""What a run costs: predicted from single passes through the models, which leave nothing behind, and measured."""

import gc
import io
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from faceprotect_core import AlignmentJitter, IdentityObjective, Settings, load_surrogate, protect
from faceprotect_core.__main__ import Reporter
from faceprotect_core.diffusers_backend import DiffusersCodec, DiffusersDenoiser
from faceprotect_core.faces.again import moved
from faceprotect_core.method.light_and_shade import LightAndShade, LightAndShadeSettings, protect_by_light
from faceprotect_core.photos.photo import protect_photo
from faceprotect_core.photos.settings import DIFFUSION, LIGHT, PRESETS
from faceprotect_core.speed import cost
from faceprotect_core.speed.cost import (
    BACKWARD,
    RECOMPUTED,
    WARM,
    Cost,
    CostPredictor,
    Meter,
    Passes,
    PredictedCost,
    Probe,
    SavedBytes,
    count_passes,
    predict_cost,
    predict_light_cost,
    total,
)
from golden import load_golden
from needs import missing
from tiny import random_image

# ------------------------------------------------------------------------------------------------ passes and seconds

NETWORKS = {"plain": "unet", "compared": "unet", "decode": "decoder", "objective": "surrogate"}
SECONDS = {"plain": 2.0, "compared": 3.0, "decode": 5.0, "objective": 0.5}


class Models:
    """A denoiser with one self-attention layer, a codec and an objective. They count their passes, and advance a clock,
    by ten times as much at the first pass through each network."""

    def __init__(self):
        self.forward, self.backward, self.clock = Counter(), Counter(), 0.0
        self.warm = set()

    def denoise(self, latent, timestep, context, self_attention=None):
        noise = 0.1 * latent + context.mean((1, 2))[:, None, None, None]
        if self_attention:
            tokens = latent.flatten(2).transpose(1, 2)[:, None]
            noise = noise + 0.1 * self_attention("layer", tokens, tokens, tokens).mean()
        return self._passed("compared" if self_attention else "plain", noise)

    def encode(self, image):
        self.forward["encode"] += 1
        return torch.nn.functional.avg_pool2d(image, 8)[:, [0, 1, 2, 0]]

    def decode(self, latent):
        return self._passed("decode", torch.nn.functional.interpolate(latent[:, :3], scale_factor=8.0))

    def objective(self, image):
        return self._passed("objective", image.square().mean((1, 2, 3)))

    def _passed(self, part, output):
        self.forward[part] += 1
        self.clock += SECONDS[part] * (1 if NETWORKS[part] in self.warm else 10)
        self.warm.add(NETWORKS[part])
        if output.requires_grad:
            output.register_hook(lambda gradient: self.backward.update([part]))
        return output


IMAGE, CONTEXT = random_image(1, 32), torch.ones(1, 2, 3, dtype=torch.float64)
SETTINGS = [
    {"depth": 3, "null_text_iterations": 2, "iterations": 4, "structure": True, "output": "published"},
    {"depth": 1, "null_text_iterations": 3, "iterations": 2, "structure": True, "output": "detail"},
    {"depth": 2, "null_text_iterations": 0, "iterations": 3, "structure": False, "output": "detail"},
    {"depth": 2, "null_text_iterations": 1, "iterations": 0, "structure": False, "output": "published"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_passes_are_those_of_a_run(settings):
    models = Models()
    protect(models.denoise, models, IMAGE, CONTEXT, models.objective, **settings)
    passes = count_passes(Settings(**settings))
    assert models.forward == Counter({part: one.forward + one.with_backward for part, one in passes.items()})
    assert models.backward == Counter({part: one.with_backward for part, one in passes.items()})


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_seconds_are_those_of_warm_passes(monkeypatch, settings):
    models = Models()
    monkeypatch.setattr(cost, "_now", lambda device: models.clock)
    predicted = predict_cost(models.denoise, models, IMAGE, CONTEXT, models.objective, Settings(**settings))
    passes = count_passes(Settings(**settings))
    seconds = SECONDS | {"decode": 4 * SECONDS["decode"]}  # a quarter of the pixels was decoded
    expected = [Probe(seconds[part]).seconds_of(passes[part]) for part in seconds if part in passes]
    assert predicted.seconds == pytest.approx(sum(expected)) and not models.backward


def test_a_backward_pass_takes_as_long_as_was_measured_and_longer_where_blocks_are_computed_again():
    passes = Passes(2, 3)
    assert Probe(1.0).seconds_of(passes) == pytest.approx(WARM * (2 + 3 * (1 + BACKWARD)))
    assert Probe(1.0, recomputed=True).seconds_of(passes) == pytest.approx(WARM * (2 + 3 * (1 + BACKWARD + RECOMPUTED)))


# ------------------------------------------------------------------------------------------------ bytes


@pytest.fixture(scope="module")
def golden():
    return load_golden("obfuscation_cropped")


def adapters(golden, low_memory: bool):
    unet, vae = golden.denoiser.unet, golden.codec.vae
    return DiffusersDenoiser(unet, low_memory=low_memory), DiffusersCodec(vae, low_memory=low_memory)


def kept_bytes(run, weights) -> int:
    """Bytes that autograd really keeps, each storage once, without those of the weights and of the given tensors."""
    kept, own = {}, {tensor.untyped_storage().data_ptr() for tensor in weights}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()
    assert output.requires_grad
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("part", ["unet", "decoder"])
def test_the_bytes_are_those_that_autograd_keeps(golden, part, low_memory):
    denoiser, codec = adapters(golden, low_memory)
    latent, embedding = golden.latent.clone().requires_grad_(), golden.context
    network, run = {
        "unet": (denoiser.unet, lambda: denoiser(latent, 101, embedding)),
        "decoder": (codec.vae, lambda: codec.decode(latent)),
    }[part]
    weights = [*network.parameters(), *network.buffers(), latent, embedding]
    found = cost._probe(run, denoiser, latent.device)
    assert found.held == kept_bytes(run, weights)
    assert found.held > found.largest > 0 and found.recomputed == low_memory


def test_all_that_is_decoded_is_held_as_if_it_had_been_probed(golden):
    denoiser, codec = adapters(golden, False)
    arguments = denoiser, codec, codec.decode, golden.image("image"), golden.context, golden.objective()
    latent = golden.latent.clone().requires_grad_()
    found = cost._probe_all(*arguments, cost._SelfAttention())["decode"]
    whole = cost._probe(lambda: codec.decode(latent), codec, latent.device)
    assert found.held == pytest.approx(whole.held, rel=0.05) and found.largest == whole.largest


def predict(golden, low_memory: bool = False, **settings) -> Cost:
    image = golden.image("image")
    return predict_cost(*adapters(golden, low_memory), image, golden.context, golden.objective(), Settings(**settings))


def test_more_is_held_at_more_depth_and_less_of_blocks_that_are_computed_again(golden):
    shallow, deep = predict(golden, depth=1), predict(golden, depth=3)
    assert 0 < shallow.memory < deep.memory
    assert predict(golden, low_memory=True, depth=3).memory < deep.memory


def test_without_an_optimisation_there_is_less_to_hold(golden):
    assert predict(golden, iterations=0).memory < predict(golden).memory


def test_a_batch_holds_as_much_as_its_images(golden):
    denoiser, codec = adapters(golden, False)
    one, two = (golden.latent.repeat(count, 1, 1, 1).requires_grad_() for count in (1, 2))
    assert cost._probe(lambda: codec.decode(two), codec, one.device).held == pytest.approx(
        2 * cost._probe(lambda: codec.decode(one), codec, one.device).held, rel=0.02
    )


def test_a_pass_frees_what_it_counts_at_once():
    saved, x = SavedBytes(), torch.ones(1000, requires_grad=True)
    with saved_tensors_hooks(saved, lambda _: None):
        for _ in range(20):
            x = torch.tanh(x)
        assert saved.gone() == [4000] * 19  # the last is x
    del x
    assert saved.gone() == [4000] * 20


def test_a_prediction_leaves_nothing_behind(golden):
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    image, objective, pair = golden.image("image"), golden.objective(), adapters(golden, True)
    arguments = *pair, image, golden.context, objective
    before, numbers, pixels = tensors(), torch.get_rng_state(), image.clone()
    predict_cost(*arguments)
    assert tensors() == before + 2  # numbers and pixels
    assert torch.equal(torch.get_rng_state(), numbers) and torch.equal(image, pixels)
    assert not any("forward" in module.__dict__ for module in pair[0].unet.modules())
    assert (image.grad, golden.context.grad, image.requires_grad) == (None, None, False)


def test_it_works_where_gradients_are_off(golden):
    with torch.no_grad():
        assert predict(golden).memory == predict(golden).memory > 0
        assert not torch.is_grad_enabled()


def test_what_the_model_raises_is_raised(golden):
    def broken(*_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        predict_cost(broken, golden.codec, golden.image("image"), golden.context, golden.objective())


# ------------------------------------------------------------------------------------------------ light and shade

LIT = LightAndShadeSettings(grid=8, iterations=4)


@pytest.mark.parametrize("iterations", [1, 4, 10])
def test_the_seconds_of_light_and_shade_are_those_of_warm_passes(monkeypatch, iterations):
    """A forward pass more than there are backward passes, in a run as in the prediction."""
    models, settings = Models(), LightAndShadeSettings(grid=8, iterations=iterations)
    monkeypatch.setattr(cost, "_now", lambda device: models.clock)
    predicted = predict_light_cost(IMAGE, models.objective, settings)
    assert predicted.seconds == pytest.approx(Probe(SECONDS["objective"]).seconds_of(Passes(1, iterations)))
    assert models.forward == Counter(objective=2) and not models.backward
    models.forward.clear()
    protect_by_light(IMAGE, models.objective, settings)
    assert models.forward == models.backward == Counter(objective=iterations)


def test_the_bytes_of_light_and_shade_are_those_that_autograd_keeps(monkeypatch):
    """With what rendering and fidelity keep, not the objective's alone."""
    image, held = random_image(1, 48), []
    probe = cost._probe
    monkeypatch.setattr(cost, "_probe", lambda *arguments: held.append(probe(*arguments)) or held[-1])
    predicted = predict_light_cost(image, lambda x: x.square().mean((1, 2, 3)), LIT)
    variable = LightAndShade(image, None, LIT)
    value = variable.start.requires_grad_()

    def run():
        rendering = variable.render(value)
        return rendering.image.square().mean((1, 2, 3)) + rendering.losses["fidelity"]

    parts = (*vars(variable.fidelity).values(), *vars(variable.fidelity.unlikeness).values())
    of_photo = [one for one in parts if isinstance(one, torch.Tensor)]
    assert held[-1].held == kept_bytes(run, [value, image, variable.mask, *of_photo])
    assert predicted.memory > image.nbytes


def test_more_iterations_take_longer_and_no_more_memory():
    models = Models()
    short, long = (predict_light_cost(IMAGE, models.objective, replace(LIT, iterations=one)) for one in (2, 200))
    assert long.seconds > 20 * short.seconds and long.memory == short.memory > 0
    assert predict_light_cost(IMAGE, models.objective, replace(LIT, iterations=0)).memory == 0


def test_twice_the_pixels_cost_twice_the_memory():
    def memory(count: int) -> int:
        return predict_light_cost(random_image(count, 128), lambda x: x.square().mean((1, 2, 3)), LIT).memory

    assert memory(2) == pytest.approx(2 * memory(1), rel=0.1)


def test_a_prediction_of_light_and_shade_leaves_nothing_behind(astronaut, face):
    network = load_surrogate("mobileface")
    image = astronaut[None, :, 0:256, 100:356]
    inside = moved(face, -100, 0)
    jitter = AlignmentJitter(1)
    objective = IdentityObjective(
        [network], source=image, face=inside, source_face=inside, margin=0.0, steepness=6.0, jitter=jitter
    )
    numbers, pixels = torch.get_rng_state(), image.clone()
    with torch.no_grad():
        assert predict_light_cost(image, objective, LIT).memory > 0
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), numbers) and torch.equal(image, pixels)
    assert image.grad is None and not image.requires_grad


# ------------------------------------------------------------------------------------------------ photos


def test_the_models_are_probed_at_the_first_photo_alone():
    predictor, probed = CostPredictor(), []

    def probe() -> Cost:
        probed.append(True)
        return Cost(10.0, 1000)

    assert predictor([100, 100], probe) == Cost(20.0, 1000)
    assert predictor([100, 300], probe) == Cost(40.0, 3000)
    assert len(probed) == 1


@pytest.mark.parametrize("way", [DIFFUSION, LIGHT])
def test_a_photo_says_what_it_costs_before_the_first_step_and_comes_out_the_same(
    demo, recognizer, astronaut, face, way
):
    settings = replace(PRESETS[way]["balanced"], tries=1).tuned(iterations=1)
    if way == DIFFUSION:
        settings = settings.tuned(null_text_iterations=1)
    events = []
    options = {"model": demo if way == DIFFUSION else None, "faces": [face]}
    plain = protect_photo(astronaut, [recognizer], settings, **options)
    options |= {"predictor": CostPredictor(), "on_step": events.append}
    result = protect_photo(astronaut, [recognizer], settings, **options)
    assert torch.equal(result.image, plain.image) and not torch.equal(result.image, astronaut)
    stages = [event.stage for event in events]
    assert stages == {DIFFUSION: ["cost", "inversion", "null_text", "capture", "protection"],
                      LIGHT: ["cost", "protection"]}[way]  # fmt: skip
    assert events[0].faces == 1 and events[0].cost.seconds > 0 and events[0].cost.memory > 0


def test_the_cost_is_said_once_whatever_has_to_be_tried_again(astronaut, face):
    network = load_surrogate("mobileface", threshold=-0.99)
    settings, events = PRESETS[LIGHT]["fast"].tuned(iterations=1), []
    options = {"faces": [face], "predictor": CostPredictor(), "on_step": events.append}
    assert not protect_photo(astronaut, [network], settings, **options).protected
    assert [event.stage for event in events] == ["cost", "protection", "protection", "protection"]
    assert [event.attempt for event in events[1:]] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------ words


def test_a_cost_in_words():
    assert str(Cost(27.4, 1_240_000_000)) == "27 s and 1.2 GB"
    assert str(total([Cost(100.0, 10**9), Cost(200.0, 2 * 10**9)])) == "5 min and 2.0 GB"


@pytest.mark.parametrize(
    ("peaks", "says"),
    [
        ((1.1, 2.3), "; the most memory in use rose from 1.1 GB to 2.3 GB"),
        ((2.3, 2.3), "; the most memory in use stayed at 2.3 GB"),
        ((None, None), ""),
    ],
)
def test_what_it_was_in_words(monkeypatch, peaks, says):
    peaks = iter(peak and round(peak * 1e9) for peak in peaks)
    times = iter([0.0, 51.0])
    monkeypatch.setattr(cost, "process_peak", lambda: next(peaks))
    monkeypatch.setattr(cost, "_now", lambda device: next(times))
    assert str(Meter(torch.device("cpu"))) == f"took 51 s{says}"


def test_the_peak_of_the_process_is_in_bytes():
    before = cost.process_peak()
    if before is None:
        missing("this system does not tell a process's peak memory")
    block = torch.ones(before // 4)  # as much again
    assert 1.2 * before < cost.process_peak() < 4 * before
    del block


def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    """As Linux's getrusage has it."""
    block = torch.ones(2**28)
    program = "from faceprotect_core.speed.cost import process_peak; print(process_peak())"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if run.stdout.strip() == "None":
        missing("this system does not tell a process's peak memory")
    assert int(run.stdout) < block.nbytes, run.stderr


def test_the_command_line_says_what_the_first_photo_costs_and_cost():
    stream = io.StringIO()
    reporter = Reporter(stream)
    for number, name in enumerate(("a.jpg", "b.jpg"), 1):
        task = SimpleNamespace(name=name)
        reporter.step(task, PredictedCost(Cost(54.0, 1_200_000_000), faces=2))
        entry = {"reason": "No reason."}
        reporter.photo(
            SimpleNamespace(task=task, number=number, count=2, status="failed", entry=entry, seconds_left=0.0)
        )
    first, _, measured, last = stream.getvalue().splitlines()
    assert first == "a.jpg  2 faces, about 54 s and 1.2 GB"
    assert measured.startswith("Expected 54 s and 1.2 GB of memory; took ") and measured.endswith(".")
    assert "b.jpg" in last

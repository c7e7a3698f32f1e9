"""CUDA graphs give what the networks give, and where they cannot, the networks run as they are."""

import gc
import logging

import pytest
import torch

from benchmarks.models import MODELS, build
from benchmarks.ways import WAYS, prepare
from faceprotect_core.speed.cuda_graphs import Recorder


@pytest.fixture(scope="module")
def setup():
    return build(MODELS["reduced"], 128, "cuda", torch.float64)


def test_replayed_networks_give_the_same_protection(setup):
    plain, graphs = (prepare(WAYS[name], setup) for name in ("exact", "graphs"))
    expected, found = plain(4, 4), [graphs(4, 4) for _ in range(2)]
    recordings = graphs.denoiser.recorder.recordings.values()
    assert len(recordings) == 3 + 3 + 1 + 2  # null-text and latent steps, the decoder, two surrogates
    assert all(one.replay for one in recordings)
    for result in found:
        assert (result.image - expected.image).abs().max() < 1e-8
        assert (result.latent - expected.latent).abs().max() < 1e-8
        of_found, of_expected = (torch.tensor(one.history["structure"]) for one in (result, expected))
        torch.testing.assert_close(of_found, of_expected)


def test_two_passes_at_a_time_do_not_overwrite_each_other():
    recorder = Recorder()
    x, y = (torch.randn(4, device="cuda", requires_grad=True) for _ in range(2))

    def cube(x):
        return (x * x * x,)

    for _ in range(3):
        (a,), (b,) = recorder("cube", cube, x), recorder("cube", cube, y)
        of_x, of_y = torch.autograd.grad(a.sum() + b.sum(), (x, y))
        torch.testing.assert_close((of_x, of_y), (3 * x * x, 3 * y * y))
        del a, b
    assert recorder.recordings["cube"].replay


def test_what_waits_for_the_gpu_runs_as_it_is(caplog):
    recorder = Recorder()
    x = torch.randn(4, device="cuda", requires_grad=True)

    def waits(x):
        return (x * x.sum().item(),)

    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            (y,) = recorder("waits", waits, x)
            (gradient,) = torch.autograd.grad(y.sum(), x)
            torch.testing.assert_close(gradient, x.sum().detach().expand(4))
    (warning,) = (record.message for record in caplog.records if "CUDA graph" in record.message)
    assert "waits" in warning
    torch.cuda.synchronize()


@pytest.mark.parametrize("way", ["exact", "small", "graphs"])
def test_nothing_leaks_over_twenty_runs(setup, way):
    run = prepare(WAYS[way], setup)
    held = []
    for _ in range(21):
        run(2, 2)
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[1]


def test_recordings_are_freed_with_their_recorder(setup):
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    run = prepare(WAYS["graphs"], setup)
    run(2, 2)
    held = torch.cuda.memory_allocated() - before
    del run
    gc.collect()
    torch.cuda.empty_cache()
    assert held > 2**20
    assert torch.cuda.memory_allocated() - before < 2**20

"""When a network is recorded, and when it runs as it is. That a recording gives the same is tested in tests/gpu."""

import weakref

import pytest
import torch

from benchmarks.models import MODELS, build
from benchmarks.ways import WAYS, prepare
from faceprotect_core import protect
from faceprotect_core.speed.cuda_graphs import Recorder


class Recorded:
    """In place of CUDA: counts what is recorded and replayed, and computes it."""

    def __init__(self):
        self.recorded, self.replayed = 0, 0

    def __call__(self, function, *tensors):
        self.recorded += 1

        def replay(*tensors):
            self.replayed += 1
            return function(*tensors)

        return replay


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def recorder(recorded):
    return Recorder("cpu", recorded)


def square(x):
    return (x * x,)


def gradient_of(recorder, x, key="square", function=square):
    (y,) = recorder(key, function, x)
    return torch.autograd.grad(y.sum(), x)[0]


def test_the_second_call_records_and_all_later_ones_are_replayed(recorder, recorded):
    x = torch.randn(3, requires_grad=True)
    for calls, replayed in ((1, 0), (2, 1), (3, 2)):
        torch.testing.assert_close(gradient_of(recorder, x), 2 * x.detach())
        assert (recorded.recorded, recorded.replayed) == (int(calls > 1), replayed)


@pytest.mark.parametrize("other", [torch.randn(4), torch.randn(3, dtype=torch.float64)], ids=["shape", "dtype"])
def test_another_kind_of_input_is_another_recording_in_place_of_the_last(recorder, recorded, other):
    first = None
    for x in (torch.randn(3), torch.randn(3), other, other):
        torch.testing.assert_close(gradient_of(recorder, x.requires_grad_()), 2 * x.detach())
        first = first or weakref.ref(recorder.recordings["square"])
    assert recorded.recorded == 2 and first() is None


def test_without_a_gradient_nothing_is_recorded(recorder, recorded):
    x = torch.randn(3, requires_grad=True)
    for _ in range(3):
        with torch.no_grad():
            recorder("square", square, x)
        recorder("square", square, x.detach())
    assert recorded.recorded == 0


def test_a_pass_whose_backward_pass_may_come_is_not_overwritten(recorder, recorded):
    x = torch.randn(3, requires_grad=True)
    for _ in range(2):
        gradient_of(recorder, x)
    first, second = recorder("square", square, x), recorder("square", square, x)
    assert recorded.replayed == 2  # the second of them was not
    torch.autograd.grad(first[0].sum(), x)
    third = recorder("square", square, x)
    assert recorded.replayed == 3
    del third  # its backward pass will never come
    gradient_of(recorder, x)
    assert recorded.replayed == 4
    torch.testing.assert_close(torch.autograd.grad(second[0].sum(), x)[0], 2 * x.detach())


def test_what_cannot_be_recorded_runs_as_it_is_and_is_tried_once(caplog):
    tried = []

    def refuse(function, *tensors):
        tried.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    recorder, x = Recorder("cpu", refuse), torch.randn(3, requires_grad=True)
    for _ in range(4):
        torch.testing.assert_close(gradient_of(recorder, x), 2 * x.detach())
    assert len(tried) == 1
    assert "square cannot be recorded" in caplog.text


def test_cancelling_is_no_failure():
    class Cancelled(BaseException):
        pass

    def cancel(function, *tensors):
        raise Cancelled

    recorder, x = Recorder("cpu", cancel), torch.randn(3, requires_grad=True)
    gradient_of(recorder, x)
    with pytest.raises(Cancelled):
        gradient_of(recorder, x)


def test_switched_off_the_networks_are_given_back():
    setup = build(MODELS["reduced"], 64)
    plain, off = prepare(WAYS["exact"], setup), Recorder(device=None)
    assert off.denoiser(plain.denoiser) is plain.denoiser and off.codec(plain.codec) is plain.codec
    assert off.objective(setup.objective).surrogates == setup.objective.surrogates


def test_the_whole_method_goes_through_the_recordings_and_is_the_same(recorder, recorded):
    """Two photos one after the other share them, with another reference each."""
    setup = build(MODELS["reduced"], 64, dtype=torch.float64)
    plain = prepare(WAYS["exact"], setup)
    networks = recorder.denoiser(plain.denoiser), recorder.codec(plain.codec)
    for image in (setup.image, setup.image.flip(3)):
        settings = {"schedule": setup.schedule, "null_text_iterations": 3, "iterations": 3}
        inputs = image, setup.context
        ours = protect(*networks, *inputs, recorder.objective(setup.objective), **settings)
        expected = protect(plain.denoiser, plain.codec, *inputs, setup.objective, **settings)
        torch.testing.assert_close(ours.image, expected.image)
        assert ours.history["structure"] == expected.history["structure"]
    surrogates = len(setup.surrogates)
    assert recorded.recorded == 3 + 3 + 1 + surrogates
    assert recorded.replayed == (2 + 3) * (3 + 3 + 1 + surrogates)

"""Maps that are compared in kernels: right in an interpreter, compiled for GPUs, and used only where they prove right.

What runs on a GPU: tests/gpu/test_fused_attention_cuda.py.
"""

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.models import MODELS, build
from benchmarks.ways import WAYS, prepare
from faceprotect_core import protect
from faceprotect_core.attention import Capture, StructureLoss, compare
from faceprotect_core.cuda_graphs import Recorder
from faceprotect_core.diffusers_backend import DiffusersDenoiser
from faceprotect_core.fused_attention import LARGEST_DIM, TOLERANCE, FusedAttention
from needs import missing

SMALL_CARD = 99 * 1024  # bytes of shared memory of a GPU of 2020 or later that has the least of it


def output_of(script: str, *arguments: str):
    if importlib.util.find_spec("triton") is None:
        missing("the kernels need Triton, which PyTorch brings on Linux with CUDA")
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_the_kernels_give_the_same_output_loss_and_gradients():
    measured = output_of("interpreted_kernels.py")
    assert measured.pop("equal maps") == 0.0  # the start of an optimisation
    of_bfloat16 = {name: [8 * error for error in errors] for name, errors in measured["float16"].items()}  # 3 bits less
    for dtype, cases in ((torch.float32, measured["float32"]), (torch.bfloat16, of_bfloat16)):
        assert len(cases) == 3
        for shape, errors in cases.items():
            assert max(errors) < TOLERANCE[dtype] / 5, (dtype, shape, errors)


def test_the_kernels_are_compiled_for_gpus_and_fit_small_ones():
    dims = {"float32": (40, LARGEST_DIM[torch.float32]), "bfloat16": (40, 80, LARGEST_DIM[torch.bfloat16])}
    small = [[86, dtype, dim] for dtype, of_dtype in dims.items() for dim in of_dtype]
    *on_small, on_large = output_of("compiled_kernels.py", json.dumps([*small, [90, "bfloat16", 40]]))
    assert max(on_small) <= SMALL_CARD and 0 < on_large <= 227 * 1024, on_small


# Where they are used. Stand-ins for the kernels, on the CPU.


def random_attention(dtype=torch.float32, dim=8):
    torch.manual_seed(0)
    query, key, value, *reference = (torch.randn(2, 3, 20, dim).to(dtype) for _ in range(5))
    return [tensor.requires_grad_() for tensor in (query, key, value)], tuple(reference)


class StandIn:
    """compare, counted; wrong: what it does to output and loss."""

    def __init__(self, wrong=lambda output, loss: (output, loss)):
        self.calls, self.loaded, self.wrong = 0, 0, wrong

    def kernels_for(self, query):
        self.loaded += 1
        return self

    def __call__(self, query, key, value, reference):
        self.calls += 1
        return self.wrong(*compare(query, key, value, reference))


def assert_as_pytorch(fused: FusedAttention, dtype=torch.float32, dim=8):
    inputs, reference = random_attention(dtype, dim)
    for ours, expected in zip(fused(*inputs, reference), compare(*inputs, reference), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_kernels_that_are_right_are_used_and_checked_once_for_each_size_of_heads(dtype, caplog):
    stand_in = StandIn()
    fused = FusedAttention("cpu", stand_in.kernels_for)
    for dim in (8, 8, 16, 8):
        assert_as_pytorch(fused, dtype, dim)
    assert stand_in.loaded == 2 and stand_in.calls == 2 + 4
    assert not caplog.records


WRONG = {
    "output": lambda output, loss: (output * 1.1, loss),
    "structure loss": lambda output, loss: (output, loss * float("nan")),
    "gradient of the queries": lambda output, loss: (output, loss.detach() + 0.9 * (loss - loss.detach())),
}


@pytest.mark.parametrize("name", WRONG)
def test_kernels_that_are_wrong_are_not_used_and_the_log_says_so_once(name, caplog):
    stand_in = StandIn(WRONG[name])
    fused = FusedAttention("cpu", stand_in.kernels_for)
    with caplog.at_level(logging.WARNING):
        assert_as_pytorch(fused)
        assert_as_pytorch(fused)
    (record,) = caplog.records
    assert f"the {name} of the kernels is wrong" in record.message and "float32, heads of 8" in record.message
    assert stand_in.calls == 1


@pytest.mark.parametrize("error", [ImportError("No module triton"), RuntimeError("no C compiler"), OSError("x")])
def test_without_triton_a_compiler_or_a_new_gpu_pytorch_computes(error, caplog):
    def refuse(query):
        raise error

    assert_as_pytorch(FusedAttention("cpu", refuse))
    assert str(error) in caplog.text


@pytest.mark.parametrize(("dtype", "dim"), [(torch.float64, 8), (torch.float16, 8), (torch.float32, 129)])
def test_other_formats_and_large_heads_are_pytorchs_without_a_word(dtype, dim, caplog):
    stand_in = StandIn()
    assert_as_pytorch(FusedAttention("cpu", stand_in.kernels_for), dtype, dim)
    assert stand_in.loaded == 0 and not caplog.records


def test_on_a_cpu_pytorch_computes(caplog):
    assert_as_pytorch(FusedAttention())
    assert not caplog.records


def test_it_is_used_in_what_captures_and_compares_and_nowhere_else():
    fused = FusedAttention()
    capture, loss = Capture(), StructureLoss({})
    for self_attention in (capture, loss, None, print):
        fused.use_in(self_attention)
    assert capture.comparison is fused and loss.comparison is fused


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("low", [False, True])
def test_the_whole_method_goes_through_the_kernels_and_is_the_same(graphs, low, monkeypatch):
    for limits in (LARGEST_DIM, TOLERANCE):  # in float64, where two runs are the same
        monkeypatch.setitem(limits, torch.float64, limits[torch.float32])
    setup = build(MODELS["reduced"], 64, dtype=torch.float64)
    plain, stand_in = prepare(WAYS["exact"], setup), StandIn()
    denoiser = DiffusersDenoiser(setup.unet, low_memory=low, fused_attention=True)
    denoiser.fused_attention = FusedAttention("cpu", stand_in.kernels_for)
    recorder = Recorder("cpu" if graphs else None, lambda function, *tensors: function)
    results = [
        protect(
            one, plain.codec, setup.image, setup.context, setup.objective,
            schedule=setup.schedule, null_text_iterations=1, iterations=3,
        )
        for one in (plain.denoiser, recorder.denoiser(denoiser))
    ]  # fmt: skip
    torch.testing.assert_close(results[1].image, results[0].image)
    assert results[1].history["structure"][0] == [0.0] and results[1].history["structure"][2] != [0.0]
    checks, layers = len(denoiser.fused_attention.chosen), 16
    passes = 3 + 3 * 4 + 3 * 3 * low  # the unchanged run, four forward passes, and blocks computed again
    assert stand_in.calls == checks + layers * passes

"""The one error type: it says what is wrong and how to fix it, and stays whole on its way between processes."""

import copy
import pickle

import pytest
import torch

from faceprotect_core.checks import ProtectionError, errors_of, require, require_finite


def test_an_error_is_a_problem_and_a_fix_in_one_sentence_each():
    with pytest.raises(ValueError) as caught:
        require(False, "there is no face", "crop closer")
    error = caught.value
    assert str(error) == "there is no face. How to fix: crop closer."
    assert (type(error), error.problem, error.fix) == (ProtectionError, "there is no face", "crop closer")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_copies_and_pickles(duplicate):
    error = ProtectionError("there is no face", "crop closer")
    error.raised_at = "read.py:1"
    twin = duplicate(error)
    assert (str(twin), twin.problem, twin.fix) == (str(error), error.problem, error.fix)
    assert (type(twin), twin.raised_at) == (ProtectionError, "read.py:1")


def test_an_error_says_first_of_what_it_is():
    with pytest.raises(ProtectionError) as caught, errors_of("photo 1 of 2"):
        require(False, "there is no face", "crop closer")
    assert str(caught.value) == "photo 1 of 2: there is no face. How to fix: crop closer."


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_no_number_is_counted_wherever_it_lies(dtype, bad):
    for index in (0, 500, 999):
        values = torch.linspace(-1, 1, 1000, dtype=dtype)
        values[index] = bad
        with pytest.raises(ProtectionError, match="the photo has 1 of 1000 values that are NaN or infinite"):
            require_finite(values, "the photo", "load it again")


def test_large_numbers_whole_ones_and_none_at_all_are_finite():
    for values in (torch.full((9,), 3e38), torch.tensor([1, 2]), torch.zeros(0), torch.ones(3, requires_grad=True)):
        require_finite(values, "the photo", "load it again")

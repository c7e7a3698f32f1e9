"""The one error type: it says what is wrong and how to fix it, and stays whole on its way between processes."""

import copy
import pickle

import pytest

from faceprotect_core.checks import ProtectionError, errors_of, require


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

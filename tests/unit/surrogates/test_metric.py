"""One place knows whether higher or lower is more alike; a wrong sign there is a false "protected"."""

import ast
import math
from pathlib import Path

import pytest
import torch

from faceprotect_core import FRSurrogate
from faceprotect_core.surrogates.metric import METRICS
from faceprotect_core.verify.comparison import Comparison

ROOT = Path(__file__).resolve().parents[3]
# A threshold, a pair that is more alike than it, and one that is less.
PAIRS = {"cosine": (0.4, 0.7, 0.1), "euclidean": (0.6, 0.2, 1.0)}


@pytest.fixture(params=PAIRS)
def case(request):
    return request.param, METRICS[request.param], *PAIRS[request.param]


def test_a_stranger_is_past_the_threshold_and_the_same_person_is_not(case):
    _, metric, threshold, same, stranger = case
    assert metric.margin(stranger, threshold) == abs(stranger - threshold) > 0
    assert metric.margin(same, threshold) == -abs(same - threshold) < 0
    assert metric.is_match(same, threshold) and not metric.is_match(stranger, threshold)
    assert metric.may_match(same, threshold) and not metric.may_match(stranger, threshold)


def test_on_the_threshold_a_pair_is_not_counted_as_a_match_and_a_verdict_calls_it_one(case):
    _, metric, threshold, _, _ = case
    assert not metric.is_match(threshold, threshold) and metric.may_match(threshold, threshold)
    assert metric.may_match(math.nan, threshold)


def test_the_value_at_a_margin_lies_that_far_past_the_threshold(case):
    _, metric, threshold, _, _ = case
    assert metric.margin(metric.past(threshold, 0.02), threshold) == pytest.approx(0.02)


def test_the_most_and_the_least_alike_of_several_pairs(case):
    _, metric, threshold, same, stranger = case
    values = torch.tensor([[threshold, same], [stranger, threshold]])
    assert torch.equal(metric.most_alike(values), values[0, 1])
    assert torch.equal(metric.least_alike(values), values[1, 0])
    assert torch.equal(metric.most_alike(values, 1), torch.tensor([same, threshold]))
    assert torch.equal(metric.least_alike(values, 1), torch.tensor([threshold, stranger]))
    assert torch.equal(metric.alike(metric.alike(values)), values)


def test_the_words_say_what_the_numbers_do(case):
    _, metric, threshold, same, stranger = case
    assert metric.side == ("above" if same > threshold else "below")
    assert metric.direction == f"{'higher' if same > stranger else 'lower'} is more alike"
    assert metric.lowest <= min(same, stranger) and max(same, stranger) <= metric.highest


def test_a_distance_is_a_distance_and_a_similarity_a_similarity():
    assert (METRICS["cosine"].word, METRICS["euclidean"].word) == ("similarity", "distance")
    assert METRICS["cosine"].side == "above" and METRICS["euclidean"].side == "below"


def test_a_recogniser_and_a_verdict_agree_about_the_same_two_vectors(case):
    name, metric, threshold, _, _ = case
    network = FRSurrogate(lambda image: image, metric=name, default_threshold=threshold)
    me, near, far = (torch.tensor([[math.cos(angle), math.sin(angle)]]) for angle in (0.0, 0.1, 1.5))
    for other, same in ((near, True), (far, False)):
        value = network.similarity(me, other)
        assert network.is_match(me, other).item() == same == (network.margin(me, other).item() < 0)
        assert torch.equal(network.margin(me, other), metric.margin(value, threshold))
        said = Comparison("net", name, 0.0, value.item(), {"default": threshold}, seen=False)
        assert said.matches_after == same == (said.headroom < 0)


def test_the_margin_has_the_gradient_that_drives_a_pair_apart(case):
    name, _, threshold, _, _ = case
    network = FRSurrogate(lambda image: image, metric=name, default_threshold=threshold)
    me, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.3]], requires_grad=True)
    network.margin(me, other).sum().backward()
    with torch.no_grad():
        further = other + 0.1 * other.grad
    assert network.margin(me, further).item() > network.margin(me, other).item()


def test_nowhere_else_is_a_metric_told_by_its_name():
    """Not `== "cosine"`, not `in ("cosine", ...)`, not as a key of a table."""
    names, found = set(METRICS), []
    for path in sorted([*(ROOT / "faceprotect_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]):
        if path.name == "metric.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            parts += node.keys if isinstance(node, ast.Dict) else []
            parts += [node.pattern] if isinstance(node, ast.match_case) else []
            told = {one.value for part in parts if part for one in ast.walk(part) if isinstance(one, ast.Constant)}
            if told & names:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found

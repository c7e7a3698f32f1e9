"""Two protected photos of one person: nobody should be able to tell from them alone that they show the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...surrogates import FRSurrogate
from ...surrogates.metric import METRICS
from .rates import CLEAN, FARS, Row, Trials
from .run import Plan, is_done, trial_file
from .trial import Experiment, Job, Lab


@dataclass(frozen=True)
class Copies(Row):
    """What one recogniser says about the protected photo a and the protected photo b of the same people.

    seen: whether it was in the loss. similarity: mean over the people in its metric's units; similarity_before: of the
    two unprotected photos. matched, matched_before: percent of the people whose two photos it takes for one person.
    """

    recogniser: str
    seen: bool
    people: int
    similarity: float
    similarity_before: float
    far: float
    threshold: float
    matched: float
    matched_before: float


def all_copies(lab: Lab, plan: Plan, trials: dict[Experiment, Trials], references: dict[str, dict]) -> list[Copies]:
    """For every method under which both photos were protected, and every recogniser that has thresholds."""
    clean = trials[Experiment(CLEAN)]
    found = []
    for experiment in plan.twice:
        if experiment in trials:
            second = _second(lab, plan, experiment)
            for name, recogniser in lab.recognisers.items():
                after = {person: tensors[name] for person, tensors in second.items()}
                before = references[name]["other"]
                found += copies_of(recogniser, trials[experiment], after, clean, before)
    return found


def copies_of(
    recogniser: FRSurrogate,
    first: Trials,
    second: dict[str, Tensor],
    clean: Trials,
    others: dict[str, Tensor],
) -> list[Copies]:
    """One row for each false accept rate.

    second: person -> [strengths, processings, places, D] of the protected second photo; others: person -> [D] of the
    unprotected one. Only people of whom all four are there count.
    """
    name, experiment = recogniser.name, first.experiment
    people = [one for one in first.records if one in second and one in others and one in clean.records]
    if not people:
        return []
    after = [_closest(recogniser, first.embeddings[name][one][0, 0], second[one][0, 0]) for one in people]
    before = [_closest(recogniser, clean.embeddings[name][one][0, 0], others[one][None]) for one in people]
    return [
        Copies(
            experiment,
            name,
            name in experiment.seen,
            len(people),
            sum(after) / len(after),
            sum(before) / len(before),
            far,
            recogniser.thresholds[far],
            _matched(recogniser, after, far),
            _matched(recogniser, before, far),
        )
        for far in FARS
        if far in recogniser.thresholds
    ]


def _second(lab: Lab, plan: Plan, experiment: Experiment) -> dict[str, dict[str, Tensor]]:
    """Person -> recogniser -> embeddings of the protected second photo."""
    jobs = {pair.name: Job(experiment, pair.swapped) for pair in plan.pairs}
    return {
        name: load_file(trial_file(lab.setup, job, ".safetensors")) for name, job in jobs.items() if is_done(lab, job)
    }


def _closest(recogniser: FRSurrogate, a: Tensor, b: Tensor) -> float:
    """Of the places [places, D] where a face is looked at in either photo, the two that are most alike."""
    values = torch.stack([recogniser.similarity(one[None].expand_as(b), b) for one in a])
    return METRICS[recogniser.metric].most_alike(values).item()


def _matched(recogniser: FRSurrogate, similarities: Sequence[float], far: float) -> float:
    """Percent that count as one person."""
    metric, threshold = METRICS[recogniser.metric], recogniser.thresholds[far]
    return 100 * sum(metric.is_match(value, threshold) for value in similarities) / len(similarities)

"""From embeddings to rates: how many people are protected, at false accept rates of 0.1, 0.01 and 0.001."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...checks import require
from ...surrogates import FRSurrogate
from .run import Plan, is_done, trial_file
from .trial import DODGING, IMPERSONATION, OBFUSCATION, Experiment, Job, Lab

FARS = (0.1, 0.01, 0.001)
CLEAN = "clean"


@dataclass(frozen=True)
class Rate:
    """How many people one recogniser takes for what the goal wants, under one processing.

    goal: "dodging" (also of obfuscation): no longer taken for the person, compared with another photo of them;
        "impersonation ...": taken for the target, compared with another photo of the target. pushed: which goal the
        optimiser had. seen: whether the recogniser was in the loss.
    people: measured; protected: of them. knew: those of them whose unprotected photo, so processed, was not protected
        already; hidden: of those. psr: protected of people in percent (the paper's protection success rate).
    clean: the same share for the unprotected photos under the same processing. away: mean distance past the threshold
        at that rate in the metric's units, positive is protected; clean_away: of the unprotected photos.
    """

    method: str
    pushed: str
    loss: str
    goal: str
    recognizer: str
    seen: bool
    strength: str
    processing: str
    far: float
    threshold: float
    people: int
    protected: int
    knew: int
    hidden: int
    psr: float
    clean: float
    away: float
    clean_away: float

    def to_dict(self) -> dict:
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class RankOne:
    """How many people are still found first in a gallery of `gallery` people by their other photo, and how many were
    before, in percent."""

    method: str
    pushed: str
    loss: str
    recognizer: str
    seen: bool
    gallery: int
    people: int
    found: float
    clean: float


@dataclass(frozen=True, eq=False)
class Trials:
    """One experiment's trials. embeddings: recogniser -> person -> [strengths, processings, places, D]."""

    experiment: Experiment
    records: dict[str, dict]
    embeddings: dict[str, dict[str, Tensor]]

    @property
    def settings(self) -> dict:
        return next(iter(self.records.values()))["settings"]


def read_trials(lab: Lab, plan: Plan) -> dict[Experiment, Trials]:
    """What lies in the folder of results; an experiment without any trial is left out.

    Raises:
        ProtectionError: a trial was run with other settings, or the unprotected photos were not measured.
    """
    found = {}
    for experiment in plan.experiments:
        jobs = {pair.name: Job(experiment, pair) for pair in plan.pairs}
        jobs = {name: job for name, job in jobs.items() if is_done(lab, job)}
        if not jobs:
            continue
        records = {name: json.loads(trial_file(lab.setup, job, ".json").read_text()) for name, job in jobs.items()}
        tensors = {name: load_file(trial_file(lab.setup, job, ".safetensors")) for name, job in jobs.items()}
        embeddings = {one: {name: found[one] for name, found in tensors.items()} for one in lab.recognizers}
        found[experiment] = Trials(experiment, records, embeddings)
    require(
        Experiment(CLEAN) in found,
        f"no photo was measured in {lab.setup.out.name!r}",
        "use photos with one upright face each, and see what is said above about each of them",
    )
    return found


def all_rates(lab: Lab, trials: dict[Experiment, Trials], references: dict[str, dict]) -> list[Rate]:
    """Every rate of every experiment, for every recogniser that has thresholds."""
    clean = trials[Experiment(CLEAN)]
    return [
        rate
        for one in trials.values()
        for goal in _goals(lab, one.experiment)
        for name in lab.recognizers
        for rate in _rates_of(lab, one, clean, goal, name, references[name])
    ]


def _goals(lab: Lab, experiment: Experiment) -> list[str]:
    """What an experiment is measured by: without an attack by everything; to look like somebody else need not mean to
    be no longer recognised, so impersonation is measured by both."""
    impersonations = [f"{IMPERSONATION} {target.name}" for target in lab.setup.targets]
    if not experiment.goal:
        return [DODGING, *impersonations]
    if experiment.goal in (DODGING, OBFUSCATION):
        return [DODGING]
    return [experiment.goal, DODGING]


def _rates_of(lab: Lab, trials: Trials, clean: Trials, goal: str, name: str, references: dict) -> Iterator[Rate]:
    recognizer, settings, experiment = lab.recognizers[name], trials.settings, trials.experiment
    people = [
        person
        for person in trials.records
        if person in clean.records and _reference(references, goal, person) is not None
    ]
    if not people:
        return
    scores = _similarities(recognizer, trials.embeddings[name], references, goal, people)
    before = _similarities(recognizer, clean.embeddings[name], references, goal, people)[:, 0]
    for far in FARS:
        if far not in recognizer.thresholds:
            continue
        threshold = recognizer.thresholds[far]
        away, clean_away = (_past(recognizer, goal, values, threshold) for values in (scores, before))
        for s, strength in enumerate(settings["strengths"]):
            for p, processing in enumerate(settings["processings"]):
                after, known = away[:, s, p] > 0, clean_away[:, p] <= 0
                protected = int(after.sum())
                yield Rate(
                    method=experiment.method,
                    pushed=experiment.goal,
                    loss="+".join(experiment.seen),
                    goal=goal,
                    recognizer=name,
                    seen=name in experiment.seen,
                    strength=strength,
                    processing=processing,
                    far=far,
                    threshold=threshold,
                    people=len(people),
                    protected=protected,
                    knew=int(known.sum()),
                    hidden=int((after & known).sum()),
                    psr=100 * protected / len(people),
                    clean=100 * (clean_away[:, p] > 0).float().mean().item(),
                    away=away[:, s, p].mean().item(),
                    clean_away=clean_away[:, p].mean().item(),
                )


def _reference(references: dict, goal: str, person: str) -> Tensor | None:
    if goal == DODGING:
        return references["other"].get(person)
    return references["target"].get(goal.removeprefix(f"{IMPERSONATION} "))


def _similarities(recognizer: FRSurrogate, embeddings: dict, references: dict, goal: str, people: list[str]) -> Tensor:
    """[people, strengths, processings] in the recogniser's metric. Of the places where the face is looked at, the one
    counts that protects less."""
    found = []
    for person in people:
        reference = _reference(references, goal, person)
        x = embeddings[person]
        values = recognizer.similarity(x.flatten(0, 2), reference[None]).reshape(x.shape[:3])
        alike_is_high = recognizer.metric == "cosine"
        worst_is_high = alike_is_high == (goal == DODGING)
        found.append(values.amax(2) if worst_is_high else values.amin(2))
    return torch.stack(found)


def _past(recognizer: FRSurrogate, goal: str, similarity: Tensor, threshold: float) -> Tensor:
    """How far past the threshold towards what the goal wants, in the metric's units; strictly positive is protected."""
    unlike = threshold - similarity if recognizer.metric == "cosine" else similarity - threshold
    return unlike if goal == DODGING else -unlike


def rank_one(lab: Lab, trials: dict[Experiment, Trials], references: dict[str, dict]) -> list[RankOne]:
    """Identification: whose other photo is the nearest in the gallery to the photo as it was protected?"""
    clean = trials[Experiment(CLEAN)]
    found = []
    for one in trials.values():
        for name, recognizer in lab.recognizers.items():
            gallery = references[name]["other"]
            people = [person for person in one.records if person in gallery and person in clean.records]
            if people and len(gallery) > 1:
                shares = [_found_first(recognizer, x.embeddings[name], gallery, people) for x in (one, clean)]
                experiment = one.experiment
                loss, seen = "+".join(experiment.seen), name in experiment.seen
                found.append(
                    RankOne(experiment.method, experiment.goal, loss, name, seen, len(gallery), len(people), *shares)
                )
    return found


def _found_first(recognizer: FRSurrogate, embeddings: dict, gallery: dict[str, Tensor], people: list[str]) -> float:
    """Percent of the people who are found first from any of the places where the face is looked at."""
    names, others = list(gallery), torch.stack(list(gallery.values()))
    hits = 0
    for person in people:
        for place in embeddings[person][0, 0]:
            values = recognizer.similarity(place[None].expand_as(others), others)
            best = values.max() if recognizer.metric == "cosine" else values.min()
            if values[names.index(person)] == best:
                hits += 1
                break
    return 100 * hits / len(people)

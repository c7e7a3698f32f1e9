"""From embeddings to rates: how many people are protected, at false accept rates of 0.1, 0.01 and 0.001."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...checks import require
from ...surrogates import FRSurrogate
from ...surrogates.metric import METRICS
from .run import Plan, is_done, trial_file
from .trial import DODGING, IMPERSONATION, Experiment, Job, Lab

FARS = (0.1, 0.01, 0.001)
CLEAN = "clean"


@dataclass(frozen=True)
class Row:
    """What was measured of one experiment."""

    experiment: Experiment

    def to_dict(self) -> dict:
        """For CSV and JSON: the experiment in words, then what was measured."""
        one, measured = self.experiment, dict(vars(self))
        del measured["experiment"]
        return {"method": one.method, "pushed": one.pushed, "loss": one.loss} | measured


@dataclass(frozen=True)
class Rate(Row):
    """How many people one recogniser takes for what the goal wants, under one processing.

    goal: "dodging" (also of obfuscation): no longer taken for the person, compared with another photo of them;
        "impersonation <target>": taken for the target, compared with another photo of the target. seen: whether the
        recogniser was in the loss.
    people: measured; protected: of them. knew: those of them whose unprotected photo, so processed, was not protected
        already; hidden: of those. psr: protected of people in percent (the paper's protection success rate).
    clean: the same share for the unprotected photos under the same processing. away: mean distance past the threshold
        at that rate in the metric's units, positive is protected; clean_away: of the unprotected photos.
    """

    goal: str
    recogniser: str
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
        found = super().to_dict()
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


@dataclass(frozen=True)
class RankOne(Row):
    """How many people are still found first in a gallery of `gallery` people by their other photo, and how many were
    before, in percent."""

    recogniser: str
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
        embeddings = {one: {name: found[one] for name, found in tensors.items()} for one in lab.recognisers}
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
        for target in _targets(lab, one.experiment)
        for name in lab.recognisers
        for rate in _rates_of(lab, one, clean, target, name, references[name])
    ]


def _targets(lab: Lab, experiment: Experiment) -> list[str]:
    """Whom an experiment is measured against, "" for the person: without an attack against everybody; to look like
    somebody else need not mean to be no longer recognised, so impersonation is measured by both."""
    if not experiment.goal:
        return ["", *(target.name for target in lab.setup.targets)]
    return [experiment.target, ""] if experiment.target else [""]


def _rates_of(lab: Lab, trials: Trials, clean: Trials, target: str, name: str, references: dict) -> Iterator[Rate]:
    recogniser, settings, experiment = lab.recognisers[name], trials.settings, trials.experiment
    compared = {person: _reference(references, target, person) for person in trials.records if person in clean.records}
    compared = {person: reference for person, reference in compared.items() if reference is not None}
    if not compared:
        return
    people, sign = len(compared), -1 if target else 1  # to be taken for a target, a photo must match
    scores = _similarities(recogniser, trials.embeddings[name], compared, bool(target))
    before = _similarities(recogniser, clean.embeddings[name], compared, bool(target))[:, 0]
    for far in FARS:
        if far not in recogniser.thresholds:
            continue
        threshold = recogniser.thresholds[far]
        margin = METRICS[recogniser.metric].margin
        away, clean_away = (sign * margin(values, threshold) for values in (scores, before))
        for s, strength in enumerate(settings["strengths"]):
            for p, processing in enumerate(settings["processings"]):
                after, known = away[:, s, p] > 0, clean_away[:, p] <= 0
                protected = int(after.sum())
                yield Rate(
                    experiment,
                    goal=f"{IMPERSONATION} {target}" if target else DODGING,
                    recogniser=name,
                    seen=name in experiment.seen,
                    strength=strength,
                    processing=processing,
                    far=far,
                    threshold=threshold,
                    people=people,
                    protected=protected,
                    knew=int(known.sum()),
                    hidden=int((after & known).sum()),
                    psr=100 * protected / people,
                    clean=100 * (clean_away[:, p] > 0).float().mean().item(),
                    away=away[:, s, p].mean().item(),
                    clean_away=clean_away[:, p].mean().item(),
                )


def _reference(references: dict, target: str, person: str) -> Tensor | None:
    return references["target"].get(target) if target else references["other"].get(person)


def _similarities(recogniser: FRSurrogate, embeddings: dict, references: dict[str, Tensor], wanted: bool) -> Tensor:
    """[people, strengths, processings] in the recogniser's metric, compared with each person's reference. Of the places
    where the face is looked at, the one counts that protects less. wanted: likeness is what protects."""
    metric, found = METRICS[recogniser.metric], []
    for person, reference in references.items():
        x = embeddings[person]
        values = recogniser.similarity(x.flatten(0, 2), reference[None]).reshape(x.shape[:3])
        found.append(metric.least_alike(values, 2) if wanted else metric.most_alike(values, 2))
    return torch.stack(found)


def rank_one(lab: Lab, trials: dict[Experiment, Trials], references: dict[str, dict]) -> list[RankOne]:
    """Identification: whose other photo is the nearest in the gallery to the photo as it was protected?"""
    clean = trials[Experiment(CLEAN)]
    found = []
    for one in trials.values():
        for name, recogniser in lab.recognisers.items():
            gallery = references[name]["other"]
            people = [person for person in one.records if person in gallery and person in clean.records]
            if people and len(gallery) > 1:
                shares = [_found_first(recogniser, x.embeddings[name], gallery, people) for x in (one, clean)]
                seen = name in one.experiment.seen
                found.append(RankOne(one.experiment, name, seen, len(gallery), len(people), *shares))
    return found


def _found_first(recogniser: FRSurrogate, embeddings: dict, gallery: dict[str, Tensor], people: list[str]) -> float:
    """Percent of the people who are found first from any of the places where the face is looked at."""
    names, others = list(gallery), torch.stack(list(gallery.values()))
    hits = 0
    for person in people:
        for place in embeddings[person][0, 0]:
            values = recogniser.similarity(place[None].expand_as(others), others)
            if values[names.index(person)] == METRICS[recogniser.metric].most_alike(values):
                hits += 1
                break
    return 100 * hits / len(people)

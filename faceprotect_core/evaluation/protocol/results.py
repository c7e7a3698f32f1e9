"""What an evaluation found, in one place, and its files: CSV and JSON with every number, Markdown to read."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...pixels import as_saved
from ...verify.quality import AT_ONCE, Lpips, frechet_distance, psnr, ssim
from .copies import Copies
from .data import read_square
from .rates import RankOne, Rate, Row, Trials
from .run import Plan, trial_file
from .trial import DODGING, IMPERSONATION, OWN, Experiment, Job, Lab

FAR = 0.01  # the paper's
VISIBLE = ("ms_ssim", "ciede2000", "ciede2000_95", "psnr")


@dataclass(frozen=True)
class Quality(Row):
    """Means over people. psnr_worst: of the most changed photo. None where it was not measured, and for the photo
    itself. reconstruction_mse: of the unchanged latent after inversion and back. found_again: percent of the protected
    photos in which the detector finds the face."""

    people: int
    psnr: float | None
    psnr_worst: float | None
    ssim: float
    lpips: float | None
    fid: float | None
    reconstruction_mse: float | None
    found_again: float
    seconds: float


@dataclass(frozen=True)
class Visible(Row):
    """What an eye sees of a change of some strength, means over people: MS-SSIM of the photo, CIEDE2000 over the face
    and its 95th percentile, PSNR. None where it was not measured: by earlier versions, or on a photo too small."""

    strength: str
    people: int
    ms_ssim: float | None
    ciede2000: float | None
    ciede2000_95: float | None
    psnr: float | None


@dataclass(frozen=True, eq=False)
class Results:
    """All that a folder of results says. settings: what it was made with, for JSON. failed: trial -> why. copies:
    empty unless both photos of each person were protected."""

    settings: dict
    rates: list[Rate]
    rank_one: list[RankOne]
    quality: list[Quality]
    failed: dict[str, str]
    copies: Sequence[Copies] = ()
    visible: Sequence[Visible] = ()

    @property
    def names(self) -> list[str]:
        """The recognisers that have rates."""
        return list(dict.fromkeys(rate.recogniser for rate in self.rates))

    def tables(self) -> Iterator[tuple[tuple[str, ...], str, list[Experiment]]]:
        """(recognisers in the loss, goal, rows) of each table of dodging; impersonation has a table of its own."""
        for seen in self.losses():
            goals = dict.fromkeys(rate.experiment.goal for rate in self.rates if rate.experiment.seen == seen)
            yield from ((seen, goal, self.rows(seen, goal)) for goal in goals if goal != IMPERSONATION)

    def losses(self) -> list[tuple[str, ...]]:
        """The sets of recognisers that were in a loss."""
        return list(dict.fromkeys(rate.experiment.seen for rate in self.rates if rate.experiment.seen))

    def rows(self, seen: tuple[str, ...], goal: str) -> list[Experiment]:
        """The rows of one table: those without an attack first."""
        found, wanted = dict.fromkeys(rate.experiment for rate in self.rates), (("", ()), (goal, seen))
        return [one for one in found if (one.goal, one.seen) in wanted and one.method not in self.settings["depths"]]

    def pick(self, **wanted) -> list[Rate]:
        """Rates by their fields: of dodging, by the change as it is, unless others are wanted."""
        wanted = {"strength": OWN, "goal": DODGING} | wanted
        return [rate for rate in self.rates if all(getattr(rate, name) == value for name, value in wanted.items())]

    def processed(self, experiment: Experiment, name: str, strength: str = OWN) -> dict[str, Rate]:
        """Processing -> the rate of dodging after it."""
        rates = self.pick(experiment=experiment, recogniser=name, far=FAR, strength=strength)
        return {rate.processing: rate for rate in rates}

    def looks(self, experiment: Experiment) -> Quality:
        """What was measured of an experiment's photos."""
        return next(one for one in self.quality if one.experiment == experiment)

    def seen(self, experiments: Sequence[Experiment], strength: str = OWN) -> dict[str, float | None]:
        """What an eye sees of the experiments' changes: the measures of `Visible`, means over the experiments."""
        chosen = [one for one in self.visible if one.experiment in experiments and one.strength == strength]
        return {name: mean([getattr(one, name) for one in chosen]) for name in VISIBLE}

    def over_targets(self) -> list[list[Experiment]]:
        """All experiments but depths; those that differ only in whom they impersonate together."""
        found: dict[tuple, list[Experiment]] = {}
        for one in (row.experiment for row in self.quality):
            if one.method not in self.settings["depths"]:
                found.setdefault((one.method, one.goal, one.seen), []).append(one)
        return list(found.values())


def quality_of(
    lab: Lab, plan: Plan, trials: dict[Experiment, Trials], lpips_weights: Path | None, fid_weights: Path | None
) -> list[Quality]:
    """Of every experiment, from the saved photos; LPIPS and FID with the weights that the user brings."""
    lpips = Lpips(lpips_weights) if lpips_weights else None
    return [_quality_of(lab, plan, one, lpips, fid_weights) for one in trials.values()]


def _quality_of(lab: Lab, plan: Plan, trials: Trials, lpips: Lpips | None, fid_weights: Path | None) -> Quality:
    experiment, records = trials.experiment, list(trials.records.values())
    pairs = [pair for pair in plan.pairs if pair.name in trials.records]
    before = as_saved(torch.cat([read_square(pair.photo, lab.model.size) for pair in pairs]))
    files = [trial_file(lab.setup, Job(experiment, pair), ".png") for pair in pairs]
    after = torch.cat([read_square(file, lab.model.size) for file in files])
    both = list(zip(before.split(AT_ONCE), after.split(AT_ONCE), strict=True))
    decibels = [value for pair in both for value in psnr(*pair).tolist() if value != math.inf]
    return Quality(
        experiment,
        len(records),
        mean(decibels),
        min(decibels, default=None),
        torch.cat([ssim(*pair) for pair in both]).mean().item(),
        torch.cat([lpips(*pair) for pair in both]).mean().item() if lpips else None,
        frechet_distance(before, after, fid_weights) if fid_weights else None,
        mean([record["reconstruction_mse"] for record in records]),
        100 * mean([float(record["found_again"]) for record in records]),
        mean([record["seconds"] for record in records]),
    )


def visible_of(trials: dict[Experiment, Trials]) -> list[Visible]:
    """Of every experiment at every strength, from the records."""
    return [
        Visible(experiment, strength, len(one.records), *(_mean_visible(one, strength, name) for name in VISIBLE))
        for experiment, one in trials.items()
        for strength in one.settings["strengths"]
    ]


def _mean_visible(trials: Trials, strength: str, name: str) -> float | None:
    """None where one record lacks it: a mean over the others would not be of the people of the row."""
    values = [record.get("visible", {}).get(strength, {}).get(name) for record in trials.records.values()]
    return None if None in values else mean(values)


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# ------------------------------------------------------------------------------------------------ files


def write_results(out: Path, results: Results, text: str) -> None:
    """results.json, rates.csv, rank_1.csv, quality.csv, visible.csv, copies.csv if there are any, and the text as
    results.md."""
    tables = {"rates": results.rates, "rank_1": results.rank_one, "quality": results.quality}
    tables |= {"visible": results.visible, "copies": results.copies}
    tables = {name: [row.to_dict() for row in rows] for name, rows in tables.items()}
    for name, rows in tables.items():
        if rows or name != "copies":
            _write_csv(out / f"{name}.csv", rows)
    everything = {"settings": results.settings, "failed": results.failed, **tables}
    (out / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    (out / "results.md").write_text(text + "\n")


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)

"""The paper's main table: every method against recognisers that were not in its loss."""

from __future__ import annotations

from collections.abc import Sequence

from ....verify.robustness import UNPROCESSED
from ..methods import Method
from ..rates import Rate
from ..results import FAR, Results, mean
from ..trial import DODGING, IMPERSONATION, OWN, Experiment
from .rows import VISIBLE_HEADS, section, shown, table, visible, what_they_are

INTRO = f"""\
PSR in percent at FAR {FAR:g}, each recogniser asked about the photos in whose loss it was not (black box), mean over
those losses; for impersonation, over the targets, too. *clean* is the unprotected photo: a rate counts as far as it is
above that. Each method first with the strength that it has by itself; then, where --psnr or --ciede2000 asks for it,
with every change scaled to one PSNR, or to one CIEDE2000 over the face without lips and eyes, where makeup is meant to
be seen; without those that return the decoded latent, whose change is mostly the autoencoder's blur. PSNR in dB and
MS-SSIM of the whole photo; CIEDE2000 over the face, mean and 95th percentile: about 1 can just be told apart.
A - where a trial is from a version that did not measure it."""
NO_BLACK_BOX = """\
Every recogniser was in the loss, and says nothing about others: with --leave-one-out, or some for --black-box, here is
what each method does against recognisers that it did not see."""


def main_table(results: Results, methods: dict[str, Method]) -> str:
    """A row for each method that is no ablation, under each goal and at each strength; below, what each one is."""
    names = [name for name, method in methods.items() if method.in_the_main_table]
    goals = list(dict.fromkeys(one.experiment.goal for one in results.quality if one.experiment.goal))
    parts = [
        part
        for goal in goals
        for strength in (OWN, *results.settings["strengths"])
        if (part := _at(results, names, goal, strength))
    ]
    if not parts:
        return f"## The main table\n\n{NO_BLACK_BOX}"
    return section("The main table", INTRO, *parts, what_they_are(methods, names))


def _at(results: Results, names: Sequence[str], goal: str, strength: str) -> str:
    rows, judges, goals = [], _judges(results, goal), _goals_of_rates(results, goal)
    for name in names:
        experiments = _experiments(results, name, goal)
        attacks = any(one.goal for one in experiments)
        if not experiments or (attacks and strength != OWN and name not in results.settings["comparable"]):
            continue
        at = strength if attacks else OWN
        rates = {judge: _black_box(results, experiments, judge, goals, at) for judge in judges}
        people = str(min((rate.people for found in rates.values() for rate in found), default=0))
        means = [mean([rate.psr for rate in found]) for found in rates.values()]
        cells = [shown(one, 0) for one in [*means, mean(means)]]
        rows.append([name, people, *cells, _psnr(results, experiments, at), *visible(results, experiments, at)])
    if not judges or not rows:
        return ""
    size = "" if strength == OWN else f", every change at {strength}"
    header = ["method", "people", *judges, "average", "PSNR", *VISIBLE_HEADS]
    return table(header, rows, f"{goal.capitalize()}{size}")


def _judges(results: Results, goal: str) -> list[str]:
    """Recognisers that one of the losses leaves out."""
    losses = {one.experiment.seen for one in results.quality if one.experiment.goal == goal}
    return [name for name in results.names if any(name not in seen for seen in losses)]


def _experiments(results: Results, method: str, goal: str) -> list[Experiment]:
    found = [one.experiment for one in results.quality if one.experiment.method == method]
    return [one for one in found if one.goal in ("", goal)]


def _goals_of_rates(results: Results, goal: str) -> list[str]:
    """What rates call a goal: an impersonation by its target, all else dodging."""
    goals = dict.fromkeys(rate.goal for rate in results.rates)
    return [one for one in goals if (one != DODGING) == (goal == IMPERSONATION)]


def _black_box(
    results: Results, experiments: list[Experiment], judge: str, goals: list[str], strength: str
) -> list[Rate]:
    """The judge's rates of the goals, of photos in whose loss it was not."""
    wanted = {"recogniser": judge, "strength": strength, "processing": UNPROCESSED, "far": FAR}
    chosen = [one for one in experiments if judge not in one.seen]
    return [rate for one in chosen for goal in goals for rate in results.pick(experiment=one, goal=goal, **wanted)]


def _psnr(results: Results, experiments: list[Experiment], strength: str) -> str:
    if strength != OWN:
        return shown(results.seen(experiments, strength)["psnr"], 1)
    return shown(mean([results.looks(one).psnr for one in experiments]), 1)

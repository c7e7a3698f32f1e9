"""Which numbers of the results belong into a row of a table."""

from __future__ import annotations

from collections.abc import Sequence

from ....verify.robustness import UNPROCESSED
from ..methods import Method
from ..rates import FARS, Rate
from ..results import VISIBLE, Quality, Results
from ..trial import DODGING, IMPERSONATION, OWN, Experiment

FAR = 0.01  # the paper's
VISIBLE_HEADS = ("MS-SSIM", "CIEDE2000", "95 %")
VISIBLE_PLACES = {"ms_ssim": 3, "ciede2000": 1, "ciede2000_95": 1}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def losses(results: Results) -> list[tuple[str, ...]]:
    """The sets of recognisers that were in a loss."""
    return list(dict.fromkeys(rate.experiment.seen for rate in results.rates if rate.experiment.seen))


def in_the_loss(seen: Sequence[str]) -> str:
    return f"in the loss: {'+'.join(seen)}"


def dodges(results: Results, seen: tuple[str, ...]) -> list[str]:
    """The goals of that loss but impersonation, which has a table of its own."""
    goals = dict.fromkeys(rate.experiment.goal for rate in results.rates if rate.experiment.seen == seen)
    return [goal for goal in goals if goal != IMPERSONATION]


def box(name: str, seen: Sequence[str]) -> str:
    return f"{name} ({'white' if name in seen else 'black'} box)"


def names_of(results: Results) -> list[str]:
    return list(dict.fromkeys(rate.recogniser for rate in results.rates))


def rows_of(results: Results, seen: tuple[str, ...], goal: str) -> list[Experiment]:
    """The rows of one table: those without an attack first."""
    found, of_the_table = dict.fromkeys(rate.experiment for rate in results.rates), (("", ()), (goal, seen))
    return [
        one for one in found if (one.goal, one.seen) in of_the_table and one.method not in results.settings["depths"]
    ]


def pick(results: Results, experiment: Experiment, **wanted) -> list[Rate]:
    wanted = {"experiment": experiment, "strength": OWN, "processing": UNPROCESSED, "goal": DODGING} | wanted
    return [rate for rate in results.rates if all(getattr(rate, name) == value for name, value in wanted.items())]


def looks_of(results: Results, experiment: Experiment) -> Quality:
    return next(one for one in results.quality if one.experiment == experiment)


def visible(results: Results, experiments: Sequence[Experiment], strength: str = OWN) -> list[str]:
    """MS-SSIM, CIEDE2000 and its 95th percentile, means over the experiments."""
    chosen = [one for one in results.visible if one.experiment in experiments and one.strength == strength]
    return [shown(average([getattr(one, name) for one in chosen]), VISIBLE_PLACES[name]) for name in VISIBLE]


def what_they_are(methods: dict[str, Method], names: Sequence[str]) -> str:
    """A line for each method: what it is, and what it is not."""
    return "\n".join(f"- **{name}**: {methods[name].about}." for name in names if name in methods)


def psr(rates: list[Rate]) -> str:
    """The rates at falling FARs; - for one whose threshold is not known."""
    found = {rate.far: f"{rate.psr:.0f}" for rate in rates}
    return " / ".join(found.get(far, "-") for far in FARS) if found else "-"


def who(results: Results, experiment: Experiment, name: str) -> list[str]:
    """The method, and how many people were measured."""
    return [experiment.method, str(next((rate.people for rate in processed(results, experiment, name).values()), 0))]


def processed(results: Results, experiment: Experiment, name: str, strength: str = OWN) -> dict[str, Rate]:
    """Processing -> the rate of dodging after it."""
    wanted = (experiment, name, DODGING, FAR, strength)
    return {
        rate.processing: rate
        for rate in results.rates
        if (rate.experiment, rate.recogniser, rate.goal, rate.far, rate.strength) == wanted
    }


def over_targets(results: Results) -> list[list[Experiment]]:
    """All experiments but depths; those that differ only in whom they impersonate together."""
    found: dict[tuple, list[Experiment]] = {}
    for one in (row.experiment for row in results.quality):
        if one.method not in results.settings["depths"]:
            found.setdefault((one.method, one.goal, one.seen), []).append(one)
    return list(found.values())


def named(experiment: Experiment) -> list[str]:
    """Goal and loss, in the words of a table in which the targets are together."""
    return [experiment.goal or "-", experiment.loss or "-"]


def average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"

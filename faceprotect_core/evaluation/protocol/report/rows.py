"""Which numbers of the results belong into a row of a table."""

from __future__ import annotations

from collections.abc import Sequence

from ....verify.robustness import UNPROCESSED
from ..rates import FARS, Rate
from ..results import Results
from ..trial import DODGING, IMPERSONATION, OWN

FAR = 0.01  # the paper's


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def losses(results: Results) -> list[str]:
    return list(dict.fromkeys(rate.loss for rate in results.rates if rate.loss))


def pushed_to(results: Results, loss: str, impersonation: bool) -> list[str]:
    goals = dict.fromkeys(rate.pushed for rate in results.rates if rate.loss == loss)
    return [goal for goal in goals if goal.startswith(IMPERSONATION) == impersonation]


def box(results: Results, name: str, loss: str) -> str:
    return f"{name} ({'white' if name in loss.split('+') else 'black'} box)"


def names_of(results: Results) -> list[str]:
    return list(dict.fromkeys(rate.recognizer for rate in results.rates))


def methods_of(results: Results, loss: str, pushed: str) -> list[tuple[str, str, str]]:
    """(method, pushed, loss) of the rows of one table: those without an attack first."""
    keys = dict.fromkeys((rate.method, rate.pushed, rate.loss) for rate in results.rates)
    return [key for key in keys if key[1:] in (("", ""), (pushed, loss)) and not key[0].startswith("depth")]


def pick(results: Results, key: tuple, **wanted) -> list[Rate]:
    wanted = {"strength": OWN, "processing": UNPROCESSED, "goal": DODGING} | wanted
    return [
        rate
        for rate in results.rates
        if (rate.method, rate.pushed, rate.loss) == key and all(getattr(rate, name) == v for name, v in wanted.items())
    ]


def psr(rates: list[Rate]) -> str:
    """The rates at falling FARs; - for one whose threshold is not known."""
    found = {rate.far: f"{rate.psr:.0f}" for rate in rates}
    return " / ".join(found.get(far, "-") for far in FARS) if found else "-"


def who(results: Results, key: tuple, name: str) -> list[str]:
    """The method, and how many people were measured."""
    return [key[0], str(next((rate.people for rate in processed(results, key, name)), 0))]


def processed(results: Results, key: tuple, name: str, strength: str = OWN) -> list[Rate]:
    wanted = (*key, name, DODGING, FAR, strength)
    return [
        rate
        for rate in results.rates
        if (rate.method, rate.pushed, rate.loss, rate.recognizer, rate.goal, rate.far, rate.strength) == wanted
    ]


def aims(results: Results) -> list[tuple[str, str, str, list[str]]]:
    """(method, what it was pushed to, loss, goals): the targets of an impersonation together; depths by themselves."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for one in results.quality:
        aim = IMPERSONATION if one.pushed.startswith(IMPERSONATION) else one.pushed
        if not one.method.startswith("depth"):
            found.setdefault((one.method, aim, one.loss), []).append(one.pushed)
    return [(*key, goals) for key, goals in found.items()]


def average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"

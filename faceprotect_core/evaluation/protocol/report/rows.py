"""The parts of a table: headings, cells, Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ..rates import FARS, Rate
from ..results import Results
from ..trial import Experiment


def table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    lines = [header, ["---"] * len(header), *rows]
    return (f"### {title}\n\n" if title else "") + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(title: str, intro: str, *tables: str) -> str:
    """Empty without a table."""
    return "\n\n".join([f"## {title}", intro, *tables]) if tables else ""


def in_the_loss(seen: Sequence[str]) -> str:
    return f"in the loss: {'+'.join(seen)}"


def box(name: str, seen: Sequence[str]) -> str:
    return f"{name} ({'white' if name in seen else 'black'} box)"


def psr(rates: list[Rate]) -> str:
    """The rates at falling FARs; - for one whose threshold is not known."""
    found = {rate.far: f"{rate.psr:.0f}" for rate in rates}
    return " / ".join(found.get(far, "-") for far in FARS) if found else "-"


def who(results: Results, experiment: Experiment, name: str) -> list[str]:
    """The method, and how many people were measured."""
    return [experiment.method, str(next((rate.people for rate in results.processed(experiment, name).values()), 0))]


def named(experiment: Experiment) -> list[str]:
    """Goal and loss, in the words of a table in which the targets are together."""
    return [experiment.goal or "-", experiment.loss or "-"]


def shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"

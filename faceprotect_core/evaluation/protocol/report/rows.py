"""The parts of a table: headings, cells, Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ..methods import Method
from ..rates import FARS, Rate
from ..results import Results
from ..trial import OWN, Experiment

# Measure of `Visible` -> its heading and decimals.
VISIBLE = {"ms_ssim": ("MS-SSIM", 3), "ciede2000": ("CIEDE2000", 1), "ciede2000_95": ("95 %", 1)}
VISIBLE_HEADS = [heading for heading, _ in VISIBLE.values()]


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


def visible(results: Results, experiments: Sequence[Experiment], strength: str = OWN) -> list[str]:
    """The cells under VISIBLE_HEADS."""
    found = results.seen(experiments, strength)
    return [shown(found[name], places) for name, (_, places) in VISIBLE.items()]


def what_they_are(methods: dict[str, Method], names: Sequence[str]) -> str:
    """A line for each method: what it is, and what it is not."""
    return "\n".join(f"- **{name}**: {methods[name].about}." for name in names if name in methods)


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

"""The numbers of several runs as a Markdown table and as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from faceprotect_core.checks import ProtectionError

from .count import Count

DEPTH = 3
PUBLISHED = (20, 35)  # null-text iterations for each step, latent iterations
COLOURS = ("#bbbbbb", "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
HEADER = (
    "model",
    "px",
    "iterations, null-text / latent",
    "way",
    "U-Net in",
    "seconds",
    "times faster",
    "peak memory, GB",
    "weights, GB",
    "U-Net passes, forward / backward",
    "decodes",
    "largest difference",
    "PSNR, dB",
)
COUNT_HEADER = (
    "model",
    "px",
    "way",
    "U-Net in",
    "weights, GB",
    "null-text: held, GB",
    "at the peak",
    "latent: held, GB",
    "at the peak",
    "weights and peak, GB",
)
NONE = "-"


def table(runs: list[dict]) -> str:
    """Peak memory is above the weights and the process. Times faster, difference and PSNR are against the release."""
    return _markdown(HEADER, [_cells(run, row) for run in runs for row in run["rows"]])


def count_table(model: str, counts: list[tuple[int, str, Count]]) -> str:
    """counts: (size, way, what it holds)."""
    lines = []
    for size, way, one in counts:
        stages = (one.null_text.held, one.null_text.peak, one.latent.held, one.latent.peak)
        lines.append([model, str(size), way, one.dtype, *map(_gb, (one.weights, *stages, one.weights + one.peak))])
    return _markdown(COUNT_HEADER, lines)


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def _gb(number: int) -> str:
    return f"{number / 1e9:.2f}"


def _cells(run: dict, row: dict) -> list[str]:
    iterations = f"{run['null_text_iterations']} / {run['iterations']}"
    start = [run["model"], str(run["size"]), iterations, row["way"], row["dtype"]]
    if "error" in row:
        return [*start, row["error"], *[NONE] * (len(HEADER) - len(start) - 1)]
    seconds = median(row["seconds"])
    released = _released(run)
    cells = [f"{seconds:.2f}", f"{median(released['seconds']) / seconds:.2f}" if released else NONE]
    cells += [NONE if row["peak"] is None else _gb(row["peak"]), _gb(row["weights"])]
    passes = row.get("unet")  # not counted where they are replayed
    cells += [f"{passes['forward']} / {passes['backward']}", str(row["decodes"])] if passes else [NONE, NONE]
    if "rms_difference" not in row:
        return [*start, *cells, NONE, NONE]
    rms = row["rms_difference"]
    return [*start, *cells, f"{row['largest_difference']:.1e}", f"{-20 * math.log10(rms):.1f}" if rms else "inf"]


def computed(run: dict) -> str:
    """What the published iterations would take, from the seconds of one iteration of each kind and of the rest."""
    null_text, latent = PUBLISHED
    seconds = {row["way"]: _at_published(row) for row in run["rows"] if "error" not in row}
    parts = [f"{way} {time:.1f} s" for way, time in seconds.items()]
    if _released(run):
        parts = [
            part if way == "release" else f"{part}, {seconds['release'] / seconds[way]:.2f} times faster"
            for way, part in zip(seconds, parts, strict=True)
        ]
    where = f"{run['model']}, {run['size']} px, at {null_text} and {latent} iterations"
    return f"{where}: {'; '.join(parts)} (computed from the seconds of each stage, not measured)"


def _at_published(row: dict) -> float:
    null_text, latent = PUBLISHED
    return row["rest_seconds"] + DEPTH * null_text * row["null_text_seconds"] + latent * row["latent_seconds"]


def _released(run: dict) -> dict | None:
    return next((row for row in run["rows"] if row["way"] == "release" and "error" not in row), None)


def plot(runs: list[dict], path: Path) -> None:
    """Bars of seconds and of memory, a group for each run."""
    try:
        import matplotlib
    except ImportError as error:
        raise ProtectionError(
            "the plot needs matplotlib, which is not installed",
            "pip install matplotlib; the table and the numbers are there without it",
        ) from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, runs, lambda row: median(row["seconds"]), "seconds", "%.1f")
    _bars(right, runs, lambda row: (row["peak"] or 0) / 1e9, "GB at the peak, above the weights", "%.2f")
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("\n".join(dict.fromkeys(run["machine"] for run in runs)), fontsize=9)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _bars(axes, runs: list[dict], value, label: str, number: str) -> None:
    ways = list(dict.fromkeys(row["way"] for run in runs for row in run["rows"]))
    width = 0.8 / len(ways)
    for index, way in enumerate(ways):
        shift = (index - (len(ways) - 1) / 2) * width
        found = [
            (place + shift, value(row))
            for place, run in enumerate(runs)
            for row in run["rows"]
            if row["way"] == way and "error" not in row
        ]
        places, values = zip(*found, strict=True) if found else ((), ())
        bars = axes.bar(places, values, width * 0.92, label=way, color=COLOURS[index % len(COLOURS)])
        axes.bar_label(bars, fmt=number, fontsize=7)
    axes.set_xticks(range(len(runs)), [_name(run) for run in runs], fontsize=8)
    axes.set(ylabel=label)
    axes.spines[["top", "right"]].set_visible(False)


def _name(run: dict) -> str:
    return f"{run['model']}, {run['size']} px\n{run['null_text_iterations']} / {run['iterations']} iterations"

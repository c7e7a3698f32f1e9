"""Pictures of the results, with matplotlib: bars of PSR, curves over processings, purification, depth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from ....checks import ProtectionError
from ....verify.robustness import UNPROCESSED
from ..rates import Rate
from ..results import FAR, Results
from ..trial import ANOTHER_VAE, DODGING, OBFUSCATION, Experiment
from .rows import box

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")
GREY = "#bbbbbb"
PURIFIED = {
    UNPROCESSED: "as saved",
    "vae": "after the autoencoder",
    "ddim": "after 3 DDIM steps and back",
    ANOTHER_VAE: "after another autoencoder",
}


def write_plots(out: Path, results: Results) -> list[Path]:
    """psr.png, processing.png, purification.png, depth.png: those for which there is something to show.

    What one recogniser says is shown by the first one that is in no loss, or by the first.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ProtectionError(
            "the plots need matplotlib, which is not installed", "pip install matplotlib, or use --no-plots"
        ) from error
    matplotlib.use("Agg")
    attacks = _attacks(results)
    not_seen = (rate for rate in attacks if rate.recogniser not in rate.experiment.seen)
    first = next(not_seen, next(iter(attacks), None))
    figures = {"psr": _psr, "processing": _processing, "purification": _purification} if first else {}
    drawn = {name: draw(results, first) for name, draw in figures.items()} | {"depth": _depth(results)}
    paths = {out / f"{name}.png": figure for name, figure in drawn.items() if figure is not None}
    for path, figure in paths.items():
        figure.savefig(path, dpi=110, bbox_inches="tight")
    return list(paths)


def _attacks(results: Results, **wanted) -> list[Rate]:
    """Rates of dodging after a method that tried to dodge; depths are drawn by themselves."""
    rates, depths = results.pick(far=FAR, **wanted), results.settings["depths"]
    return [r for r in rates if r.experiment.goal in (DODGING, OBFUSCATION) and r.experiment.method not in depths]


def _styles() -> Iterator[dict]:
    """More lines than colours: the second time round they are dashed."""
    for line in cycle(("-", "--", ":")):
        yield from ({"color": colour, "linestyle": line, "marker": "o"} for colour in COLOURS)


def _alike(rates: list[Rate], one: Experiment) -> list[Rate]:
    """Those with the same goal and loss."""
    return [rate for rate in rates if (rate.experiment.goal, rate.experiment.seen) == (one.goal, one.seen)]


def _panels(width: float, height: float, rows: int = 1, columns: int = 1):
    """A figure and its axes, one after the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes) -> None:
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _bars(axes, groups: list[str], series: dict[str, list[float]], colours: Iterator[str]) -> None:
    width = 0.8 / max(len(series), 1)
    for index, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=False)):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, values, width * 0.92, label=name, color=colour)
    crowded = {"rotation": 25, "ha": "right"} if len(groups) > 6 else {}
    axes.set_xticks(range(len(groups)), groups, **crowded)


def _psr(results: Results, first: Rate):
    """PSR of every method, a bar for each recogniser; grey is the unprotected photo."""
    seen = first.experiment.seen
    rates = [rate for rate in _attacks(results, processing=UNPROCESSED) if rate.experiment.seen == seen]
    goals = list(dict.fromkeys(rate.experiment.goal for rate in rates))
    names = list(dict.fromkeys(rate.recogniser for rate in rates))
    width = 2 + 1.1 * len({rate.experiment.method for rate in rates})
    figure, panels = _panels(width, 3.0 * len(goals), len(goals))
    for axes, goal in zip(panels, goals, strict=True):
        found = [rate for rate in rates if rate.experiment.goal == goal]
        methods = _methods(found)
        series = {"clean": [_value(found, methods[0], names[0], "clean")] * len(methods)} if len(names) == 1 else {}
        for name in names:
            series[box(name, seen)] = [_value(found, method, name) for method in methods]
        _bars(axes, methods, series, cycle((GREY, *COLOURS) if len(names) == 1 else COLOURS))
        for name, colour in zip(names, cycle(COLOURS), strict=False):
            axes.axhline(_value(found, methods[0], name, "clean"), color=colour, linewidth=1, linestyle=":")
        title = f"{goal} against {first.experiment.loss}; dotted: the unprotected photo"
        axes.set(ylim=(0, 105), ylabel="PSR at FAR 0.01, %", title=title)
        _legend(axes)
    return figure


def _methods(rates: list[Rate]) -> list[str]:
    return list(dict.fromkeys(rate.experiment.method for rate in rates))


def _value(rates: list[Rate], method: str, name: str, what: str = "psr") -> float:
    return next((getattr(r, what) for r in rates if (r.experiment.method, r.recogniser) == (method, name)), 0.0)


def _processing(results: Results, first: Rate):
    """How far past the threshold after each processing, a line for each method."""
    rates = _alike(_attacks(results, recogniser=first.recogniser), first.experiment)
    processes = results.settings["processings"]
    figure, (axes,) = _panels(9, 4)
    for method, style in zip(_methods(rates), _styles(), strict=False):
        found = {rate.processing: rate.away for rate in rates if rate.experiment.method == method}
        axes.plot(processes, [found[p] for p in processes], label=method, markersize=4, **style)
    clean = {rate.processing: rate.clean_away for rate in rates}
    axes.plot(processes, [clean[process] for process in processes], "o--", color=GREY, label="clean", markersize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel=f"past the threshold at FAR {FAR:g}", title=f"{_headed(first)}: above 0 is protected")
    axes.tick_params(axis="x", rotation=45)
    _legend(axes)
    return figure


def _purification(results: Results, first: Rate):
    """At equal PSNR: unprocessed, after the autoencoder, after DDIM."""
    strengths = results.settings["strengths"]
    if not strengths:
        return None
    figure, panels = _panels(9, 3.2 * len(strengths), len(strengths))
    for axes, strength in zip(panels, strengths, strict=True):
        rates = _alike(_attacks(results, recogniser=first.recogniser, strength=strength), first.experiment)
        rates = [rate for rate in rates if rate.experiment.method in results.settings["comparable"]]
        methods = _methods(rates)
        away = {(rate.experiment.method, rate.processing): rate.away for rate in rates}
        series = {
            label: [away[method, kind] for method in methods]
            for kind, label in PURIFIED.items()
            if kind in results.settings["processings"]
        }
        _bars(axes, methods, series, cycle(COLOURS))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(ylabel=f"past the threshold at FAR {FAR:g}", title=f"{_headed(first)}, all at {strength}")
        _legend(axes)
    return figure


def _headed(first: Rate) -> str:
    return f"{first.experiment.pushed} against {first.experiment.loss}; {first.recogniser}"


def _depth(results: Results):
    """Protection, quality and reconstruction over the depth, with and without learned embeddings."""
    depths, settings = results.settings["depths"], results.settings["methods"]
    rates = [r for r in results.pick(far=FAR, processing=UNPROCESSED) if r.experiment.method in depths and r.seen]
    if not rates:
        return None
    rates = [rate for rate in _alike(rates, rates[0].experiment) if rate.recogniser == rates[0].recogniser]
    figure, panels = _panels(10, 3.2, columns=3)
    for learned, label, colour in ((True, "learned embeddings", COLOURS[0]), (False, "without embeddings", COLOURS[2])):
        chosen = [r for r in rates if (settings[r.experiment.method]["null_text_iterations"] > 0) == learned]
        if not chosen:
            continue
        looks = [results.looks(rate.experiment) for rate in chosen]
        series = ([r.away for r in chosen], [one.psnr for one in looks], [one.reconstruction_mse for one in looks])
        for axes, values in zip(panels, series, strict=True):
            axes.plot([settings[r.experiment.method]["depth"] for r in chosen], values, "o-", color=colour, label=label)
    titles = ("past the threshold", "PSNR, dB", "latent MSE of the reconstruction")
    for axes, title in zip(panels, titles, strict=True):
        axes.set(xlabel="depth (of 20 DDIM steps)", title=title)
    panels[0].legend(fontsize=8, frameon=False)
    return figure

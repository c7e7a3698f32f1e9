"""Pictures of the results, with matplotlib: bars of PSR, curves over processings, purification, depth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from ....checks import ProtectionError
from ....verify.robustness import UNPROCESSED
from ..rates import Rate
from ..results import Results
from ..trial import ANOTHER_VAE, DODGING, IMPERSONATION, OWN
from .rows import FAR

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")
GREY = "#bbbbbb"
PURIFIED = {
    UNPROCESSED: "as saved",
    "vae": "after the autoencoder",
    "ddim": "after 3 DDIM steps and back",
    ANOTHER_VAE: "after another autoencoder",
}


def write_plots(out: Path, results: Results) -> list[Path]:
    """psr.png, processing.png, purification.png, depth.png: those for which there is something to show."""
    try:
        import matplotlib
    except ImportError as error:
        raise ProtectionError(
            "the plots need matplotlib, which is not installed", "pip install matplotlib, or use --no-plots"
        ) from error
    matplotlib.use("Agg")
    figures = {"psr": _psr, "processing": _processing, "purification": _purification, "depth": _depth}
    written = []
    for name, draw in figures.items():
        figure = draw(results)
        if figure is not None:
            path = out / f"{name}.png"
            figure.savefig(path, dpi=110, bbox_inches="tight")
            written.append(path)
    return written


def _rows(results: Results, **wanted) -> list[Rate]:
    wanted = {"far": FAR, "strength": OWN, "goal": DODGING} | wanted
    return [rate for rate in results.rates if all(getattr(rate, name) == value for name, value in wanted.items())]


def _attacks(results: Results, **wanted) -> list[Rate]:
    """Rates of dodging after a method that tried to dodge; depths are drawn by themselves."""
    rates = _rows(results, **wanted)
    return [
        r for r in rates if r.pushed and not r.pushed.startswith(IMPERSONATION) and not r.method.startswith("depth")
    ]


def _styles() -> Iterator[dict]:
    """More lines than colours: the second time round they are dashed."""
    for line in cycle(("-", "--", ":")):
        yield from ({"color": colour, "linestyle": line, "marker": "o"} for colour in COLOURS)


def _first_loss(results: Results) -> str | None:
    return next((rate.loss for rate in _attacks(results)), None)


def _bars(axes, groups: list[str], series: dict[str, list[float]], colours: Iterator[str]) -> None:
    width = 0.8 / max(len(series), 1)
    for index, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=False)):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, values, width * 0.92, label=name, color=colour)
    crowded = {"rotation": 25, "ha": "right"} if len(groups) > 6 else {}
    axes.set_xticks(range(len(groups)), groups, **crowded)
    axes.spines[["top", "right"]].set_visible(False)


def _psr(results: Results):
    """PSR of every method, a bar for each recogniser; grey is the unprotected photo."""
    from matplotlib.figure import Figure

    loss = _first_loss(results)
    if loss is None:
        return None
    rates = [rate for rate in _attacks(results, processing=UNPROCESSED) if rate.loss == loss]
    goals = list(dict.fromkeys(rate.pushed for rate in rates))
    names = list(dict.fromkeys(rate.recognizer for rate in rates))
    figure = Figure(figsize=(2 + 1.1 * len({rate.method for rate in rates}), 3.0 * len(goals)), layout="constrained")
    for axes, goal in zip(figure.subplots(len(goals), 1, squeeze=False)[:, 0], goals, strict=True):
        found = [rate for rate in rates if rate.pushed == goal]
        methods = list(dict.fromkeys(rate.method for rate in found))
        series = {"clean": [_value(found, methods[0], names[0], "clean")] * len(methods)} if len(names) == 1 else {}
        for name in names:
            box = "white box" if name in loss.split("+") else "black box"
            series[f"{name} ({box})"] = [_value(found, method, name) for method in methods]
        _bars(axes, methods, series, cycle((GREY, *COLOURS) if len(names) == 1 else COLOURS))
        for name, colour in zip(names, cycle(COLOURS), strict=False):
            axes.axhline(_value(found, methods[0], name, "clean"), color=colour, linewidth=1, linestyle=":")
        axes.set(
            ylim=(0, 105), ylabel="PSR at FAR 0.01, %", title=f"{goal} against {loss}; dotted: the unprotected photo"
        )
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _value(rates: list[Rate], method: str, name: str, what: str = "psr") -> float:
    return next((getattr(r, what) for r in rates if (r.method, r.recognizer) == (method, name)), 0.0)


def _processing(results: Results):
    """How far past the threshold after each processing, a line for each method; the first recogniser in the loss."""
    from matplotlib.figure import Figure

    loss = _first_loss(results)
    if loss is None:
        return None
    name, goal = _attacks(results)[0].recognizer, _attacks(results)[0].pushed
    rates = [r for r in _attacks(results, recognizer=name) if r.loss == loss and r.pushed == goal]
    processes = results.settings["processings"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for method, style in zip(dict.fromkeys(rate.method for rate in rates), _styles(), strict=False):
        found = {rate.processing: rate.away for rate in rates if rate.method == method}
        axes.plot(processes, [found[p] for p in processes], label=method, markersize=4, **style)
    clean = {rate.processing: rate.clean_away for rate in rates}
    axes.plot(processes, [clean[process] for process in processes], "o--", color=GREY, label="clean", markersize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel=f"past the threshold at FAR {FAR:g}", title=f"{goal} against {loss}; {name}: above 0 is protected")
    axes.tick_params(axis="x", rotation=45)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _purification(results: Results):
    """At equal PSNR: unprocessed, after the autoencoder, after DDIM."""
    from matplotlib.figure import Figure

    loss, strengths = _first_loss(results), results.settings["strengths"]
    if loss is None or not strengths:
        return None
    name, goal = _attacks(results)[0].recognizer, _attacks(results)[0].pushed
    figure = Figure(figsize=(9, 3.2 * len(strengths)), layout="constrained")
    for axes, strength in zip(figure.subplots(len(strengths), 1, squeeze=False)[:, 0], strengths, strict=True):
        rates = _attacks(results, recognizer=name, strength=strength)
        rates = [rate for rate in rates if rate.loss == loss and rate.pushed == goal]
        rates = [rate for rate in rates if rate.method in results.settings["comparable"]]
        methods = list(dict.fromkeys(rate.method for rate in rates))
        away = {(rate.method, rate.processing): rate.away for rate in rates}
        series = {
            label: [away[method, kind] for method in methods]
            for kind, label in PURIFIED.items()
            if kind in results.settings["processings"]
        }
        _bars(axes, methods, series, cycle(COLOURS))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(ylabel=f"past the threshold at FAR {FAR:g}", title=f"{goal} against {loss}; {name}, all at {strength}")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _depth(results: Results):
    """Protection, quality and reconstruction over the depth, with and without learned embeddings."""
    from matplotlib.figure import Figure

    rates = [r for r in _rows(results, processing=UNPROCESSED) if r.method.startswith("depth") and r.seen]
    if not rates:
        return None
    one = (rates[0].pushed, rates[0].loss, rates[0].recognizer)
    rates = [rate for rate in rates if (rate.pushed, rate.loss, rate.recognizer) == one]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    quality = {(one.method, one.pushed, one.loss): one for one in results.quality}
    for label, colour in (("learned embeddings", COLOURS[0]), ("without embeddings", COLOURS[2])):
        chosen = [r for r in rates if ("without embeddings" in r.method) == (label == "without embeddings")]
        if not chosen:
            continue
        depths = [int(rate.method.split()[1]) for rate in chosen]
        looks = [quality[rate.method, rate.pushed, rate.loss] for rate in chosen]
        for axes, values in zip(
            panels,
            ([r.away for r in chosen], [one.psnr for one in looks], [one.reconstruction_mse for one in looks]),
            strict=True,
        ):
            axes.plot(depths, values, "o-", color=colour, label=label)
    titles = ("past the threshold", "PSNR, dB", "latent MSE of the reconstruction")
    for axes, title in zip(panels, titles, strict=True):
        axes.set(xlabel="depth (of 20 DDIM steps)", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    return figure

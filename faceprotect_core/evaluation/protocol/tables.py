"""The results as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...checks import require
from ..quality import Lpips, frechet_distance, psnr, ssim
from .data import read_square
from .methods import Method
from .rates import FARS, OWN, UNPROCESSED, RankOne, Rate, Trials
from .run import Plan, trial_file
from .trial import DODGING, IMPERSONATION, Experiment, Job, Lab

FAR = 0.01  # the paper's
# At equal PSNR, what shows whether a change survives: nothing, compression, filters, purification.
SURVIVAL = (UNPROCESSED, "jpeg 75", "mean 5x5", "vae", "ddim")


@dataclass(frozen=True)
class Quality:
    """Means over people. psnr_worst: of the most changed photo. None where it was not measured, and for the photo
    itself. reconstruction_mse: of the unchanged latent after inversion and back. found_again: percent of the protected
    photos in which the detector finds the face."""

    method: str
    pushed: str
    loss: str
    people: int
    psnr: float | None
    psnr_worst: float | None
    ssim: float
    lpips: float | None
    fid: float | None
    reconstruction_mse: float | None
    found_again: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Results:
    """All that a folder of results says. settings: what it was made with, for JSON. failed: trial -> why."""

    settings: dict
    rates: list[Rate]
    rank_one: list[RankOne]
    quality: list[Quality]
    failed: dict[str, str]


def quality_of(
    lab: Lab, plan: Plan, trials: dict[Experiment, Trials], lpips_weights: Path | None, fid_weights: Path | None
) -> list[Quality]:
    """Of every experiment, from the saved photos; LPIPS and FID with the weights that the user brings."""
    lpips = Lpips(lpips_weights) if lpips_weights else None
    return [_quality_of(lab, plan, one, lpips, fid_weights) for one in trials.values()]


def _quality_of(lab: Lab, plan: Plan, trials: Trials, lpips: Lpips | None, fid_weights: Path | None) -> Quality:
    experiment, records = trials.experiment, list(trials.records.values())
    pairs = [pair for pair in plan.pairs if pair.name in trials.records]
    before = torch.cat([read_square(pair.photo, lab.model.size) for pair in pairs])
    files = [trial_file(lab.setup, Job(experiment, pair), ".png") for pair in pairs]
    after = torch.cat([read_square(file, lab.model.size) for file in files])
    decibels = [value for value in psnr(before, after).tolist() if value != math.inf]
    return Quality(
        experiment.method,
        experiment.goal,
        "+".join(experiment.seen),
        len(records),
        _mean(decibels),
        min(decibels, default=None),
        ssim(before, after).mean().item(),
        lpips(before, after).mean().item() if lpips else None,
        frechet_distance(before, after, fid_weights) if fid_weights else None,
        _mean([record["reconstruction_mse"] for record in records]),
        100 * _mean([float(record["found_again"]) for record in records]),
        _mean([record["seconds"] for record in records]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# ------------------------------------------------------------------------------------------------ files


def write_results(out: Path, results: Results, methods: dict[str, Method]) -> None:
    """results.json, rates.csv, rank_1.csv, quality.csv, results.md."""
    require(bool(results.rates), "there is nothing to write: no recogniser has thresholds", "give it some")
    _write_csv(out / "rates.csv", [rate.to_dict() for rate in results.rates])
    _write_csv(out / "rank_1.csv", [asdict(one) for one in results.rank_one])
    _write_csv(out / "quality.csv", [asdict(one) for one in results.quality])
    everything = {
        "settings": results.settings,
        "failed": results.failed,
        "rates": [rate.to_dict() for rate in results.rates],
        "rank_1": [asdict(one) for one in results.rank_one],
        "quality": [asdict(one) for one in results.quality],
    }
    (out / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    (out / "results.md").write_text(markdown(results, methods) + "\n")


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


# ------------------------------------------------------------------------------------------------ Markdown


def markdown(results: Results, methods: dict[str, Method]) -> str:
    parts = [_recognizers(results), _success(results), _impersonation(results), _identification(results)]
    parts += [
        _quality(results, methods),
        _robustness(results),
        _survival(results),
        _depths(results),
        _failures(results),
    ]
    return "\n\n".join(part for part in parts if part)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _recognizers(results: Results) -> str:
    rows = []
    for name, one in results.settings["recognizers"].items():
        thresholds = " / ".join(f"{one['thresholds'][str(far)]:.3f}" for far in FARS if str(far) in one["thresholds"])
        side = "above" if one["metric"] == "cosine" else "below"
        measured = one["thresholds_source"] or "-"
        rows.append([name, f"{one['metric']}, same person {side}", thresholds or "-", measured, one["sha256"][:12]])
    return "## The recognisers\n\n" + table(
        ["recogniser", "metric", "thresholds at FAR 0.1 / 0.01 / 0.001", "measured", "weights (sha256)"], rows
    )


def _losses(results: Results) -> list[str]:
    return list(dict.fromkeys(rate.loss for rate in results.rates if rate.loss))


def _pushed(results: Results, loss: str, impersonation: bool) -> list[str]:
    goals = dict.fromkeys(rate.pushed for rate in results.rates if rate.loss == loss)
    return [goal for goal in goals if goal.startswith(IMPERSONATION) == impersonation]


def _box(results: Results, name: str, loss: str) -> str:
    return f"{name} ({'white' if name in loss.split('+') else 'black'} box)"


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(rate.recognizer for rate in results.rates))


def _methods_of(results: Results, loss: str, pushed: str) -> list[tuple[str, str, str]]:
    """(method, pushed, loss) of the rows of one table: those without an attack first."""
    keys = dict.fromkeys((rate.method, rate.pushed, rate.loss) for rate in results.rates)
    return [key for key in keys if key[1:] in (("", ""), (pushed, loss)) and not key[0].startswith("depth")]


def _pick(results: Results, key: tuple, **wanted) -> list[Rate]:
    wanted = {"strength": OWN, "processing": UNPROCESSED, "goal": DODGING} | wanted
    return [
        rate
        for rate in results.rates
        if (rate.method, rate.pushed, rate.loss) == key and all(getattr(rate, name) == v for name, v in wanted.items())
    ]


def _psr(rates: list[Rate]) -> str:
    """The rates at falling FARs."""
    return " / ".join(f"{rate.psr:.0f}" for rate in rates) or "-"


def _success(results: Results) -> str:
    """Protection against being recognised."""
    parts = []
    for loss in _losses(results):
        for pushed in _pushed(results, loss, impersonation=False):
            names = _names(results)
            rows = []
            for key in _methods_of(results, loss, pushed):
                rates = {name: _pick(results, key, recognizer=name) for name in names}
                people = next((rate.people for found in rates.values() for rate in found), 0)
                rows.append([key[0], str(people), *(_psr(rates[name]) for name in names), *_looks(results, key)])
            header = ["method", "people", *(_box(results, name, loss) for name in names), "PSNR", "SSIM"]
            parts.append(f"### {pushed.capitalize()}, in the loss: {loss}\n\n" + table(header, rows))
    if not parts:
        return ""
    intro = (
        "PSR in percent at FAR 0.1 / 0.01 / 0.001: of the people, those whom the recogniser no longer takes for the "
        "same person as on another photo, which the optimiser never sees. *clean* is the unprotected photo: what a "
        "recogniser misses anyway. White box: the recogniser was in the loss, and says nothing about others."
    )
    return "\n\n".join(["## Protected from recognition", intro, *parts])


def _looks(results: Results, key: tuple) -> list[str]:
    one = next(one for one in results.quality if (one.method, one.pushed, one.loss) == key)
    return ["-" if one.psnr is None else f"{one.psnr:.1f}", f"{one.ssim:.3f}"]


def _impersonation(results: Results) -> str:
    parts = []
    for loss in _losses(results):
        goals = _pushed(results, loss, impersonation=True)
        if not goals:
            continue
        names, rows = _names(results), []
        for method in dict.fromkeys(key[0] for goal in goals for key in _methods_of(results, loss, goal)):
            cells = [_mean_psr(results, method, loss, goals, name) for name in names]
            dodged = [_mean_psr(results, method, loss, goals, name, DODGING) for name in names]
            rows.append([method, *cells, *dodged])
        header = ["method", *(_box(results, name, loss) for name in names), *(f"{name}: not matched" for name in names)]
        parts.append(f"### {len(goals)} targets, in the loss: {loss}\n\n" + table(header, rows))
    if not parts:
        return ""
    intro = (
        "PSR in percent at FAR 0.1 / 0.01 / 0.001, mean over the targets: taken for the target, compared with another "
        "photo of the target. Beside it, how many of the same photos are no longer taken for the person: to look like "
        "somebody else is not to be no longer recognised."
    )
    return "\n\n".join(["## Impersonation", intro, *parts])


def _mean_psr(results: Results, method: str, loss: str, goals: list[str], name: str, measured: str = "") -> str:
    cells = []
    for far in FARS:
        found = []
        for goal in goals:
            keys = [key for key in _methods_of(results, loss, goal) if key[0] == method]
            for key in keys:
                found += _pick(results, key, recognizer=name, goal=measured or goal, far=far)
        if found:
            cells.append(f"{sum(rate.psr for rate in found) / len(found):.0f}")
    return " / ".join(cells) or "-"


def _identification(results: Results) -> str:
    if not results.rank_one:
        return ""
    names, rows = _names(results), []
    gallery = results.rank_one[0].gallery
    for key in dict.fromkeys((one.method, one.pushed, one.loss) for one in results.rank_one):
        if key[0].startswith("depth"):
            continue
        cells = []
        for name in names:
            found = [
                one for one in results.rank_one if (one.method, one.pushed, one.loss, one.recognizer) == (*key, name)
            ]
            cells.append(f"{found[0].found:.0f}{' *' if found[0].seen else ''}" if found else "-")
        rows.append([key[0], key[1] or "-", key[2] or "-", *cells])
    intro = (
        f"Percent of the people whose other photo is the nearest of {gallery} people's to the photo (rank 1): the "
        "lower, the better hidden. * in the loss."
    )
    return "\n\n".join(["## Found in a gallery", intro, table(["method", "goal", "loss", *names], rows)])


def _quality(results: Results, methods: dict[str, Method]) -> str:
    def shown(value: float | None, places: int) -> str:
        return "-" if value is None else f"{value:.{places}f}"

    rows = [
        [
            one.method,
            methods[one.method].about if one.method in methods else "",
            one.pushed or "-",
            one.loss or "-",
            str(one.people),
            shown(one.psnr, 1),
            shown(one.psnr_worst, 1),
            shown(one.ssim, 3),
            shown(one.lpips, 3),
            shown(one.fid, 1),
            shown(one.reconstruction_mse, 4),
            f"{one.found_again:.0f} %",
            shown(one.seconds, 1),
        ]
        for one in results.quality
    ]
    intro = (
        "PSNR in dB over all channels and pixels, data range 1; SSIM with a Gaussian window of 11 pixels (sigma 1.5), "
        "data range 1, mean over channels; both against the photo at the model's size, rounded to 8 bits. LPIPS and "
        "FID need weights that the user brings (--lpips, --fid); FID of so few photos is far above that of thousands. "
        "Latent MSE: of the unchanged latent after inversion and back. Seconds: on the machine below, shared, and "
        "without what an earlier method had prepared for the same photo."
    )
    header = [
        "method",
        "",
        "goal",
        "loss",
        "people",
        "PSNR",
        "worst",
        "SSIM",
        "LPIPS",
        "FID",
        "latent MSE",
        "face found",
        "s",
    ]
    return "\n\n".join(["## Quality", intro, table(header, rows)])


def _robustness(results: Results) -> str:
    """PSR at FAR 0.01 after every processing, one table for each recogniser."""
    parts = []
    for loss in _losses(results):
        for pushed in _pushed(results, loss, impersonation=False):
            for name in _names(results):
                keys, processes = _methods_of(results, loss, pushed), results.settings["processings"]
                rows = [[key[0], *_row(results, key, processes, lambda r: f"{r.psr:.0f}", name)] for key in keys]
                title = f"### {pushed.capitalize()}, {_box(results, name, loss)}; in the loss: {loss}"
                parts.append(f"{title}\n\n" + table(["method", *processes], rows))
    if not parts:
        return ""
    intro = f"PSR in percent at FAR {FAR:g} after processing. *clean* shows what the processing alone does."
    return "\n\n".join(["## After processing", intro, *parts])


def _row(results: Results, key: tuple, processes, cell, name: str, **wanted) -> list[str]:
    found = {rate.processing: rate for rate in _processed(results, key, name, **wanted)}
    return [cell(found[process]) if process in found else "-" for process in processes]


def _processed(results: Results, key: tuple, name: str, strength: str = OWN) -> list[Rate]:
    wanted = (*key, name, DODGING, FAR, strength)
    return [
        rate
        for rate in results.rates
        if (rate.method, rate.pushed, rate.loss, rate.recognizer, rate.goal, rate.far, rate.strength) == wanted
    ]


def _survival(results: Results) -> str:
    """At equal PSNR: how far past the threshold, and what is left of it after processing."""
    parts = []
    for strength in results.settings["strengths"]:
        for loss in _losses(results):
            for pushed in _pushed(results, loss, impersonation=False):
                for name in loss.split("+"):
                    keys = [key for key in _methods_of(results, loss, pushed) if key[1]]
                    rows = [_survival_row(results, key, name, strength) for key in keys]
                    title = f"### {strength}, {pushed}, {_box(results, name, loss)}; in the loss: {loss}"
                    header = ["method", *SURVIVAL, "kept after vae", "kept after ddim"]
                    parts.append(f"{title}\n\n" + table(header, [row for row in rows if row]))
    if not parts:
        return ""
    intro = (
        "Every change is scaled to the same PSNR on the photo. Mean distance past the threshold at FAR 0.01 in the "
        "recogniser's units, positive is protected. *Kept*: the share of what the change had moved the photo away that "
        "is still there after the autoencoder, and after three DDIM steps there and back (diffusion purification); "
        "measured from what the same processing does to the unprotected photo."
    )
    return "\n\n".join(["## Does the change survive purification?", intro, *parts])


def _survival_row(results: Results, key: tuple, name: str, strength: str) -> list[str]:
    found = {rate.processing: rate for rate in _processed(results, key, name, strength)}
    if UNPROCESSED not in found:
        return []

    def moved(process: str) -> float:
        return found[process].away - found[process].clean_away

    kept = [f"{100 * moved(one) / moved(UNPROCESSED):.0f} %" if one in found else "-" for one in ("vae", "ddim")]
    return [key[0], *(f"{found[one].away:+.3f}" if one in found else "-" for one in SURVIVAL), *kept]


def _depths(results: Results) -> str:
    keys = dict.fromkeys((one.method, one.pushed, one.loss) for one in results.rates if one.method.startswith("depth"))
    if not keys:
        return ""
    strength = next(iter(results.settings["strengths"]), OWN)
    rows = []
    for key in keys:
        for name in key[2].split("+"):
            own = {rate.processing: rate for rate in _processed(results, key, name)}
            kept = _survival_row(results, key, name, strength)[-2:]
            one = next(one for one in results.quality if (one.method, one.pushed, one.loss) == key)
            looks = [f"{one.psnr:.1f}", f"{one.ssim:.3f}", f"{one.reconstruction_mse:.4f}", f"{one.seconds:.0f}"]
            cells = [f"{own[process].away:+.3f} ({own[process].psr:.0f} %)" for process in (UNPROCESSED, "vae", "ddim")]
            rows.append([key[0], str(one.people), *cells, *kept, *looks])
    intro = (
        "Mean distance past the threshold at FAR 0.01 and PSR, white box, as the method leaves the photo and after the "
        f"autoencoder and DDIM; *kept* as above, at {strength}. The people are the first ones of those above."
    )
    kept = [f"kept after {process}" for process in ("vae", "ddim")]
    header = ["method", "people", UNPROCESSED, "vae", "ddim", *kept, "PSNR", "SSIM", "latent MSE", "s"]
    return "\n\n".join(["## Depth, with and without learned embeddings", intro, table(header, rows)])


def _failures(results: Results) -> str:
    if not results.failed:
        return ""
    lines = [f"- {name}: {reason}" for name, reason in results.failed.items()]
    return "\n".join(["## What failed, and is in no rate", "", *lines])


__all__ = ["Quality", "Results", "markdown", "quality_of", "table", "write_results"]

"""The results as Markdown: what a reader asks, in the order in which it is asked."""

from __future__ import annotations

import shlex

from ....surrogates.metric import METRICS
from ....verify.robustness import UNPROCESSED
from ..methods import Method
from ..rates import FARS
from ..results import FAR, Results, mean
from ..trial import DODGING, IMPERSONATION, Experiment
from .main_table import main_table
from .purification import depths, survival
from .rows import (
    VISIBLE_HEADS,
    box,
    in_the_loss,
    named,
    psr,
    section,
    shown,
    table,
    visible,
    what_they_are,
    who,
)

KNOWS_TOO_FEW = 50  # percent of the people whom a recogniser misses on the unprotected photos


def markdown(results: Results, methods: dict[str, Method]) -> str:
    first = (_recognisers, _success, _impersonation, _identification, _copies)
    last = (_robustness, survival, depths, _failures)
    parts = [_made_with(results), main_table(results, methods), *(part(results) for part in first)]
    parts += [_quality(results, methods), *(part(results) for part in last)]
    return "\n\n".join(part for part in parts if part)


def _made_with(results: Results) -> str:
    s = results.settings
    lines = [
        f"FaceProtect {s['faceprotect']}, torch {s['torch']}, Python {s['python']}, {s['machine']}; "
        f"{s['people']} people.",
        f"Model {s['model']}, weights (sha256) {s['model_sha256'][:12]}; faces {s['framing']}; *ours* is {s['setting']}"
        + (" without its margin" if s["setting"] != "paper" else "")
        + ".",
        f"Command: `evaluate {shlex.join(s['command'])}`",
        "Every choice and every number with all digits: results.json, rates.csv, rank_1.csv, quality.csv, visible.csv.",
    ]
    return "## Made with\n\n" + "\n\n".join(lines)


def _recognisers(results: Results) -> str:
    rows = []
    for name, one in results.settings["recognisers"].items():
        thresholds = " / ".join(f"{one['thresholds'][str(far)]:.3f}" for far in FARS if str(far) in one["thresholds"])
        metric = f"{one['metric']}, same person {METRICS[one['metric']].side}"
        rows.append([name, metric, thresholds or "-", one["thresholds_source"] or "-", one["sha256"][:12]])
    return "## The recognisers\n\n" + table(
        ["recogniser", "metric", "thresholds at FAR 0.1 / 0.01 / 0.001", "measured", "weights (sha256)"], rows
    )


def _success(results: Results) -> str:
    """Protection against being recognised."""
    parts, names = [], results.names
    for seen, goal, experiments in results.tables():
        rows = []
        for one in experiments:
            rates = [results.pick(experiment=one, recogniser=name, processing=UNPROCESSED) for name in names]
            people = next((rate.people for found in rates for rate in found), 0)
            looks = results.looks(one)
            cells = [shown(looks.psnr, 1), shown(looks.ssim, 3), *visible(results, [one])]
            rows.append([one.method, str(people), *map(psr, rates), *cells])
        header = ["method", "people", *(box(name, seen) for name in names), "PSNR", "SSIM", *VISIBLE_HEADS]
        parts.append(table(header, rows, f"{goal.capitalize()}, {in_the_loss(seen)}"))
    intro = (
        "PSR in percent at FAR 0.1 / 0.01 / 0.001: of the people, those whom the recogniser no longer takes for the "
        "same person as on another photo, which the optimiser never sees. *clean* is the unprotected photo: what a "
        "recogniser misses anyway: where that is most people already, a black box says nothing. White box: the "
        "recogniser was in the loss, and says nothing about others."
    )
    return section("Protected from recognition", intro, *parts)


def _impersonation(results: Results) -> str:
    parts, names = [], results.names
    for seen in results.losses():
        experiments = results.rows(seen, IMPERSONATION)
        goals = list(dict.fromkeys(one.pushed for one in experiments if one.goal))
        if not goals:
            continue
        rows = []
        for method in dict.fromkeys(one.method for one in experiments):
            of_method = [one for one in experiments if one.method == method]
            cells = [_mean_psr(results, of_method, name, goals) for name in names]
            dodged = [_mean_psr(results, of_method, name, [DODGING]) for name in names]
            people = min((rate.people for rate in results.rates if rate.experiment in of_method), default=0)
            rows.append([method, str(people), *cells, *dodged])
        header = ["method", "people", *(box(name, seen) for name in names), *(f"{name}: not matched" for name in names)]
        parts.append(table(header, rows, f"{len(goals)} targets, {in_the_loss(seen)}"))
    intro = (
        "PSR in percent at FAR 0.1 / 0.01 / 0.001, mean over the targets: taken for the target, compared with another "
        "photo of the target. Beside it, how many of the same photos are no longer taken for the person: to look like "
        "somebody else is not to be no longer recognised."
    )
    return section("Impersonation", intro, *parts)


def _mean_psr(results: Results, experiments: list[Experiment], name: str, goals: list[str]) -> str:
    wanted = {"recogniser": name, "processing": UNPROCESSED}
    picked = [results.pick(experiment=one, goal=goal, **wanted) for one in experiments for goal in goals]
    means = [mean([rate.psr for rates in picked for rate in rates if rate.far == far]) for far in FARS]
    return " / ".join(shown(one, 0) for one in means if one is not None) or "-"


def _identification(results: Results) -> str:
    if not results.rank_one:
        return ""
    names, rows = results.names, []
    gallery = results.rank_one[0].gallery
    for experiments in results.over_targets():
        first, cells = experiments[0], []
        for name in names:
            chosen = [one for one in results.rank_one if one.recogniser == name and one.experiment in experiments]
            cells.append(shown(mean([one.found for one in chosen]), 0) + (" *" if name in first.seen else ""))
        rows.append([first.method, *named(first), *cells])
    intro = (
        f"Percent of the people whose other photo is the nearest of {gallery} people's to the photo (rank 1): the "
        "lower, the better hidden. Impersonation: mean over the targets. * in the loss."
    )
    return section("Found in a gallery", intro, table(["method", "goal", "loss", *names], rows))


def _copies(results: Results) -> str:
    """Are two protected photos of a person still one person?"""
    if not results.copies:
        return ""
    chosen = [one for one in results.copies if one.far == FAR]
    names, rows = list(dict.fromkeys(one.recogniser for one in chosen)), []
    for key in dict.fromkeys(one.experiment for one in chosen):
        found = {one.recogniser: one for one in chosen if one.experiment == key}
        cells = [
            f"{one.similarity_before:.2f} -> {one.similarity:.2f}; {one.matched_before:.0f} -> {one.matched:.0f}"
            + (" *" if one.seen else "")
            if (one := found.get(name))
            else "-"
            for name in names
        ]
        people = str(min(one.people for one in found.values()))
        rows.append([key.method, key.pushed, key.loss, people, *cells])
    intro = (
        "Both photos of each person are protected, each by itself, and compared with one another. Before -> after: "
        "mean similarity in the recogniser's metric (a distance falls where likeness rises); percent of the people "
        f"whose two photos it takes for one person at FAR {FAR:g}. The other rates: copies.csv. * in the loss."
    )
    header = ["method", "goal", "loss", "people", *names]
    return section("Two protected photos of one person", intro, table(header, rows))


# Field -> its heading and decimals.
QUALITY = {
    "psnr": ("PSNR", 1),
    "psnr_worst": ("worst", 1),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 3),
    "fid": ("FID", 1),
    "reconstruction_mse": ("latent MSE", 4),
    "found_again": ("face found, %", 0),
    "seconds": ("s", 1),
}


def _quality(results: Results, methods: dict[str, Method]) -> str:
    rows = []
    for experiments in results.over_targets():
        first, chosen = experiments[0], [results.looks(one) for one in experiments]
        worst = min((one.psnr_worst for one in chosen if one.psnr_worst is not None), default=None)
        values = {name: mean([getattr(one, name) for one in chosen]) for name in QUALITY} | {"psnr_worst": worst}
        people = str(min(one.people for one in chosen))
        cells = [shown(values[name], places) for name, (_, places) in QUALITY.items()]
        rows.append([first.method, *named(first), people, *cells, *visible(results, experiments)])
    intro = (
        "PSNR in dB over all channels and pixels, data range 1; SSIM with a Gaussian window of 11 pixels (sigma 1.5), "
        "data range 1, mean over channels; both against the photo at the model's size, rounded to 8 bits. MS-SSIM of "
        "the photo; CIEDE2000 over the face, mean and 95th percentile (- where a trial was run by a version that did "
        "not measure them: run it in another --out). LPIPS and FID need weights that the user brings (--lpips, --fid); "
        "FID of so few photos is far above that of thousands. Latent MSE: of the unchanged latent after inversion and "
        "back. Face found: percent of the protected photos in which the detector finds it. Seconds: without what an "
        "earlier method had prepared for the same photo. Impersonation: mean over the targets."
    )
    header = ["method", "goal", "loss", "people", *(heading for heading, _ in QUALITY.values()), *VISIBLE_HEADS]
    others = [name for name, method in methods.items() if not method.in_the_main_table]
    return section("Quality", intro, table(header, rows), what_they_are(methods, others))


def _robustness(results: Results) -> str:
    """PSR at FAR 0.01 after every processing, one table for each recogniser."""
    parts, processes = [], results.settings["processings"]
    for seen, goal, experiments in results.tables():
        for name in results.names:
            if _clean(results, name) <= KNOWS_TOO_FEW:
                rows = []
                for one in experiments:
                    found = results.processed(one, name)
                    cells = [shown(found[process].psr if process in found else None, 0) for process in processes]
                    rows.append([*who(results, one, name), *cells])
                title = f"{goal.capitalize()}, {box(name, seen)}; {in_the_loss(seen)}"
                parts.append(table(["method", "people", *processes], rows, title))
    intro = (
        f"PSR in percent at FAR {FAR:g} after processing. *clean* shows what the processing alone does. Recognisers "
        f"that miss more than {KNOWS_TOO_FEW} % of the people on the unprotected photos are left out here, not in "
        "rates.csv."
    )
    return section("After processing", intro, *parts)


def _clean(results: Results, name: str) -> float:
    """Percent of the people whom a recogniser misses anyway."""
    rates = results.pick(recogniser=name, far=FAR, processing=UNPROCESSED)
    return next((rate.clean for rate in rates), 100.0)


def _failures(results: Results) -> str:
    if not results.failed:
        return ""
    lines = [f"- {name}: {reason}" for name, reason in results.failed.items()]
    return "\n".join(["## What failed, and is in no rate", "", *lines])

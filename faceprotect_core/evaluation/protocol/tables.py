"""The results as Markdown: what a reader asks, in the order in which it is asked."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..robustness import UNPROCESSED
from .methods import Method
from .rates import FARS, Rate
from .results import Results
from .trial import ANOTHER_VAE, DODGING, IMPERSONATION, OWN

FAR = 0.01  # the paper's
KNOWS_TOO_FEW = 50  # percent of the people whom a recogniser misses on the unprotected photos
# At equal PSNR, what shows whether a change survives: nothing, compression, filters, purification.
SURVIVAL = (UNPROCESSED, "jpeg 75", "mean 5x5", "vae", "ddim", ANOTHER_VAE)
PURIFICATION = ("vae", "ddim", ANOTHER_VAE)


def markdown(results: Results, methods: dict[str, Method]) -> str:
    parts = [
        _made_with(results),
        _recognizers(results),
        _success(results),
        _impersonation(results),
        _identification(results),
    ]
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


def _made_with(results: Results) -> str:
    s = results.settings
    lines = [
        f"FaceProtect {s['faceprotect']}, torch {s['torch']}, Python {s['python']}, {s['machine']}; "
        f"{s['people']} people.",
        f"Model {s['model']}, weights (sha256) {s['model_sha256'][:12]}; faces {s['framing']}; *ours* is {s['setting']}"
        + (" without its margin" if s["setting"] != "paper" else "")
        + ".",
        f"Command: `evaluate {shlex.join(s['command'])}`",
        "Every choice and every number with all digits: results.json, rates.csv, rank_1.csv, quality.csv.",
    ]
    return "## Made with\n\n" + "\n\n".join(lines)


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
    """The rates at falling FARs; - for one whose threshold is not known."""
    found = {rate.far: f"{rate.psr:.0f}" for rate in rates}
    return " / ".join(found.get(far, "-") for far in FARS) if found else "-"


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
        "recogniser misses anyway: where that is most people already, a black box says nothing. White box: the "
        "recogniser was in the loss, and says nothing about others."
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
            people = [rate.people for rate in results.rates if rate.method == method and rate.pushed in ("", *goals)]
            rows.append([method, str(min(people, default=0)), *cells, *dodged])
        header = [
            "method",
            "people",
            *(_box(results, name, loss) for name in names),
            *(f"{name}: not matched" for name in names),
        ]
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


def _aims(results: Results) -> list[tuple[str, str, str, list[str]]]:
    """(method, what it was pushed to, loss, goals): the targets of an impersonation together; depths by themselves."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for one in results.quality:
        aim = IMPERSONATION if one.pushed.startswith(IMPERSONATION) else one.pushed
        if not one.method.startswith("depth"):
            found.setdefault((one.method, aim, one.loss), []).append(one.pushed)
    return [(*key, goals) for key, goals in found.items()]


def _identification(results: Results) -> str:
    if not results.rank_one:
        return ""
    names, rows = _names(results), []
    gallery = results.rank_one[0].gallery
    for method, aim, loss, goals in _aims(results):
        cells = []
        for name in names:
            chosen = [one for one in results.rank_one if (one.method, one.loss, one.recognizer) == (method, loss, name)]
            found = _average([one.found for one in chosen if one.pushed in goals])
            cells.append(_shown(found, 0) + (" *" if name in loss.split("+") else ""))
        rows.append([method, aim or "-", loss or "-", *cells])
    intro = (
        f"Percent of the people whose other photo is the nearest of {gallery} people's to the photo (rank 1): the "
        "lower, the better hidden. Impersonation: mean over the targets. * in the loss."
    )
    return "\n\n".join(["## Found in a gallery", intro, table(["method", "goal", "loss", *names], rows)])


QUALITY = {
    "psnr": 1,
    "psnr_worst": 1,
    "ssim": 3,
    "lpips": 3,
    "fid": 1,
    "reconstruction_mse": 4,
    "found_again": 0,
    "seconds": 1,
}


def _quality(results: Results, methods: dict[str, Method]) -> str:
    rows = []
    for method, aim, loss, goals in _aims(results):
        chosen = [one for one in results.quality if (one.method, one.loss) == (method, loss) and one.pushed in goals]
        worst = min((one.psnr_worst for one in chosen if one.psnr_worst is not None), default=None)
        values = {name: _average([getattr(one, name) for one in chosen]) for name in QUALITY} | {"psnr_worst": worst}
        about = methods[method].about if method in methods else ""
        people = str(min(one.people for one in chosen))
        rows.append([method, about, aim or "-", loss or "-", people, *(_shown(values[n], QUALITY[n]) for n in QUALITY)])
    intro = (
        "PSNR in dB over all channels and pixels, data range 1; SSIM with a Gaussian window of 11 pixels (sigma 1.5), "
        "data range 1, mean over channels; both against the photo at the model's size, rounded to 8 bits. LPIPS and "
        "FID need weights that the user brings (--lpips, --fid); FID of so few photos is far above that of thousands. "
        "Latent MSE: of the unchanged latent after inversion and back. Face found: percent of the protected photos in "
        "which the detector finds it. Seconds: without what an earlier method had prepared for the same photo. "
        "Impersonation: mean over the targets."
    )
    header = ["method", "", "goal", "loss", "people", "PSNR", "worst", "SSIM", "LPIPS", "FID", "latent MSE"]
    return "\n\n".join(["## Quality", intro, table([*header, "face found, %", "s"], rows)])


def _average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _robustness(results: Results) -> str:
    """PSR at FAR 0.01 after every processing, one table for each recogniser."""
    parts = []
    for loss in _losses(results):
        for pushed in _pushed(results, loss, impersonation=False):
            for name in _names(results):
                keys, processes = _methods_of(results, loss, pushed), results.settings["processings"]
                if _clean(results, name) > KNOWS_TOO_FEW:
                    continue
                rows = [[*_who(results, key, name), *_row(results, key, processes, name)] for key in keys]
                title = f"### {pushed.capitalize()}, {_box(results, name, loss)}; in the loss: {loss}"
                parts.append(f"{title}\n\n" + table(["method", "people", *processes], rows))
    if not parts:
        return ""
    intro = (
        f"PSR in percent at FAR {FAR:g} after processing. *clean* shows what the processing alone does. Recognisers "
        f"that miss more than {KNOWS_TOO_FEW} % of the people on the unprotected photos are left out here, not in "
        "rates.csv."
    )
    return "\n\n".join(["## After processing", intro, *parts])


def _row(results: Results, key: tuple, processes: Sequence[str], name: str) -> list[str]:
    found = {rate.processing: rate for rate in _processed(results, key, name)}
    return [f"{found[process].psr:.0f}" if process in found else "-" for process in processes]


def _who(results: Results, key: tuple, name: str) -> list[str]:
    """The method, and how many people were measured."""
    return [key[0], str(next((rate.people for rate in _processed(results, key, name)), 0))]


def _clean(results: Results, name: str) -> float:
    """Percent of the people whom a recogniser misses anyway."""
    rates = [rate for rate in results.rates if (rate.recognizer, rate.far, rate.goal) == (name, FAR, DODGING)]
    return next((rate.clean for rate in rates if rate.processing == UNPROCESSED), 100.0)


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
                    keys = [key for key in keys if key[0] in results.settings["comparable"]]
                    rows = [row for key in keys if (row := _survival_row(results, key, name, strength))]
                    title = f"### {strength}, {pushed}, {_box(results, name, loss)}; in the loss: {loss}"
                    header = ["method", "people", *_measured(results, SURVIVAL), *_kept_after(results)]
                    parts.append(f"{title}\n\n" + table(header, rows))
    return "\n\n".join(["## Does the change survive purification?", SURVIVAL_INTRO, *parts]) if parts else ""


SURVIVAL_INTRO = """\
Every change is scaled to the same PSNR on the photo (not attacked again at that size; clipping can leave it a few
tenths of a dB higher). Mean distance past the threshold at FAR 0.01 in the recogniser's units, positive is protected.
*Kept*: the share of what the change had moved the photo away that is still there after the autoencoder (vae), and
after three DDIM steps there and back (ddim, diffusion purification), measured from what the same processing does to the
unprotected photos of the same people. These two belong to the very model that the latent methods went through, which
may favour them; *another vae* (--purifier) does not. Methods that return the decoded latent are left out: most of their
change is the autoencoder's own blur, and scaling it to a PSNR says nothing."""


def _measured(results: Results, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in results.settings["processings"]]


def _kept_after(results: Results) -> list[str]:
    return [f"kept after {name}" for name in _measured(results, PURIFICATION)]


def _survival_row(results: Results, key: tuple, name: str, strength: str) -> list[str]:
    found = {rate.processing: rate for rate in _processed(results, key, name, strength)}
    if not found:
        return []
    cells = [f"{found[one].away:+.3f}" for one in _measured(results, SURVIVAL)]
    return [*_who(results, key, name), *cells, *_kept(results, found)]


def _kept(results: Results, found: dict[str, Rate]) -> list[str]:
    """The share of what the change had moved the photo away that is left after each purification."""

    def moved(process: str) -> float:
        return found[process].away - found[process].clean_away

    if not found or moved(UNPROCESSED) <= 0:
        return ["-"] * len(_kept_after(results))
    return [f"{100 * moved(one) / moved(UNPROCESSED):.0f} %" for one in _measured(results, PURIFICATION)]


def _depths(results: Results) -> str:
    keys = dict.fromkeys((one.method, one.pushed, one.loss) for one in results.rates if one.method.startswith("depth"))
    if not keys:
        return ""
    strength = next(iter(results.settings["strengths"]), OWN)
    shown = _measured(results, (UNPROCESSED, *PURIFICATION))
    rows = []
    for key in keys:
        for name in key[2].split("+"):
            own = {rate.processing: rate for rate in _processed(results, key, name)}
            if not own:
                continue
            kept = _kept(results, {rate.processing: rate for rate in _processed(results, key, name, strength)})
            one = next(one for one in results.quality if (one.method, one.pushed, one.loss) == key)
            looks = [f"{one.psnr:.1f}", f"{one.ssim:.3f}", f"{one.reconstruction_mse:.4f}", f"{one.seconds:.0f}"]
            cells = [f"{own[process].away:+.3f} ({own[process].psr:.0f} %)" for process in shown]
            rows.append([key[0], str(one.people), *cells, *kept, *looks])
    if not rows:
        return ""
    intro = (
        "Mean distance past the threshold at FAR 0.01 and PSR, white box, as the method leaves the photo and after the "
        f"autoencoder and DDIM; *kept* as above, at {strength}. The people are the first ones of those above."
    )
    header = ["method", "people", *shown, *_kept_after(results), "PSNR", "SSIM", "latent MSE", "s"]
    return "\n\n".join(["## Depth, with and without learned embeddings", intro, table(header, rows)])


def _failures(results: Results) -> str:
    if not results.failed:
        return ""
    lines = [f"- {name}: {reason}" for name, reason in results.failed.items()]
    return "\n".join(["## What failed, and is in no rate", "", *lines])

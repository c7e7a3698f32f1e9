"""The tables of what survives: after purification at equal PSNR, and over the depth."""

from __future__ import annotations

from collections.abc import Sequence

from ....verify.robustness import UNPROCESSED
from ..rates import Rate
from ..results import Results
from ..trial import ANOTHER_VAE, OWN, Experiment
from .rows import VISIBLE_HEADS, box, in_the_loss, section, table, visible, who

# At equal PSNR, what shows whether a change survives: nothing, compression, filters, purification.
SURVIVAL = (UNPROCESSED, "jpeg 75", "mean 5x5", "vae", "ddim", ANOTHER_VAE)
PURIFICATION = ("vae", "ddim", ANOTHER_VAE)


def survival(results: Results) -> str:
    """At equal PSNR: how far past the threshold, and what is left of it after processing."""
    parts = []
    header = ["method", "people", *_measured(results, SURVIVAL), *_kept_after(results)]
    for strength in results.settings["strengths"]:
        for seen, goal, experiments in results.tables():
            chosen = [one for one in experiments if one.goal and one.method in results.settings["comparable"]]
            for name in seen:
                rows = [row for one in chosen if (row := _survival_row(results, one, name, strength))]
                title = f"{strength}, {goal}, {box(name, seen)}; {in_the_loss(seen)}"
                parts.append(table(header, rows, title))
    return section("Does the change survive purification?", SURVIVAL_INTRO, *parts)


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


def _survival_row(results: Results, experiment: Experiment, name: str, strength: str) -> list[str]:
    found = results.processed(experiment, name, strength)
    if not found:
        return []
    cells = [f"{found[one].away:+.3f}" for one in _measured(results, SURVIVAL)]
    return [*who(results, experiment, name), *cells, *_kept(results, found)]


def _kept(results: Results, found: dict[str, Rate]) -> list[str]:
    """The share of what the change had moved the photo away that is left after each purification."""

    def moved(process: str) -> float:
        return found[process].away - found[process].clean_away

    if not found or moved(UNPROCESSED) <= 0:
        return ["-"] * len(_kept_after(results))
    return [f"{100 * moved(one) / moved(UNPROCESSED):.0f} %" for one in _measured(results, PURIFICATION)]


def depths(results: Results) -> str:
    depths = results.settings["depths"]
    experiments = dict.fromkeys(rate.experiment for rate in results.rates if rate.experiment.method in depths)
    strength = next(iter(results.settings["strengths"]), OWN)
    shown = _measured(results, (UNPROCESSED, *PURIFICATION))
    rows = []
    for experiment in experiments:
        for name in experiment.seen:
            own = results.processed(experiment, name)
            if not own:
                continue
            kept = _kept(results, results.processed(experiment, name, strength))
            one = results.looks(experiment)
            looks = [f"{one.psnr:.1f}", f"{one.ssim:.3f}", *visible(results, [experiment])]
            looks += [f"{one.reconstruction_mse:.4f}", f"{one.seconds:.0f}"]
            cells = [f"{own[process].away:+.3f} ({own[process].psr:.0f} %)" for process in shown]
            rows.append([experiment.method, str(one.people), *cells, *kept, *looks])
    intro = (
        "Mean distance past the threshold at FAR 0.01 and PSR, white box, as the method leaves the photo and after the "
        f"autoencoder and DDIM; *kept* as above, at {strength}. The people are the first ones of those above."
    )
    header = ["method", "people", *shown, *_kept_after(results), "PSNR", "SSIM", *VISIBLE_HEADS, "latent MSE", "s"]
    return section("Depth, with and without learned embeddings", intro, *([table(header, rows)] if rows else []))

"""python -m faceprotect_core evaluate: the paper's protocol on your photos, with your recognisers."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import platform
import sys
from pathlib import Path

import torch

from ...checks import require
from ...files import sha256_of
from ...folders.protector import require_device
from ...jobs.job import RayOptions
from ...models import DEMO
from ...photos.settings import DIFFUSION, PRESETS
from ...surrogates import BUILT_IN_SURROGATES
from ..presets import measure_with_model
from .copies import all_copies
from .data import Pair, Target, read_pairs, read_targets
from .methods import DEPTH_GROUPS, MAIN_TABLE, chosen_methods, method_groups
from .rates import FARS, all_rates, rank_one, read_trials
from .report.main_table import main_table
from .report.plots import write_plots
from .report.tables import markdown
from .results import Results, quality_of, visible_of, write_results
from .run import Plan, plan, references, run
from .trial import DODGING, IMPERSONATION, Job, Lab, Setup, sizes

log = logging.getLogger("faceprotect.evaluation.protocol")
DESCRIPTION = """\
The paper's protocol: protects photos of people, shows them to recognisers that were in the loss (white box) and that
were not (black box), and writes rates at false accept rates of 0.1, 0.01 and 0.001, quality, robustness, ablations,
noise-based baselines and the unprotected photo beside every rate.

  evaluate --images FACES --leave-one-out --both-photos --out results
  evaluate --images assets/datasets/CelebA-HQ-500_pairs --targets assets --goals impersonation,obfuscation \\
           --surrogates irse50.pth,ir152.pth,facenet.pth,mobile_face.pth --leave-one-out --setting paper \\
           --framing box --model stable-diffusion-2-base --device cuda --out results

FACES holds <name>_a.jpg and <name>_b.jpg, two photos of each person; other layouts: evaluation/protocol/data.py.
Run it again to go on after a stop: trials that are done are kept. Prints the main table, and writes results.md,
results.json, rates.csv, rank_1.csv, quality.csv, visible.csv, copies.csv, plots, and every protected photo under
OUT/trials."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--images", type=Path, required=True, help="folder of photos at the model's framing, one face each")
    add(
        "--pairs", type=Path, help="folder or CSV (photo,other) of the second photos; not needed for <name>_a, <name>_b"
    )
    add("--out", type=Path, required=True, help="folder for the results")
    add(
        "--surrogates",
        type=_names,
        default=list(BUILT_IN_SURROGATES),
        help=f"in the loss: built-in names or files, with commas ({','.join(BUILT_IN_SURROGATES)})",
    )
    add("--black-box", type=_names, default=[], help="never in the loss")
    add("--leave-one-out", action="store_true", help="leave out each of the surrogates in turn")
    add(
        "--both-photos",
        action="store_true",
        help="protect the second photo of each person, too: are the two still one person?",
    )
    add("--goals", type=_names, default=[DODGING], help="some of dodging, obfuscation, impersonation (dodging)")
    add("--targets", type=Path, help="whom to impersonate: folder of <name>_a, <name>_b, or the paper's assets")
    add("--target-count", type=_positive, default=4, metavar="N", help="how many of them (4)")
    add("--synthetic", type=Path, help="nobody's face, for obfuscation (the built-in one)")
    add("--setting", choices=("paper", *PRESETS[DIFFUSION]), default="balanced", help='what "ours" is (balanced)')
    add(
        "--methods",
        type=_names,
        default=[MAIN_TABLE],
        help="groups or single ones: table (every method that is no ablation), main, peers, makeup, noise, variants, "
        "ablations, depths, depths without embeddings (table)",
    )
    add(
        "--framing",
        choices=("aligned", "box", "whole image"),
        default="aligned",
        help="what recognisers see: the face aligned as each wants it, its box (the paper, impersonation), or "
        "all of it (the paper, obfuscation)",
    )
    add(
        "--threshold",
        action="append",
        default=[],
        type=_threshold,
        metavar="NAME=FAR:VALUE",
        help="your own, e.g. w600k_r50=0.01:0.25; rates need them",
    )
    add("--psnr", type=_decibels, default=[], metavar="DB,...", help="compare all methods at equal PSNR besides")
    add(
        "--ciede2000",
        type=_differences,
        default=[],
        metavar="MEAN,...",
        help="and at equal CIEDE2000 over the face without lips and eyes, where makeup is meant to be seen",
    )
    add("--purifier", type=Path, metavar="DIR", help="another diffusers folder: its vae is one more processing")
    add("--identities", type=_positive, metavar="N", help="how many people (all)")
    add(
        "--held-out",
        action="store_true",
        help="only every tenth person: on CelebA-HQ's pairs those whom the demo model was not trained on",
    )
    add(
        "--model",
        default="demo",
        help="demo, a folder of Stable Diffusion in diffusers' format, or a .safetensors checkpoint (demo)",
    )
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--lpips", type=Path, metavar="FILE", help="torchvision's AlexNet weights; adds LPIPS (torchmetrics)")
    add("--fid", type=Path, metavar="FILE", help="torch-fidelity's Inception weights; adds FID")
    add(
        "--presets",
        action="store_true",
        help="instead of the protocol: what Protect Photo's presets of diffusion do with --model; writes presets.md",
    )
    add("--tables", action="store_true", help="run nothing; write the tables of the trials that are there")
    add("--no-plots", action="store_true", help="without matplotlib")
    add("--ray", action="store_true", help="share the trials among workers with Ray")
    add("--workers", type=_positive, metavar="N", help="how many, with --ray (one per GPU, or per two CPU cores)")


def evaluate(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0 all trials done, 1 some failed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    require_device(arguments.device)
    _check_files(arguments)
    require(arguments.workers is None or arguments.ray, "--workers needs --ray", "add --ray, or leave --workers out")
    require(
        not arguments.out.resolve().is_relative_to(arguments.images.resolve()),
        f"the results {arguments.out.name!r} would land among the photos of {arguments.images.name!r}",
        "name an --out outside of --images",
    )
    everybody = read_pairs(*(path and path.absolute() for path in (arguments.images, arguments.pairs)))
    chosen = (everybody[::10] if arguments.held_out else everybody)[: arguments.identities]
    if arguments.presets:
        log.info("%s", measure_with_model(_located(arguments.model), chosen, arguments.device, arguments.out))
        return 0
    targets = tuple(read_targets(arguments.targets.absolute(), arguments.target_count)) if arguments.targets else ()
    chosen = _strangers(chosen, targets)
    setup = Setup(
        out=arguments.out.absolute(),
        recognisers=tuple(map(_located, (*arguments.surrogates, *arguments.black_box))),
        targets=targets if IMPERSONATION in arguments.goals else (),
        synthetic=_synthetic(arguments),
        base=arguments.setting,
        model=_located(arguments.model),
        framing=arguments.framing,
        psnr=tuple(arguments.psnr),
        ciede2000=tuple(arguments.ciede2000),
        purifier=arguments.purifier and arguments.purifier.absolute(),
        thresholds=tuple(arguments.threshold),
        device=arguments.device,
    )
    lab = Lab(setup)
    _check_thresholds(lab)
    seen = list(lab.recognisers)[: len(arguments.surrogates)]
    methods = chosen_methods(setup.base, arguments.methods)
    names = [target.name for target in setup.targets]
    what = plan(methods, arguments.goals, names, seen, chosen, arguments.leave_one_out, arguments.both_photos)
    ray = RayOptions(workers=arguments.workers, device=arguments.device) if arguments.ray else None
    failed = {} if arguments.tables else run(lab, what, ray=ray, on_job=_report)
    trials = read_trials(lab, what)
    compared = references(lab, everybody)
    reasons = {
        f"{job.experiment.method}, {job.experiment.pushed or 'no attack'}, {job.pair.name}": reason
        for job, reason in failed.items()
    }
    results = Results(
        settings_of(lab, arguments, len(chosen)),
        all_rates(lab, trials, compared),
        rank_one(lab, trials, compared),
        quality_of(lab, what, trials, arguments.lpips, arguments.fid),
        reasons | _not_run(what, trials, failed) | _no_face(compared, chosen),
        all_copies(lab, what, trials, compared),
        visible_of(trials),
    )
    write_results(arguments.out, results, markdown(results, methods))
    plots = [] if arguments.no_plots else write_plots(arguments.out, results)
    log.info("\n%s", main_table(results, methods))
    log.info(
        "%s", "\n".join(["", *(str(arguments.out / name) for name in ("results.md", "rates.csv")), *map(str, plots)])
    )
    return 1 if failed else 0


def settings_of(lab: Lab, arguments: argparse.Namespace, people: int) -> dict:
    """What the results were made with: every choice and every weight, so that somebody else can repeat them."""
    setup, methods = lab.setup, chosen_methods(lab.setup.base, arguments.methods)
    groups = method_groups(setup.base)
    files = {name: getattr(arguments, name) for name in ("synthetic", "lpips", "fid")}
    return {
        "faceprotect": _version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, {setup.device}",
        "people": people,
        "goals": arguments.goals,
        "command": arguments.words,
        "setting": setup.base,
        "comparable": [name for name, one in methods.items() if one.attacks and one.knobs.get("output") != "published"],
        "depths": [name for group in DEPTH_GROUPS for name in groups[group] if name in methods],
        "methods": {name: method.knobs | method.loss for name, method in methods.items()},
        "model": Path(setup.model).name,
        "model_sha256": lab.model.sha256,
        "framing": setup.framing,
        "strengths": [*sizes(setup)],
        "processings": list(lab.processings),
        "files": {name: sha256_of(path) for name, path in files.items() if path},
        "targets": {target.name: [sha256_of(target.photo), sha256_of(target.test)] for target in setup.targets},
        "recognisers": {
            name: {
                "metric": one.metric,
                "thresholds": {str(far): value for far, value in one.thresholds.items()},
                "thresholds_source": one.thresholds_source,
                "template": one.template,
                "sha256": one.fingerprint,
            }
            for name, one in lab.recognisers.items()
        },
    }


def _version() -> str:
    """The installed package's, or that of pyproject.toml beside the core, which is how ComfyUI has it."""
    try:
        return importlib.metadata.version("faceprotect")
    except importlib.metadata.PackageNotFoundError:
        text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
        return text.split('version = "', 1)[1].split('"', 1)[0]


def _located(name: str) -> str:
    """A built-in name as it is, a path as a whole one: Ray's workers may have another working directory."""
    return name if name in (DEMO, *BUILT_IN_SURROGATES) or not Path(name).exists() else str(Path(name).absolute())


def _synthetic(arguments: argparse.Namespace) -> Path | None:
    """Nobody's face: the one that is named, or the paper's where its assets are."""
    published = arguments.targets / "obfs_target_images" / "0808002.png" if arguments.targets else None
    chosen = arguments.synthetic or (published if published and published.is_file() else None)
    return chosen and chosen.absolute()


def _report(number: int, count: int, job: Job, record: dict) -> None:
    shown = "unchanged" if record["psnr"] is None else f"{record['psnr']:.1f} dB"
    log.info(
        "%d of %d  %s  %s  %s  %.0f s", number, count, job.pair.name, job.experiment.folder, shown, record["seconds"]
    )


def _check_files(arguments: argparse.Namespace) -> None:
    """Before hours of work, and not after them."""
    for name in ("synthetic", "lpips", "fid"):
        path = getattr(arguments, name)
        require(path is None or path.is_file(), f"there is no file {str(path)!r} (--{name})", "check the name")
    require(bool(arguments.surrogates), "there is no surrogate", "name one, such as dlib_resnet")


def _check_thresholds(lab: Lab) -> None:
    unknown = [name for name, one in lab.recognisers.items() if not set(FARS) & set(one.thresholds)]
    require(
        len(unknown) < len(lab.recognisers),
        f"no threshold is known for {', '.join(unknown)}, and rates are counted at one",
        "give some (--threshold NAME=FAR:VALUE); evaluation.recognition measures them on your own pairs",
    )
    if unknown:
        log.warning("no threshold is known for %s: there will be no rates of it", ", ".join(unknown))


def _strangers(pairs: list[Pair], targets: tuple[Target, ...]) -> list[Pair]:
    """Without those who are a target themselves: they would be taken for it anyway."""
    known = {sha256_of(path) for target in targets for path in (target.photo, target.test)}
    found = [
        pair for pair in pairs if not known & {sha256_of(path) for path in (pair.photo, pair.other) if path is not None}
    ]
    if len(found) < len(pairs):
        log.info("%d people are left out: they are targets themselves", len(pairs) - len(found))
    return found


def _not_run(what: Plan, trials: dict, failed: dict[Job, str]) -> dict[str, str]:
    """With --tables: what is planned and not there."""
    found = {}
    for experiment in what.experiments:
        done = trials[experiment].records if experiment in trials else {}
        missing = [one.name for one in what.pairs if one.name not in done and Job(experiment, one) not in failed]
        if missing:
            name = f"{experiment.method}, {experiment.pushed or 'no attack'}, loss {experiment.loss or '-'}"
            found[name] = f"not run for {len(missing)} of {len(what.pairs)} people"
    return found


def _no_face(compared: dict, pairs: list[Pair]) -> dict[str, str]:
    """People whose second photo has no face: they are in no rate."""
    known = next(iter(compared.values()))["other"]
    return {pair.name: "no face in the second photo" for pair in pairs if pair.other and pair.name not in known}


def _threshold(text: str) -> tuple[str, float, float]:
    try:
        name, numbers = text.rsplit("=", 1)
        far, value = map(float, numbers.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FAR:VALUE") from None
    if far not in FARS:
        raise argparse.ArgumentTypeError(f"the false accept rate {far:g} is none of {', '.join(map(str, FARS))}")
    return name, far, value


def _names(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return int(text)


def _decibels(text: str) -> list[float]:
    return _within(text, 10, 60, "dB")


def _differences(text: str) -> list[float]:
    return _within(text, 0.1, 20, "of CIEDE2000")


def _within(text: str, low: float, high: float, unit: str) -> list[float]:
    values = [float(one) for one in text.split(",")]
    if not all(low <= value <= high for value in values):
        raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g} {unit}")
    return values

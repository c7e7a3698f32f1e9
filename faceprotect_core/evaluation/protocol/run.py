"""All trials of an evaluation: which there are, which are done already, and running the others."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ...checks import ProtectionError, require
from ...files import sha256_of, write_atomically
from ...jobs.job import RayOptions
from ...jobs.run import run_jobs
from ...photos.read import read_photo
from .data import Pair
from .methods import Method
from .trial import DODGING, IMPERSONATION, OBFUSCATION, Experiment, Job, Lab, Setup

log = logging.getLogger("faceprotect.evaluation.protocol")
REFERENCES = "references"  # folder of the embeddings of the photos that are compared with


@dataclass(frozen=True)
class Plan:
    """experiments: in the order of the tables, those without an attack first. twice: those of them under which each
    person's other photo is protected, too."""

    experiments: tuple[Experiment, ...]
    pairs: tuple[Pair, ...]
    twice: tuple[Experiment, ...] = ()

    @property
    def jobs(self) -> list[Job]:
        """All trials, person by person."""
        return [
            job
            for pair in self.pairs
            for job in (
                *(Job(experiment, pair) for experiment in self.experiments),
                *(Job(experiment, pair.swapped) for experiment in self.twice),
            )
        ]


def plan(
    methods: dict[str, Method],
    goals: Sequence[str],
    targets: Sequence[str],
    seen: Sequence[str],
    pairs: Sequence[Pair],
    leave_one_out: bool = False,
    both_photos: bool = False,
) -> Plan:
    """Every method under every goal and with every set of recognisers in the loss.

    goals: "dodging", "obfuscation", "impersonation" (once for each target); ablations are run for the first one
    only. seen: names of recognisers; leave_one_out leaves out each of them in turn. both_photos: protect the second
    photo of a person, too, under every method that is no ablation and pushes away from the person. Photos without a
    partner are only good for impersonation.
    """
    known = (DODGING, OBFUSCATION, IMPERSONATION)
    for goal in goals:
        require(goal in known, f"there is no goal {goal!r}", f"use some of {', '.join(known)}")
    require(
        IMPERSONATION not in goals or bool(targets),
        "impersonation needs targets, and there are none",
        "name a folder of targets (--targets), or other --goals",
    )
    alone = [pair.name for pair in pairs if pair.other is None]
    require(
        not alone or set(goals) <= {IMPERSONATION},
        f"{len(alone)} photos have no second photo of the person, the first is {alone[:1]}, and dodging is measured "
        "against one",
        "give pairs, or use --goals impersonation",
    )
    require(not leave_one_out or len(seen) > 1, "one recogniser cannot be left out of one", "name several surrogates")
    sets = [tuple(name for name in seen if name != out) for out in seen] if leave_one_out else [tuple(seen)]
    aims = [(goal, target) for goal in goals for target in (targets if goal == IMPERSONATION else [""])]
    experiments = [Experiment(name) for name, method in methods.items() if not method.attacks]
    experiments += [
        Experiment(name, goal, members, target)
        for members in sets
        for goal, target in aims
        for name, method in methods.items()
        if method.attacks and (not method.ablation or goal == goals[0])
    ]
    twice = [one for one in experiments if one.goal in (DODGING, OBFUSCATION) and not methods[one.method].ablation]
    return Plan(tuple(experiments), tuple(pairs), tuple(twice) if both_photos else ())


def run(
    lab: Lab, plan: Plan, *, ray: RayOptions | None = None, on_job: Callable[[int, int, Job, dict], None] | None = None
) -> dict[Job, str]:
    """Runs the trials that are not done, and returns what failed, with the reason.

    Resumable: a trial whose record is there with the same settings is not run again; with other settings it is an
    error, because a folder of results means one thing. on_job: called with (number, count, job, record).
    """
    jobs = plan.jobs
    left = [job for job in jobs if not is_done(lab, job)]
    log.info("%d trials, %d of them done already", len(jobs), len(jobs) - len(left))
    load = partial(Lab, lab.setup) if ray else (lambda: lab)
    failed: dict[Job, str] = {}
    for count, (index, outcome) in enumerate(run_jobs(left, load, ray=ray), start=len(jobs) - len(left) + 1):
        job = left[index]
        if isinstance(outcome, Exception):
            failed[job] = f"{type(outcome).__name__}: {outcome}"
            log.warning("%s, %s: %s", job.pair.name, job.experiment.folder, failed[job])
            continue
        require(
            trial_file(lab.setup, job, ".json").exists(),
            f"what a worker measured of {job.pair.name} is not in the folder of results",
            "use a folder that all machines share, under the same path",
        )
        require(
            outcome["settings"] == lab.settings(job),
            "a worker has other settings or weights than this process",
            "install the same version of FaceProtect, and the same model and recognisers, on all machines",
        )
        if on_job:
            on_job(count, len(jobs), job, outcome)
    return failed


def trial_file(setup: Setup, job: Job, suffix: str) -> Path:
    return setup.out / "trials" / job.experiment.folder / f"{job.pair.name}{suffix}"


def is_done(lab: Lab, job: Job) -> bool:
    """Whether all files of a trial are there and whole. With other settings it is an error."""
    try:
        settings = json.loads(trial_file(lab.setup, job, ".json").read_text())["settings"]
        with safe_open(trial_file(lab.setup, job, ".safetensors"), "pt"):
            pass
        read_photo(trial_file(lab.setup, job, ".png"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False
    wanted = lab.settings(job)
    differing = sorted(name for name in {*settings, *wanted} if settings.get(name) != wanted.get(name))
    require(
        not differing,
        f"the trial {job.experiment.folder}/{job.pair.name} in {lab.setup.out.name!r} was run with other settings "
        f"({', '.join(differing)})",
        "use another --out, or delete that folder of results",
    )
    return True


def references(lab: Lab, pairs: Sequence[Pair]) -> dict[str, dict]:
    """Recogniser -> {"other": {person: [D]}, "target": {target: [D]}}: the second photos of all people, who are the
    gallery of rank 1, and the targets' test photos. Kept in a file for each recogniser; photos without a face are left
    out."""
    photos = {("other", pair.name): (pair.other, None) for pair in pairs if pair.other is not None}
    photos |= {("target", target.name): (target.test, target.test_box) for target in lab.setup.targets}
    names = {key: f"{'/'.join(key)}/{_identity(*photo)}" for key, photo in photos.items()}
    known = {name: _read_references(lab, name) for name in lab.recognisers}
    new = [key for key in photos if any(names[key] not in found for found in known.values())]
    for number, key in enumerate(new, start=1):
        try:
            for name, embedding in lab.embed_photo(*photos[key]).items():
                known[name][names[key]] = embedding[0].cpu()
        except ProtectionError as error:
            log.warning("%s is left out: %s", photos[key][0].name, error)
        if number % 50 == 0:
            log.info("photos to compare with: %d of %d", number, len(new))
    compared: dict[str, dict] = {name: {"other": {}, "target": {}} for name in known}
    for name, found in known.items():
        path = _references_file(lab, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(found, _seen_as(lab, name)))
        for (kind, person), key in names.items():
            if key in found:
                compared[name][kind][person] = found[key]
    return compared


def _read_references(lab: Lab, name: str) -> dict:
    try:
        with safe_open(_references_file(lab, name), "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()} if file.metadata() == _seen_as(lab, name) else {}
    except (OSError, SafetensorError):
        return {}


def _references_file(lab: Lab, name: str) -> Path:
    return lab.setup.out / REFERENCES / f"{name}.safetensors"


def _seen_as(lab: Lab, name: str) -> dict[str, str]:
    return {"fingerprint": lab.recognisers[name].fingerprint, "framing": lab.setup.framing}


def _identity(path: Path, box) -> str:
    """Changes with the file's content and the box."""
    return f"{sha256_of(path)[:16]}{'' if box is None else box}"

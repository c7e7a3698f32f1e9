"""One photo under one method: protect it, process it, and what every recogniser makes of it.

A trial leaves three files in its folder: the protected photo (.png), the embeddings of it after every processing
(.safetensors) and what was measured (.json). Rates are made of them later, in rates.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from ...checks import require
from ...demo import load_synthetic_target
from ...diffusers_backend import load_vae
from ...faces import Face, find_again, find_face, load_detector
from ...files import digest_of_files, digest_of_tensor, sha256_of, write_atomically
from ...method.objectives import IdentityObjective
from ...method.peers.makeup import MakeupLoss
from ...method.views import AlignmentJitter
from ...models import load_model
from ...pixels import to_pixels
from ...surrogates import FRSurrogate, load_surrogate
from ...verify.quality import psnr, to_psnr
from ...verify.robustness import processings, vae_round_trip
from ..painted import painted
from .change import Subject, changed_by, to_ciede2000, visible_change
from .data import Box, Pair, Target, read_square
from .methods import Method, chosen_methods

Framing = Literal["aligned", "box", "whole image"]
DODGING, OBFUSCATION, IMPERSONATION = "dodging", "obfuscation", "impersonation"
ANOTHER_VAE = "another vae"
OWN = "own"  # the change as large as the method makes it
LONGEST_NAME = 120  # characters of a folder
CHUNK = 16  # photos a pass through a recogniser


@dataclass(frozen=True)
class Setup:
    """What a worker loads, in names and paths, so that it can be sent to one.

    base: what "ours" means, see `base_method`. recognisers: built-in names or weights files, seen and unseen.
    framing: what a recogniser sees of a photo: the face aligned as it wants it, the face's box, or all of it. psnr: in
    dB, and ciede2000, see `to_ciede2000`: to which the changes of all methods are scaled besides, to be compared.
    purifier: a folder whose vae is one more processing, so that not only the model purifies that the method went
    through. thresholds: (recogniser, FAR, threshold) of the user's own.
    """

    out: Path
    recognisers: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    synthetic: Path | None = None
    base: str = "balanced"
    model: str = "demo"
    framing: Framing = "aligned"
    psnr: tuple[float, ...] = ()
    ciede2000: tuple[float, ...] = ()
    purifier: Path | None = None
    thresholds: tuple[tuple[str, float, float], ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Experiment:
    """goal: DODGING, OBFUSCATION, IMPERSONATION, or "" for a method without an attack. method: a name of
    `chosen_methods`. seen: the names of the recognisers in the loss. target: whom an impersonation looks like."""

    method: str
    goal: str = ""
    seen: tuple[str, ...] = ()
    target: str = ""

    @property
    def pushed(self) -> str:
        """The goal in words, to be read only."""
        return f"{self.goal} {self.target}".strip()

    @property
    def loss(self) -> str:
        """The recognisers in the loss in words, to be read only."""
        return "+".join(self.seen)

    @property
    def folder(self) -> str:
        """A name for its files: to be read, and with a hash, because other names may read the same."""
        parts = [part for part in (self.pushed, self.method, self.loss) if part]
        plain = "__".join("".join(c if c.isalnum() or c in "+-." else "_" for c in part) for part in parts)
        return f"{plain[:LONGEST_NAME]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Job:
    experiment: Experiment
    pair: Pair


def sizes(setup: Setup) -> dict[str, Callable[[Subject, Tensor], Tensor]]:
    """Name -> what scales a change to one of the sizes that all methods are compared at."""
    at_psnr = {f"{value:g} dB": partial(_to_psnr, wanted=value) for value in setup.psnr}
    return at_psnr | {f"CIEDE2000 {value:g}": partial(to_ciede2000, wanted=value) for value in setup.ciede2000}


def _to_psnr(subject: Subject, changed: Tensor, wanted: float) -> Tensor:
    return to_psnr(subject.photo, changed, wanted)[0]


def strengths(setup: Setup, method: Method) -> list[str]:
    """The names of the sizes in which a method's change is looked at."""
    return [OWN, *(sizes(setup) if method.attacks else ())]


class Lab:
    """Models and recognisers, loaded once; lab(job) runs one trial, lab.embed(photo) is what recognisers see of one."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.model = load_model(setup.model, setup.device)
        loaded = [_with_thresholds(load_surrogate(name), setup).to(setup.device) for name in setup.recognisers]
        self.recognisers: dict[str, FRSurrogate] = {one.name: one for one in loaded}
        require(
            len(self.recognisers) == len(loaded),
            f"two recognisers have the same name: {', '.join(one.name for one in loaded)}",
            "rename one of the files",
        )
        prints = {one.fingerprint: one.name for one in loaded}
        twins = [one.name for one in loaded if prints[one.fingerprint] != one.name]
        require(not twins, f"{twins[:1]} is the same network as another recogniser", "give each network once")
        joined = [name for name in self.recognisers if "+" in name]
        require(not joined, f"the recogniser {joined[:1]} has a + in its name", "rename the file")
        self.detector = load_detector(setup.device)
        model = self.model
        self.processings = processings(model.codec, model.denoiser, model.context, schedule=model.schedule)
        if setup.purifier:
            codec = load_vae(setup.purifier, setup.device)
            self.processings[ANOTHER_VAE] = partial(vae_round_trip, codec=codec)
        self._subject: Subject | None = None
        self._targets: dict[str, tuple[Tensor, Face | None]] = {}

    def __call__(self, job: Job) -> dict:
        """Runs a trial, writes its files, and returns what was measured."""
        experiment, method = job.experiment, self._method(job.experiment)
        subject = self._subject_of(job.pair)
        start = time.perf_counter()
        objective = self.objective(subject, experiment, method) if method.attacks else None
        changed, reconstruction = changed_by(method, subject, objective, self.model)
        seconds = time.perf_counter() - start
        again = find_again(changed[0], subject.face, self.detector)
        places = [subject.face] if again is None else [subject.face, again]
        scaled = {OWN: changed}
        if method.attacks:
            scaled |= {name: to_size(subject, changed) for name, to_size in sizes(self.setup).items()}
        record = {
            "settings": self.settings(job),
            "found_again": again is not None,
            "seconds": round(seconds, 2),
            "reconstruction_mse": reconstruction,
            "psnr": psnr(subject.photo, changed).item() if method.kind != "unchanged" else None,
            "visible": {name: visible_change(subject, image) for name, image in scaled.items()},
        }
        self._write(job, changed, self._embeddings(scaled, places), record)
        return record

    # -------------------------------------------------------------------------------------------- what recognisers see

    def embed_photo(self, path: Path, box: Box | None = None) -> dict[str, Tensor]:
        """Recogniser -> [1, D] of a photo that is compared with."""
        photo, face = self._read(path, box)
        return {name: self._embed(one, photo, face) for name, one in self.recognisers.items()}

    def _read(self, path: Path | None, box: Box | None) -> tuple[Tensor, Face | None]:
        """A photo and its face; no face where all of it is looked at, or the release's own box was cut out.

        path: None for the face of nobody that ships.
        """
        box = box if self.setup.framing == "box" else None
        image = load_synthetic_target() if path is None else read_square(path, self.model.size, box)
        image = image.to(self.setup.device)
        return image, None if box or self.setup.framing == "whole image" else find_face(image[0], self.detector)

    @torch.no_grad()
    def _embed(self, recogniser: FRSurrogate, images: Tensor, face: Face | None) -> Tensor:
        if face is None or self.setup.framing == "aligned":
            return recogniser.embed(images, face)
        return recogniser.embed(cut_box(images, face))

    def _embeddings(self, scaled: dict[str, Tensor], places: list[Face]) -> dict[str, Tensor]:
        """Recogniser -> [strengths, processings, places, D]."""
        images = torch.cat([process(image) for image in scaled.values() for process in self.processings.values()])
        found = {}
        for name, recogniser in self.recognisers.items():
            seen = []
            for face in places if self.setup.framing != "whole image" else [None]:
                parts = [self._embed(recogniser, part, face) for part in images.split(CHUNK)]
                seen.append(torch.cat(parts).unflatten(0, (len(scaled), len(self.processings))))
            found[name] = torch.stack(seen, dim=2).cpu()
        return found

    # -------------------------------------------------------------------------------------------- one method

    def _method(self, experiment: Experiment) -> Method:
        return chosen_methods(self.setup.base, [experiment.method])[experiment.method]

    def _subject_of(self, pair: Pair) -> Subject:
        if self._subject is None or self._subject.pair != pair:
            require(
                pair.other is None or sha256_of(pair.photo) != sha256_of(pair.other),
                f"the two photos of {pair.name} are the same file, and protection is measured on another one",
                "give two different photos of the person",
            )
            photo = read_square(pair.photo, self.model.size).to(self.setup.device)
            self._subject = Subject(pair, photo, find_face(photo[0], self.detector))
        return self._subject

    def _loss(self, method: Method) -> dict:
        """The method's own part of the loss; where nothing is aligned, no alignment can be slightly wrong."""
        return {name: value for name, value in method.loss.items() if name != "jitter" or self._aligned}

    @property
    def _aligned(self) -> bool:
        return self.setup.framing == "aligned"

    def objective(self, subject: Subject, experiment: Experiment, method: Method) -> IdentityObjective:
        """Push away from the photo itself, pull towards the target, or both; with makeup where the method has it."""
        identity = self._identity(subject, experiment, method)
        if not method.makeup:
            return identity
        makeup = MakeupLoss(subject.photo, [subject.face], *self._made_up)
        return identity.plus(makeup, method.makeup)

    @cached_property
    def _made_up(self) -> tuple[Tensor, Face]:
        """The reference for makeup: the face of nobody that ships, painted."""
        nobody = load_synthetic_target().to(self.setup.device)
        face = find_face(nobody[0], self.detector)
        return painted(nobody[0], face)[None], face

    def _identity(self, subject: Subject, experiment: Experiment, method: Method) -> IdentityObjective:
        loss = self._loss(method)
        loss["jitter"] = AlignmentJitter(loss.get("jitter", 0))
        seen = [self.recognisers[name] for name in experiment.seen]
        pulls, pushes = experiment.goal != DODGING, experiment.goal != IMPERSONATION
        target, target_face = self._target(experiment) if pulls else (None, None)
        source = subject.photo if pushes else None
        if self._aligned:
            faces = {"face": subject.face, "source_face": subject.face, "target_face": target_face}
            return IdentityObjective(seen, target, source, **faces, **loss)
        if self.setup.framing == "box":
            source = None if source is None else cut_box(source, subject.face)
            target = cut_box(target, target_face) if pulls and target_face else target
            return IdentityObjective(seen, target, source, crop_box=subject.face.box_xyxy, **loss)
        return IdentityObjective(seen, target, source, **loss)

    def _target(self, experiment: Experiment) -> tuple[Tensor, Face | None]:
        """The image to look like and its face, see `_read`."""
        if experiment.pushed not in self._targets:
            self._targets[experiment.pushed] = self._read(*self._target_file(experiment))
        return self._targets[experiment.pushed]

    def _target_file(self, experiment: Experiment) -> tuple[Path | None, Box | None]:
        if experiment.goal == OBFUSCATION:
            return self.setup.synthetic, None
        target = next(one for one in self.setup.targets if one.name == experiment.target)
        return target.photo, target.photo_box

    # -------------------------------------------------------------------------------------------- what is written

    def settings(self, job: Job) -> dict:
        """All that decides the outcome of a trial, for JSON: a trial with other settings is another trial."""
        experiment, method = job.experiment, self._method(job.experiment)
        found = {
            "photo_sha256": sha256_of(job.pair.photo),
            "method": method.knobs | {"kind": method.kind, "masked": method.masked, "loss": self._loss(method)},
            "model_sha256": self.model.sha256,
            "framing": self.setup.framing,
            "recognisers": {name: one.fingerprint for name, one in self.recognisers.items()},
            "strengths": strengths(self.setup, method),
            "processings": list(self.processings),
        }
        if self.setup.purifier:
            found["purifier_sha256"] = digest_of_files(sorted((self.setup.purifier / "vae").glob("*.safetensors")))
        if method.makeup:
            found |= {"makeup": method.makeup, "makeup_sha256": digest_of_tensor(self._made_up[0])}
        if method.attacks:
            found |= {"goal": experiment.pushed, "seen": list(experiment.seen)}
            if experiment.goal != DODGING:
                found["target_sha256"] = digest_of_tensor(self._target(experiment)[0])
        return json.loads(json.dumps(found))

    def _write(self, job: Job, changed: Tensor, embeddings: dict[str, Tensor], record: dict) -> None:
        folder = self.setup.out / "trials" / job.experiment.folder
        folder.mkdir(parents=True, exist_ok=True)
        _save_png(changed[0], folder / f"{job.pair.name}.png")
        write_atomically(
            folder / f"{job.pair.name}.safetensors", save({name: x.contiguous() for name, x in embeddings.items()})
        )
        # Last: a trial counts as done when its record is there.
        write_atomically(folder / f"{job.pair.name}.json", json.dumps(record, indent=1).encode())


def cut_box(images: Tensor, face: Face) -> Tensor:
    """The face's box, rounded to whole pixels and inside the image, as the paper cuts it."""
    x0, y0, x1, y1 = (round(value) for value in face.box_xyxy)
    return images[:, :, max(y0, 0) : y1, max(x0, 0) : x1]


def _with_thresholds(recogniser: FRSurrogate, setup: Setup) -> FRSurrogate:
    """With the user's own thresholds, where they gave some."""
    own = {far: value for name, far, value in setup.thresholds if name == recogniser.name}
    if not own:
        return recogniser
    return replace(recogniser, thresholds={**recogniser.thresholds, **own}, thresholds_source="the user's own")


def _save_png(image: Tensor, path: Path) -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(to_pixels(image)).save(file, "PNG")
    write_atomically(path, file.getvalue())

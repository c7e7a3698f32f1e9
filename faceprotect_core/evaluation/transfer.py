"""Does the protection carry over to a recogniser that the optimiser never saw?

    python -m faceprotect_core.evaluation.transfer --images FACES --out results.json \\
        --surrogates dlib_resnet SMALL/small_resnet.safetensors SMALL/small_mobile.safetensors ... [--identities 8]

FACES holds aligned 256x256 photos <identity>_a.jpg and <identity>_b.jpg; only people whom the demo models were not
trained on are used. SMALL is the folder of train_recognizers.py; any other weights file works, too. Each recogniser is
left out in turn: photo a is protected against the others and shown to the one left out. For a fair comparison every
variant's change is scaled to the same PSNR, rounded to 8 bits, and then perhaps processed. The face is found again in
the result, as a stranger would. Resumable: finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..attention import SelfAttentionReference, capture_self_attention
from ..demo import load_demo_model
from ..demo.train import read_images, split_identities
from ..faces import Face, detect_faces, face_mask, find_face, load_detector
from ..inversion import Trajectory, ddim_invert
from ..null_text import learn_null_text
from ..objectives import IdentityObjective
from ..optimizer import optimize_latent
from ..photo import PRESETS
from ..schedule import DDIMSchedule
from ..surrogates import FRSurrogate
from ..views import RandomViews
from .quality import psnr, to_psnr
from .robustness import UNPROCESSED, processings
from .small_recognizers import load_recognizer

log = logging.getLogger("faceprotect.evaluation.transfer")
SETTINGS = PRESETS["balanced"]
PSNR = 31.0  # dB on the whole crop, data range 1


@dataclass(frozen=True)
class Variant:
    """What the ensemble does beyond the plain sum. single: only the first of the surrogates is optimised against."""

    objective: dict = field(default_factory=dict)
    momentum: float = 0.0
    single: bool = False


VIEWS, LAGGING, MOMENTUM = {"views": RandomViews(2)}, {"lagging": 10.0}, 0.9
VARIANTS = {
    "one surrogate": Variant(single=True),
    "plain": Variant(),
    "views": Variant(VIEWS),
    "lagging": Variant(LAGGING),
    "momentum": Variant(momentum=MOMENTUM),
    "all three": Variant(VIEWS | LAGGING, MOMENTUM),
}
_ALL = processings()
PROCESSING = {name: _ALL[name] for name in (UNPROCESSED, "jpeg 75", "mean 3x3", "half size")}


@dataclass(frozen=True, eq=False)
class Subject:
    """Photo a with what the method made of it, and photo b, which the optimiser never sees."""

    photo: Tensor
    other: Tensor
    face: Face
    other_face: Face
    mask: Tensor
    trajectory: Trajectory
    embeddings: Tensor
    structure: SelfAttentionReference


class Evaluation:
    def __init__(self, surrogates: list[str]):
        self.denoiser, self.codec, self.context = load_demo_model()
        loaded = [load_recognizer(name) for name in surrogates]
        self.surrogates: dict[str, FRSurrogate] = {one.name: one for one in loaded}
        self.detector = load_detector()

    def subject(self, path_a: Path, path_b: Path) -> Subject:
        photo, other = (read_images([path_a, path_b]).float() / 255)[:, None]
        face, other_face = find_face(photo[0], self.detector), find_face(other[0], self.detector)
        latent, schedule = self.codec.encode(photo), DDIMSchedule.scaled_linear()
        trajectory = ddim_invert(self.denoiser, latent, self.context, schedule, SETTINGS.depth, SETTINGS.pairing)
        learning = SETTINGS.null_text_iterations, SETTINGS.null_text_lr
        embeddings = learn_null_text(self.denoiser, trajectory, self.context, *learning)
        structure = capture_self_attention(self.denoiser, trajectory, embeddings)
        mask = face_mask([face], *photo.shape[2:])
        return Subject(photo, other, face, other_face, mask, trajectory, embeddings, structure)

    def protect(self, subject: Subject, seen: list[FRSurrogate], variant: Variant) -> tuple[Tensor, dict]:
        """The photo changed to the wanted PSNR, [1, 3, H, W] with 8-bit values, and what it took."""
        seen = seen[:1] if variant.single else seen
        objective = IdentityObjective(
            seen, source=subject.photo, face=subject.face, source_face=subject.face, **variant.objective
        )
        start = time.perf_counter()
        result = optimize_latent(
            self.denoiser,
            self.codec,
            subject.trajectory,
            subject.embeddings,
            objective,
            structure=subject.structure,
            iterations=SETTINGS.iterations,
            lr=SETTINGS.lr,
            objective_weight=SETTINGS.objective_weight,
            fidelity_weight=SETTINGS.fidelity_weight,
            momentum=variant.momentum,
            output="detail",
            image=subject.photo,
            mask=subject.mask,
        )
        seconds = time.perf_counter() - start
        changed, scale = to_psnr(subject.photo, result.image, PSNR)
        return changed, {"seconds": seconds, "psnr": psnr(subject.photo, result.image).item(), "scale": scale}

    def scores(self, subject: Subject, changed: Tensor) -> dict[str, dict[str, float]]:
        """Per processing and recogniser: the similarity to photo b, in its metric."""
        found = {}
        for process, apply in PROCESSING.items():
            image = apply(changed)
            again = detect_faces(image[0], self.detector)
            place = again[0] if again else subject.face
            found[process] = {name: self._similarity(one, subject, image, place) for name, one in self._all()}
        return found

    def before(self, subject: Subject) -> dict[str, float]:
        return {name: self._similarity(one, subject, subject.photo, subject.face) for name, one in self._all()}

    def _all(self):
        return self.surrogates.items()

    @torch.no_grad()
    def _similarity(self, surrogate: FRSurrogate, subject: Subject, image: Tensor, face: Face) -> float:
        reference = surrogate.embed(subject.other, subject.other_face)
        return surrogate.similarity(surrogate.embed(image, face), reference).item()


# ------------------------------------------------------------------------------------------------ tables


def away(surrogate: FRSurrogate, similarity: float) -> float:
    """How far past the threshold at FAR 0.01, in the metric's units: positive is no longer the same person."""
    beyond = similarity - surrogate.threshold(0.01)
    return beyond if surrogate.metric == "euclidean" else -beyond


def summarize(results: dict, surrogates: dict[str, FRSurrogate]) -> str:
    """One Markdown table per left-out recogniser: variants down, processing across."""
    parts = []
    for left_out, surrogate in surrogates.items():
        runs = {name: results.get(f"{left_out} | {name}", {}) for name in VARIANTS}
        shared = set.intersection(*(set(photos) for photos in runs.values() if photos)) if any(runs.values()) else set()
        if shared:
            parts.append(_table(left_out, surrogate, {name: photos for name, photos in runs.items() if photos}, shared))
    return "\n\n".join(parts)


def _table(left_out: str, surrogate: FRSurrogate, runs: dict, shared: set[str]) -> str:
    photos = sorted(shared, key=lambda name: int(name.split("_")[0]))
    any_run = next(iter(runs.values()))
    before = [away(surrogate, any_run[photo]["before"][left_out]) for photo in photos]
    rows = [
        f"**{left_out} left out** ({len(photos)} people; before: {_mean(before):+.3f}, "
        f"{sum(value > 0 for value in before)} of {len(photos)} past)",
        "",
        f"| variant | {' | '.join(PROCESSING)} | past | seen ones | own PSNR | s |",
        "|---" * (len(PROCESSING) + 5) + "|",
    ]
    for name, found in runs.items():
        values = {
            process: [away(surrogate, found[photo]["after"][process][left_out]) for photo in photos]
            for process in PROCESSING
        }
        cells = " | ".join(f"{_mean(one):+.3f}" for one in values.values())
        past = sum(value > 0 for value in values["none"])
        seen = _mean([_mean(found[photo]["seen"]) for photo in photos])
        own, seconds = (_mean([found[photo][key] for photo in photos]) for key in ("psnr", "seconds"))
        rows.append(f"| {name} | {cells} | {past} of {len(photos)} | {seen:+.3f} | {own:.1f} | {seconds:.0f} |")
    return "\n".join(rows)


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON with every run's numbers")
    parser.add_argument("--surrogates", nargs="+", required=True)
    parser.add_argument("--left-out", nargs="+", default=None, help="which of them are left out in turn; default: all")
    parser.add_argument("--identities", type=int, default=8)
    parser.add_argument("--start", type=int, default=0, help="skip this many of them first (to share the work)")
    parser.add_argument("--variants", default=";".join(VARIANTS), help="separated by ;")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    evaluation = Evaluation(args.surrogates)
    _, held_out = split_identities(args.images)
    pairs = list(zip(held_out[::2], held_out[1::2], strict=True))
    for path_a, path_b in pairs[args.start : args.start + args.identities]:
        subject = evaluation.subject(path_a, path_b)
        for left_out in args.left_out or evaluation.surrogates:
            for name in args.variants.split(";"):
                done = results.setdefault(f"{left_out} | {name}", {})
                if path_a.stem not in done:
                    done[path_a.stem] = _run(evaluation, subject, left_out, VARIANTS[name])
                    args.out.write_text(json.dumps(results, indent=1))
                    log.info("%s, %s left out, %s", path_a.stem, left_out, name)
    log.info("%s", summarize(results, evaluation.surrogates))


def _run(evaluation: Evaluation, subject: Subject, left_out: str, variant: Variant) -> dict:
    names = [name for name in evaluation.surrogates if name != left_out]
    seen = [evaluation.surrogates[name] for name in names]
    changed, cost = evaluation.protect(subject, seen, variant)
    after = evaluation.scores(subject, changed)
    optimized = names[:1] if variant.single else names
    return cost | {
        "before": evaluation.before(subject),
        "after": after,
        "seen": [away(evaluation.surrogates[name], after["none"][name]) for name in optimized],
    }


if __name__ == "__main__":
    main()

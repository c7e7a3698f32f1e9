"""How often the built-in detector finds a face, and how often one where there is none.

    python -m faceprotect_core.evaluation.faces.detection --images FACES --out FILE.json [--count 100]

FACES holds photos <identity>_a.jpg with FFHQ's framing (256 x 256). A face counts as found when a box has an
intersection over union above 0.3 with the box that the framing implies; thresholds 0 (the default) and -0.5. The
photos of CelebA-HQ were themselves aligned with a detector of this kind: read the row "as it is" with that in mind.
Deterministic. The pictures of scikit-image, where it is installed, are added to the faceless ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import repeat
from torch import Tensor
from tqdm import tqdm

from ...faces import Face, FaceDetector, detect_faces, load_detector, overlap
from ...pixels import as_saved, from_pixels
from ...verify.robustness import jpeg
from ..people import command, pairs_among, split_identities
from .conditions import (
    blurred,
    covered_by_half,
    covered_by_mask,
    covered_by_sunglasses,
    exposed,
    phase_scrambled,
)
from .scenes import Subject, lay_face, load_subject, natural_scene

log = logging.getLogger("faceprotect.evaluation.detection")

ON_THE_FACE = 0.3  # intersection over union above which a box lies on the true face
THRESHOLDS = (0.0, -0.5, -1.0)
SCENE = 512  # pixels
NATIVE_BOX = 140  # pixels: about the face box of a photo of 256 pixels, which is laid into a scene unscaled
ASIDE_EDGES = (0.05, 0.10, 0.15, 0.20)  # distance of the nose base from the middle between the eyes, in eye distances
# Pictures of scikit-image without a face of a person.
FACELESS = ("brick", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field", "moon", "page", "retina")
FACELESS += ("rocket", "text", "immunohistochemistry", "cell", "clock")

Picture = tuple[Tensor, Face]  # what the detector sees, and where the face is


@dataclass(frozen=True)
class Condition:
    """make: a subject and a generator -> the picture and the true face. every: use each n-th subject (costly ones)."""

    make: Callable[[Subject, torch.Generator], Picture]
    min_face: float = 80.0
    every: int = 1


def _changed(change: Callable) -> Condition:
    return Condition(lambda subject, generator: (change(subject), subject.face))


def _noisy(gain: float) -> Condition:
    return Condition(lambda subject, generator: (exposed(subject.photo, gain, generator), subject.face))


def _in_scene(box_size: float, degrees: float = 0.0, min_face: float = 80.0, every: int = 1) -> Condition:
    def make(subject: Subject, generator: torch.Generator) -> Picture:
        scene = natural_scene(SCENE, SCENE, generator)
        reach = int(0.9 * box_size)
        spread = max(1, SCENE - 2 * reach)
        centre = [reach + torch.randint(spread, (1,), generator=generator).item() for _ in range(2)]
        image, face = lay_face(scene, subject, centre, box_size, degrees)
        return as_saved(image), face

    return Condition(make, min_face, every)


CONDITIONS = {
    "as it is": _changed(lambda subject: subject.photo),
    "140 px in a scene": _in_scene(NATIVE_BOX),
    "80 px": _in_scene(80),
    "60 px": _in_scene(60),
    "40 px": _in_scene(40),
    "30 px": _in_scene(30),
    "60 px, min_face 40": _in_scene(60, min_face=40),
    "40 px, min_face 40": _in_scene(40, min_face=40),
    "40 px, min_face 20": _in_scene(40, min_face=20, every=5),
    "30 px, min_face 20": _in_scene(30, min_face=20, every=5),
    "20 px, min_face 20": _in_scene(20, min_face=20, every=5),
    "turned by 10°": _in_scene(NATIVE_BOX, 10),
    "turned by 20°": _in_scene(NATIVE_BOX, 20),
    "turned by 30°": _in_scene(NATIVE_BOX, 30),
    "turned by 45°": _in_scene(NATIVE_BOX, 45),
    "turned by 90°": _in_scene(NATIVE_BOX, 90),
    "surgical mask": _changed(covered_by_mask),
    "sunglasses": _changed(covered_by_sunglasses),
    "half covered": _changed(covered_by_half),
    "light x 0.3": _noisy(0.3),
    "light x 0.15": _noisy(0.15),
    "light x 0.07": _noisy(0.07),
    "light x 0.03": _noisy(0.03),
    "light x 3": _noisy(3.0),
    "light x 6": _noisy(6.0),
    "blur 2 px": _changed(lambda subject: blurred(subject.photo, 2)),
    "blur 4 px": _changed(lambda subject: blurred(subject.photo, 4)),
    "blur 6 px": _changed(lambda subject: blurred(subject.photo, 6)),
    "JPEG 30": _changed(lambda subject: jpeg(subject.photo, 30)),
    "JPEG 10": _changed(lambda subject: jpeg(subject.photo, 10)),
}

# A face that is found is of no use with its landmarks elsewhere: where that is asked, on every third subject.
LANDMARK_CONDITIONS = ("as it is", "140 px in a scene", "20 px, min_face 20")
LANDMARK_CONDITIONS += tuple(f"turned by {degrees}°" for degrees in (10, 20, 30, 45, 90))
LANDMARK_CONDITIONS += ("surgical mask", "sunglasses", "half covered", "light x 0.07", "light x 0.03", "blur 6 px")
WRONG_LANDMARKS = 0.1  # eye distances: beyond it a recogniser is shown another part of the photo


def measure(picture: Picture, detector: FaceDetector, min_face: float = 80.0) -> dict[str, float | list[float] | None]:
    """The score of the best box on the true face (None: not found at the lowest threshold), and the other boxes'."""
    on_face, others = _found(picture, detector, min(THRESHOLDS), min_face)
    return {"score": max((one.score for one in on_face), default=None), "others": [one.score for one in others]}


def landmark_error(picture: Picture, detector: FaceDetector, min_face: float = 80.0) -> tuple[float, bool] | None:
    """Mean distance of the five landmarks from the true ones in eye distances, and whether they are called doubtful;
    None where the face is not found."""
    found, _ = _found(picture, detector, min(THRESHOLDS[:2]), min_face)
    if not found:
        return None
    truth, points = torch.tensor(picture[1].landmarks), torch.tensor(found[0].landmarks)
    eyes = torch.dist(truth[0:2].mean(0), truth[2:4].mean(0))
    return ((points - truth).norm(dim=1).mean() / eyes).item(), found[0].doubtful


def _found(picture: Picture, detector: FaceDetector, threshold: float, min_face: float) -> tuple[list, list]:
    """The boxes on the true face, and the others."""
    image, face = picture
    found = detect_faces(image, detector, threshold=threshold, min_face=min_face)
    on_face = [one for one in found if overlap(one.box_xyxy, face.box_xyxy) > ON_THE_FACE]
    return on_face, [one for one in found if one not in on_face]


def turned_aside(face: Face) -> float:
    """How far the nose base lies from the middle between the eyes, along the eyes' line, in eye distances."""
    points = torch.tensor(face.landmarks, dtype=torch.float64)
    right, left = points[0:2].mean(0), points[2:4].mean(0)
    axis = right - left
    return abs(((points[4] - (left + right) / 2) @ axis / axis.square().sum()).item())


def rate_aside(folder: Path, detector: FaceDetector) -> dict[str, list[dict]]:
    """All photos of the folder as they are, by how far the head is turned aside."""
    names = [
        "below 0.05",
        *(f"{low:.2f} to {high:.2f}" for low, high in zip(ASIDE_EDGES, ASIDE_EDGES[1:], strict=False)),
        "above 0.20",
    ]
    bins: dict[str, list[dict]] = {name: [] for name in names}
    for path in tqdm(sum(split_identities(folder), []), desc="aside", mininterval=10):
        subject = load_subject(path, detector)
        bins[names[sum(turned_aside(subject.face) > edge for edge in ASIDE_EDGES)]].append(
            measure((subject.photo, subject.face), detector)
        )
    return bins


def faceless_pictures(subjects: list[Subject]) -> Iterator[tuple[str, Tensor]]:
    """(kind, picture [3, H, W]) without any face."""
    for number, subject in enumerate(subjects):
        generator = torch.Generator().manual_seed(number)
        yield "photos with scrambled phases, 256 px", phase_scrambled(subject.photo, generator)
        if number % 4 == 0:
            yield "scenes of 1/f noise, 512 px", as_saved(natural_scene(SCENE, SCENE, generator))
        if number % 10 == 0:
            yield "white noise, 512 px", torch.rand(3, SCENE, SCENE, generator=generator)
    yield from _scikit_image_pictures()


def _scikit_image_pictures() -> Iterator[tuple[str, Tensor]]:
    try:
        from skimage import data
    except ImportError:
        return
    for name in FACELESS:
        try:
            pixels = getattr(data, name)()
        except (AttributeError, ModuleNotFoundError, OSError):  # a picture that this installation does not hold
            continue
        if pixels.dtype == np.uint8:
            pixels = pixels[..., :3] if pixels.ndim == 3 else repeat(pixels, "h w -> h w 3")
            yield "pictures of scikit-image", from_pixels(pixels)


def false_alarms(subjects: list[Subject], detector: FaceDetector) -> dict[str, dict]:
    """Per kind of faceless picture: how many, their megapixels, and the score of every box."""
    kinds: dict[str, dict] = {}
    for kind, picture in tqdm(faceless_pictures(subjects), desc="faceless", mininterval=10):
        entry = kinds.setdefault(kind, {"pictures": 0, "megapixels": 0.0, "scores": []})
        entry["pictures"] += 1
        entry["megapixels"] += picture.shape[1] * picture.shape[2] / 1e6
        entry["scores"] += [face.score for face in detect_faces(picture, detector, threshold=min(THRESHOLDS))]
    return kinds


def rate(measured: list[dict], threshold: float) -> float:
    """Share of the faces found at a threshold, in 0..1; nan without any."""
    found = [entry["score"] is not None and entry["score"] > threshold for entry in measured]
    return sum(found) / len(found) if found else float("nan")


def summarize(results: dict) -> str:
    """Markdown tables: by condition, the landmarks of those found, by how far the head is turned, false alarms."""
    lines = ["| condition | faces | found | at -0.5 | boxes elsewhere | at -0.5 |", "|---|---|---|---|---|---|"]
    lines += [_row(name, measured) for name, measured in results["conditions"].items()]
    lines += ["", "| condition | faces found | landmarks off, median | 95 % | wrong | doubtful | of the right ones |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [_landmark_row(name, errors) for name, errors in results["landmarks"].items()]
    lines.append(_landmark_row("all", sum(results["landmarks"].values(), [])))
    lines += ["", "| nose off the middle | photos | found | at -0.5 |", "|---|---|---|---|"]
    for name, measured in results["aside"].items():
        lines.append(f"| {name} | {len(measured)} | {rate(measured, 0):.1%} | {rate(measured, -0.5):.1%} |")
    lines += ["", "| faceless | pictures | megapixels | boxes at 0 | at -0.5 | at -1 |", "|---|---|---|---|---|---|"]
    for kind, entry in results["faceless"].items():
        boxes = " | ".join(str(sum(score > threshold for score in entry["scores"])) for threshold in THRESHOLDS)
        lines.append(f"| {kind} | {entry['pictures']} | {entry['megapixels']:.1f} | {boxes} |")
    return "\n".join(lines)


def _row(name: str, measured: list[dict]) -> str:
    others = [sum(score > limit for entry in measured for score in entry["others"]) for limit in (0, -0.5)]
    rates = f"{rate(measured, 0):.0%} | {rate(measured, -0.5):.0%}"
    return f"| {name} | {len(measured)} | {rates} | {others[0]} | {others[1]} |"


def _landmark_row(name: str, errors: list) -> str:
    pairs = [pair for pair in errors if pair is not None]
    found, doubtful = torch.tensor([one for one, _ in pairs]), torch.tensor([one for _, one in pairs]).bool()
    median, most = (f"{found.quantile(share):.1%}" for share in (0.5, 0.95)) if pairs else ("–", "–")
    wrong = found > WRONG_LANDMARKS
    counts = f"{int(wrong.sum())} | {int((doubtful & wrong).sum())} | {int((doubtful & ~wrong).sum())}"
    return f"| {name} | {len(pairs)} of {len(errors)} | {median} | {most} | {counts} |"


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON with every score; kept and continued")
    parser.add_argument("--count", type=int, default=100, help="how many people for the conditions")
    args = parser.parse_args()

    detector = load_detector()
    paths = [path for path, _ in pairs_among(sum(split_identities(args.images), []))]
    step = max(1, len(paths) // args.count)
    subjects = [load_subject(path, detector) for path in paths[::step][: args.count]]
    results = json.loads(args.out.read_text()) if args.out.exists() else {"conditions": {}}
    for number, (name, condition) in enumerate(CONDITIONS.items()):
        if name not in results["conditions"]:
            pictures = _pictures(condition, subjects, seed=number)
            results["conditions"][name] = [measure(picture, detector, condition.min_face) for picture in pictures]
            args.out.write_text(json.dumps(results))
            log.info("%s", _row(name, results["conditions"][name]))
    others = {
        "landmarks": lambda: _landmark_errors(subjects[::3], detector),
        "faceless": lambda: false_alarms(subjects, detector),
        "aside": lambda: rate_aside(args.images, detector),
    }
    for name, measurement in others.items():
        if name not in results:
            results[name] = measurement()
            args.out.write_text(json.dumps(results))
    log.info("%s", summarize(results))


def _pictures(condition: Condition, subjects: list[Subject], seed: int) -> Iterator[Picture]:
    for index in range(0, len(subjects), condition.every):
        yield condition.make(subjects[index], torch.Generator().manual_seed(1000 * seed + index))


def _landmark_errors(subjects: list[Subject], detector: FaceDetector) -> dict[str, list]:
    errors = {}
    for seed, name in enumerate(tqdm(LANDMARK_CONDITIONS, desc="landmarks", mininterval=10)):
        pictures = _pictures(CONDITIONS[name], subjects, seed)
        errors[name] = [landmark_error(picture, detector, CONDITIONS[name].min_face) for picture in pictures]
    return errors


if __name__ == "__main__":
    main()

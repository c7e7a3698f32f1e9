"""How well Protect Photo protects the faces of large photos with several people.

    python -m faceprotect_core.evaluation.faces.whole_photos --images FACES --out FILE [--preset NAME] [--photos 10]

FACES holds photos <identity>_a.jpg and <identity>_b.jpg with FFHQ's framing (256 x 256). Photos a of held-out people
are laid into faceless scenes of 1200 x 900 to 4000 x 3000 pixels, with faces of 60 to 700 pixels, turned a little;
faces above about 140 pixels are enlarged and so smoother than a camera's. The protected photo, rounded to 8 bits, is
compared with photo b of the same person, which the optimiser never sees. The recogniser is the one that the optimiser
works against: a white-box number. scikit-image's astronaut, where it is installed, is one photo more.
Deterministic and resumable; no picture is written unless --keep-images says where.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...demo import load_demo_model
from ...faces import Face, FaceDetector, detect_faces, find_face, load_detector, overlap
from ...photos.photo import PhotoResult, protect_photo
from ...photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS
from ...pixels import as_saved, from_pixels, to_pixels
from ...surrogates import FRSurrogate, load_surrogate
from ...surrogates.metric import METRICS
from ...verify.quality import psnr
from ..people import pairs_among, read_photos, split_identities
from .scenes import Subject, lay_face, load_subject, natural_scene

log = logging.getLogger("faceprotect.evaluation.whole_photos")

# (width, height, faces)
LAYOUTS = (
    (1200, 900, 2),
    (1280, 960, 4),
    (1600, 1200, 3),
    (1920, 1080, 5),
    (2048, 1536, 2),
    (2400, 1600, 4),
    (3024, 4032, 3),
    (3000, 2000, 5),
    (3600, 2400, 3),
    (4000, 3000, 4),
)
SMALLEST_BOX, LARGEST_BOX = 60, 700  # pixels
LARGEST_SHARE = 0.38  # of the photo's shorter side, for the largest face box of a photo
ROOM = 0.95  # reach of a head from the middle of its face box, in sides of the box
LARGEST_TURN = 12  # degrees
SAME_FACE = 0.3  # intersection over union above which a detected box is a true face's
THRESHOLD = 0.6476  # of the built-in judge at a false accept rate of 0.01: the same person below it


@dataclass(frozen=True, eq=False)
class Composition:
    """A photo made of known faces. image: [3, H, W], 8-bit values. people: names of the files, one per face."""

    image: Tensor
    people: tuple[str, ...]
    faces: tuple[Face, ...]


def compose(subjects: Sequence[Subject], width: int, height: int, seed: int) -> Composition:
    """Lay the subjects into one scene, the largest first, without touching each other. Deterministic.

    Raises RuntimeError where they do not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    image = natural_scene(height, width, generator)
    placed: list[tuple[float, float, float]] = []
    faces = []
    for subject, size in zip(subjects, box_sizes(len(subjects), width, height, generator), strict=True):
        x, y = _free_place(placed, size, width, height, generator)
        placed.append((x, y, size))
        degrees = LARGEST_TURN * (2 * torch.rand(1, generator=generator).item() - 1)
        image, face = lay_face(image, subject, (x, y), size, degrees)
        faces.append(face)
    return Composition(as_saved(image), tuple(subject.name for subject in subjects), tuple(faces))


def box_sizes(count: int, width: int, height: int, generator: torch.Generator) -> list[float]:
    """Sides of the face boxes in pixels, falling: evenly spread on a logarithmic scale, up to a sixth off."""
    largest = min(LARGEST_BOX, LARGEST_SHARE * min(width, height))
    steps = torch.linspace(math.log(largest), math.log(SMALLEST_BOX * 1.1), count)
    spread = 1 - torch.rand(count, generator=generator) / 6
    return (steps.exp() * spread).clamp(min=SMALLEST_BOX).tolist()


def _free_place(placed: list, size: float, width: int, height: int, generator: torch.Generator) -> tuple[float, float]:
    reach = ROOM * size
    for _ in range(1000):
        x, y = (reach + torch.rand(1, generator=generator).item() * (length - 2 * reach) for length in (width, height))
        if all(math.hypot(x - px, y - py) > reach + ROOM * other for px, py, other in placed):
            return x, y
    raise RuntimeError(f"no room for a face of {size:.0f} pixels in {width} x {height} beside {len(placed)} others")


def planned(folder: Path, count: int, detector: FaceDetector) -> Iterator[tuple[str, Callable[[], Composition | None]]]:
    """(name, what makes it) of every photo: the held-out people in numeric order, each once; then the astronaut."""
    _, held_out = split_identities(folder)
    paths = iter([path for path, _ in pairs_among(held_out)])
    for seed, (width, height, faces) in enumerate(LAYOUTS[:count]):
        people = list(itertools.islice(paths, faces))

        def make(people=people, width=width, height=height, seed=seed) -> Composition:
            return compose([load_subject(path, detector) for path in people], width, height, seed)

        yield f"{width} x {height}", make
    yield "astronaut, 512 x 512", lambda: astronaut(detector)


def astronaut(detector: FaceDetector) -> Composition | None:
    """NASA's portrait of Eileen Collins (public domain) from scikit-image; None where that is not installed."""
    try:
        from skimage import data
    except ImportError:
        return None
    image = from_pixels(data.astronaut())
    return Composition(image, ("",), (find_face(image, detector),))


class Evaluation:
    def __init__(self, folder: Path, preset: str, way: str = LIGHT):
        self.folder, self.settings = folder, PRESETS[way][preset]
        self.model = load_demo_model() if way == DIFFUSION else None
        self.surrogates = [load_surrogate(name) for name in BUILT_IN_SURROGATES]
        self.recogniser: FRSurrogate = load_surrogate(BUILT_IN_JUDGE)
        self.detector = load_detector()

    def run(self, photo: Composition) -> tuple[dict, Tensor]:
        """The photo's entry for the JSON, and the protected photo with 8-bit values."""
        start = time.perf_counter()
        found = detect_faces(photo.image, self.detector)
        seconds = {"detect": time.perf_counter() - start}
        start = time.perf_counter()
        result = self._protect(photo.image, found) if found else None
        seconds["protect"] = time.perf_counter() - start
        finished = photo.image if result is None else as_saved(result.image)
        again = detect_faces(finished, self.detector)
        faces = [
            self._face(photo, finished, result, person, truth, found, again)
            for person, truth in zip(photo.people, photo.faces, strict=True)
        ]
        strangers = sum(all(overlap(one.box_xyxy, t.box_xyxy) <= SAME_FACE for t in photo.faces) for one in found)
        entry = {
            "width": photo.image.shape[2],
            "height": photo.image.shape[1],
            "seconds": seconds,
            "boxes_without_a_face": strangers,
            "outside_bit_equal": None if result is None else _equal_outside(photo.image, result),
            "claimed_protected": None if result is None else result.protected,
            "faces": faces,
        }
        return entry, finished

    def _protect(self, image: Tensor, found: list[Face]) -> PhotoResult:
        return protect_photo(
            image,
            self.surrogates,
            self.settings,
            model=self.model,
            judge=self.recogniser,
            faces=found,
            detector=self.detector,
        )

    def _face(self, photo, finished, result, person, truth, found, again) -> dict:
        """One true face: was it found, and how far is it from its person before and after."""
        entry = {"person": person, "box_size": truth.box_xyxy[2] - truth.box_xyxy[0] + 1}
        before, after = (_on(truth, faces) for faces in (found, again))
        entry |= {"detected": before is not None, "found_again": after is not None}
        if before is None:
            return entry
        original = self._embed(photo.image, before)
        changed = self._embed(finished, after or before)
        entry["distance_to_original"] = self.recogniser.distance(changed, original).item()
        if person:
            other = read_photos(self.folder / f"{person[:-1]}b.jpg")[0]
            reference = self._embed(other, find_face(other, self.detector))
            entry["distance_before"] = self.recogniser.distance(original, reference).item()
            entry["distance_after"] = self.recogniser.distance(changed, reference).item()
        verdict = next(one for one in result.faces if one.face == before)
        entry |= {"psnr": _psnr_in_mask(photo.image, finished, result.mask, before), "verdict": verdict.to_dict()}
        return entry

    def _embed(self, image: Tensor, face: Face) -> Tensor:
        with torch.no_grad():
            return self.recogniser.embed(image[None], face)


def _on(truth: Face, faces: list[Face]) -> Face | None:
    """The detected face that lies on a true one."""
    best = max(faces, key=lambda face: overlap(face.box_xyxy, truth.box_xyxy), default=None)
    return best if best and overlap(best.box_xyxy, truth.box_xyxy) > SAME_FACE else None


def _equal_outside(original: Tensor, result: PhotoResult) -> bool:
    outside = (result.mask == 0).expand_as(original)
    return torch.equal(result.image[outside], original[outside])


def _psnr_in_mask(original: Tensor, finished: Tensor, mask: Tensor, face: Face) -> float:
    """dB over the changed pixels of one face (the mask around its box), data range 1."""
    left, top, right, bottom = face.box_xyxy
    reach = (right - left) * 0.75
    rows = slice(max(0, int(top - reach)), int(bottom + reach) + 1)
    columns = slice(max(0, int(left - reach)), int(right + reach) + 1)
    part = (slice(None), rows, columns)
    return psnr(original[part][None], finished[part][None], mask[part][None]).item()


def summarize(results: dict[str, dict]) -> str:
    """A Markdown table with one row per photo, and one of the totals."""
    header = (
        f"| photo | faces (px) | detected | distance to b before | after | to its own original | past {THRESHOLD:.2f} "
        "| PSNR in the mask | outside bit-equal | s |"
    )
    rows = [header, "|---" * (header.count(" |")) + "|"]
    rows += [_row(name, [entry]) for name, entry in results.items()]
    rows.append(_row("all", list(results.values())))
    return "\n".join(rows)


def _row(name: str, entries: list[dict]) -> str:
    faces = [face for entry in entries for face in entry["faces"]]
    detected = [face for face in faces if face["detected"]]
    sizes = ", ".join(f"{face['box_size']:.0f}" for face in faces) if len(entries) == 1 else str(len(faces))
    pairs = [face for face in detected if "distance_after" in face]
    away = [METRICS["euclidean"].margin(face["distance_after"], THRESHOLD) for face in pairs]
    past = f"{sum(one > 0 for one in away)} of {len(away)}" if away else "–"
    equal = all(entry["outside_bit_equal"] is not False for entry in entries)
    means = [
        _mean([face[key] for face in detected if key in face])
        for key in ("distance_before", "distance_after", "distance_to_original")
    ]
    seconds = sum(sum(entry["seconds"].values()) for entry in entries)
    return (
        f"| {name} | {sizes} | {len(detected)} of {len(faces)} | {' | '.join(means)} | {past} "
        f"| {_mean([face['psnr'] for face in detected], 1)} | {'yes' if equal else 'NO'} | {seconds:.0f} |"
    )


def _mean(values: list[float], digits: int = 3) -> str:
    return f"{sum(values) / len(values):.{digits}f}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON with every face's numbers, one per preset; kept")
    parser.add_argument("--preset", choices=[*PRESETS[LIGHT]], default="balanced")
    parser.add_argument("--way", choices=[*PRESETS], default=LIGHT)
    parser.add_argument("--photos", type=int, default=len(LAYOUTS), help="how many composed photos")
    parser.add_argument("--keep-images", type=Path, help="folder for the photos before and after (PNG)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    evaluation = Evaluation(args.images, args.preset, args.way)
    for name, make in planned(args.images, args.photos, evaluation.detector):
        photo = make() if name not in results else None
        if photo is not None:
            results[name], finished = evaluation.run(photo)
            args.out.write_text(json.dumps(results, indent=1))
            log.info("%s", _row(name, [results[name]]))
            if args.keep_images:
                _keep(args.keep_images, name, photo.image, finished)
    log.info("%s", summarize(results))


def _keep(folder: Path, name: str, original: Tensor, finished: Tensor) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for kind, image in (("before", original), ("after", finished)):
        Image.fromarray(to_pixels(image)).save(folder / f"{name} {kind}.png")


if __name__ == "__main__":
    main()

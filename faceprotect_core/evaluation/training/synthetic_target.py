"""The built-in target face: a blend of many people, which is nobody.

    python -m faceprotect_core.evaluation.training.synthetic_target --images FACES [--out FILE.png]

FACES holds photos <identity>_<photo>.jpg with FFHQ's framing; only the training identities go into a blend, one photo
each. Of several blends (everybody's mean, and means of a few people who look alike in grey values) the sharpest is
saved that the built-in recogniser takes for none of the photos in FACES. Deterministic.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import filter2d_separable
from torch import Tensor
from tqdm import tqdm

from ...checks import require
from ...demo import SYNTHETIC_TARGET
from ...faces import Face, FaceDetector, chip_to_image, detect_faces, load_detector
from ...faces.align import warp
from ...pixels import as_saved, to_pixels
from ...surrogates import FRSurrogate, load_surrogate
from ..people import command, read_photos, split_identities

log = logging.getLogger("faceprotect.demo.synthetic_target")

SIZES = (16, 20)  # people in a blend: in blends of fewer, single photos shine through (glasses, watermarks)
NOBODY = 0.65  # the smallest distance to any photo; 0.6 is the recogniser's threshold
LOOK = 24  # pixels: the size at which grey values are compared to find people who look alike
INNER_FACE = slice(72, 232), slice(64, 192)  # rows and columns of a photo with FFHQ's framing
SHARPENING = 0.6  # share of the detail finer than 1.5 pixels that is added again: averaging takes it away


@dataclass(frozen=True, eq=False)
class Candidate:
    """A blend: how many people, its image [3, 256, 256], and what was measured of it.

    score: of the detector; None unless it finds exactly one face. sharpness: mean absolute Laplacian of the inner face.
    distances: [photos], Euclidean, of the recogniser to every photo of the folder.
    """

    people: int
    image: Tensor
    score: float | None
    sharpness: float
    distances: Tensor

    @property
    def is_nobody(self) -> bool:
        return self.score is not None and self.distances.min().item() > NOBODY


@dataclass(frozen=True, eq=False)
class Gallery:
    """The training people's aligned faces [N, 3, 256, 256], one photo each, and every photo's embedding [M, 128]."""

    aligned: Tensor
    embeddings: Tensor


def read_gallery(folder: Path, detector: FaceDetector, recogniser: FRSurrogate) -> Gallery:
    """Align the first photo of every training identity onto FFHQ's landmarks; embed all photos, held-out ones too."""
    train, held_out = split_identities(folder)
    training, aligned, embeddings, seen = set(train), [], [], set()
    for path in tqdm([*train, *held_out], desc="photos", mininterval=10):
        photo = read_photos(path)[0]
        face = next(iter(detect_faces(photo, detector)), None)
        if face is None:
            log.warning("no face found in %s: left out", path.name)
            continue
        embeddings.append(recogniser.embed(photo[None], face).detach())
        identity = path.stem.split("_")[0]
        if path in training and identity not in seen:
            seen.add(identity)
            aligned.append(warp(photo[None], chip_to_image(face, "ffhq_256"), 256, padding_mode="reflection")[0])
    return Gallery(torch.stack(aligned), torch.cat(embeddings))


def lookalikes(aligned: Tensor, person: int, count: int) -> Tensor:
    """Indices of the `count` people whose inner face is the closest in grey values to that person's, himself included.

    Blends of people who look alike stay sharp.
    """
    grey = F.interpolate(aligned[(..., *INNER_FACE)].mean(1, keepdim=True), size=(LOOK, LOOK), mode="area").flatten(1)
    grey = grey - grey.mean(1, keepdim=True)
    return (grey - grey[person]).square().sum(1).argsort()[:count]


def blend(aligned: Tensor) -> Tensor:
    """The mean of aligned faces [N, 3, 256, 256], sharpened, 8 bits -> [3, 256, 256]."""
    mean = aligned.mean(0)
    binomial = torch.tensor([[1.0, 4.0, 6.0, 4.0, 1.0]]) / 16
    smooth = filter2d_separable(mean[None], binomial, binomial)[0]
    return as_saved(mean + SHARPENING * (mean - smooth))


def sharpness(image: Tensor) -> float:
    """Mean absolute Laplacian of the inner face's grey values, in units of 1/255."""
    grey = image[(..., *INNER_FACE)].mean(0)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return laplacian.abs().mean().item() * 255


def measure(image: Tensor, people: int, gallery: Gallery, detector: FaceDetector, recogniser: FRSurrogate) -> Candidate:
    found = detect_faces(image, detector)
    face: Face | None = found[0] if len(found) == 1 else None
    embedding = recogniser.embed(image[None], face)
    distances = recogniser.distance(embedding, gallery.embeddings)
    return Candidate(people, image, face.score if face else None, sharpness(image), distances)


def candidates(gallery: Gallery, detector: FaceDetector, recogniser: FRSurrogate, seeds: int) -> list[Candidate]:
    """Everybody's mean, then blends around `seeds` evenly spaced people."""
    blends = [(len(gallery.aligned), blend(gallery.aligned))]
    persons = np.linspace(0, len(gallery.aligned) - 1, seeds).astype(int)
    blends += [(n, blend(gallery.aligned[lookalikes(gallery.aligned, p, n)])) for n in SIZES for p in persons]
    return [
        measure(image, people, gallery, detector, recogniser)
        for people, image in tqdm(blends, desc="blends", mininterval=10)
    ]


def choose(measured: list[Candidate]) -> Candidate:
    """The sharpest blend that is nobody."""
    fit = [candidate for candidate in measured if candidate.is_nobody]
    require(bool(fit), f"none of {len(measured)} blends is farther than {NOBODY} from everybody", "try more --seeds")
    return max(fit, key=lambda candidate: candidate.sharpness)


def describe(candidate: Candidate) -> str:
    """A row of a Markdown table: people, detector score, sharpness, distances (smallest, median), matches."""
    distances, score = candidate.distances, candidate.score
    return (
        f"| {candidate.people} | {'none' if score is None else f'{score:.2f}'} | {candidate.sharpness:.2f} "
        f"| {distances.min():.3f} | {distances.median():.3f} | {int((distances < 0.6).sum())} of {len(distances)} |"
    )


def save(image: Tensor, path: Path) -> None:
    from PIL import Image

    Image.fromarray(to_pixels(image)).save(path, optimize=True)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, default=SYNTHETIC_TARGET)
    parser.add_argument("--seeds", type=int, default=81, help="people around whom blends are tried")
    args = parser.parse_args()

    detector, recogniser = load_detector(), load_surrogate("dlib_resnet")
    with torch.no_grad():
        gallery = read_gallery(args.images, detector, recogniser)
        measured = candidates(gallery, detector, recogniser, args.seeds)
    log.info("| people | score | sharpness | smallest distance | median | below 0.6 |\n|---|---|---|---|---|---|")
    log.info("%s", describe(measured[0]))
    for people in SIZES:
        of_size = [candidate for candidate in measured[1:] if candidate.people == people]
        log.info("%d of %d blends of %d are nobody", sum(c.is_nobody for c in of_size), len(of_size), people)
    best = choose(measured)
    log.info("%s", describe(best))
    save(best.image, args.out)


if __name__ == "__main__":
    main()

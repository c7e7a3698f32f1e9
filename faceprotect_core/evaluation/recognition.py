"""How good is a recogniser? True accept rates and thresholds on pairs of photos.

    python -m faceprotect_core.evaluation.recognition --images FACES --surrogate dlib_resnet faceres [--held-out]

FACES holds photos <identity>_a.jpg and <identity>_b.jpg of one face each. Every photo a is compared with every photo b:
n genuine pairs and n (n - 1) of strangers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..faces import find_face, load_detector
from ..surrogates import FRSurrogate, load_surrogate
from ..surrogates.metric import METRICS
from .people import command, pairs_among, read_photos, split_identities

log = logging.getLogger("faceprotect.evaluation.recognition")
FARS = (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Rates:
    """identities: how many. thresholds: FAR -> similarity at which so many strangers pass. true_accept: FAR -> share of
    genuine pairs above it. rank_1: share of photos whose nearest photo is the same person's."""

    identities: int
    thresholds: dict[float, float]
    true_accept: dict[float, float]
    rank_1: float

    def to_dict(self) -> dict:
        """For JSON, rounded."""
        return json.loads(json.dumps(asdict(self)), parse_float=lambda number: round(float(number), 4))


def verification_rates(similarity: Tensor, fars: tuple[float, ...] = FARS) -> Rates:
    """From the similarities [n, n] of photos a (rows) and b (columns) of the same n people; higher is more alike.

    The threshold at a false accept rate is the smallest similarity that at most that share of the strangers exceeds.
    """
    people = len(similarity)
    genuine = similarity.diagonal()
    strangers = similarity[~torch.eye(people, dtype=torch.bool, device=similarity.device)].sort(descending=True).values
    thresholds = {far: strangers[min(int(far * len(strangers)), len(strangers) - 1)].item() for far in fars}
    accepted = {far: (genuine > value).float().mean().item() for far, value in thresholds.items()}
    nearest = similarity.argmax(1) == torch.arange(people, device=similarity.device)
    return Rates(people, thresholds, accepted, nearest.float().mean().item())


@torch.no_grad()
def similarities(surrogate: FRSurrogate, photos_a: Iterable[Tensor], photos_b: Iterable[Tensor]) -> Tensor:
    """[n, n] for photos [3, H, W] in [0, 1]: a cosine, or the NEGATIVE distance; higher is more alike."""
    detector = load_detector()

    def embed(photos: Iterable[Tensor]) -> Tensor:
        return torch.cat([surrogate.embed(photo[None], find_face(photo, detector)) for photo in photos])

    others = embed(photos_b)
    rows = [surrogate.similarity(one[None].expand_as(others), others) for one in embed(photos_a)]
    return METRICS[surrogate.metric].alike(torch.stack(rows))


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--surrogate", nargs="+", required=True, help="built-in names, or weights files")
    parser.add_argument("--held-out", action="store_true", help="only people whom the demo models were not trained on")
    args = parser.parse_args()
    training, held_out = split_identities(args.images)
    pairs = pairs_among(held_out if args.held_out else [*training, *held_out])
    photos_a, photos_b = (read_photos(*photos) for photos in zip(*pairs, strict=True))
    for name in args.surrogate:
        surrogate = load_surrogate(name)
        found = verification_rates(similarities(surrogate, photos_a, photos_b))
        log.info("%s (%s): %s", surrogate.name, surrogate.metric, json.dumps(found.to_dict()))


if __name__ == "__main__":
    main()

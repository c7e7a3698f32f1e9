"""What is seen of a first version of a face, and what recognisers say about it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..faces import FaceCrop
from ..files import digest_of_json, digest_of_tensor, write_atomically
from ..instant.protect import network_digest
from ..photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, WEIGHTS, PhotoSettings
from ..pixels import as_saved
from ..surrogates import FRSurrogate, load_surrogate
from ..verify.quality import ciede2000, psnr, ssim
from ..verify.verdict import ROOM
from ..verify.visibility import FACE
from .recognition import FARS
from .training.crops import embed_crops, read_crops, with_both_photos

log = logging.getLogger("faceprotect.evaluation.first_versions")
Measured = TypeVar("Measured")
Numbers = dict[str, float]
LENIENT, STRICT = FARS[:2]


class Panel:
    """The built-in recognisers, of which the judge compares with another photo of each person.

    crops, again: two photos of each.
    """

    def __init__(self, crops: Sequence[FaceCrop], again: Sequence[FaceCrop]):
        self.judge = load_surrogate(BUILT_IN_JUDGE)
        self.recognisers: dict[str, FRSurrogate] = {name: load_surrogate(name) for name in BUILT_IN_SURROGATES}
        self.recognisers[self.judge.name] = self.judge
        self.crops, self.own = crops, embed_crops(self.recognisers, crops)
        self.others = embed_crops({self.judge.name: self.judge}, again)[self.judge.name]

    @torch.no_grad()
    def numbers(self, person: int, image: Tensor) -> Numbers:
        """Of the changed crop [3, h, w] of that person; 0 and 1 for no and yes."""
        crop, image = self.crops[person], as_saved(image[None])
        photo, one = crop.image[None], slice(person, person + 1)
        difference, _ = ciede2000(photo, image, crop.mask[None] > FACE)
        embeddings = embed_crops(self.recognisers, [crop], image)
        itself = [net.margin(embeddings[name], self.own[name][one]) for name, net in self.recognisers.items()]
        past = {far: self.judge.margin(embeddings[self.judge.name], self.others[one], far) for far in (LENIENT, STRICT)}
        return {
            "PSNR": psnr(photo, image).item(),
            "SSIM": ssim(photo, image).item(),
            "CIEDE2000": float(difference),
            "past": past[STRICT].item(),
            "matched, strict": float(past[STRICT] <= 0),
            "matched, lenient": float(past[LENIENT] <= 0),
            "all on the photo itself": float(min(itself) > ROOM),
        }

    def kept(self, out: Path, row: str, settings: PhotoSettings, measure: Callable[[int], Measured]) -> list[Measured]:
        """What `measure` says of each person, by number, which must go into JSON.

        The file `out` keeps it by row, settings, weights and photo: what is there is not measured again.
        """
        prints = [one.fingerprint for one in self.recognisers.values()]
        made_with = digest_of_json([asdict(settings), WEIGHTS, network_digest(), prints])[:16]
        results = json.loads(out.read_text()) if out.exists() else {}
        people = results.setdefault(f"{row} ({made_with})", {})
        photos = [str(digest_of_tensor(crop.image))[:16] for crop in self.crops]
        for number, name in enumerate(photos):
            if name not in people:
                people[name] = measure(number)
                write_atomically(out, json.dumps(results, indent=1).encode())
                log.info("%s, %d of %d", row, number + 1, len(photos))
        return [people[name] for name in photos]


def panel_of(paths: Iterable[Path], people: int) -> Panel:
    """The first people of whom there are both photos, among three photos of each."""
    crops, again = with_both_photos(read_crops(islice(paths, 3 * people)))
    return Panel(crops[:people], again[:people])


def mean(people: Sequence[Numbers], name: str) -> float:
    return sum(one[name] for one in people) / len(people)


def count(people: Sequence[Numbers], name: str) -> int:
    return round(sum(one[name] for one in people))

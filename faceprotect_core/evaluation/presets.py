"""What the presets do, as shipped: the whole product on photos of one face, and recognisers on another photo.

    python -m faceprotect_core.evaluation.presets --images FACES --out presets.json [--way diffusion] [--people 45]
    python -m faceprotect_core evaluate --presets --images FACES --model CHECKPOINT --out results

FACES holds photos <identity>_a.jpg and <identity>_b.jpg of one face each. Photo a of the people whom the demo model was
not trained on is protected and compared with photo b, which the product never sees. Resumable; prints a Markdown table.
The second command measures them with a model of yours, on everybody, at the photos' own size.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ..checks import require
from ..faces import Face, detect_faces, face_mask, find_face, load_detector
from ..files import digest_of_json
from ..instant.protect import network_digest
from ..models import LoadedModel, load_model
from ..photos.photo import protect_photo
from ..photos.read import read_photo
from ..photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS, WEIGHTS
from ..pixels import as_saved
from ..surrogates import load_surrogate
from ..verify.quality import ciede2000, ms_ssim, psnr, ssim
from ..verify.robustness import Processing, processings
from ..verify.visibility import FACE
from .people import pairs_among, parser_of, read_photos, split_identities
from .protocol.data import Pair
from .recognition import FARS

log = logging.getLogger("faceprotect.evaluation.presets")
Read = Callable[[Path], Tensor]
AFTER = ("jpeg 75", "half size", "mirrored", "vae", "ddim")


class Evaluation:
    """One preset. The judge is `BUILT_IN_JUDGE`, in no loss. model: of diffusion; for light and shade it is only what a
    photo goes through afterwards."""

    def __init__(self, way: str, preset: str, model: LoadedModel):
        self.settings, self.way, device = PRESETS[way][preset], way, model.context.device
        if way == DIFFUSION:
            self.settings = replace(self.settings, size=model.size)
        self.model = model
        self.used = [load_surrogate(name).to(device) for name in BUILT_IN_SURROGATES]
        self.judge, self.detector = load_surrogate(BUILT_IN_JUDGE).to(device), load_detector(device)
        self.panel = (self.judge, *self.used)
        found = processings(model.codec, model.denoiser, model.context, schedule=model.schedule)
        found |= {"mirrored": lambda photo: as_saved(photo.flip(3))}
        self.processings: dict[str, Processing] = {name: found[name] for name in AFTER}

    def person(self, photo: Tensor, other: Tensor) -> dict:
        """[3, H, W] in [0, 1] twice -> an entry for the JSON."""
        start, model = time.perf_counter(), self.model
        through = (model.denoiser, model.codec, model.context) if self.way == DIFFUSION else None
        result = protect_photo(
            photo, self.used, self.settings, model=through, schedule=model.schedule, judge=self.judge,
            detector=self.detector,
        )  # fmt: skip
        seconds, finished = time.perf_counter() - start, as_saved(result.image)
        again = find_face(other, self.detector)
        references = self._embeddings(other, again)
        face = result.crops[0].photo_face
        mean, worst = ciede2000(photo[None], finished[None], face_mask([face], *photo.shape[1:])[None] > FACE)
        return {
            "seconds": seconds,
            "protected": result.protected,
            "asked": max(one.asked for one in result.faces),
            "psnr": psnr(photo[None], finished[None]).item(),
            "ssim": ssim(photo[None], finished[None]).item(),
            "ms_ssim": ms_ssim(photo[None], finished[None]).item(),
            "ciede2000": mean.item(),
            "ciede2000_95": worst.item(),
            "before": self._margins(photo, face, references),
            "after": self._margins(finished, self._again(finished, face), references),
            "judge_after": {
                name: self._margins(process(finished[None])[0], None, references)[self.judge.name]
                for name, process in self.processings.items()
            },
        }

    def _again(self, photo: Tensor, face: Face) -> Face:
        found = detect_faces(photo, self.detector)
        return found[0] if found else face

    def _margins(self, photo: Tensor, face: Face | None, references: Mapping[str, Tensor]) -> dict[str, dict]:
        """Recogniser -> FAR -> how far past the threshold; face None: found anew."""
        embeddings = self._embeddings(photo, face or find_face(photo, self.detector))
        return {
            one.name: {str(far): one.margin(embeddings[one.name], references[one.name], far).item() for far in FARS}
            for one in self.panel
        }

    @torch.no_grad()
    def _embeddings(self, photo: Tensor, face: Face) -> dict[str, Tensor]:
        return {one.name: one.embed(photo[None], face) for one in self.panel}


def row(name: str, people: list[dict]) -> str:
    """A preset's row of the table."""
    judged = [one["after"][BUILT_IN_JUDGE] for one in people]
    cells = [f"{_matched(judged, far):.0%}" for far in FARS[:2]]
    cells += [f"{_matched([one['judge_after'][after] for one in people], 0.01):.0%}" for after in AFTER]
    quality = [
        f"{_mean(people, 'psnr'):.1f} ({min(one['psnr'] for one in people):.1f})",
        f"{_mean(people, 'ssim'):.3f}",
        *(
            f"{_mean(people, name):.{places}f}"
            for name, places in (("ms_ssim", 3), ("ciede2000", 1), ("ciede2000_95", 1))
        ),
    ]
    claimed = f"{sum(one['protected'] for one in people)} of {len(people)}"
    asked, seconds = str(sum(one["asked"] > 1 for one in people)), f"{_mean(people, 'seconds'):.1f}"
    return f"| {' | '.join([name, claimed, asked, *cells, *quality, seconds])} |"


HEADER = (
    "| preset | called protected | asked again | judge matches at FAR 0.1 | at 0.01 | "
    + " | ".join(f"after {name}" for name in AFTER)
    + " | PSNR (worst) | SSIM | MS-SSIM | CIEDE2000 over the face | 95 % | s a face |"
)


def _mean(people: list[dict], key: str) -> float:
    return sum(one[key] for one in people) / len(people)


def _matched(margins: list[dict], far: float) -> float:
    return sum(one[str(far)] < 0 for one in margins) / len(margins)


def table(results: dict[str, dict]) -> str:
    """Markdown, a row for each preset; the first says what the unprotected photos do."""
    everybody = next(iter(results.values()))
    before = [one["before"][BUILT_IN_JUDGE] for one in everybody.values()]
    clean = [f"{_matched(before, far):.0%}" for far in FARS[:2]]
    lines = [HEADER, "|" + " --- |" * (HEADER.count("|") - 1)]
    lines.append(f"| unprotected | | | {' | '.join(clean)} |" + " |" * (len(AFTER) + 6))
    return "\n".join([*lines, *(row(name, list(people.values())) for name, people in results.items())])


def measure(pairs: Sequence[Pair], read: Read, way: str, presets: Sequence[str], model: LoadedModel, out: Path) -> str:
    """The table; `out` keeps every person's numbers, and what was made with the same settings and weights is not
    measured again.

    pairs: of two photos each. read: a file -> [3, H, W] in [0, 1].
    """
    results = json.loads(out.read_text()) if out.exists() else {}
    for preset in presets:
        made_with, name = _made_with(way, preset, model), f"{way}, {preset}"
        people = {one: row for one, row in results.get(name, {}).items() if row.get("made_with") == made_with}
        results[name] = people
        missing = [pair for pair in pairs if pair.name not in people]
        evaluation = Evaluation(way, preset, model) if missing else None
        for pair in missing:
            people[pair.name] = evaluation.person(read(pair.photo), read(pair.other)) | {"made_with": made_with}
            out.write_text(json.dumps(results, indent=1))
            log.info("%s, %s: %.0f s", preset, pair.name, people[pair.name]["seconds"])
    return table(results)


def _made_with(way: str, preset: str, model: LoadedModel) -> str:
    """A digest of what decides how a photo comes out."""
    panel = [load_surrogate(name).fingerprint for name in (BUILT_IN_JUDGE, *BUILT_IN_SURROGATES)]
    return digest_of_json([asdict(PRESETS[way][preset]), WEIGHTS, network_digest(), model.sha256, panel])[:16]


def measure_with_model(name: str, pairs: Sequence[Pair], device: str, out: Path) -> str:
    """All presets of diffusion with a model of the user's: writes the numbers and presets.md into the folder `out`.

    pairs: those without a second photo are left out. Returns the text of presets.md.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = load_model(name, device)
    known = [pair for pair in pairs if pair.other is not None]
    require(bool(known), "nobody has a second photo to be recognised on", "add <name>_b beside <name>_a, or --pairs")

    def read(file: Path) -> Tensor:
        return read_photo(file).image.to(device)

    lines = [
        f"The presets of diffusion with {Path(name).name} (SHA-256 {model.sha256}), crops of {model.size} pixels, "
        f"{len(known)} people, {platform.machine()}, {device}.",
        measure(known, read, DIFFUSION, list(PRESETS[DIFFUSION]), model, out / f"presets-{model.sha256[:16]}.json"),
    ]
    text = "\n\n".join(lines) + "\n"
    (out / "presets.md").write_text(text)
    return text


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON with every person's numbers; kept, and gone on with"
    )
    parser.add_argument("--way", choices=[*PRESETS], default=LIGHT)
    parser.add_argument("--preset", nargs="+", choices=[*PRESETS[LIGHT]], default=[*PRESETS[LIGHT]])
    parser.add_argument("--people", type=int, default=45, help="the first so many of those held out (45)")
    args = parser.parse_args()
    _, held_out = split_identities(args.images)
    pairs = [Pair(photo.stem, photo, other) for photo, other in pairs_among(held_out)[: args.people]]
    log.info("%s", measure(pairs, lambda file: read_photos(file)[0], args.way, args.preset, load_model(), args.out))


if __name__ == "__main__":
    main()

"""What is best optimised: the noisy latent, the U-Net's bottleneck, the lightness of the photo, or its colours.

    python -m faceprotect_core.evaluation.variables --images FACES --out variables.json [--people 20] [--pictures DIR]
        [--variables latent,semantic]

FACES holds photos <identity>_a.jpg and <identity>_b.jpg of one face each. Every change is computed against the three
built-in surrogates and scaled until the judge, which is in no loss, is equally far past its threshold; then the
variables are compared by what is seen, and by what is left after processings. Resumable; prints Markdown tables.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo import load_demo_model
from ..faces import face_mask, find_face, load_detector
from ..method.light_and_shade import LightAndShade, LightAndShadeSettings
from ..method.objectives import IdentityObjective
from ..method.peers.semantic import SemanticSettings, protect_by_semantics
from ..method.protect import Settings, prepare
from ..method.variables import optimize, weight_of
from ..method.views import AlignmentJitter
from ..photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS, WEIGHTS
from ..pixels import as_saved, to_pixels
from ..surrogates import load_surrogate
from ..verify.quality import ciede2000, ms_ssim, psnr, ssim
from ..verify.robustness import processings
from ..verify.visibility import FACE
from .people import pairs_among, parser_of, read_photos, split_identities

log = logging.getLogger("faceprotect.evaluation.variables")
EQUAL_MARGIN = 0.1  # of the judge, past its threshold at FAR 0.01, to the original: in units of its distance
LOSS_MARGIN = 0.25  # of the surrogates in the loss: beyond it pushing eases off
LIT, DIFFUSED = PRESETS[LIGHT]["balanced"].light, PRESETS[DIFFUSION]["balanced"].diffusion
LARGEST_FACTOR, HALVINGS = 2.0, 12
CURVE = (0.6, 0.8, 1.0, 1.2, 1.4)  # of the change at the equal margin: how much more is seen of how much more margin
CURVED = ("margin", "psnr", "ciede2000", "ms-ssim")
AFTER = ("jpeg 50", "half size", "vae", "ddim", "mirrored")
GRIDS = (32, 48, 64, 96)  # values along each side of a plane
COARSE = 16  # of two scales: values along each side of the coarser plane
Change = Callable[[Tensor, Tensor, IdentityObjective], Tensor]  # of a photo, within a mask


class TwoScales(LightAndShade):
    """Two planes of lightness, the second coarse, added."""

    def __init__(self, photo: Tensor, mask: Tensor, settings: LightAndShadeSettings, weight: float = 1.0):
        super().__init__(photo, mask, settings, weight)
        self.start = torch.cat([self.start, self.start.flip(2)], 1)

    def change(self, value: Tensor) -> Tensor:
        coarse = F.interpolate(F.adaptive_avg_pool2d(value[:, 1:], COARSE), value.shape[-2:], mode="bicubic")
        # The mean of a cell varies less than a value of it does: bring both to one size.
        return super().change(value[:, :1] + coarse * (value.shape[-1] / COARSE))


class Colour(LightAndShade):
    """A plane for each channel."""

    def __init__(self, photo: Tensor, mask: Tensor, settings: LightAndShadeSettings, weight: float = 1.0):
        super().__init__(photo, mask, settings, weight)
        self.start = self.start.repeat(1, 3, 1, 1)


def variables(model: tuple) -> dict[str, Change]:
    """Name -> what computes a change. model: of `load_demo_model`."""
    grids = {f"lightness {side}": partial(_by_light, LightAndShade, replace(LIT, grid=side)) for side in GRIDS}
    return grids | {
        "lightness at two scales": partial(_by_light, TwoScales, LIT),
        "colour 64": partial(_by_light, Colour, LIT),
        "latent": partial(_by_latent, model, replace(DIFFUSED, keep_colours=False)),
        "latent in lightness": partial(_by_latent, model, replace(DIFFUSED, keep_colours=True)),
        "semantic": partial(_by_semantics, model, SemanticSettings.like(DIFFUSED)),
    }


def _by_light(kind: type[LightAndShade], settings: LightAndShadeSettings, photo, mask, objective) -> Tensor:
    variable = kind(photo, mask, settings, weight_of(objective))
    found = optimize(variable, objective, iterations=settings.iterations, lr=settings.lr)
    return found.rendering.image - photo


def _by_latent(model: tuple, settings: Settings, photo, mask, objective) -> Tensor:
    denoiser, codec, context = model[:3]
    prepared = prepare(denoiser, codec, photo, context, settings)
    return prepared.optimize(denoiser, codec, objective, settings, mask=mask).image - photo


def _by_semantics(model: tuple, settings: SemanticSettings, photo, mask, objective) -> Tensor:
    denoiser, codec, context = model[:3]
    prepared = prepare(denoiser, codec, photo, context, settings)
    found = protect_by_semantics(denoiser, codec, prepared, objective, settings, mask=mask)
    return found.rendering.image - photo


class Comparison:
    def __init__(self):
        model = load_demo_model()
        self.variables = variables(model)
        self.used = [load_surrogate(name) for name in BUILT_IN_SURROGATES]
        self.judge, self.detector = load_surrogate(BUILT_IN_JUDGE), load_detector()
        found = processings(model[1], model[0], model[2]) | {"mirrored": lambda photo: as_saved(photo.flip(3))}
        self.processings = {name: found[name] for name in AFTER}

    def person(self, photo: Tensor, other: Tensor, names: list[str]) -> tuple[dict[str, dict], dict[str, Tensor]]:
        """[1, 3, H, W] twice -> variable -> numbers, and variable -> image at the equal margin."""
        face, again = find_face(photo[0], self.detector), find_face(other[0], self.detector)
        mask = face_mask([face], *photo.shape[-2:])[None]
        reference, second = self.judge.embed(photo, face), self.judge.embed(other, again)
        rows, images = {}, {}
        for name in names:
            weights = [WEIGHTS[one.name] for one in self.used]
            objective = IdentityObjective(
                self.used, source=photo, face=face, source_face=face, margin=LOSS_MARGIN, steepness=6.0,
                weights=weights, jitter=AlignmentJitter(1),
            )  # fmt: skip
            start = time.perf_counter()
            change = self.variables[name](photo, mask, objective)
            seconds = time.perf_counter() - start
            image, factor = self._at_equal_margin(photo, face, change, reference)
            rows[name] = {"seconds": seconds, "factor": factor} | self._numbers(photo, face, mask, image, second)
            if factor is not None:
                rows[name]["curve"] = {
                    str(part): self._on_the_curve(photo, face, mask, part * factor * change, reference)
                    for part in CURVE
                }
            images[name] = image
        return rows, images

    @torch.no_grad()
    def _at_equal_margin(self, photo, face, change, reference) -> tuple[Tensor, float | None]:
        """The smallest factor on the change at which the judge is far enough; None where no factor is."""

        def at(factor: float) -> Tensor:
            return as_saved(photo + factor * change)

        def far(factor: float) -> bool:
            return self.judge.margin(self.judge.embed(at(factor), face), reference, 0.01).item() >= EQUAL_MARGIN

        low, high = 0.0, LARGEST_FACTOR
        if not far(high):
            return at(high), None
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if far(middle) else (middle, high)
        return at(high), high

    @torch.no_grad()
    def _on_the_curve(self, photo, face, mask, change, reference) -> dict[str, float]:
        image = as_saved(photo + change)
        margin = self.judge.margin(self.judge.embed(image, face), reference, 0.01)
        seen = psnr(photo, image), ciede2000(photo, image, mask > FACE)[0], ms_ssim(photo, image)
        return {name: one.item() for name, one in zip(CURVED, (margin, *seen), strict=True)}

    @torch.no_grad()
    def _numbers(self, photo, face, mask, image, second) -> dict:
        mean, worst = ciede2000(photo, image, mask > FACE)
        found = {"psnr": psnr(photo, image).item(), "ssim": ssim(photo, image).item()}
        found |= {"ms-ssim": ms_ssim(photo, image).item(), "ciede2000": mean.item(), "ciede2000 95 %": worst.item()}
        margin = self.judge.margin(self.judge.embed(image, face), second, 0.01).item()
        found["on the other photo"] = margin
        for name, process in self.processings.items():
            processed = process(image)
            seen = find_face(processed[0], self.detector)
            found[f"after {name}"] = self.judge.margin(self.judge.embed(processed, seen), second, 0.01).item()
        return found


def table(people: dict[str, dict]) -> str:
    columns = ("psnr", "ssim", "ms-ssim", "ciede2000", "ciede2000 95 %", "seconds")
    lines = [f"| variable | people | {' | '.join(columns)} | {' | '.join(('other photo', *AFTER))} |"]
    lines.append("|" + " --- |" * (lines[0].count("|") - 1))
    for name in dict.fromkeys(name for one in people.values() for name in one):
        rows = [one[name] for one in people.values() if name in one]
        reached = [row for row in rows if row["factor"] is not None]
        cells = [_mean(reached, key) for key in columns]
        for key in ("on the other photo", *(f"after {name}" for name in AFTER)):
            cells.append(f"{sum(row[key] < 0 for row in reached)}")
        lines.append(f"| {name} | {len(reached)} of {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve(people: dict[str, dict]) -> str:
    """How far the judge is past its threshold, and what that costs, as the change grows. Those alone that have one."""
    known = [(name, row["curve"]) for one in people.values() for name, row in one.items() if "curve" in row]
    names = list(dict.fromkeys(name for name, _ in known))
    lines = ["| factor | " + " | ".join(f"{name}: {', '.join(CURVED)}" for name in names) + " |"]
    lines.append("|" + " --- |" * (len(names) + 1))
    for part in map(str, CURVE):
        cells = [[_mean([found[part] for its, found in known if its == name], key) for key in CURVED] for name in names]
        lines.append(f"| {part} | {' | '.join(', '.join(one) for one in cells)} |")
    return "\n".join(lines) if names else ""


def _mean(rows: list[dict], key: str) -> str:
    """- where an earlier version wrote a row without that number, or there is none."""
    if not rows or any(key not in row for row in rows):
        return "-"
    return f"{sum(row[key] for row in rows) / len(rows):.3f}"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON with every person's numbers; gone on with")
    parser.add_argument("--people", type=int, default=20, help="the first so many of those held out (20)")
    parser.add_argument("--variables", type=lambda names: names.split(","), help="some of them, by name (all)")
    parser.add_argument("--pictures", type=Path, help="folder for the images")
    args = parser.parse_args()
    people = json.loads(args.out.read_text()) if args.out.exists() else {}
    comparison = Comparison()
    wanted = args.variables or list(comparison.variables)
    if unknown := set(wanted) - set(comparison.variables):
        parser.error(f"there is no variable {', '.join(unknown)}; use some of {', '.join(comparison.variables)}")
    _, held_out = split_identities(args.images)
    for path, second in pairs_among(held_out)[: args.people]:
        missing = [name for name in wanted if name not in people.get(path.stem, {})]
        if not missing:
            continue
        photo, other = read_photos(path, second).split(1)
        rows, images = comparison.person(photo, other, missing)
        people.setdefault(path.stem, {}).update(rows)
        args.out.write_text(json.dumps(people, indent=1))
        if args.pictures:
            _save(args.pictures, path.stem, photo, images)
        log.info("%s", path.stem)
    log.info("%s\n\n%s", table(people), curve(people))


def _save(folder: Path, stem: str, photo: Tensor, images: dict[str, Tensor]) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    row = torch.cat([photo, *images.values()], 3)[0]
    Image.fromarray(to_pixels(row)).save(folder / f"{stem}.png")


if __name__ == "__main__":
    main()

"""python -m tests.benchmarks.batch: images a minute against how many faces are protected at once, with the demo model.

The same photos each time, their faces in batches across photos, compared with what each gives alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faceprotect_core.checks import require
from faceprotect_core.folders.protector import Choice, PhotoProtector, load_protector
from faceprotect_core.folders.work import Original
from faceprotect_core.photos.photo import PhotoResult
from faceprotect_core.photos.read import read_photo
from faceprotect_core.photos.settings import DIFFUSION, PRESETS
from faceprotect_core.progress import Step

from .measure import Stopwatch, peak_memory, reset_peak

COLUMNS = ("at once", "s", "images a minute", "peak, GiB", "largest difference", "verdicts that agree")


@dataclass(frozen=True, eq=False)
class Run:
    """Photos protected with so many faces at once. at_once: those of the largest batch that had the memory it takes.

    peak: bytes above what was held before, None where it cannot be told.
    """

    at_once: int
    seconds: float
    peak: int | None
    results: list[PhotoResult]

    def row(self, single: Run) -> tuple[str, ...]:
        """COLUMNS. single: the run with one face at a time."""
        pairs = list(zip(self.results, single.results, strict=True))
        difference = max((ours.image - theirs.image).abs().max().item() for ours, theirs in pairs)
        agree = [
            one.protected == other.protected
            for ours, theirs in pairs
            for one, other in zip(ours.faces, theirs.faces, strict=True)
        ]
        peak = "-" if self.peak is None else f"{self.peak / 2**30:.2f}"
        speed = 60 * len(pairs) / self.seconds
        return (
            str(self.at_once), f"{self.seconds:.1f}", f"{speed:.1f}", peak, f"{difference:.1e}",
            f"{sum(agree)} of {len(agree)}",
        )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    paths = sorted(chosen.images.glob("*_a.jpg"))[: chosen.photos]
    require(bool(paths), f"there are no photos *_a.jpg in {chosen.images}", "name a folder that has some (--images)")
    photos = [Original(read_photo(path).image) for path in paths]
    protector = load_protector(Choice(DIFFUSION, preset=chosen.preset, device=chosen.device))
    print(f"| {chosen.preset}, {len(photos)} photos, {chosen.device} | {' | '.join(COLUMNS)} |")
    print(f"|{' --- |' * (len(COLUMNS) + 1)}")
    single = None
    for size in sorted({1, *chosen.sizes}):
        run = protect_together(protector, photos, size)
        single = single or run
        print(f"| --batch {size} | {' | '.join(run.row(single))} |", flush=True)


def protect_together(protector: PhotoProtector, photos: Sequence[Original], size: int) -> Run:
    """After a batch of few iterations, in which a GPU chooses its kernels."""
    device = protector.choice.device
    protector = replace(protector, choice=replace(protector.choice, batch=size), predictor=None)
    short = protector.photo_settings.tuned(null_text_iterations=1, iterations=1)
    for _ in replace(protector, photo_settings=short).protect(photos[:size]):
        pass
    complete, stopwatch = [], Stopwatch(device)

    def note(event: Step) -> None:
        if event.stage == "protection" and event.step == event.steps:
            complete.append(event.at_once)

    before = reset_peak(device)
    stopwatch.begin()
    results = list(protector.protect(photos, note))
    seconds, peak = stopwatch.seconds(), peak_memory(device)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return Run(max(complete), seconds, None if before is None or peak is None else max(peak - before, 0), results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.batch", description=__doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of photos NAME_a.jpg")
    add("--photos", type=int, default=8, help="how many of them (8)")
    add("--sizes", type=int, nargs="+", default=[1, 2, 4], help="faces at once; 1 is always among them (1 2 4)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--preset", choices=list(PRESETS[DIFFUSION]), default="fast")
    return parser


if __name__ == "__main__":
    main()

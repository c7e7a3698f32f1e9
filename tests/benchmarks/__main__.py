"""python -m tests.benchmarks: the ways one after another in one process, a table, the numbers in JSON and a plot; or
what each way holds, counted without a computation."""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from .count import count, shape_only
from .measure import Measurement, held_memory, measure
from .models import MODELS, SURROGATES, Setup, build
from .report import PUBLISHED, computed, count_table, plot, table
from .ways import WAYS, Prepared, prepare


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    if chosen.table:
        runs = [json.loads(path.read_text()) for path in sorted(chosen.table.glob("*.json"))]
        runs.sort(key=lambda run: (run["model"], run["size"]))
        if not runs:
            raise SystemExit(f"{chosen.table} has no results. How to fix: name the folder that was --out.")
        _print(runs)
        plot(runs, chosen.table / "plot.png")
        return
    if chosen.count:
        _count(chosen)
        return
    dtype = getattr(torch, chosen.precision)
    setup = build(MODELS[chosen.model], chosen.size[0], chosen.device, dtype, chosen.surrogates)
    runs = [compare(chosen, setup.of_size(size), size) for size in chosen.size]
    _print(runs)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        for run in runs:
            name = f"{run['model']}-{run['size']}-{run['device']}"
            _unused(chosen.out, name).write_text(json.dumps(run, indent=1) + "\n")
        plot(runs, chosen.out / "plot.png")


def _count(chosen: argparse.Namespace) -> None:
    names = [name for name in chosen.ways if WAYS[name].countable]
    counts = []
    for size in chosen.size:
        setup = shape_only(MODELS[chosen.model], size, chosen.surrogates)
        counts += [(size, name, count(setup, WAYS[name], chosen.device)) for name in names]
    print(count_table(chosen.model, counts))


def compare(chosen: argparse.Namespace, setup: Setup, size: int) -> dict:
    """All ways at one size, interleaved where they are repeated."""
    prepared = {name: prepare(WAYS[name], setup) for name in chosen.ways}
    measured: dict[str, list[Measurement]] = {name: [] for name in chosen.ways}
    failed = set()
    for repetition in range(chosen.repeat):
        for name, way in prepared.items():
            if name not in failed and not _measure(chosen, way, measured[name], warm_up=repetition == 0):
                failed.add(name)
            seconds = "out of memory" if name in failed else f"{measured[name][-1].seconds:.2f} s"
            print(f"{chosen.model}, {size} px, {name}: {seconds}", flush=True)
    released = measured.get("release") or [None]
    return {
        "model": chosen.model,
        "size": size,
        "device": chosen.device,
        "machine": machine(chosen.device),
        "null_text_iterations": chosen.null_text_iterations,
        "iterations": chosen.iterations,
        "surrogates": [surrogate.name for surrogate in setup.surrogates],
        "rows": [_row(name, prepared[name], measured[name], released[0], name in failed) for name in chosen.ways],
    }


def _measure(chosen: argparse.Namespace, way: Prepared, measured: list[Measurement], warm_up: bool) -> bool:
    """Appends a measurement; False where the GPU has not enough memory."""
    try:
        if warm_up and chosen.warm_up:
            start, before = time.monotonic(), held_memory(chosen.device)
            iterations = 2 if way.way.graphs else 1  # the second is where CUDA graphs are recorded
            way(iterations, iterations)
            way.recorded_bytes = held_memory(chosen.device) - before if way.way.graphs else 0
            print(f"warm-up: {time.monotonic() - start:.2f} s", flush=True)
        counts = chosen.null_text_iterations, chosen.iterations
        measured.append(measure(lambda on_step: way(*counts, on_step), way.unet, way.vae, chosen.device))
    except torch.OutOfMemoryError:
        return False
    return True


def _row(name: str, way: Prepared, measured: list[Measurement], released: Measurement | None, failed: bool) -> dict:
    weights = sum(weight.nbytes for weight in way.weights())
    row = {"way": name, "dtype": str(way.unet.dtype).removeprefix("torch."), "weights": weights}
    if failed:
        return row | {"error": "out of memory"}
    one = measured[0]
    names = ("null_text_seconds", "latent_seconds", "rest_seconds")
    row |= {"seconds": [each.seconds for each in measured]}
    row |= {key: median(getattr(each, key) for each in measured) for key in names}
    peaks = [each.peak for each in measured]
    row["peak"] = None if None in peaks else median(peaks) + way.recorded_bytes
    if not way.way.graphs:  # a replay passes by the counters
        row |= {"unet": asdict(one.unet), "decodes": one.decodes}
    if released is not None:
        difference = (one.result.image - released.result.image).double()
        row["largest_difference"] = difference.abs().max().item()
        row["rms_difference"] = difference.square().mean().sqrt().item()
    return row


def machine(device: str) -> str:
    if device == "cuda":
        convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
        name = f"{torch.cuda.get_device_name()}, convolutions of float32 networks in {convolutions}"
    else:
        name = f"{_cpu()}, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    return f"{name}, torch {torch.__version__}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _print(runs: list[dict]) -> None:
    for name in dict.fromkeys(run["machine"] for run in runs):
        print(f"\n{name}")
    print(f"\n{table(runs)}")
    for run in runs:
        if (run["null_text_iterations"], run["iterations"]) != PUBLISHED:
            print(computed(run))


def _unused(folder: Path, name: str) -> Path:
    """A file that is not there yet: an earlier run's numbers stay."""
    path, number = folder / f"{name}.json", 2
    while path.exists():
        path, number = folder / f"{name}-{number}.json", number + 1
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--model", choices=list(MODELS), default="reduced", help="whose shapes the networks have (reduced)")
    add("--size", type=_size, nargs="+", default=[256], help="width and height of the photo in pixels (256)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    precisions = ["float32", "float64"]
    add("--precision", choices=precisions, default="float32", help="float64: rounding no longer hides what is equal")
    add("--null-text-iterations", type=_positive, default=20, help="for each of the 3 steps (20, the paper's)")
    add("--iterations", type=_positive, default=35, help="of the latent (35, the paper's)")
    add("--ways", nargs="+", choices=list(WAYS), default=["release", "exact"])
    add("--surrogates", nargs="+", choices=list(SURROGATES), help="in the loss, instead of the model's own")
    add("--repeat", type=_positive, default=1, help="runs of each way, interleaved; medians are shown (1)")
    add("--no-warm-up", dest="warm_up", action="store_false", help="no short run of each way before it is measured")
    add("--count", action="store_true", help="runs nothing: what an iteration of each way holds (not: compiled)")
    add("--out", type=Path, help="folder for the numbers (JSON, a file for each size) and plot.png")
    add("--table", type=Path, metavar="FOLDER", help="runs nothing: table and plot of all the JSON files there")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _size(text: str) -> int:
    size = _positive(text)
    if size % 64:
        raise argparse.ArgumentTypeError(f"{size} is not a multiple of 64, which U-Net and autoencoder halve to")
    return size


if __name__ == "__main__":
    main()

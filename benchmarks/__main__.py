"""python -m benchmarks: the ways one after another in one process, a table, the numbers in JSON and a plot."""

import argparse
import json
import platform
from pathlib import Path
from statistics import median

import torch

from .measure import measure
from .models import UNETS, build
from .ways import WAYS, Way


def main() -> None:
    arguments = _parser().parse_args()
    rows = [row for size in arguments.size for row in compare(arguments, size)]
    text = f"{machine(arguments.device)}\n\n{table(rows)}"
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        sizes = "-".join(map(str, arguments.size))
        path = arguments.out / f"{arguments.model}-{sizes}-{arguments.device}"
        path.with_suffix(".json").write_text(json.dumps({"machine": machine(arguments.device), "rows": rows}, indent=1))
        path.with_suffix(".md").write_text(text + "\n")
        plot(rows, path.with_suffix(".png"))


def compare(arguments, size: int) -> list[dict]:
    """A row for every way, at one size; the first way is what the others are compared with."""
    setup = build(arguments.model, size, arguments.device)
    work = {"null_text_iterations": arguments.null_text_iterations, "iterations": arguments.iterations}
    rows, first = [], None
    for name in arguments.ways:
        way = Way(name, setup)
        if arguments.warm_up:
            way.run(1, 1)
        measured = []
        for _ in range(arguments.repeat):
            way.reset()
            measured.append(measure(lambda way=way: way.run(**work), arguments.device))
        image = measured[-1].image
        first = image if first is None else first
        row = {"model": arguments.model, "size": size, "way": name, **work}
        row["seconds"] = median(one.seconds for one in measured)
        row["memory"] = measured[0].memory
        row |= {"forward": way.denoiser.forward, "backward": way.denoiser.backward, "decoded": way.codec.decoded}
        row["difference"] = (image - first).abs().max().item()
        rows.append(row)
        print(f"{size} px, {name}: {row['seconds']:.1f} s", flush=True)
    return rows


def machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"{_cpu()}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(rows: list[dict]) -> str:
    """Markdown. "times faster" and the difference are against the first way of the same size."""
    lines = [
        "| model | px | null-text / latent iterations | way | s | times faster | peak memory, GB "
        "| U-Net passes forward / backward | decoded | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        first = next(other for other in rows if other["size"] == row["size"])
        memory = "?" if row["memory"] is None else f"{row['memory'] / 1e9:.2f}"
        cells = [row["model"], row["size"], f"{row['null_text_iterations']} / {row['iterations']}", row["way"]]
        cells += [f"{row['seconds']:.1f}", f"{first['seconds'] / row['seconds']:.2f}", memory]
        cells += [f"{row['forward']} / {row['backward']}", row["decoded"], f"{row['difference']:.1e}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 0.6 + 0.5 * len(rows)))
    names = [f"{row['way']}, {row['size']} px" for row in rows]
    values = [row["seconds"] for row in rows], [(row["memory"] or 0) / 1e9 for row in rows]
    for axis, numbers, label in zip(axes, values, ("seconds", "GB above the weights, at the peak"), strict=True):
        axis.bar_label(axis.barh(names, numbers), fmt="%.2f", padding=2)
        axis.set_xlabel(label)
        axis.invert_yaxis()
        axis.margins(x=0.15)
    axes[1].set_yticklabels([])
    first = rows[0]
    title = f"{first['model']}: {first['null_text_iterations']} null-text and {first['iterations']} latent iterations"
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--model", choices=list(UNETS), default="reduced", help="whose shapes the networks have")
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="side of the photo in pixels")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--null-text-iterations", type=int, default=20, help="for each of the 3 steps; 20 in the paper")
    parser.add_argument("--iterations", type=int, default=35, help="of the latent; 35 in the paper")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["release", "exact"])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each way; the median of the seconds is shown")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false", help="no short run before each way")
    parser.add_argument("--out", type=Path, help="a folder for the table, the numbers (JSON) and the plot")
    return parser


if __name__ == "__main__":
    main()

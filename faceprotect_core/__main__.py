"""FaceProtect on the command line:

python -m faceprotect_core protect IN_DIR OUT_DIR
python -m faceprotect_core evaluate --images FACES --out RESULTS
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from .checks import ProtectionError, require
from .cost import Cost, Meter, duration

FINE, SOME_FAILED, WRONG_USAGE, STOPPED = 0, 1, 2, 130
STAGE_NAMES = {"inversion": "inverting", "null_text": "learning embeddings", "protection": "protecting"}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 all fine, 1 some photos failed, 2 wrong usage, 130 stopped with Ctrl+C."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words)
    options.words = words[1:]
    try:
        return options.run(options)
    except ProtectionError as error:
        _write(sys.stderr, f"error: {error}\n")
        return WRONG_USAGE
    except KeyboardInterrupt:
        _write(sys.stderr, "\nStopped. Finished photos are kept; run the same command again to go on.\n")
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faceprotect_core", description="Protects faces in photos.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_protect(commands)
    _add_evaluate(commands)
    return parser


def _add_evaluate(commands) -> None:
    from .evaluation.protocol.command import DESCRIPTION, add_arguments, evaluate

    command = commands.add_parser(
        "evaluate",
        help="measure protection: the paper's protocol",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=evaluate)
    add_arguments(command)


def _add_protect(commands) -> None:
    command = commands.add_parser(
        "protect",
        help="protect all photos of a folder",
        description="Protects the faces in all photos of a folder and its subfolders. Originals are never changed. "
        "Run it again to go on after a stop, or after adding photos.",
    )
    command.set_defaults(run=_protect)
    add = command.add_argument
    add("in_dir", type=Path, metavar="IN_DIR", help="folder of photos")
    add("out_dir", type=Path, metavar="OUT_DIR", help="folder for the protected photos and faceprotect.json")
    add("--preset", choices=("fast", "balanced", "strong"), default="balanced", help="how hard to protect (balanced)")
    add("--faces", type=_which, default="all", help="all, largest, or numbers from the left such as 0,2 (all)")
    add("--goal", choices=("dodge", "synthetic", "impersonate"), default="dodge", help="see the README (dodge)")
    add("--target", type=Path, metavar="FILE", help="photo of whom to look like, for synthetic and impersonate")
    add("--model", default="demo", help="demo, or a folder of Stable Diffusion 1.x or 2.x in diffusers' format (demo)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (cpu)")
    add("--min-face", type=_positive, default=80.0, metavar="PIXELS", help="smallest face to look for (80)")
    add("--threshold", type=float, default=0.0, help="detector score above which something is a face (0)")
    add("--format", choices=("keep", "png", "jpeg", "webp"), default="keep", help="of the written photos (keep)")
    add("--quality", type=_quality, default=95, metavar="1..100", help="of JPEG and WebP (95)")
    add("--keep-metadata", action="store_true", help="keep EXIF, with the place; never thumbnail or MakerNote")
    add("--overwrite", action="store_true", help="replace files in OUT_DIR that are not from an earlier run")
    add("--batch", type=_count, default=1, metavar="N", help="faces at once, also across photos; slower on a CPU (1)")
    add("--ray", action="store_true", help="several photos at once, with Ray (pip install 'ray[data]')")
    add("--workers", type=_count, metavar="N", help="how many, with --ray (one per GPU, or per two CPU cores)")


def _which(text: str) -> str:
    if not re.fullmatch(r"all|largest|\d+(\s*,\s*\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of all, largest, or numbers such as 0,2")
    return text


def _positive(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def _quality(text: str) -> int:
    if not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 100")
    return int(text)


def _protect(arguments: argparse.Namespace) -> int:
    require(arguments.workers is None or arguments.ray, "--workers needs --ray", "add --ray, or leave --workers out")
    from .folder import Options, plan, protect_folder
    from .folder_record import Record
    from .protector import Choice, load_protector

    names = ("format", "quality", "keep_metadata", "overwrite")
    options = Options(**{name: getattr(arguments, name) for name in names})
    plan(arguments.in_dir, arguments.out_dir, options, Record.read(arguments.out_dir))  # before the model is loaded
    names = ("model", "preset", "goal", "target", "min_face", "threshold", "device", "batch")
    choice = Choice(which=arguments.faces, **{name: getattr(arguments, name) for name in names})
    reporter = Reporter(sys.stdout, arguments.goal, arguments.device)
    done = protect_folder(
        arguments.in_dir,
        arguments.out_dir,
        load_protector(replace(choice, device="cpu") if arguments.ray else choice),  # with Ray only for its settings
        options,
        on_photo=reporter.photo,
        on_step=reporter.step,
        **(_ray(arguments, choice) if arguments.ray else {}),
    )
    reporter.summary(done)
    return SOME_FAILED if any(photo.status == "failed" for photo in done) else FINE


def _ray(arguments: argparse.Namespace, choice) -> dict:
    """What protect_folder needs for Ray. A worker may have another working directory: no relative paths."""
    from .parallel import RayOptions
    from .protector import DEMO, load_protector

    model = choice.model if choice.model == DEMO else str(Path(choice.model).absolute())
    choice = replace(choice, model=model, target=choice.target and choice.target.absolute())
    ray = RayOptions(workers=arguments.workers, device=arguments.device)
    return {"ray": ray, "load": partial(load_protector, choice)}


class Reporter:
    """Says what happens, a line per photo; on a terminal also what is being done right now. What a photo costs is said
    before the first and after it."""

    def __init__(self, stream, goal: str = "dodge", device: str = "cpu"):
        self.stream, self.goal, self.live = stream, goal, ""
        self.device, self.predicted, self.meter = torch.device(device), None, None

    def step(self, task, event: dict) -> None:
        name = _photos_of(task.name, event)
        if event["stage"] == "cost":
            self._predict(name, event["faces"], event["cost"])
        stage = STAGE_NAMES.get(event["stage"])
        if stage and self.stream.isatty():
            self._show(f"{name}  {_faces_of(event)}{stage} {event['step']} of {event['steps']}")

    def _show(self, text: str) -> None:
        _write(self.stream, "\r" + " " * len(self.live) + "\r" + text)
        self.live = text

    def _predict(self, name: str, faces: int, cost: Cost) -> None:
        if self.predicted is None:
            _write(self.stream, f"{name}  {faces} face{'s' * (faces != 1)}, about {cost}\n")
            self.predicted, self.meter = cost, Meter(self.device)

    def photo(self, done) -> None:
        if self.live:
            self._show("")
        left = f"; about {duration(done.seconds_left)} left" if done.seconds_left else ""
        _write(self.stream, f"{done.number} of {done.count}  {done.task.name}  {self._outcome(done)}{left}\n")
        if self.meter:
            _write(self.stream, f"Predicted {self.predicted}; {self.meter}.\n")
            self.meter = None

    def _outcome(self, done) -> str:
        if done.status == "failed":
            return f"FAILED: {done.entry['reason']}"
        faces = done.entry["faces"]
        protected = f"{len(faces)} face{'s' * (len(faces) != 1)} protected, {_closest(faces, self.goal)}"
        doubtful = sum(face.get("doubtful", False) for face in faces)
        protected += f", {doubtful} of them DOUBTFUL (covered, dark or turned: do not trust it)" if doubtful else ""
        return f"{protected}, {done.entry['seconds']:.0f} s" if done.status == "protected" else f"already: {protected}"

    def summary(self, done) -> None:
        count = Counter(photo.status for photo in done)
        parts = [f"{count['protected']} protected", f"{count['already']} already done", f"{count['failed']} failed"]
        _write(self.stream, f"{len(done)} photos: {', '.join(parts)}.\n")
        if count["failed"]:
            _write(self.stream, "Nothing was written for the photos that failed.\n")
        _write(self.stream, "The recogniser was seen by the optimizer: no evidence about others.\n")


def _photos_of(name: str, event: dict) -> str:
    """Which photos are being protected: the first, and how many more."""
    more = event.get("photos", 1) - 1
    return f"{name} and {more} more" if more else name


def _faces_of(event: dict) -> str:
    """Which of several faces are being protected."""
    last, count, at_once = (event.get(name, 1) for name in ("face", "faces", "at_once"))
    if count == 1:
        return ""
    return f"face {last} of {count}, " if at_once == 1 else f"faces {last - at_once + 1} to {last} of {count}, "


def _closest(faces: list[dict], goal: str) -> str:
    """The verdict that is the least past its threshold, in words."""

    def past(score: dict) -> float:
        away = score["after"] - score["threshold"]
        return -away if (score["metric"] == "cosine") != (goal == "impersonate") else away

    score = min((score for face in faces for score in face["scores"].values()), key=past)
    word, side = ("similarity", "above") if score["metric"] == "cosine" else ("distance", "below")
    word += " to the target" if goal == "impersonate" else ""
    return f"{word} {score['after']:.2f} (same person {side} {score['threshold']:.2f})"


def _write(stream, text: str) -> None:
    """Names of files may hold characters that the terminal cannot show."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())

"""FaceProtect on the command line:

python -m faceprotect_core protect PHOTOS OUT
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
from threading import Lock

import torch

from .checks import ProtectionError, out_of_memory
from .photos import words
from .progress import Step
from .speed.cost import Meter, PredictedCost

NAMED = 5  # of the files that are passed over
FINE, SOME_FAILED, WRONG_USAGE, STOPPED = 0, 1, 2, 130
LIGHT_AND_SHADE = "light-and-shade"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 all fine, 1 some photos failed, 2 wrong usage, 130 stopped with Ctrl+C."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    options.words = given[1:]
    try:
        return options.run(options)
    except ProtectionError as error:
        _write(sys.stderr, f"error: {error}\n")
        return WRONG_USAGE
    except OSError as error:  # a name that is too long, a disk that is gone: without the path
        _write(sys.stderr, f"error: {error.strerror}. How to fix: check the names of the folders and files.\n")
        return WRONG_USAGE
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        _write(
            sys.stderr, "error: there is not enough memory. How to fix: close other programs, or use --device cpu.\n"
        )
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
        help="protect all photos of a folder, or one photo",
        description="Protects the faces in all photos of a folder and its subfolders. Originals are never changed. "
        "Run it again to go on after a stop, or after adding photos. Protected photos are known again by a mark in the "
        "file and refused: start from the originals.",
    )
    command.set_defaults(run=_protect)
    add = command.add_argument
    add("source", type=Path, metavar="PHOTOS", help="folder of photos, or one photo; the originals")
    add(
        "out",
        type=Path,
        metavar="OUT",
        help="folder for the protected photos and faceprotect.json, or a file for one photo",
    )
    choices = ("instant", "fast", "balanced", "strong")
    add("--preset", choices=choices, default="balanced", help="how hard to protect; stronger takes longer (balanced)")
    ways = f"{LIGHT_AND_SHADE} takes seconds and no model; diffusion, which --model chooses, is the paper's"
    add("--way", choices=(LIGHT_AND_SHADE, "diffusion"), help=ways)
    add("--surrogate", nargs="+", metavar="NAME|FILE", help="recognisers to protect against (three built-in ones)")
    add("--judge", metavar="NAME|FILE|none", help="a recogniser that is not used, and asked at the end (dlib_resnet)")
    add("--faces", type=_which, default="all", help="all, largest, or numbers such as 0,2 (all); 0 is the leftmost")
    goals = (
        "dodge: no longer be recognised; synthetic: the same, pulled towards the face of nobody; impersonate: be taken "
        "for the person in --target, which does not promise that you are no longer recognised (dodge)"
    )
    add("--goal", choices=("dodge", "synthetic", "impersonate"), default="dodge", help=goals)
    add("--target", type=Path, metavar="FILE", help="photo of whom to look like, for synthetic and impersonate")
    add(
        "--model",
        help="demo, a folder of Stable Diffusion 1.x, 2.x or SDXL in diffusers' format, or a .safetensors checkpoint "
        "of SD 1.x or SDXL; chooses diffusion",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (cpu)")
    add("--min-face", type=_positive, default=80.0, metavar="PIXELS", help="smallest face to look for (80)")
    add("--threshold", type=float, default=0.0, help="lower finds more faces, and more false ones (0)")
    add("--format", choices=("keep", "png", "jpeg", "webp"), default="keep", help="of the written photos (keep)")
    add("--quality", type=_quality, default=95, metavar="1..100", help="of JPEG and WebP (95)")
    add(
        "--keep-metadata",
        action="store_true",
        help="keep the camera's notes (EXIF), with the place; never its thumbnail",
    )
    no_mark = 'leave out "Software: FaceProtect", by which protected photos are known again, and not protected twice'
    add("--no-mark", dest="mark", action="store_false", help=no_mark)
    add("--overwrite", action="store_true", help="replace files in OUT that are not from an earlier run")
    add("--batch", type=_count, default=1, metavar="N", help="faces at once, of one photo or more; slower on a CPU (1)")
    add("--ray", action="store_true", help="work on other processes and machines, with Ray (pip install 'ray[data]')")
    at_once = (
        "photos at once (on a CPU one per core up to 4, with a model of your own 1; with --ray one per GPU, or per two "
        "CPU cores)"
    )
    add("--workers", type=_count, metavar="N", help=at_once)


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
    from .folders.plan import folder_of, passed_over
    from .folders.protector import Choice, load_protector
    from .folders.record import Record
    from .folders.run import Options, plan, protect_folder

    names = ("format", "quality", "keep_metadata", "overwrite", "mark")
    options = Options(**{name: getattr(arguments, name) for name in names})
    source, out = arguments.source, arguments.out
    plan(source, out, options, Record.read(folder_of(out, source)))  # before the model is loaded
    names = ("model", "preset", "goal", "target", "min_face", "threshold", "device", "batch")
    chosen = {name: getattr(arguments, name) for name in names} | _recognisers(arguments)
    way = arguments.way and arguments.way.replace("-", " ")
    choice = Choice(which=arguments.faces, way=way, **chosen)
    reporter = Reporter(sys.stdout, arguments.device)
    done = protect_folder(
        source,
        out,
        load_protector(replace(choice, device="cpu") if arguments.ray else choice),  # with Ray only for its settings
        options,
        on_photo=reporter.photo,
        on_step=reporter.step,
        **(_ray(arguments, choice) if arguments.ray else _threads(arguments, choice)),
    )
    reporter.summary(done, passed_over(source, out))
    return SOME_FAILED if any(photo.status == "failed" for photo in done) else FINE


def _recognisers(arguments: argparse.Namespace) -> dict:
    """Those that are named. Of the built-in ones that are not, the judge is none that is used."""
    from .photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES

    if arguments.surrogate is None:
        built_in = (*BUILT_IN_SURROGATES, BUILT_IN_JUDGE)
        judge = arguments.judge or BUILT_IN_JUDGE
        return {
            "judge": judge,
            "surrogates": tuple(one for one in built_in if one != judge and one in BUILT_IN_SURROGATES),
        }
    left = [one for one in (BUILT_IN_JUDGE, *BUILT_IN_SURROGATES) if one not in arguments.surrogate]
    return {"judge": arguments.judge or (left[0] if left else "none"), "surrogates": tuple(arguments.surrogate)}


def _threads(arguments: argparse.Namespace, choice) -> dict:
    """What protect_folder needs for several photos at once."""
    from .folders.protector import load_beside_others, photos_at_once

    return {"threads": arguments.workers or photos_at_once(choice), "load": partial(load_beside_others, choice)}


def _ray(arguments: argparse.Namespace, choice) -> dict:
    """What protect_folder needs for Ray. A worker may have another working directory: no relative paths."""
    from .folders.protector import NO_JUDGE, load_protector
    from .jobs.job import RayOptions
    from .models import DEMO
    from .surrogates import BUILT_IN_SURROGATES

    def absolute(name: str | None) -> str | None:
        return str(Path(name).absolute()) if name and Path(name).exists() else name

    def named(recogniser: str) -> str:
        return recogniser if recogniser in (*BUILT_IN_SURROGATES, NO_JUDGE) else absolute(recogniser)

    model = choice.model if choice.model == DEMO else absolute(choice.model)
    files = {"surrogates": tuple(map(named, choice.surrogates)), "judge": named(choice.judge)}
    choice = replace(choice, model=model, target=choice.target and choice.target.absolute(), **files)
    ray = RayOptions(workers=arguments.workers, device=arguments.device)
    return {"ray": ray, "load": partial(load_protector, choice)}


class Reporter:
    """Says what happens, a line per photo; on a terminal also what is being done right now. What a photo costs is said
    before the first and after it."""

    def __init__(self, stream, device: str = "cpu"):
        self.stream, self.live, self.one_at_a_time = stream, "", Lock()
        self.device, self.predicted, self.meter = torch.device(device), None, None

    def step(self, task, event: Step | PredictedCost) -> None:
        with self.one_at_a_time:
            self._step(task, event)

    def photo(self, done) -> None:
        with self.one_at_a_time:
            self._photo(done)

    def _step(self, task, event: Step | PredictedCost) -> None:
        name = words.photos_at_work(task.name, event.photos)
        if isinstance(event, PredictedCost):
            self._predict(name, event)
        elif (doing := words.doing(event)) and self.stream.isatty():
            self._show(f"{name}  {doing}")

    def _show(self, text: str) -> None:
        _write(self.stream, "\r" + " " * len(self.live) + "\r" + text)
        self.live = text

    def _predict(self, name: str, event: PredictedCost) -> None:
        if self.predicted is None:
            _write(self.stream, f"{name}  {words.expected(event)}\n")
            self.predicted, self.meter = event.cost, Meter(self.device)

    def _photo(self, done) -> None:
        if self.live:
            self._show("")
        left = f"; {words.left(done.seconds_left)}" if done.seconds_left else ""
        _write(self.stream, f"{done.number} of {done.count}  {done.task.name}  {self._outcome(done)}{left}\n")
        if self.meter:
            _write(self.stream, f"{words.cost(self.predicted, self.meter)}\n")
            self.meter = None

    def _outcome(self, done) -> str:
        if done.status == "failed":
            return f"FAILED: {done.entry['reason']}"
        verdict = done.entry["verdict"]
        if done.status != "protected":
            return f"already done. {verdict}"
        notes = "".join(f" {note}" for note in done.entry.get("notes", ()))
        return f"{verdict}{notes} {done.entry['seconds']:.0f} s"

    def summary(self, done, passed_over: list[str]) -> None:
        count = Counter(photo.status for photo in done)
        parts = [f"{count['protected']} protected", f"{count['already']} already done", f"{count['failed']} failed"]
        _write(self.stream, f"{len(done)} photo{'s' * (len(done) != 1)}: {', '.join(parts)}.\n")
        for scope in sorted({photo.entry["scope"] for photo in done if "scope" in photo.entry}):
            _write(self.stream, f"{scope}\n")
        if count["failed"]:
            _write(self.stream, "Nothing was written for the photos that failed.\n")
        if passed_over:
            more = f" and {len(passed_over) - NAMED} more" if len(passed_over) > NAMED else ""
            names = ", ".join(passed_over[:NAMED]) + more
            _write(self.stream, f"{len(passed_over)} other files are no photos that can be read: {names}.\n")


def _write(stream, text: str) -> None:
    """Names of files may hold characters that the terminal cannot show."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())

"""What the tests send to Ray's workers, which import it by name. What happens there is told by files."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from faceprotect_core.checks import ProtectionError
from faceprotect_core.faces import Face
from faceprotect_core.verify.verdict import JUDGE, FaceVerdict, Score

FACE = Face((1.0, 1.0, 9.0, 9.0), 1.0, ((0.0, 0.0),) * 5)
SCORE = Score("fake", JUDGE, "euclidean", 0.0, 0.81, 0.6, True, True)


def note(folder: Path, name: str) -> int:
    """How often this was noted, with this time."""
    with open(folder / name, "a") as file:
        file.write(f"{os.getpid()}\n")
    return len((folder / name).read_text().splitlines())


class WithItsOwnConstructor(Exception):
    def __init__(self, one, two):
        super().__init__(one)


@dataclass(frozen=True)
class Trials:
    """Work of several kinds; the first "wait" waits until as many workers are there. workers: as many are loaded."""

    folder: Path
    workers: int = 1

    def __call__(self, job: str):
        tries = note(self.folder, job)
        if job == "bad":
            raise KeyError("bad")
        if job == "flaky" and tries == 1:
            raise OSError("flaky")
        if job == "ours":
            raise ProtectionError("no face", "crop closer")
        if job == "deadly":
            os._exit(1)
        if job == "unpicklable":
            raise WithItsOwnConstructor("text", 2)
        for _ in range(600):
            if len(list(self.folder.glob("load-*"))) >= self.workers:
                break
            time.sleep(0.1)
        return f"{job} is done", os.getpid()


def load_trials(folder: Path, workers: int = 1) -> Trials:
    note(folder, f"load-{os.getpid()}")
    return Trials(folder, workers)


def load_nothing():
    raise ProtectionError("there is no model", "bring one")


class Inverter:
    """A Protector that inverts, and fails at once on photos without a face (all black)."""

    settings = {"preset": "fast"}

    def protect(self, photos, on_step=None):
        for photo in photos:
            if photo.image.max() == 0:
                raise KeyError("/home/someone/secret")
            yield SimpleNamespace(image=1 - photo.image, faces=(FaceVerdict(FACE, True, (SCORE,)),))

    def judge(self, original, finished, faces):
        return (FaceVerdict(FACE, True, (SCORE,)),)

"""Several photos at once in one process come out as one after the other, and stop when nobody waits for them."""

import signal
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from faceprotect_core import __main__ as command
from faceprotect_core.checks import ProtectionError
from faceprotect_core.folders import protector as protector_module
from faceprotect_core.folders import run as folder_module
from faceprotect_core.folders.protector import Choice, photos_at_once
from faceprotect_core.folders.record import RECORD
from faceprotect_core.folders.run import protect_folder
from faceprotect_core.jobs.run import run_jobs
from faceprotect_core.progress import Step
from folder_photos import FakeProtector, files, record, verdict, without_seconds, write_folders, write_photo
from ray_work import load_nothing, load_trials

JOBS = ["one", "bad", "two", "flaky", "ours", "three"]


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path)


class Together:
    """Two jobs end only when both have begun; notes the threads and their share of the cores."""

    def __init__(self):
        self.both, self.cores, self.loads = threading.Barrier(2, timeout=60), {}, 0

    def load(self):
        self.loads += 1
        return self.work

    def work(self, job):
        self.cores[threading.get_ident()] = torch.get_num_threads()
        self.both.wait()
        return f"{job} is done"


def test_two_threads_work_at_the_same_time_and_share_the_cores():
    together, cores = Together(), torch.get_num_threads()
    assert dict(run_jobs(["a", "b", "c", "d"], together.load, threads=2)) == {
        number: f"{job} is done" for number, job in enumerate("abcd")
    }
    assert len(together.cores) == together.loads == 2 and threading.get_ident() not in together.cores
    assert {*together.cores.values()} == {max(1, cores // 2)} and torch.get_num_threads() == cores


def test_every_job_has_an_outcome_as_it_has_here(tmp_path):
    here, there = (
        dict(run_jobs(JOBS, partial(load_trials, tmp_path / name), threads=threads, retries=1))
        for name, threads in (("here", 1), ("there", 2))
        if (tmp_path / name).mkdir() is None
    )
    assert {number: str(one) for number, one in there.items()} == {number: str(one) for number, one in here.items()}
    assert isinstance(there[1], KeyError) and isinstance(there[4], ProtectionError)
    with pytest.raises(ProtectionError, match="there is no model"):
        list(run_jobs(JOBS, load_nothing, threads=2))


def test_a_folder_of_several_photos_at_once_is_the_folder_that_comes_out_one_by_one(folders, tmp_path):
    source, target = folders
    (source / "bad.png").write_bytes(b"no photo")
    protect_folder(source, tmp_path / "one", FakeProtector())
    steps = []
    done = protect_folder(
        source, target, FakeProtector(), threads=3, load=FakeProtector, on_step=lambda *step: steps.append(step)
    )
    assert {one.task.name: one.status for one in done} == {
        "a.png": "protected", "b.png": "protected", "sub/c.png": "protected", "bad.png": "failed"
    }  # fmt: skip
    assert [one.number for one in done] == [1, 2, 3, 4] and len(steps) == 3
    assert without_seconds(record(target)) == without_seconds(record(tmp_path / "one"))
    there, here = files(target), files(tmp_path / "one")
    assert there.pop(RECORD) and here.pop(RECORD) and there == here


class Endless(FakeProtector):
    """Works on a photo until it is stopped; the first is done at once. reported: when it is, the others
    press Ctrl+C."""

    def __init__(self, begun: list, stopped: list, reported: threading.Event):
        super().__init__()
        self.begun, self.stopped, self.reported = begun, stopped, reported

    def inverted(self, photo, on_step=None):
        self.begun.append(threading.get_ident())
        if len(self.begun) == 1:
            return SimpleNamespace(image=1 - photo, faces=(verdict(),))
        try:
            for _ in range(6000):
                if self.reported.is_set():
                    self.reported.clear()
                    signal.raise_signal(signal.SIGINT)
                on_step(Step("protection", 1, 2))
                time.sleep(0.01)
        except BaseException as stop:
            self.stopped.append(type(stop).__name__)
            raise
        raise AssertionError("nobody stopped this")


@pytest.fixture
def ctrl_c():
    """Heard, as at a terminal: a shell lets what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("interrupts", [False, True], ids=["between two photos", "while photos are at work"])
def test_a_stop_ends_what_is_at_work_and_leaves_nothing_of_it(folders, interrupts):
    (source, target), begun, stopped, reported = folders, [], [], threading.Event()
    for number in range(3, 9):
        write_photo(source / f"{number}.png", number)

    def stop(photo):
        if not interrupts:
            raise KeyboardInterrupt
        reported.set()

    load = partial(Endless, begun, stopped, reported)
    with pytest.raises(KeyboardInterrupt):
        protect_folder(source, target, FakeProtector(), threads=2, load=load, on_photo=stop)
    assert stopped == ["_Stopped"] * (len(begun) - 1) and len(begun) <= 3
    assert len(record(target)) == 1 and set(files(target)) == {RECORD, *(e["output"] for e in record(target).values())}
    assert not list(target.glob(".faceprotect-*"))


def test_without_something_to_load_several_at_once_are_an_error(folders):
    with pytest.raises(ProtectionError, match="no load"):
        protect_folder(*folders, FakeProtector(), threads=2)


@pytest.mark.parametrize(
    ("choice", "cores", "count"),
    [
        (Choice(), 2, 2),
        (Choice(), 1, 1),
        (Choice(), 16, 4),
        (Choice(model="demo"), 2, 2),
        (Choice(model="a folder"), 8, 1),
        (Choice(batch=2), 8, 1),
        (Choice(device="cuda"), 8, 1),
    ],
)
def test_as_many_photos_at_once_as_there_are_cores_where_the_networks_are_small(monkeypatch, choice, cores, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert photos_at_once(choice) == count


@pytest.mark.parametrize(("given", "threads"), [([], 3), (["--workers", "5"], 5)])
def test_the_command_works_on_as_many_photos_at_once(folders, monkeypatch, given, threads):
    handed = {}
    monkeypatch.setattr(protector_module, "photos_at_once", lambda choice: 3)
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: FakeProtector())
    monkeypatch.setattr(folder_module, "protect_folder", lambda *arguments, **options: handed.update(options) or [])
    assert command.main(["protect", *map(str, folders), *given]) == 0
    assert handed["threads"] == threads and "ray" not in handed

"""Jobs on Ray's workers come out as they do here: the same results and files, each worker loads once, none is lost."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from faceprotect_core import __main__ as command
from faceprotect_core.checks import ProtectionError
from faceprotect_core.files import sha256_of
from faceprotect_core.folders import protector as protector_module
from faceprotect_core.folders import run as folder_module
from faceprotect_core.folders.outcome import Outcome
from faceprotect_core.folders.plan import Options, Task
from faceprotect_core.folders.protector import Choice, load_protector
from faceprotect_core.folders.record import RECORD
from faceprotect_core.folders.run import protect_folder
from faceprotect_core.folders.workers import _landed
from faceprotect_core.jobs import ray as ray_backend
from faceprotect_core.jobs.job import RayOptions, raised_at
from faceprotect_core.jobs.run import run_jobs
from faceprotect_core.photos.settings import PhotoSettings
from needs import missing
from ray_work import Inverter, load_nothing, load_trials

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray copies settings of its own

TWO = RayOptions(workers=2)
JOBS = ["one", "bad", "two", "flaky", "ours", "deadly", "three", "unpicklable", "four"]


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, started as a run starts it, and stopped at the end without a trace."""
    try:
        import ray
    except ImportError:
        missing("Ray is not installed: pip install 'ray[data]'")
    scratch = []
    make, ray_backend._scratch = ray_backend._scratch, lambda: scratch.append(make()) or scratch[0]
    try:
        with ray_backend.cluster():
            yield ray
    finally:
        ray_backend._scratch = make
    assert not ray.is_initialized() and not os.path.exists(scratch[0])


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().split()


# Without Ray


def test_here_jobs_are_done_in_order_and_taken_one_by_one(tmp_path):
    taken = []
    jobs = (taken.append(name) or name for name in ("one", "two"))
    outcomes = run_jobs(jobs, partial(load_trials, tmp_path))
    assert next(outcomes) == (0, ("one is done", os.getpid())) and taken == ["one"]
    assert [number for number, _ in outcomes] == [1]
    assert len(lines(tmp_path, f"load-{os.getpid()}")) == 1


def test_here_a_job_is_tried_again_and_what_is_wrong_with_it_is_final(tmp_path):
    seen = []
    jobs = ["bad", "flaky", "ours"]
    load = partial(load_trials, tmp_path)
    outcomes = dict(run_jobs(jobs, load, retries=1, on_done=lambda number, _: seen.append(number)))
    assert isinstance(outcomes[0], KeyError) and raised_at(outcomes[0]).startswith("ray_work.py:")
    assert outcomes[1][0] == "flaky is done" and isinstance(outcomes[2], ProtectionError)
    assert [len(lines(tmp_path, job)) for job in jobs] == [2, 2, 1] and seen == [0, 1, 2]


def test_no_workers_at_all_are_an_error():
    with pytest.raises(ProtectionError, match="use 1 or more"):
        RayOptions(workers=0)


def test_without_ray_installed_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ProtectionError, match=r'How to fix: pip install "ray\[data\]"'):
        list(run_jobs([1], load_nothing, ray=TWO))


def test_workers_are_one_per_gpu_or_per_two_cores_and_share_what_there_is():
    count, share = ray_backend._count_workers, ray_backend._share
    assert count({"CPU": 9.0}, RayOptions()) == 4 and count({"CPU": 1.0}, RayOptions()) == 1
    assert count({"CPU": 16.0, "GPU": 3.0}, RayOptions(device="cuda")) == 3
    assert share({"CPU": 9.0}, RayOptions(), 4) == {"num_cpus": 2}
    assert share({"CPU": 2.0}, RayOptions(), 3)["num_cpus"] * 3 <= 2
    assert share({"CPU": 16.0}, RayOptions(device="cuda"), 3) == {"num_cpus": 2, "num_gpus": 1}
    for gpus, workers in ((0, None), (0, 1), (2, 3)):
        with pytest.raises(ProtectionError, match="GPU"):
            count({"CPU": 8.0, "GPU": gpus}, RayOptions(workers, device="cuda"))


# With two workers


@pytest.fixture(scope="module")
def trials(cluster, tmp_path_factory):
    """All kinds of jobs on two workers: the folder of their notes, and job -> outcome."""
    folder = tmp_path_factory.mktemp("trials")
    outcomes = run_jobs(JOBS, partial(load_trials, folder, 2), ray=TWO, retries=1)
    return folder, {JOBS[number]: outcome for number, outcome in outcomes}


def test_every_job_has_an_outcome_whatever_happens_to_the_others(trials):
    _, outcomes = trials
    assert set(outcomes) == set(JOBS)
    for job in ("one", "two", "three", "four", "flaky"):
        assert outcomes[job][0] == f"{job} is done"


def test_two_workers_were_there_and_each_loaded_once(trials):
    folder, outcomes = trials
    loads = {path.name: len(path.read_text().split()) for path in folder.glob("load-*")}
    assert len(loads) >= 2 and set(loads.values()) == {1}
    workers = {f"load-{outcome[1]}" for outcome in outcomes.values() if not isinstance(outcome, Exception)}
    assert workers <= set(loads) and f"load-{os.getpid()}" not in loads


def test_a_failing_job_is_tried_again_and_reported_with_where_it_failed(trials):
    folder, outcomes = trials
    assert len(lines(folder, "bad")) == 2 and len(lines(folder, "flaky")) == 2
    assert isinstance(outcomes["bad"], KeyError) and raised_at(outcomes["bad"]).startswith("ray_work.py:")
    assert isinstance(outcomes["ours"], ProtectionError) and "crop closer" in str(outcomes["ours"])
    assert len(lines(folder, "ours")) == 1
    assert "WithItsOwnConstructor: text" in str(outcomes["unpicklable"])


def test_a_job_that_takes_its_worker_down_is_tried_again_and_reported(trials):
    folder, outcomes = trials
    assert len(set(lines(folder, "deadly"))) == 2
    assert isinstance(outcomes["deadly"], ProtectionError) and "worker process died" in str(outcomes["deadly"])


def test_workers_that_cannot_load_are_an_error_and_no_hang(cluster):
    with pytest.raises(ProtectionError, match="bring one"):
        list(run_jobs(["one", "two"], load_nothing, ray=TWO))


# A folder


def files(folder: Path) -> dict:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(folder: Path) -> dict:
    """Without the times."""
    photos = json.loads((folder / RECORD).read_text())["photos"]
    return {name: {key: value for key, value in entry.items() if key != "seconds"} for name, entry in photos.items()}


# Enough for the one recogniser that is used.
WEAK = PhotoSettings(margin=0.1).tuned(iterations=12, lr=0.25, fidelity_weight=0.2)
CHOICE = Choice(preset="fast", surrogates=("mobileface",), judge="none")


def test_a_folder_on_two_workers_is_the_folder_that_one_process_makes(cluster, tmp_path):
    source, here, there = tmp_path / "in", tmp_path / "here", tmp_path / "there"
    portrait = skimage.data.astronaut()[:300, 60:360]
    (source / "sub").mkdir(parents=True)
    Image.fromarray(portrait).save(source / "a.png")
    Image.fromarray(portrait[:, ::-1]).save(source / "sub" / "b.jpg", quality=95)
    Image.fromarray(portrait[200:]).save(source / "nobody.png")
    load = partial(load_protector, CHOICE, WEAK)
    protector = load()
    protect_folder(source, here, protector)
    shutil.copytree(here, there)
    (there / "sub" / "b.jpg").unlink()
    done = protect_folder(source, there, protector, ray=TWO, load=load)
    assert {photo.task.name: photo.status for photo in done} == {
        "a.png": "already",
        "sub/b.jpg": "protected",
        "nobody.png": "failed",
    }
    assert done[0].status == "already" and [photo.number for photo in done] == [1, 2, 3]
    assert record(there) == record(here)
    content = files(there)
    assert set(content) == set(files(here)) == {"a.png", "sub/b.jpg", RECORD}
    assert content["sub/b.jpg"] == files(here)["sub/b.jpg"]


def test_after_a_stop_what_was_reported_is_kept_and_nothing_else_is_there(cluster, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), number * 40, np.uint8)).save(source / f"{number}.png")

    def stop(photo):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protect_folder(source, target, Inverter(), ray=RayOptions(workers=1), load=Inverter, on_photo=stop)
    assert len(record(target)) == 1
    kept = {entry["output"] for entry in record(target).values() if entry["status"] == "protected"}
    assert set(files(target)) == {RECORD} | kept and not list(target.glob(".faceprotect-*"))
    done = protect_folder(source, target, Inverter(), ray=RayOptions(workers=1), load=Inverter)
    assert {photo.task.name: photo.status for photo in done if photo.status != "already"}["1.png"] == "protected"
    black = record(target)["0.png"]["reason"]
    assert "unexpected KeyError in ray_work.py" in black and "secret" not in black


def test_what_a_worker_wrote_replaces_nothing_that_is_not_ours_and_must_be_there(tmp_path):
    places = {"output": tmp_path / "sub" / "a.png", "staged": tmp_path / "staged.png"}
    task = Task("a.png", tmp_path / "in.png", "a.png", **places)
    task.staged.write_bytes(b"protected")
    outcome = Outcome(task, 1.0, {"output_sha256": sha256_of(task.staged), "source_sha256": "of another"})
    task.output.parent.mkdir()
    task.output.write_bytes(b"the user's")
    assert "--overwrite" in str(_landed(task, outcome, Options()).error) and task.output.read_bytes() == b"the user's"
    assert _landed(task, outcome, Options(overwrite=True)) == outcome and task.output.read_bytes() == b"protected"
    assert "all machines share" in str(_landed(task, outcome, Options(overwrite=True)).error)


# The command line


def test_the_command_hands_ray_and_paths_that_hold_elsewhere_on(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path)
    loaded, handed = [], {}
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: loaded.append(choice) or Inverter())
    monkeypatch.setattr(folder_module, "protect_folder", lambda *arguments, **options: handed.update(options) or [])
    choices = ["--ray", "--workers", "2", "--device", "cuda", "--goal", "impersonate", "--target", "in/a.png"]
    assert command.main(["protect", "in", "out", *choices]) == 0
    assert loaded[0].device == "cpu" and handed["ray"] == RayOptions(workers=2, device="cuda")
    handed["load"]()
    assert loaded[1] == Choice(device="cuda", goal="impersonate", target=tmp_path / "in" / "a.png")


def test_files_of_recognisers_hold_elsewhere_and_names_stay_names(tmp_path, monkeypatch):
    """Also where a folder is called like a built-in one."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    for name in ("mine.pth", "theirs.safetensors"):
        (tmp_path / name).write_bytes(b"")
    for name in ("faceres", "dlib_resnet", "none", "model"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    loaded, handed = [], {}
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: loaded.append(choice) or Inverter())
    monkeypatch.setattr(folder_module, "protect_folder", lambda *arguments, **options: handed.update(options) or [])

    def in_a_worker(*arguments: str) -> Choice:
        assert command.main(["protect", "in", "out", "--ray", *arguments]) == 0
        handed["load"]()
        return loaded[-1]

    mine, theirs = str(tmp_path / "mine.pth"), str(tmp_path / "theirs.safetensors")
    choice = in_a_worker("--surrogate", "mine.pth", "faceres", "--judge", "theirs.safetensors", "--model", "model")
    assert (choice.surrogates, choice.judge, choice.model) == ((mine, "faceres"), theirs, str(tmp_path / "model"))
    assert in_a_worker("--surrogate", "faceres") == Choice(surrogates=("faceres",), judge="dlib_resnet")
    assert in_a_worker("--judge", "none", "--model", "demo") == Choice(judge="none", model="demo")


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--ray", "--workers", "0"]])
def test_workers_that_cannot_be_exit_with_2(tmp_path, capsys, arguments):
    try:
        code = command.main(["protect", str(tmp_path), str(tmp_path / "out"), *arguments])
    except SystemExit as exit_:  # argparse's own
        code = exit_.code
    assert code == 2 and "workers" in capsys.readouterr().err

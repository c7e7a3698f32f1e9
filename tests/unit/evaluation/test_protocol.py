"""The whole evaluation on a public portrait: `python -m faceprotect_core evaluate`, small settings."""

import argparse
import csv
import json
import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

import needs
from faceprotect_core import AlignmentJitter, IdentityObjective, ProtectionError, load_surrogate, prepare, protect
from faceprotect_core.__main__ import main
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.evaluation.painted import painted
from faceprotect_core.evaluation.protocol import command, methods, results, trial
from faceprotect_core.evaluation.protocol import run as run_module
from faceprotect_core.evaluation.protocol.command import add_arguments
from faceprotect_core.evaluation.protocol.data import read_pairs, read_square
from faceprotect_core.evaluation.protocol.methods import chosen_methods
from faceprotect_core.evaluation.protocol.run import plan, run, trial_file
from faceprotect_core.evaluation.protocol.trial import DODGING, Experiment, Job, Lab, Setup
from faceprotect_core.faces import face_mask, find_face
from faceprotect_core.method.light_and_shade import protect_by_light
from faceprotect_core.method.peers.makeup import WEIGHT, MakeupLoss
from faceprotect_core.method.peers.semantic import SemanticSettings, protect_by_semantics
from faceprotect_core.photos.settings import DIFFUSION, LIGHT, PhotoSettings
from faceprotect_core.pixels import as_saved
from quick_lab import QuickLab, some_processings

QUICK = PhotoSettings(DIFFUSION).tuned(null_text_iterations=1, iterations=2, lr=0.02)
QUICK_LIGHT = PhotoSettings(steepness=6.0, jitter=1).tuned(iterations=2, fidelity_weight=0.2)
PROCESSED = ("none", "jpeg 50", "vae", "ddim")
FILES = ("results.md", "results.json", "rates.csv", "rank_1.csv", "quality.csv", "visible.csv")


@pytest.fixture
def quick(monkeypatch):
    """Two iterations instead of twenty, two processings instead of fourteen."""
    monkeypatch.setitem(methods.PRESETS[DIFFUSION], "fast", QUICK)
    monkeypatch.setitem(methods.PRESETS[LIGHT], "fast", QUICK_LIGHT)
    monkeypatch.setattr(trial, "processings", some_processings)


@pytest.fixture
def purifying(quick, monkeypatch):
    """With the two that go through the model, which take ten times as long as everything else."""
    monkeypatch.setattr(trial, "processings", partial(some_processings, names=PROCESSED))


@pytest.fixture(scope="module")
def people(astronaut, tmp_path_factory) -> Path:
    """Two people, two photos each, of one portrait: what counts here is that everything is measured, not how well."""
    folder = tmp_path_factory.mktemp("people")
    face = astronaut[:, 0:256, 100:356]
    for name, photo in {"1_a": face, "1_b": face * 0.9, "2_a": face.flip(2), "2_b": face.flip(2) * 0.9}.items():
        Image.fromarray(photo.mul(255).byte().permute(1, 2, 0).numpy()).save(folder / f"{name}.png")
    return folder


def evaluate(people: Path, out: Path, *arguments: str) -> int:
    """With one recogniser where none is named: four take four times as long."""
    arguments = arguments if "--surrogates" in arguments else (*arguments, "--surrogates", "dlib_resnet")
    return main(["evaluate", "--images", str(people), "--out", str(out), "--setting", "fast", *arguments])


def test_one_command_measures_everything_and_a_second_run_has_nothing_left_to_do(purifying, people, tmp_path, caplog):
    out, targets = tmp_path / "results", tmp_path / "targets"
    targets.mkdir()
    for letter in "ab":  # the other person is the target
        targets.joinpath(f"eve_{letter}.png").write_bytes(people.joinpath(f"2_{letter}.png").read_bytes())
    arguments = (
        "--methods",
        "ours,pgd,depth 2",
        "--psnr",
        "31",
        "--ciede2000",
        "2",
        "--goals",
        "dodging,impersonation",
    )
    arguments += ("--targets", str(targets), "--target-count", "1", "--identities", "1")
    assert evaluate(people, out, *arguments) == 0
    assert all((out / name).stat().st_size > 0 for name in (*FILES, "psr.png", "processing.png", "purification.png"))
    written = {name: (out / name).read_bytes() for name in FILES}
    trials = {path: path.stat().st_mtime_ns for path in out.rglob("trials/*/*")}
    caplog.set_level(logging.INFO)
    assert evaluate(people, out, *arguments) == 0
    assert "9 trials, 9 of them done already" in caplog.text
    assert {name: (out / name).read_bytes() for name in FILES} == written
    assert {path: path.stat().st_mtime_ns for path in out.rglob("trials/*/*")} == trials

    with open(out / "rates.csv", newline="") as file:
        rates = list(csv.DictReader(file))
    keys = {(rate["method"], rate["goal"], rate["strength"]) for rate in rates}
    assert {("clean", "dodging", "own"), ("ours", "dodging", "31 dB"), ("ours", "impersonation eve", "own")} <= keys
    assert ("pgd", "dodging", "CIEDE2000 2") in keys
    assert {rate["processing"] for rate in rates} == set(PROCESSED)
    assert {rate["far"] for rate in rates} == {"0.1", "0.01", "0.001"}
    assert all(0 <= float(rate["psr"]) <= 100 and 0 <= float(rate["clean"]) <= 100 for rate in rates)
    settings = json.loads(written["results.json"])["settings"]
    assert len(settings["recognisers"]["dlib_resnet"]["sha256"]) == len(settings["model_sha256"]) == 64
    report = written["results.md"].decode()
    assert "dlib_resnet (white box)" in report and "| clean | 1 | 0 / 0 / 0 |" in report
    with open(out / "visible.csv", newline="") as file:
        visible = {
            (row["method"], row["strength"]): row
            for row in csv.DictReader(file)
            if row["pushed"] != "impersonation eve"
        }
    assert float(visible["clean", "own"]["ciede2000"]) == 0
    assert float(visible["clean", "own"]["ms_ssim"]) == pytest.approx(1)
    assert 0 < float(visible["pgd", "31 dB"]["ciede2000"]) < float(visible["pgd", "31 dB"]["ciede2000_95"]) < 30
    assert 0.5 < float(visible["pgd", "31 dB"]["ms_ssim"]) < 0.99999
    assert float(visible["pgd", "31 dB"]["psnr"]) == pytest.approx(31, abs=0.2)
    assert float(visible["pgd", "CIEDE2000 2"]["ciede2000"]) == pytest.approx(2, abs=0.4)  # lips and eyes do not count


@pytest.fixture
def lab(quick, tmp_path) -> Lab:
    return Lab(Setup(tmp_path / "results", ("dlib_resnet",), base="fast"))


def jobs(people: Path, *names: str):
    return plan(chosen_methods("fast", list(names)), [DODGING], [], ["dlib_resnet"], read_pairs(people)[:1])


def test_a_trial_is_the_methods_own_call(lab, people, demo):
    """What is measured is what `protect` gives, to the last bit."""
    experiment = Experiment("ours", DODGING, ("dlib_resnet",))
    job = Job(experiment, read_pairs(people)[0])
    lab(job)
    photo = read_square(job.pair.photo, 256)
    face = find_face(photo[0])
    objective = IdentityObjective([load_surrogate("dlib_resnet")], source=photo, face=face, source_face=face)
    mask = face_mask([face], 256, 256)[None]
    denoiser, codec, context = demo
    expected = protect(denoiser, codec, photo, context, objective, mask=mask, **asdict(QUICK.diffusion))
    saved = read_square(trial_file(lab.setup, job, ".png"), 256)
    assert torch.equal(saved, as_saved(expected.image))
    assert not torch.equal(saved, photo)


def test_a_trial_of_light_and_shade_is_its_own_call_with_jitter_and_a_margin(lab, people):
    job = Job(Experiment("light and shade", DODGING, ("dlib_resnet",)), read_pairs(people)[0])
    record = lab(job)
    photo = read_square(job.pair.photo, 256)
    face = find_face(photo[0])
    loss = {"margin": 0.25, "steepness": 6.0, "jitter": AlignmentJitter(1)}
    objective = IdentityObjective([load_surrogate("dlib_resnet")], source=photo, face=face, source_face=face, **loss)
    mask = face_mask([face], 256, 256)[None]
    expected = protect_by_light(photo, objective, QUICK_LIGHT.light, mask=mask).rendering.image
    saved = read_square(trial_file(lab.setup, job, ".png"), 256)
    assert torch.equal(saved, as_saved(expected))
    assert not torch.equal(saved, photo)
    assert record["reconstruction_mse"] is None
    assert record["settings"]["method"]["loss"] == {"margin": 0.25, "steepness": 6.0, "jitter": 1}


def test_a_trial_of_the_semantic_row_is_its_own_call_on_what_was_prepared_for_ours(lab, people, demo):
    pair = read_pairs(people)[0]
    names = ("ours", "semantic (DiffProtect style)")
    ours, job = (Job(Experiment(name, DODGING, ("dlib_resnet",)), pair) for name in names)
    lab(ours)
    prepared = dict(lab._subject.prepared)
    record = lab(job)
    assert lab._subject.prepared == prepared and len(prepared) == 1
    photo = read_square(pair.photo, 256)
    face = find_face(photo[0])
    objective = IdentityObjective([load_surrogate("dlib_resnet")], source=photo, face=face, source_face=face)
    denoiser, codec, context = demo
    settings = SemanticSettings.like(QUICK.diffusion)
    expected = protect_by_semantics(
        denoiser, codec, prepare(denoiser, codec, photo, context, settings), objective, settings,
        mask=face_mask([face], 256, 256)[None],
    ).rendering.image  # fmt: skip
    saved = read_square(trial_file(lab.setup, job, ".png"), 256)
    assert torch.equal(saved, as_saved(expected)) and not torch.equal(saved, photo)
    assert record["settings"]["method"]["bound"] == settings.bound and record["settings"]["goal"] == DODGING


def test_a_trial_with_makeup_is_light_and_shade_towards_nobodys_painted_face(lab, people):
    job = Job(Experiment("light and shade with makeup", DODGING, ("dlib_resnet",)), read_pairs(people)[0])
    settings = lab(job)["settings"]
    photo, nobody = read_square(job.pair.photo, 256), load_synthetic_target()
    face, worn = find_face(photo[0]), find_face(nobody[0])
    makeup = MakeupLoss(photo, [face], painted(nobody[0], worn)[None], worn)
    plain = replace(job, experiment=replace(job.experiment, method="light and shade"))
    identity = lab.objective(lab._subject_of(plain.pair), plain.experiment, lab._method(plain.experiment))
    mask = face_mask([face], 256, 256)[None]
    expected = protect_by_light(photo, identity.plus(makeup, WEIGHT), QUICK_LIGHT.light, mask=mask).rendering.image
    assert torch.equal(read_square(trial_file(lab.setup, job, ".png"), 256), as_saved(expected))
    assert settings["makeup"] == WEIGHT and len(settings["makeup_sha256"]) == 64
    assert "makeup" not in lab.settings(plain)


@pytest.mark.parametrize("name", ["ours with jitter", "ours in colour", "light and shade at 32"])
def test_every_variant_runs_and_is_another_photo_than_what_it_varies(lab, people, name):
    pair = read_pairs(people)[0]
    plain = "light and shade" if name.startswith("light") else "ours"
    one, other = (Job(Experiment(method, DODGING, ("dlib_resnet",)), pair) for method in (name, plain))
    for job in (one, other):
        lab(job)
    photo, changed, unvaried = (
        read_square(path, 256) for path in (pair.photo, *(trial_file(lab.setup, job, ".png") for job in (one, other)))
    )
    assert not torch.equal(changed, photo) and not torch.equal(changed, unvaried)
    if name.startswith("light"):  # a change of the lightness alone is the same in red, green and blue
        change = (changed - photo)[:, :, (photo > 0.1).all(1)[0] & (photo < 0.9).all(1)[0]] * 255
        assert (change.amax(1) - change.amin(1)).max() <= 1 + 1e-3  # rounded to whole levels


def test_both_photos_of_a_person_are_protected_and_compared(quick, people, tmp_path, caplog):
    out = tmp_path / "results"
    arguments = ("--methods", "light and shade,pgd", "--both-photos", "--no-plots")
    caplog.set_level(logging.INFO)
    assert evaluate(people, out, *arguments) == 0
    assert "16 trials" in caplog.text  # 6 methods for 2 people, and 2 attacks on the second photo of each
    with open(out / "copies.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["far"], row["people"]) for row in rows] == [
        (method, far, "2") for method in ("light and shade", "pgd") for far in ("0.1", "0.01", "0.001")
    ]
    # The second photo is the first one, a little darker: one person to everybody before.
    assert all(float(row["matched_before"]) == 100 for row in rows)
    assert all(float(row["similarity_before"]) < float(row["similarity"]) for row in rows)  # a distance
    report = (out / "results.md").read_text()
    assert "## Two protected photos of one person" in report
    assert "| light and shade | dodging | dlib_resnet | 2 | 0." in report


def test_the_four_built_in_recognisers_are_asked_unless_others_are_named_and_each_can_be_left_out(people, tmp_path):
    four = ["dlib_resnet", "mobilefacenet", "faceres", "mobileface"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["--images", "faces", "--out", "results"]).surrogates == four
    made = plan(chosen_methods("fast", ["light and shade"]), [DODGING], [], four, read_pairs(people), True)
    seen = [one.seen for one in made.experiments if one.seen]
    assert seen == [tuple(name for name in four if name != out) for out in four]


def test_one_of_several_recognisers_is_left_out_of_each_loss(quick, people, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "results"
    arguments = ("--surrogates", "mobilefacenet,mobileface,dlib_resnet", "--leave-one-out", "--no-plots")
    assert evaluate(people, out, *arguments, "--methods", "light and shade", "--identities", "1") == 0
    with open(out / "rates.csv", newline="") as file:
        rates = [rate for rate in csv.DictReader(file) if rate["method"] == "light and shade"]
    for rate in rates:
        assert (rate["seen"] == "True") == (rate["recogniser"] in rate["loss"].split("+"))
        assert float(rate["threshold"]) == load_surrogate(rate["recogniser"]).thresholds[float(rate["far"])]
    assert "| method | people | mobilefacenet | mobileface | dlib_resnet | average | PSNR | MS-SSIM |" in caplog.text
    psr = [
        f"{float(rate['psr']):.0f}"
        for name in ("mobilefacenet", "mobileface", "dlib_resnet")
        for rate in rates
        if (rate["recogniser"], rate["seen"], rate["processing"], rate["far"]) == (name, "False", "none", "0.01")
    ]
    assert f"| light and shade | 1 | {' | '.join(psr)} |" in caplog.text
    unseen = {(rate["recogniser"], rate["loss"]) for rate in rates if rate["seen"] == "False"}
    assert unseen == {
        ("mobilefacenet", "mobileface+dlib_resnet"),
        ("mobileface", "mobilefacenet+dlib_resnet"),
        ("dlib_resnet", "mobilefacenet+mobileface"),
    }


def test_what_is_damaged_or_missing_is_run_again_and_another_photo_of_that_name_is_an_error(lab, people, tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    for path in people.iterdir():
        folder.joinpath(path.name).write_bytes(path.read_bytes())
    what = jobs(folder, "pgd")
    run(lab, what)
    first, second, third = (Job(one, what.pairs[0]) for one in what.experiments[:3])
    trial_file(lab.setup, first, ".png").unlink()
    for job, suffix in ((second, ".json"), (third, ".safetensors")):
        file = trial_file(lab.setup, job, suffix)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = []
    run(lab, what, on_job=lambda number, count, job, record: done.append(job))
    assert done == [first, second, third]
    folder.joinpath("1_a.png").write_bytes(folder.joinpath("2_a.png").read_bytes())
    with pytest.raises(ProtectionError, match="other settings \\(photo_sha256\\)"):
        run(lab, what)
    folder.joinpath("1_b.png").write_bytes(folder.joinpath("1_a.png").read_bytes())
    failed = run(Lab(Setup(tmp_path / "new", ("dlib_resnet",), base="fast")), what)
    assert all("are the same file" in reason for reason in failed.values()) and len(failed) == 5


def test_tables_of_what_is_there_say_what_is_missing(quick, people, tmp_path):
    """Also of trials that were run before it was measured how visible a change is."""
    out = tmp_path / "results"
    arguments = ("--methods", "pgd", "--no-plots")
    assert evaluate(people, out, *arguments, "--identities", "1") == 0
    (path,) = out.glob("trials/*pgd*/1.json")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "visible"}))
    assert evaluate(people, out, *arguments, "--identities", "1") == 0
    with open(out / "visible.csv", newline="") as file:
        visible = {row["method"]: row["ciede2000"] for row in csv.DictReader(file)}
    assert visible["pgd"] == "" and float(visible["vae"]) > 0
    assert "- where a trial was run by a version that did not measure them" in (out / "results.md").read_text()
    assert evaluate(people, out, *arguments, "--tables") == 0
    failed = json.loads((out / "results.json").read_text())["failed"]
    assert failed["pgd, dodging, loss dlib_resnet"] == "not run for 1 of 2 people"
    assert evaluate(people, out, *arguments, "--tables", "--framing", "box") == 2
    assert evaluate(people, tmp_path / "empty", *arguments, "--tables") == 2


def test_a_target_is_not_among_the_people_who_impersonate(quick, people, tmp_path):
    out = tmp_path / "results"
    arguments = ("--goals", "impersonation", "--targets", str(people), "--target-count", "1", "--no-plots")
    assert evaluate(people, out, "--methods", "pgd", *arguments) == 0
    assert {path.stem for path in out.glob("trials/*/*.png")} == {"2"}


def test_the_same_trial_again_gives_the_same_files(lab, people):
    what = jobs(people, "tip_im")
    run(lab, what)
    job = Job(what.experiments[-1], what.pairs[0])
    files = [trial_file(lab.setup, job, suffix) for suffix in (".png", ".safetensors")]
    before = [file.read_bytes() for file in files]
    trial_file(lab.setup, job, ".json").unlink()
    done = []
    run(lab, what, on_job=lambda number, count, job, record: done.append(job))
    assert done == [job] and [file.read_bytes() for file in files] == before


def test_another_setting_in_the_same_folder_is_an_error(lab, people):
    what = jobs(people, "pgd")
    run(lab, what)
    other = Lab(Setup(lab.setup.out, ("dlib_resnet",), base="fast", psnr=(31.0,)))
    with pytest.raises(ProtectionError, match="other settings \\(strengths\\)"):
        run(other, what)


def test_a_photo_without_a_face_is_reported_and_the_others_go_on(quick, people, tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    for path in people.iterdir():
        folder.joinpath(path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (256, 256)).save(folder / "1_a.png")
    out = tmp_path / "results"
    assert evaluate(folder, out, "--methods", "pgd", "--no-plots") == 1
    assert "no face" in (out / "results.md").read_text()
    assert {path.stem for path in out.rglob("*.png")} == {"2"}
    failed = json.loads((out / "results.json").read_text())["failed"]
    assert len(failed) == 5 and all("no face" in reason for reason in failed.values())
    assert "pgd, dodging, 1" in failed
    with open(out / "rates.csv", newline="") as file:
        assert {rate["people"] for rate in csv.DictReader(file)} == {"1"}


@pytest.mark.parametrize("framing", ["box", "whole image"])
def test_the_papers_framings(quick, people, tmp_path, framing):
    """Boxes and whole images instead of aligned faces; an obfuscation towards nobody's face."""
    out = tmp_path / "results"
    arguments = ("--framing", framing, "--goals", "obfuscation", "--methods", "pgd", "--no-plots", "--identities", "1")
    assert evaluate(people, out, *arguments) == 0
    (path,) = out.glob("trials/obfuscation__pgd__dlib_resnet-*/1.json")
    record = json.loads(path.read_text())
    assert record["settings"]["framing"] == framing and record["psnr"] > 25


def test_another_models_autoencoder_is_one_more_purification(purifying, people, tmp_path, demo):
    """Not only the model purifies that the method went through: that one may know its own changes too well."""
    _, codec, _ = demo
    codec.vae.save_pretrained(tmp_path / "model/vae")
    out = tmp_path / "results"
    arguments = ("--methods", "pgd", "--no-plots", "--identities", "1", "--psnr", "31")
    assert evaluate(people, out, *arguments, "--purifier", str(tmp_path / "model")) == 0
    report = (out / "results.md").read_text()
    assert "| kept after vae | kept after ddim | kept after another vae |" in report
    with open(out / "rates.csv", newline="") as file:
        away = {
            (rate["method"], rate["processing"], rate["far"], rate["strength"]): rate["away"]
            for rate in csv.DictReader(file)
        }
    # Here the other autoencoder is the same one, saved and read again.
    assert away["pgd", "another vae", "0.01", "own"] == away["pgd", "vae", "0.01", "own"]
    assert evaluate(people, tmp_path / "other", *arguments, "--purifier", str(people)) == 2


def test_two_workers_give_what_one_gives(people, tmp_path, monkeypatch):
    try:
        import ray.data  # noqa: F401
    except ImportError:
        needs.missing("Ray Data is not installed (pip install 'ray[data]')")
    for module in (command, run_module):
        monkeypatch.setattr(module, "Lab", QuickLab)
    here, there = tmp_path / "here", tmp_path / "there"
    arguments = ("--methods", "pgd", "--no-plots", "--identities", "1")
    assert evaluate(people, here, *arguments) == 0
    assert evaluate(people, there, *arguments, "--ray", "--workers", "2") == 0
    names = {path.relative_to(here) for path in here.rglob("trials/*/*") if path.suffix != ".json"}
    assert len(names) == 2 * 5
    assert all((here / name).read_bytes() == (there / name).read_bytes() for name in names)
    assert (here / "rates.csv").read_bytes() == (there / "rates.csv").read_bytes()


def test_lpips_and_fid_come_from_the_users_files(quick, people, tmp_path, monkeypatch):
    """What they compute is tested in test_quality.py; here, that the right photos and files reach them."""
    seen = []

    class FakeLpips:
        def __init__(self, weights):
            seen.append(weights.name)

        def __call__(self, before, after):
            return (before - after).abs().flatten(1).mean(1)

    def fid(before, after, weights):
        seen.append(weights.name)
        return 100 * (before - after).abs().mean().item()

    monkeypatch.setattr(results, "Lpips", FakeLpips)
    monkeypatch.setattr(results, "frechet_distance", fid)
    out = tmp_path / "results"
    files = ("--lpips", str(tmp_path / "alex.pth"), "--fid", str(tmp_path / "inception.pth"))
    for name in ("alex.pth", "inception.pth"):
        (tmp_path / name).touch()
    assert evaluate(people, out, "--methods", "pgd", "--no-plots", "--identities", "1", *files) == 0
    assert seen == ["alex.pth"] + 5 * ["inception.pth"]
    with open(out / "quality.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["clean"]["lpips"]) == float(rows["clean"]["fid"]) == 0
    assert 0 < float(rows["pgd"]["lpips"]) < float(rows["vae"]["lpips"])
    assert float(rows["vae"]["fid"]) == pytest.approx(100 * float(rows["vae"]["lpips"]), rel=1e-5)


def test_wrong_usage_says_how_to_fix_it(people, tmp_path, capsys):
    assert evaluate(people, tmp_path, "--workers", "2") == 2
    assert "--workers needs --ray" in capsys.readouterr().err
    assert evaluate(people, tmp_path, "--fid", "nowhere.pth") == 2
    assert "no file 'nowhere.pth' (--fid)" in capsys.readouterr().err
    assert evaluate(people, people / "results") == 2
    assert "would land among the photos" in capsys.readouterr().err
    assert evaluate(people, tmp_path, "--goals", "impersonation") == 2
    assert "needs targets" in capsys.readouterr().err
    assert evaluate(people, tmp_path, "--methods", "fawkes") == 2
    assert "no method 'fawkes'" in capsys.readouterr().err

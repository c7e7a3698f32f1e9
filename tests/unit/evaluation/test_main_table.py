"""The main table: every method against whom it did not see, and what each of them is; from numbers, without any run."""

import pytest

from faceprotect_core.evaluation.protocol import methods
from faceprotect_core.evaluation.protocol.methods import Method, chosen_methods
from faceprotect_core.evaluation.protocol.rates import Rate
from faceprotect_core.evaluation.protocol.report.main_table import main_table
from faceprotect_core.evaluation.protocol.results import Quality, Results, Visible
from faceprotect_core.evaluation.protocol.trial import DODGING, IMPERSONATION, OBFUSCATION, OWN, Experiment

THREE = ("a", "b", "c")
LOSSES = [("b", "c"), ("a", "c"), ("a", "b")]  # each left out in turn
METHODS = chosen_methods("balanced", ["ours", "pgd", "paper", "no structure"])


def rate(experiment: Experiment, judge: str, psr: float, **changed) -> Rate:
    numbers = dict(threshold=0.3, people=5, protected=2, knew=5, hidden=2, clean=20.0, away=0.1, clean_away=-0.1)
    goal = dict(goal=DODGING, strength=OWN, processing="none", far=0.01)
    return Rate(experiment, recogniser=judge, seen=judge in experiment.seen, psr=psr, **(numbers | goal | changed))


def results(experiments: dict[Experiment, dict[str, float]], measured: bool = True, strengths=()) -> Results:
    """experiments: -> judge -> PSR; white boxes get 99, other rates that do not belong into the table 77."""
    rates = []
    for one, judges in experiments.items():
        for judge in THREE:
            psr = 99.0 if judge in one.seen else judges[judge]
            goal = f"{IMPERSONATION} {one.target}" if one.target else DODGING
            rates.append(rate(one, judge, psr, goal=goal))
            rates += [rate(one, judge, psr + 1, goal=goal, strength=strength) for strength in strengths]
            rates += [rate(one, judge, 77.0, goal=goal, **other) for other in ({"far": 0.1}, {"processing": "vae"})]
            if one.target:
                rates.append(rate(one, judge, 77.0))
    numbers = (0.987, 2.04, 5.96, 35.04) if measured else (None,) * 4
    quality = [Quality(one, 5, 34.5, 31.0, 0.98, None, None, None, 100.0, 1.0) for one in experiments]
    visible = [Visible(one, strength, 5, *numbers) for one in experiments for strength in (OWN, *strengths)]
    settings = {"strengths": list(strengths), "comparable": ["ours", "pgd"], "depths": []}
    return Results(settings, rates, [], quality, {}, visible=visible)


def left_out(method: str, *psr: float, goal: str = DODGING, target: str = "") -> dict:
    """An experiment for each loss, with the PSR of the one that it leaves out."""
    pairs = zip(LOSSES, THREE, psr, strict=True)
    return {Experiment(method, goal, seen, target): {out: value} for seen, out, value in pairs}


CLEAN = {Experiment("clean"): {"a": 10.0, "b": 20.0, "c": 30.0}}


def row(table: str, method: str) -> str:
    (found,) = [line for line in table.splitlines() if line.startswith(f"| {method} |")]
    return found


@pytest.mark.parametrize("goal", [DODGING, OBFUSCATION])
def test_each_is_asked_about_what_it_did_not_see(goal):
    """An obfuscation, too, is to be no longer recognised."""
    ours, pgd = left_out("ours", 90.0, 80.0, 70.0, goal=goal), left_out("pgd", 60.0, 40.0, 20.0, goal=goal)
    found = results(CLEAN | ours | pgd)
    table = main_table(found, METHODS)
    assert "| method | people | a | b | c | average | PSNR | MS-SSIM | CIEDE2000 | 95 % |" in table
    assert row(table, "clean") == "| clean | 5 | 10 | 20 | 30 | 20 | 34.5 | 0.987 | 2.0 | 6.0 |"
    assert row(table, "ours") == "| ours | 5 | 90 | 80 | 70 | 80 | 34.5 | 0.987 | 2.0 | 6.0 |"
    assert row(table, "pgd") == "| pgd | 5 | 60 | 40 | 20 | 40 | 34.5 | 0.987 | 2.0 | 6.0 |"


@pytest.mark.parametrize("size", ["35 dB", "CIEDE2000 2"])
def test_at_equal_size_those_are_left_out_that_cannot_be_scaled(size):
    found = results(CLEAN | left_out("ours", 90.0, 80.0, 70.0) | left_out("paper", 9.0, 8.0, 7.0), strengths=(size,))
    own, equal = main_table(found, METHODS).split(f"### Dodging, every change at {size}")
    assert "| paper |" in own and "| paper |" not in equal
    assert row(equal, "ours").startswith("| ours | 5 | 91 | 81 | 71 | 81 | 35.0 | 0.987 |")
    assert row(equal, "clean") == row(own, "clean")


def test_impersonation_is_to_be_taken_for_the_target_and_its_mean_over_the_targets():
    eve, bob = (left_out("ours", *psr, goal=IMPERSONATION, target=who) for who, psr in
                (("eve", (50.0, 40.0, 30.0)), ("bob", (70.0, 60.0, 50.0))))  # fmt: skip
    found = results(CLEAN | eve | bob)
    found.rates.extend(
        rate(one, judge, psr, goal=f"{IMPERSONATION} {who}")
        for one in CLEAN for who, psr in (("eve", 2.0), ("bob", 4.0)) for judge in THREE
    )  # fmt: skip
    table = main_table(found, METHODS)
    assert row(table, "ours").startswith("| ours | 5 | 60 | 50 | 40 | 50 |")
    assert row(table, "clean").startswith("| clean | 5 | 3 | 3 | 3 | 3 |")


def test_a_new_method_needs_its_entry_alone_and_every_row_says_what_it_is(monkeypatch):
    groups = methods.method_groups
    peer = Method("pixels", METHODS["pgd"].settings, "pgd", about="what a peer does; not the peer itself")
    monkeypatch.setattr(methods, "method_groups", lambda base: groups(base) | {"others": {"peer (of a kind)": peer}})
    chosen = chosen_methods("balanced", ["table"])
    here = {"clean", "ours", "light and shade", "paper", "pgd", "mi_fgsm", "ti_dim", "tip_im"}
    here |= {"semantic (DiffProtect style)", "makeup (AMT-GAN, DiffAM style)", "light and shade with makeup"}
    assert {name for name, method in chosen.items() if method.in_the_main_table} == here | {"peer (of a kind)"}
    table = main_table(results(CLEAN | left_out("peer (of a kind)", 1.0, 2.0, 3.0)), chosen)
    assert row(table, "peer (of a kind)").startswith("| peer (of a kind) | 5 | 1 | 2 | 3 | 2 |")
    assert "- **peer (of a kind)**: what a peer does; not the peer itself." in table.splitlines()
    assert all(f"- **{name}**: {method.about}." in table for name, method in chosen.items() if method.attacks)


def test_an_ablation_is_no_row():
    table = main_table(results(CLEAN | left_out("no structure", 1.0, 2.0, 3.0) | left_out("ours", 9, 9, 9)), METHODS)
    assert "no structure" not in table


def test_what_was_not_measured_is_a_dash():
    table = main_table(results(CLEAN | left_out("ours", 9.0, 9.0, 9.0), measured=False), METHODS)
    assert row(table, "ours").endswith("| 34.5 | - | - | - |") and "A - where a trial is from a version" in table


def test_without_a_black_box_it_says_what_to_do():
    seen = {Experiment("ours", DODGING, THREE): {}}
    table = main_table(results(CLEAN | seen), METHODS)
    assert "--leave-one-out" in table and "| ours |" not in table


@pytest.mark.parametrize("base", ["balanced", "paper"])
def test_every_method_says_in_a_sentence_what_it_is(base):
    chosen = chosen_methods(base, ["table"])
    assert all(len(one.about) > 40 and not one.about.endswith(".") for one in chosen.values() if one.attacks)

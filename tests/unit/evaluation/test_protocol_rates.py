"""From embeddings to rates, on numbers made by hand; the plan of an evaluation; its methods."""

import inspect
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
import torch

from faceprotect_core import FRSurrogate, ProtectionError, protect
from faceprotect_core.evaluation.protocol.copies import copies_of
from faceprotect_core.evaluation.protocol.data import Pair, Target
from faceprotect_core.evaluation.protocol.methods import chosen_methods, method_groups
from faceprotect_core.evaluation.protocol.rates import Trials, all_rates, rank_one
from faceprotect_core.evaluation.protocol.run import plan
from faceprotect_core.evaluation.protocol.trial import DODGING, IMPERSONATION, OBFUSCATION, Experiment, Setup
from faceprotect_core.method.peers.makeup import WEIGHT, for_makeup
from faceprotect_core.method.peers.semantic import SemanticSettings
from faceprotect_core.method.protect import PAPER
from faceprotect_core.photos.settings import LIGHT, PRESETS

PEOPLE = ("ann", "bob")
CLEAN, OURS = Experiment("clean"), Experiment("ours", DODGING, ("net",))
TARGET = Target("eve", Path("eve_a.jpg"), Path("eve_b.jpg"))


@dataclass
class FakeLab:
    recognisers: dict
    setup: Setup = field(default_factory=lambda: Setup(Path("out"), ("net",), (TARGET,)))


def unit(degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()])


def lab(metric: str = "cosine", thresholds=None) -> FakeLab:
    thresholds = {0.01: 0.5} if thresholds is None else thresholds
    return FakeLab({"net": FRSurrogate(lambda image: image, name="net", metric=metric, thresholds=thresholds)})


def trials(experiment: Experiment, **embeddings: list) -> Trials:
    """Per person, per place, an angle; one strength, one processing."""
    settings = {"strengths": ["own"], "processings": ["none"]}
    tensors = {person: torch.stack([unit(a) for a in angles])[None, None] for person, angles in embeddings.items()}
    return Trials(experiment, {person: {"settings": settings} for person in embeddings}, {"net": tensors})


REFERENCES = {"net": {"other": {"ann": unit(0), "bob": unit(180)}, "target": {"eve": unit(90)}}}
BEFORE = {CLEAN: trials(CLEAN, ann=[10], bob=[170])}


def rates(after: Trials, recognisers: FakeLab | None = None) -> dict:
    found = all_rates(recognisers or lab(), BEFORE | {after.experiment: after}, REFERENCES)
    return {(rate.experiment.method, rate.goal): rate for rate in found}


def test_dodging_counts_whom_the_recogniser_takes_no_longer_for_the_same_person():
    rate = rates(trials(OURS, ann=[80], bob=[150]))["ours", DODGING]
    assert (rate.people, rate.protected, rate.psr, rate.clean) == (2, 1, 50.0, 0.0)
    away = 0.5 - torch.tensor([80.0, 30.0]).deg2rad().cos()
    assert rate.away == pytest.approx(away.mean().item(), abs=1e-6)
    assert rate.clean_away == pytest.approx(0.5 - torch.tensor(10.0).deg2rad().cos().item(), abs=1e-6)
    assert rate.seen and rate.experiment == OURS and rate.threshold == 0.5
    assert (rate.knew, rate.hidden) == (2, 1)


def test_of_two_places_of_the_face_the_one_counts_that_protects_less():
    rate = rates(trials(OURS, ann=[80, 20], bob=[20, 100]))["ours", DODGING]
    assert rate.protected == 1
    impersonation = Experiment("ours", IMPERSONATION, ("net",), "eve")
    rate = rates(trials(impersonation, ann=[80, 20], bob=[100, 95]))["ours", f"{IMPERSONATION} eve"]
    assert rate.protected == 1


def test_impersonation_is_measured_on_another_photo_of_the_target_and_by_dodging_too():
    impersonation = Experiment("ours", IMPERSONATION, ("net",), "eve")
    found = rates(trials(impersonation, ann=[40], bob=[100]))
    assert found["ours", f"{IMPERSONATION} eve"].psr == 100 and found["clean", f"{IMPERSONATION} eve"].psr == 0
    assert found["ours", DODGING].psr == 50  # to look like somebody else is not to be no longer recognised


def test_for_a_distance_less_is_more_alike():
    rate = rates(trials(OURS, ann=[80], bob=[175]), lab("euclidean", {0.01: 0.6}))["ours", DODGING]
    assert (rate.protected, rate.people) == (1, 2)


def test_the_threshold_itself_is_still_a_match():
    exactly = lab(thresholds={0.01: torch.cosine_similarity(unit(60), unit(0), dim=0).item()})
    assert rates(trials(OURS, ann=[60], bob=[60]), exactly)["ours", DODGING].protected == 1


def test_a_recogniser_without_thresholds_has_no_rates_and_one_with_three_has_three():
    assert not rates(trials(OURS, ann=[80], bob=[80]), lab(thresholds={}))
    known = lab(thresholds={0.1: 0.3, 0.01: 0.5, 0.001: 0.7})
    found = all_rates(known, BEFORE | {OURS: trials(OURS, ann=[65], bob=[120])}, REFERENCES)
    mine = [rate for rate in found if rate.experiment.method == "ours"]
    assert [rate.far for rate in mine] == [0.1, 0.01, 0.001]
    # A stricter rate asks for more likeness: it is easier to dodge.
    assert [rate.protected for rate in mine] == [0, 2, 2]


def test_only_people_who_were_measured_before_and_after_are_compared():
    rate = rates(trials(OURS, ann=[80]))["ours", DODGING]
    assert rate.people == 1 and rate.clean_away == pytest.approx(0.5 - torch.tensor(10.0).deg2rad().cos().item())


def test_two_protected_photos_are_compared_where_they_are_most_alike():
    first, second = trials(OURS, ann=[80, 70], bob=[90]), {"ann": unit(0)[None], "bob": unit(240)[None]}
    second = {person: x[None, None] for person, x in second.items()}
    (row,) = copies_of(lab().recognisers["net"], first, second, BEFORE[CLEAN], REFERENCES["net"]["other"])
    cosines = torch.tensor([70.0, 150.0]).deg2rad().cos()
    assert row.similarity == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert row.similarity_before == pytest.approx(torch.tensor(10.0).deg2rad().cos().item(), abs=1e-6)
    assert (row.people, row.matched_before, row.matched) == (2, 100, 0) and row.seen
    lenient = lab(thresholds={0.1: 0.3}).recognisers["net"]
    (row,) = copies_of(lenient, first, second, BEFORE[CLEAN], REFERENCES["net"]["other"])
    assert row.matched == 50  # cos 70 degrees is 0.34


def test_copies_of_a_distance_and_of_people_whose_second_photo_failed():
    far = lab("euclidean", {0.01: 0.6}).recognisers["net"]
    second = {"ann": unit(75)[None][None, None]}
    (row,) = copies_of(far, trials(OURS, ann=[80], bob=[90]), second, BEFORE[CLEAN], REFERENCES["net"]["other"])
    assert (row.people, row.matched) == (1, 100) and row.similarity < 0.1
    assert copies_of(far, trials(OURS, ann=[80]), {}, BEFORE[CLEAN], REFERENCES["net"]["other"]) == []


def test_a_row_of_the_files_names_method_goal_and_loss_first():
    both = Experiment("ours", IMPERSONATION, ("net", "other"), "eve")
    (row, *_) = all_rates(lab(), BEFORE | {both: trials(both, ann=[80], bob=[95])}, REFERENCES)[2:]
    found = row.to_dict()
    assert [*found][:5] == ["method", "pushed", "loss", "goal", "recogniser"] and "experiment" not in found
    assert [*found.values()][:5] == ["ours", "impersonation eve", "net+other", "impersonation eve", "net"]


def test_rank_one_asks_who_is_the_nearest_in_the_gallery():
    found = rank_one(lab(), BEFORE | {OURS: trials(OURS, ann=[80], bob=[80])}, REFERENCES)
    shares = {one.experiment.method: (one.found, one.clean, one.gallery) for one in found}
    assert shares == {"clean": (100, 100, 2), "ours": (50, 100, 2)}
    # Found from either place is found.
    found = rank_one(lab(), BEFORE | {OURS: trials(OURS, ann=[80], bob=[80, 100])}, REFERENCES)
    assert found[1].found == 100


# ------------------------------------------------------------------------------------------------ methods and plan


def test_the_papers_settings_are_the_defaults_of_protect():
    defaults = {name: one.default for name, one in inspect.signature(protect).parameters.items()}
    assert {name: defaults[name] for name in asdict(PAPER)} == asdict(PAPER)
    assert chosen_methods("paper", ["main"])["ours"].settings == PAPER


@pytest.mark.parametrize("base", ["paper", "fast", "balanced", "strong"])
def test_each_ablation_differs_from_ours_in_what_it_is_named_after(base):
    groups = method_groups(base)
    ours = groups["main"]["ours"].knobs
    for name, method in (groups["ablations"] | groups["depths"]).items():
        differing = {key for key in ours if method.knobs[key] != ours[key]}
        expected = {
            "no": {"null_text_iterations"} if "embeddings" in name else {"structure"},
            "pairing": {"pairing"},
            "output": {"output"},
            "depth": {"depth"}
            if int(name.split()[-1] if name.split()[-1].isdigit() else 0) != ours["depth"]
            else set(),
        }[name.split()[0]]
        assert differing == expected, name
    assert sorted(groups["depths"]) == [f"depth {depth}" for depth in range(1, 8)]


@pytest.mark.parametrize("base", ["paper", "fast", "balanced", "strong"])
def test_each_variant_differs_in_what_it_is_named_after(base):
    groups = method_groups(base)
    ours, light, variants = groups["main"]["ours"], groups["main"]["light and shade"], groups["variants"]
    preset = PRESETS[LIGHT]["balanced" if base == "paper" else base]
    assert light.settings.grid == 64 and light.settings.fidelity_weight == preset.light.fidelity_weight
    assert light.loss == {"margin": 0.25, "steepness": preset.steepness, "jitter": preset.jitter}
    assert variants["light and shade at 32"].settings == replace(light.settings, grid=32)
    assert variants["light and shade at 32"].loss == light.loss
    assert variants["ours with jitter"].settings == ours.settings
    assert (ours.loss, variants["ours with jitter"].loss) == ({}, {"jitter": 1})
    if base == "paper":  # the decoded latent has colours of its own
        assert "ours in colour" not in variants
    else:
        assert ours.settings.keep_colours
        assert variants["ours in colour"].settings == replace(ours.settings, keep_colours=False)
    assert light.masked and all(one.attacks for one in (light, *variants.values()))


@pytest.mark.parametrize("base", ["paper", "fast", "balanced", "strong"])
def test_the_semantic_row_is_ours_with_another_variable_and_says_what_it_is_not(base):
    groups = method_groups(base)
    ours, semantic = groups["main"]["ours"], groups["peers"]["semantic (DiffProtect style)"]
    assert semantic.settings == SemanticSettings.like(ours.settings) and semantic.attacks
    assert (semantic.loss, semantic.masked) == (ours.loss, ours.masked)
    assert "bottleneck" in semantic.about and "not DiffProtect's" in semantic.about
    assert list(chosen_methods(base, ["peers"]))[-1] == "semantic (DiffProtect style)"


@pytest.mark.parametrize("base", ["paper", "balanced"])
def test_the_rows_of_makeup_are_the_main_ones_with_another_loss_beside_it(base):
    groups = method_groups(base)
    assert list(groups["makeup"]) == ["makeup (AMT-GAN, DiffAM style)", "light and shade with makeup"]
    for made_up, name in zip(groups["makeup"].values(), ("ours", "light and shade"), strict=True):
        plain = groups["main"][name]
        assert made_up.makeup == WEIGHT
        settings = for_makeup(plain.settings) if name == "ours" else plain.settings
        assert replace(made_up, makeup=0.0, about=plain.about) == replace(plain, settings=settings)
    assert not any(one.makeup for name, group in groups.items() if name != "makeup" for one in group.values())


def test_the_unprotected_photo_and_the_reconstructions_are_always_there():
    found = chosen_methods("balanced", ["pgd"])
    assert list(found) == ["clean", "vae", "ddim", "ddim with embeddings", "pgd"]
    assert [name for name, method in found.items() if method.attacks] == ["pgd"]
    with pytest.raises(ProtectionError, match="no method 'fawkes'"):
        chosen_methods("balanced", ["fawkes"])
    with pytest.raises(ProtectionError, match="no setting 'hard'"):
        chosen_methods("hard", ["main"])


def test_the_plan_crosses_goals_methods_and_losses_and_runs_ablations_for_the_first_goal_only():
    methods = chosen_methods("balanced", ["main", "no structure"])
    pairs = [Pair("ann", Path("ann_a.jpg"), Path("ann_b.jpg"))]
    made = plan(methods, [DODGING, IMPERSONATION], ["eve", "zoe"], ["x", "y"], pairs).experiments
    assert [one.method for one in made if not one.goal] == ["clean", "vae", "ddim", "ddim with embeddings"]
    attacks = [one for one in made if one.goal]
    assert {one.seen for one in attacks} == {("x", "y")}
    assert [(one.pushed, one.method) for one in attacks] == [
        (DODGING, "ours"),
        (DODGING, "light and shade"),
        (DODGING, "paper"),
        (DODGING, "no structure"),
        *((f"{IMPERSONATION} {name}", one) for name in ("eve", "zoe") for one in ("ours", "light and shade", "paper")),
    ]
    twice = plan(methods, [DODGING, IMPERSONATION], ["eve"], ["x", "y"], pairs, both_photos=True)
    assert [job.experiment.method for job in twice.jobs if job.pair == pairs[0].swapped] == [
        "ours",
        "light and shade",
        "paper",
    ]
    assert pairs[0].swapped.photo == pairs[0].other and pairs[0].swapped.other == pairs[0].photo
    left_out = plan(methods, [OBFUSCATION], [], ["x", "y", "z"], pairs, leave_one_out=True).experiments
    assert {one.seen for one in left_out if one.goal} == {("y", "z"), ("x", "z"), ("x", "y")}
    assert len({one.folder for one in (*made, *left_out)}) == len({*made, *left_out})


@pytest.mark.parametrize(
    "goals, targets, seen, leave_one_out, what",
    [
        (["hide"], [], ["x"], False, "no goal 'hide'"),
        ([IMPERSONATION], [], ["x"], False, "needs targets"),
        ([IMPERSONATION], ["eve"], ["x"], True, "cannot be left out"),
        ([DODGING], [], ["x"], False, "1 photos have no second photo"),
    ],
)
def test_a_plan_that_cannot_be_is_an_error(goals, targets, seen, leave_one_out, what):
    methods = chosen_methods("balanced", ["main"])
    with pytest.raises(ProtectionError, match=what):
        plan(methods, goals, targets, seen, [Pair("ann", Path("ann_a.jpg"))], leave_one_out)

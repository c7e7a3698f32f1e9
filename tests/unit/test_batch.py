"""Several faces in one batch: each comes out as it does alone, and nothing about one of them hides in the others."""

from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image

from faceprotect_core import ProtectionError
from faceprotect_core import __main__ as command
from faceprotect_core import protector as protector_module
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.faces import crop_face, detect_faces, left_to_right
from faceprotect_core.photo import PRESETS, PhotoSettings, protect_photo
from faceprotect_core.protector import Choice, load_protector
from golden import load_golden
from ray_work import Inverter
from tiny import CountingDenoiser, tiny_surrogate

# On the tiny networks. Dodging starts where its gradient is rounding, which AdamW makes large: hence few, short steps.
QUICK = PhotoSettings(size=64, depth=2, null_text_iterations=2, iterations=3, lr=0.002)
# On the demo model: few iterations, and a goal that they reach.
WEAK = replace(
    PRESETS["fast"], null_text_iterations=1, iterations=4, lr=0.06, fidelity_weight=0.0, objective_weight=0.01,
    margin=0.3, wanted_margin=-0.55,
)  # fmt: skip
STAGES = ["inversion", "null_text", "capture", "protection"]


@dataclass(frozen=True)
class StopsEarly(PhotoSettings):
    """Settings with one more argument of `protect`."""

    early_stop: bool = True


@pytest.fixture(scope="module")
def golden():
    """Tiny random networks in float64."""
    return load_golden("impersonation")


@pytest.fixture(scope="module")
def target():
    """Nobody's face [3, h, w]."""
    return load_synthetic_target()[0]


@pytest.fixture(scope="module")
def portrait(astronaut):
    return astronaut[:, :300, 80:400]


@pytest.fixture(scope="module")
def two(portrait):
    """Two faces that are no mirror images of each other: the right one is less bright."""
    return torch.cat([portrait, portrait.flip(2) * 0.8], 2)


@pytest.fixture(scope="module")
def three(two, portrait):
    return torch.cat([two, portrait * 0.6], 2)


@pytest.fixture(scope="module")
def cut(detector):
    def crops_of(photo, *sizes: int):
        """In float64, the faces from the left in these sizes."""
        faces = left_to_right(detect_faces(photo, detector))
        return [crop_face(photo.double(), face, size) for face, size in zip(faces, sizes, strict=True)]

    return crops_of


@pytest.fixture
def tiny(golden, detector):
    """protect_photo in float64 on the tiny networks."""

    def run(photo, crops, at_once: int, settings=QUICK, denoiser=golden.denoiser, surrogate=None, **options):
        surrogate = surrogate or tiny_surrogate(template="dlib_150", thresholds={0.01: 0.5})
        models = denoiser, golden.codec, golden.context
        return protect_photo(
            *models, photo.double(), [surrogate], settings, crops=crops, detector=detector, faces_per_batch=at_once,
            **options,
        )  # fmt: skip

    return run


def same(a, b, atol):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def assert_verdicts_agree(together, alone, atol):
    for one, other in zip(together.faces, alone.faces, strict=True):
        assert (one.face, one.protected, one.found_again) == (other.face, other.protected, other.found_again)
        for name, score in one.scores.items():
            assert score["after"] == pytest.approx(other.scores[name]["after"], abs=atol)


# ------------------------------------------------------------------------------------------------ equal to single runs


@pytest.mark.parametrize("goal", ["dodge", "synthetic", "impersonate"])
def test_a_batch_of_faces_equals_the_single_runs(golden, tiny, cut, three, target, goal):
    crops, options = cut(three, 64, 64, 64), {"goal": goal, "target": None if goal == "dodge" else target.double()}
    alone = tiny(three, crops, 1, **options)
    for at_once, batches in ((2, {2, 1}), (3, {3})):
        denoiser = CountingDenoiser(golden.denoiser)
        together = tiny(three, crops, at_once, denoiser=denoiser, **options)
        assert set(denoiser.batches) == batches
        same(together.image, alone.image, 1e-5)  # AdamW amplifies rounding
        assert torch.equal(together.mask, alone.mask)
        assert_verdicts_agree(together, alone, 1e-4)


def test_each_face_is_changed_by_much_more_than_that(tiny, cut, three):
    crops = cut(three, 64, 64, 64)
    changed = (tiny(three, crops, 3).image - three).abs()
    assert all(part.max() > 0.1 for part in changed.split(320, 2))


def test_crops_of_different_sizes_are_batched_by_size_and_come_back_in_order(golden, tiny, cut, three):
    crops, events = cut(three, 64, 96, 64), []
    denoiser = CountingDenoiser(golden.denoiser)
    together = tiny(three, crops, 2, denoiser=denoiser, on_step=events.append)
    assert set(denoiser.batches) == {2, 1}
    assert [event["image"].shape[-1] for event in events if event["stage"] == "protection"] == [64] * 3 + [96] * 3
    alone = tiny(three, crops, 1)
    same(together.image, alone.image, 1e-5)
    assert_verdicts_agree(together, alone, 1e-4)
    assert [verdict.face for verdict in together.faces] == [crop.photo_face for crop in crops]


def test_in_float32_a_batch_is_the_single_runs_while_rounding_is_small(demo, recognizer, two, target):
    """Towards another face the first gradient is more than rounding; after two steps 5e-5 were measured. The change
    itself is a thousand times that.
    """
    settings = replace(PRESETS["fast"], null_text_iterations=1, iterations=2)
    alone, together = (
        protect_photo(*demo, two, [recognizer], settings, goal="impersonate", target=target, faces_per_batch=at_once)
        for at_once in (1, 2)
    )
    same(together.image, alone.image, 5e-4)
    assert all(part.max() > 0.03 for part in (together.image - two).abs().split(320, 2))


def test_in_float32_the_verdicts_on_dodging_agree(demo, recognizer, two):
    """Its pixels do not: rounding leads it another way at the start, as another number of threads does."""
    alone, together = (protect_photo(*demo, two, [recognizer], WEAK, faces_per_batch=at_once) for at_once in (1, 2))
    assert alone.protected and together.protected
    assert_verdicts_agree(together, alone, 0.1)


# ------------------------------------------------------------------------------------------------ one of several


def test_a_face_that_is_reached_early_stops_while_the_other_goes_on(tiny, cut, two, target):
    crops, events = cut(two, 64, 64), []
    settings = StopsEarly(
        size=64, depth=1, null_text_iterations=1, iterations=12, lr=0.005, margin=0.0, objective_weight=1.0,
        fidelity_weight=0.0,
    )  # fmt: skip
    surrogate = tiny_surrogate(template="dlib_150", thresholds={0.01: 0.983})
    options = {"surrogate": surrogate, "goal": "impersonate", "target": target.double()}
    together = tiny(two, crops, 2, settings, on_step=events.append, **options)
    images = torch.stack([event["image"] for event in events if event["stage"] == "protection"])
    left, right = ((images[1:] - images[:-1])[:, face].abs().amax((1, 2, 3)).gt(0).tolist() for face in range(2))
    assert all(left) and right == sorted(right, reverse=True) and 0 < sum(right) < len(left) < settings.iterations - 1
    same(together.image, tiny(two, crops, 1, settings, **options).image, 1e-5)


@dataclass
class BreaksOne:
    """A Denoiser that returns NaN for the last image of a batch from the given call on."""

    denoiser: object
    good_calls: int

    def __call__(self, *arguments):
        self.good_calls -= 1
        noise = self.denoiser(*arguments)
        if self.good_calls < 0:
            noise = torch.cat([noise[:-1], noise[-1:] * float("nan")])
        return noise


@pytest.mark.parametrize(
    ("good_calls", "where"), [(0, "inverted latent"), (3, "loss of denoising step"), (8, "loss of iteration 0")]
)
def test_a_nan_in_one_face_fails_the_photo(golden, tiny, cut, two, good_calls, where):
    with pytest.raises(ProtectionError, match=f"{where}.*NaN.*How to fix"):
        tiny(two, cut(two, 64, 64), 2, denoiser=BreaksOne(golden.denoiser, good_calls))


def test_no_face_at_a_time_is_refused(tiny, cut, two):
    with pytest.raises(ProtectionError, match="faces_per_batch is 0.*How to fix"):
        tiny(two, cut(two, 64, 64), 0)


# ------------------------------------------------------------------------------------------------ progress


@pytest.mark.parametrize(("at_once", "batches"), [(1, [(1, 1), (2, 1), (3, 1)]), (2, [(2, 2), (3, 1)]), (5, [(3, 3)])])
def test_progress_only_goes_forward_and_reaches_the_end(tiny, cut, three, at_once, batches):
    events = []
    tiny(three, cut(three, 64, 64, 64), at_once, on_step=events.append)
    assert list(dict.fromkeys((event["face"], event["at_once"]) for event in events)) == batches
    assert {event["faces"] for event in events} == {3}
    positions = [(event["face"], STAGES.index(event["stage"]), event["step"]) for event in events]
    assert positions == sorted(positions)
    assert positions[-1] == (3, 3, QUICK.iterations)


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_hands_the_size_of_a_batch_to_the_protector(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8), "white").save(tmp_path / "in" / "a.png")
    chosen = []
    monkeypatch.setattr(protector_module, "load_protector", lambda choice: chosen.append(choice) or Inverter())
    folders = [str(tmp_path / "in"), str(tmp_path / "out")]
    assert command.main(["protect", *folders, "--batch", "3"]) == command.main(["protect", *folders]) == 0
    assert chosen == [Choice(batch=3), Choice()]


def test_a_batch_of_none_exits_with_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["protect", str(tmp_path), str(tmp_path / "out"), "--batch", "0"])
    assert stopped.value.code == 2 and "--batch: 0 is not 1 or more" in capsys.readouterr().err


def test_the_protector_batches_and_what_was_done_with_another_batch_counts_as_done(two):
    events = []
    quick = replace(WEAK, iterations=1)
    protector = load_protector(Choice(preset="fast", batch=2), quick)
    assert len(protector.protect(two, events.append).faces) == 2
    assert [event["stage"] for event in events].count("cost") == 1 and events[0]["stage"] == "cost"
    assert {event["at_once"] for event in events[1:]} == {2}
    assert protector.settings == load_protector(Choice(preset="fast"), quick).settings


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({}, ""),
        ({"face": 1, "faces": 1, "at_once": 1}, ""),
        ({"face": 2, "faces": 3, "at_once": 1}, "face 2 of 3, "),
        ({"face": 3, "faces": 5, "at_once": 2}, "faces 2 to 3 of 5, "),
    ],
)
def test_the_terminal_says_which_faces_are_at_work(event, said):
    assert command._faces_of(event) == said

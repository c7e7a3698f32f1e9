"""Several faces in one batch: each comes out as it does alone, and nothing about one of them hides in the others."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch

from faceprotect_core import FRSurrogate, ProtectionError, load_surrogate
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.faces import crop_face, detect_faces, left_to_right
from faceprotect_core.folders.protector import Choice, load_protector
from faceprotect_core.folders.work import Original
from faceprotect_core.photos.photo import CutPhoto, protect_photo, protect_photos
from faceprotect_core.photos.settings import DIFFUSION, LIGHT, PRESETS, PhotoSettings
from faceprotect_core.speed.cost import CostPredictor
from golden import load_golden
from tiny import CountingDenoiser, tiny_surrogate

# On the tiny networks. AdamW makes rounding large: hence few, short steps, and a margin that they do not reach.
QUICK = PhotoSettings(DIFFUSION, size=64, margin=0.3, tries=1).tuned(
    depth=2, null_text_iterations=2, iterations=3, lr=0.002
)
# On the demo model: small crops and few iterations.
WEAK = replace(PRESETS[DIFFUSION]["fast"], size=128, margin=0.2, tries=1).tuned(
    null_text_iterations=1, iterations=4, lr=0.06, fidelity_weight=0.0, objective_weight=0.01
)
# Light and shade; all that the presets tune is said here.
LIT = {"lr": 0.25, "fidelity_weight": 0.2}
SOFT = PhotoSettings(size=64, margin=0.0, tries=1).tuned(iterations=3, **LIT | {"lr": 0.4})
STAGES = ["inversion", "null_text", "capture", "protection"]


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
        model = denoiser, golden.codec, golden.context
        return protect_photo(
            photo.double(), [surrogate], settings, model=model, crops=crops, detector=detector,
            faces_per_batch=at_once, **options,
        )  # fmt: skip

    return run


@pytest.fixture
def tiny_photos(golden, detector):
    """protect_photos, the same way."""

    def run(photos, at_once: int, denoiser=golden.denoiser, codec=golden.codec, settings=QUICK, **options):
        surrogates = [tiny_surrogate(template="dlib_150", thresholds={0.01: 0.5})]
        options |= {"model": (denoiser, codec, golden.context), "detector": detector, "faces_per_batch": at_once}
        return protect_photos(photos, surrogates, settings, **options)

    return run


@pytest.fixture(scope="module")
def album(portrait, two, cut):
    """Three photos with one, two and one faces."""
    sizes = {portrait: (64,), two: (64, 64), portrait * 0.7: (64,)}
    return [CutPhoto(photo.double(), tuple(cut(photo, *each))) for photo, each in sizes.items()]


@pytest.fixture(scope="module")
def alone(golden, detector, album):
    """What becomes of each of them on its own."""
    surrogates = [tiny_surrogate(template="dlib_150", thresholds={0.01: 0.5})]
    options = {"model": (golden.denoiser, golden.codec, golden.context), "detector": detector}
    return [next(protect_photos([photo], surrogates, QUICK, **options)) for photo in album]


@dataclass
class Watched:
    """A codec that fails with what `error` says about the images that are encoded, and counts them."""

    codec: object
    error: Callable[[torch.Tensor], BaseException | None]
    batches: list[int] = field(default_factory=list)

    def encode(self, image):
        self.batches.append(len(image))
        if error := self.error(image):
            raise error
        return self.codec.encode(image)

    def decode(self, latent):
        return self.codec.decode(latent)


def same(a, b, atol):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def assert_verdicts_agree(together, alone, atol):
    for one, other in zip(together.faces, alone.faces, strict=True):
        assert (one.face, one.protected, one.found_again) == (other.face, other.protected, other.found_again)
        assert one.asked == other.asked
        for score, same_one in zip(one.scores, other.scores, strict=True):
            assert (score.recogniser, score.role) == (same_one.recogniser, same_one.role)
            assert score.after == pytest.approx(same_one.after, abs=atol)


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
    assert [event.image.shape[-1] for event in events if event.stage == "protection"] == [64] * 3 + [96] * 3
    alone = tiny(three, crops, 1)
    same(together.image, alone.image, 1e-5)
    assert_verdicts_agree(together, alone, 1e-4)
    assert [verdict.face for verdict in together.faces] == [crop.photo_face for crop in crops]


def test_in_float32_a_batch_is_the_single_runs_while_rounding_is_small(demo, recognizer, two, target):
    """Towards another face the first gradient is more than rounding; after two steps 5e-5 were measured. The change
    itself is a thousand times that.
    """
    settings = replace(PRESETS[DIFFUSION]["fast"], size=128, tries=1).tuned(null_text_iterations=1, iterations=2)
    options = {"model": demo, "goal": "impersonate", "target": target}
    alone, together = (
        protect_photo(two, [recognizer], settings, faces_per_batch=at_once, **options) for at_once in (1, 2)
    )
    same(together.image, alone.image, 5e-4)
    assert all(part.max() > 0.03 for part in (together.image - two).abs().split(320, 2))


def test_in_float32_the_verdicts_on_dodging_agree(demo, two):
    """Its pixels do not: rounding leads it another way at the start, as another number of threads does."""
    weak = load_surrogate("dlib_resnet", threshold=0.05)
    alone, together = (protect_photo(two, [weak], WEAK, model=demo, faces_per_batch=at_once) for at_once in (1, 2))
    assert alone.protected and together.protected
    assert_verdicts_agree(together, alone, 0.1)


# ------------------------------------------------------------------------------------------------ light and shade


@pytest.fixture
def soft(detector):
    """protect_photo by light and shade, in the photo's dtype, on a tiny surrogate of that dtype."""

    def run(photo, crops, at_once: int, settings=SOFT, threshold: float = -0.9, **options):
        surrogate = tiny_surrogate(template="dlib_150", thresholds={0.01: threshold}, dtype=photo.dtype)
        options |= {"crops": crops, "detector": detector, "faces_per_batch": at_once}
        return protect_photo(photo, [surrogate], settings, **options)

    return run


@pytest.mark.parametrize("goal", ["dodge", "synthetic", "impersonate"])
def test_by_light_and_shade_a_batch_of_faces_equals_the_single_runs(soft, cut, three, target, goal):
    """With crops of two sizes, and with a judge that sends every face further."""
    crops = cut(three, 64, 96, 64)
    nobody = FRSurrogate(lambda image: image.new_ones(len(image), 2), 32, default_threshold=0.5, template="dlib_150")
    options = {"goal": goal, "target": None if goal == "dodge" else target.double(), "judge": nobody}
    settings = replace(SOFT, tries=2)
    options["threshold"] = 0.9999 if goal == "impersonate" else -0.9
    alone, events = soft(three.double(), crops, 1, settings, **options), []
    for at_once in (2, 3):
        together = soft(three.double(), crops, at_once, settings, on_step=events.append, **options)
        same(together.image, alone.image, 1e-9)
        assert torch.equal(together.mask, alone.mask)
        assert_verdicts_agree(together, alone, 1e-6)
    assert {(event.attempt, event.at_once) for event in events} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert [face.asked for face in alone.faces] == [2, 2, 2]
    assert all(part.abs().max() > 0.03 for part in (alone.image - three).split(320, 2))


def test_in_a_batch_each_face_keeps_as_much_of_its_change_as_alone(soft, cut, three):
    """One threshold, which the faces reach with different parts of their change."""
    crops = cut(three, 64, 64, 64)
    photo = three.double()
    whole = soft(photo, crops, 1)
    threshold = (1 + max(face.scores[0].after for face in whole.faces)) / 2
    alone, together = (soft(photo, crops, at_once, threshold=threshold) for at_once in (1, 3))
    same(together.image, alone.image, 1e-9)
    changes, all_of_it = ((one.image - photo).split(320, 2) for one in (alone, whole))
    kept = [(one.norm() / full.norm()).item() for one, full in zip(changes, all_of_it, strict=True)]
    assert len({round(one, 3) for one in kept}) == 3 and all(0 < one < 1 for one in kept)


def test_by_light_and_shade_a_batch_in_float32_equals_the_single_runs(two):
    """Of a real recogniser, with as many iterations as a test may take."""
    network = load_surrogate("mobileface")
    settings = PhotoSettings(margin=0.0, tries=2).tuned(iterations=4, **LIT)
    alone, together = (protect_photo(two, [network], settings, faces_per_batch=at_once) for at_once in (1, 2))
    same(together.image, alone.image, 1e-4)
    assert all(part.max() > 0.03 for part in (together.image - two).abs().split(320, 2))
    assert_verdicts_agree(together, alone, 1e-3)


def test_by_light_and_shade_the_faces_of_several_photos_together_equal_the_single_runs(album, detector):
    surrogates = [tiny_surrogate(template="dlib_150", thresholds={0.01: -0.9})]
    options = {"detector": detector}
    alone = [next(protect_photos([photo], surrogates, SOFT, **options)) for photo in album]
    together = list(protect_photos(album, surrogates, SOFT, faces_per_batch=4, **options))
    for one, single, photo in zip(together, alone, album, strict=True):
        same(one.image, single.image, 1e-9)
        assert_verdicts_agree(one, single, 1e-6)
        assert (one.image - photo.photo).abs().max() > 0.03


# ------------------------------------------------------------------------------------------------ one of several


def test_a_face_that_is_reached_early_stops_while_the_other_goes_on(tiny, cut, two, target):
    crops, events = cut(two, 64, 64), []
    settings = PhotoSettings(DIFFUSION, size=64, margin=0.0, steepness=0.0, jitter=0, tries=1).tuned(
        depth=1, null_text_iterations=1, iterations=12, lr=0.005, objective_weight=1.0, fidelity_weight=0.0,
        early_stop=True, keep_colours=False,
    )  # fmt: skip
    surrogate = tiny_surrogate(template="dlib_150", thresholds={0.01: 0.985})
    options = {"surrogate": surrogate, "goal": "impersonate", "target": target.double()}
    together = tiny(two, crops, 2, settings, on_step=events.append, **options)
    images = torch.stack([event.image for event in events if event.stage == "protection"])
    left, right = ((images[1:] - images[:-1])[:, face].abs().amax((1, 2, 3)).gt(0).tolist() for face in range(2))
    assert (
        all(left)
        and right == sorted(right, reverse=True)
        and 0 < sum(right) < len(left) < settings.method.iterations - 1
    )
    same(together.image, tiny(two, crops, 1, settings, **options).image, 1e-5)


@dataclass
class BreaksOne:
    """A Denoiser that returns NaN for the last image of a batch from the given call on, counted for each batch size."""

    denoiser: object
    good_calls: int
    calls: Counter = field(default_factory=Counter)

    def __call__(self, latent, *arguments):
        self.calls[len(latent)] += 1
        noise = self.denoiser(latent, *arguments)
        if self.calls[len(latent)] > self.good_calls:
            noise = torch.cat([noise[:-1], noise[-1:] * float("nan")])
        return noise


@pytest.mark.parametrize(
    ("good_calls", "where"), [(0, "inverted latent"), (3, "loss of denoising step"), (8, "loss of iteration 1")]
)
def test_a_nan_in_one_face_fails_the_photo(golden, tiny, cut, two, good_calls, where):
    with pytest.raises(ProtectionError, match=f"{where}.*NaN.*How to fix"):
        tiny(two, cut(two, 64, 64), 2, denoiser=BreaksOne(golden.denoiser, good_calls))


def test_no_face_at_a_time_is_refused(tiny, cut, two):
    with pytest.raises(ProtectionError, match="faces_per_batch is 0.*How to fix"):
        tiny(two, cut(two, 64, 64), 0)


# ------------------------------------------------------------------------------------------------ of several photos


def assert_results_agree(together, alone):
    same(together.image, alone.image, 1e-5)
    assert torch.equal(together.mask, alone.mask)
    assert_verdicts_agree(together, alone, 1e-4)


@pytest.mark.parametrize(("at_once", "batches"), [(2, {1, 2}), (3, {3, 1}), (4, {4}), (9, {4})])
def test_the_faces_of_several_photos_together_equal_the_single_runs(
    golden, tiny_photos, album, alone, at_once, batches
):
    denoiser, events = CountingDenoiser(golden.denoiser), []
    together = list(tiny_photos(album, at_once, denoiser, on_step=events.append))
    for one, single, photo in zip(together, alone, album, strict=True):
        assert_results_agree(one, single)
        assert (one.image - photo.photo).abs().max() > 0.1
    assert set(denoiser.batches) == batches
    assert {(event.photos, event.faces) for event in events} == {
        2: {(2, 3), (1, 1)}, 3: {(2, 3), (1, 1)}, 4: {(3, 4)}, 9: {(3, 4)}
    }[at_once]  # fmt: skip


@pytest.mark.parametrize("error", [ProtectionError("bad", "do better"), RuntimeError("shapes"), MemoryError()])
def test_a_face_that_fails_fails_its_photo_alone(golden, tiny_photos, album, alone, error):
    bad = album[1].crops[1].image
    codec = Watched(golden.codec, lambda images: error if any(torch.equal(image, bad) for image in images) else None)
    first, second, third = tiny_photos(album, 4, codec=codec)
    assert second is error
    assert_results_agree(first, alone[0])
    assert_results_agree(third, alone[2])


def test_exceptions_are_passed_on_in_their_place(tiny_photos, album):
    errors = [OSError("one"), KeyError("two"), KeyError("three")]
    photos = [errors[0], album[0], errors[1], replace(album[1], crops=()), album[2], errors[2]]
    outcomes = list(tiny_photos(photos, 4))
    assert [outcomes[index] for index in (0, 2, 5)] == errors
    assert [outcomes[index].protected for index in (1, 4)] == [False, False], "there are results"
    assert "no face found in the photo of 640 x 300" in str(outcomes[3]) and isinstance(outcomes[3], ProtectionError)


def test_where_memory_runs_out_fewer_faces_go_together_from_then_on(golden, tiny_photos, album, caplog):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    codec, events = Watched(golden.codec, lambda images: error if len(images) > 2 else None), []
    outcomes = list(tiny_photos([*album, *album], 4, codec=codec, predictor=CostPredictor(), on_step=events.append))
    assert all((one.image - photo.photo).abs().max() > 0.1 for one, photo in zip(outcomes, album * 2, strict=True))
    assert codec.batches == [4, 4, 2, 2, 2, 2, 2], "the costs, too little, two batches; the costs, two batches"
    assert "no memory for 4 faces at once; trying 2" in caplog.text
    assert [event.faces for event in events if event.stage == "cost"] == [4], "of the photos after that"


def test_a_batch_that_was_too_large_is_not_tried_again_with_other_faces(golden, tiny_photos, album):
    codec = Watched(golden.codec, lambda images: MemoryError() if len(images) > 1 else None)
    many = replace(album[1], crops=album[1].crops * 2)
    assert len(list(tiny_photos([many], 2, codec=codec))) == 1
    assert codec.batches == [2, 1, 1, 1, 1]


def test_cancelling_ends_the_run(golden, tiny_photos, album):
    class Interrupt(BaseException):
        """As ComfyUI's."""

    codec = Watched(golden.codec, lambda images: Interrupt())
    with pytest.raises(Interrupt):
        next(tiny_photos(album, 4, codec=codec))
    assert codec.batches == [4]


def test_no_more_photos_are_taken_than_fill_a_batch(tiny_photos, album):
    taken = []
    photos = (taken.append(number) or photo for number, photo in enumerate([OSError("at once"), *album]))
    outcomes = tiny_photos(photos, 3)
    assert taken == []
    assert [next(outcomes) and list(taken) for _ in range(4)] == [[0], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]


# ------------------------------------------------------------------------------------------------ progress


@pytest.mark.parametrize(("at_once", "batches"), [(1, [(1, 1), (2, 1), (3, 1)]), (2, [(2, 2), (3, 1)]), (5, [(3, 3)])])
def test_progress_only_goes_forward_and_reaches_the_end(tiny, cut, three, at_once, batches):
    events = []
    tiny(three, cut(three, 64, 64, 64), at_once, on_step=events.append)
    assert list(dict.fromkeys((event.face, event.at_once) for event in events)) == batches
    assert {event.faces for event in events} == {3}
    positions = [(event.face, STAGES.index(event.stage), event.step) for event in events]
    assert positions == sorted(positions)
    assert positions[-1] == (3, 3, QUICK.method.iterations)


# ------------------------------------------------------------------------------------------------ the protector


def test_the_protector_batches_and_what_was_done_with_another_batch_counts_as_done(two):
    events = []
    quick = WEAK.tuned(iterations=1)
    choice = Choice(DIFFUSION, preset="fast", surrogates=("mobileface",), judge="none", batch=2)
    protector = load_protector(choice, quick)
    (result,) = protector.protect([Original(two)], events.append)
    assert len(result.faces) == 2
    assert [event.stage for event in events].count("cost") == 1 and events[0].stage == "cost"
    assert {event.at_once for event in events[1:]} == {2}
    assert protector.settings == load_protector(replace(choice, batch=1), quick).settings


@pytest.mark.parametrize("settings", [WEAK.tuned(iterations=1), SOFT], ids=[DIFFUSION, LIGHT])
def test_the_protector_batches_the_faces_of_several_photos(portrait, two, settings):
    events, error = [], OSError("unreadable")
    choice = Choice(settings.way, preset="fast", surrogates=("mobileface",), judge="none", batch=3)
    protector = load_protector(choice, settings)
    empty = torch.full((3, 100, 200), 0.5)
    first, passed, nobody, second = protector.protect(
        [Original(portrait), error, Original(empty), Original(two)], events.append
    )
    assert [len(result.faces) for result in (first, second)] == [1, 2] and passed is error
    assert "no face found" in str(nobody)
    assert {(event.photos, event.at_once) for event in events if event.stage != "cost"} == {(2, 3)}
    assert all(result.image.device.type == "cpu" for result in (first, second))

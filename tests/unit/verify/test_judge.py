"""The judge: a recogniser that was kept out of the loss, asked on the finished photo; its answer decides, is counted,
and is evidence only where it knew the person before."""

from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from faceprotect_core import AlignmentJitter, FRSurrogate, IdentityObjective, ProtectionError, load_surrogate, protect
from faceprotect_core.demo import load_synthetic_target
from faceprotect_core.faces import crop_face, find_face, paste_faces
from faceprotect_core.folders.protector import Choice, load_protector
from faceprotect_core.method.light_and_shade import protect_by_light
from faceprotect_core.method.restraint.insistent import Insistent
from faceprotect_core.method.restraint.least_change import least_change
from faceprotect_core.photos.photo import protect_photo
from faceprotect_core.photos.settings import PRESETS, WEIGHTS, PhotoSettings
from faceprotect_core.verify.verdict import JUDGE, LOSS, FaceVerdict, Score, judge_photo, require_other_network

QUICK = PhotoSettings(margin=0.1).tuned(iterations=2, lr=0.25, fidelity_weight=0.2)


@pytest.fixture(scope="module")
def easy():
    """A recogniser that is fooled before the first iteration."""
    return load_surrogate("mobileface", threshold=0.9)


@pytest.fixture(scope="module")
def portrait(astronaut):
    return astronaut[:, :300, 80:400]


@pytest.fixture(scope="module")
def somebody():
    """The built-in target, nobody's face, on grey [3, 300, 320]."""
    photo = torch.full((3, 300, 320), 0.5)
    photo[:, 20:276, 30:286] = load_synthetic_target()[0]
    return photo


def recogniser(embed, name: str, threshold: float = 0.5, metric: str = "euclidean") -> FRSurrogate:
    return FRSurrogate(embed, 32, name=name, metric=metric, default_threshold=threshold, template="dlib_150")


def stubborn() -> FRSurrogate:
    """Takes everybody for the same person."""
    return recogniser(lambda image: image.new_ones(len(image), 2), "stubborn")


def fickle() -> FRSurrogate:
    """Takes no two different pictures of a face for the same person."""
    return recogniser(lambda image: 1e6 * image.flatten(1)[:, ::7], "fickle")


def picky(image):
    """Stubborn about dark faces, fickle about bright ones."""
    pixels = 1e6 * image.flatten(1)[:, ::7]
    return torch.where(image.mean((1, 2, 3))[:, None] > -0.3, pixels, torch.zeros_like(pixels))


# ------------------------------------------------------------------------------------------------ who may judge


def test_a_recogniser_that_is_used_is_refused_as_the_judge(easy, portrait):
    """Whatever it is called, and whatever threshold it has."""
    for judge in (easy, load_surrogate("mobileface"), replace(easy, name="somebody else")):
        with pytest.raises(ProtectionError, match="is the same network as mobileface.*How to fix"):
            protect_photo(portrait, [stubborn(), easy], QUICK, judge=judge)


def test_a_copy_of_its_file_is_refused_too(tmp_path, easy):
    from faceprotect_core.surrogates import WEIGHTS
    from faceprotect_core.surrogates.weights_file import read_tensors

    file = tmp_path / "another_name.safetensors"
    save_file(dict(read_tensors(WEIGHTS / "mobileface.safetensors")), file)
    with pytest.raises(ProtectionError, match="the judge another_name is the same network as mobileface"):
        require_other_network(load_surrogate(file), [easy])
    choice = Choice(surrogates=("mobileface",), judge=str(file))
    with pytest.raises(ProtectionError, match="the judge another_name is the same network as mobileface"):
        load_protector(choice)


def test_another_network_or_none_may_judge(easy, recognizer):
    require_other_network(recognizer, [easy])
    require_other_network(None, [easy])
    require_other_network(stubborn(), [stubborn()])  # two functions


# ------------------------------------------------------------------------------------------------ its word decides


def test_a_judge_that_still_matches_makes_the_face_not_protected_even_if_all_surrogates_are_fooled(easy, portrait):
    result = protect_photo(portrait, [easy], replace(QUICK, tries=1), judge=stubborn())
    (verdict,) = result.faces
    judge, used = verdict.scores
    assert (judge.role, judge.reached, used.role, used.reached) == (JUDGE, False, LOSS, True)
    assert not verdict.protected and not result.protected and not verdict.evidence
    assert protect_photo(portrait, [easy], replace(QUICK, tries=1)).protected, "without it"


def test_a_judge_that_is_fooled_saves_no_face_that_a_surrogate_knows(portrait):
    hard = load_surrogate("mobileface", threshold=-0.5)
    (verdict,) = protect_photo(portrait, [hard], replace(QUICK, tries=1), judge=fickle()).faces
    assert [score.reached for score in verdict.scores] == [True, False]
    assert not verdict.protected and not verdict.evidence


def test_a_judge_that_knew_and_no_longer_does_is_evidence(easy, portrait):
    (verdict,) = protect_photo(portrait, [easy], QUICK, judge=fickle()).faces
    assert verdict.protected and verdict.evidence and verdict.asked == 1
    assert verdict.scores[0].knew and verdict.scores[0].before == 0


def test_the_judge_gives_no_gradient_and_changes_nothing_unless_it_fails(easy, portrait):
    with_judge, without = (protect_photo(portrait, [easy], QUICK, judge=judge) for judge in (fickle(), None))
    assert torch.equal(with_judge.image, without.image) and without.faces[0].protected


# ------------------------------------------------------------------------------------------------ further tries


def by_hand(photo, network, tries: list[PhotoSettings], model=None):
    """The photo after each of these tries, each going on from where the one before stopped."""
    crop = crop_face(photo, find_face(photo), tries[0].size)
    image, mask, start = crop.image[None], crop.mask[None], None
    for settings in tries:
        aim = {"margin": settings.margin, "steepness": settings.steepness, "jitter": AlignmentJitter(1)}
        aim["weights"] = [WEIGHTS.get(network.name, 1.0)]
        objective = IdentityObjective([network], source=image, face=crop.face, source_face=crop.face, **aim)
        loss = Insistent(objective, settings.method.iterations // 3) if settings.insists else objective
        if model is None:
            found = protect_by_light(image, loss, settings.light, mask=mask, start=start)
            changed, start = found.rendering.image, found.value
        else:
            denoiser, codec, context = model
            options = asdict(settings.diffusion) | {"output": "detail", "mask": mask, "start": start}
            found = protect(denoiser, codec, image, context, loss, **options)
            changed, start = found.image, found.latent
        changed, _ = least_change(image, changed, objective)
        yield paste_faces(photo, [crop], changed)[0]


def test_a_further_try_goes_on_from_where_it_stopped_and_is_counted(easy, portrait):
    settings = replace(QUICK, tries=3)
    expected = list(by_hand(portrait, easy, [settings, settings.further, settings.further.further]))
    for tries in (1, 2, 3):
        result = protect_photo(portrait, [easy], replace(settings, tries=tries), judge=stubborn())
        assert torch.equal(result.image, expected[tries - 1])
        assert result.faces[0].asked == result.faces[0].to_dict()["judge_asked"] == tries
    assert len({image.sum().item() for image in expected}) == 3
    first, second = ((image - portrait).square().mean() for image in expected[:2])
    assert second > first


def test_through_diffusion_a_further_try_goes_on_from_the_latent(demo, easy, portrait):
    preset = replace(PRESETS["diffusion"]["fast"], size=128, margin=0.5, head_start=False)
    settings = preset.tuned(null_text_iterations=1, iterations=2, lr=0.05)
    first, second = by_hand(portrait, easy, [settings, settings.further], demo)
    for tries, expected in ((1, first), (2, second)):
        result = protect_photo(portrait, [easy], replace(settings, tries=tries), model=demo, judge=stubborn())
        assert torch.equal(result.image, expected) and result.faces[0].asked == tries
    (afresh,) = by_hand(portrait, easy, [settings.further], demo)
    assert not torch.equal(first, second) and not torch.equal(second, afresh)


def test_a_surrogate_that_knows_the_finished_photo_asks_for_a_further_try_without_a_judge(portrait):
    hard = load_surrogate("mobileface", threshold=-0.5)
    one, two = (protect_photo(portrait, [hard], replace(QUICK, tries=tries)) for tries in (1, 2))
    assert not one.protected and (one.faces[0].asked, two.faces[0].asked) == (1, 2)
    assert two.faces[0].scores[0].after < one.faces[0].scores[0].after


def test_only_the_face_that_is_still_known_is_pushed_further(easy, portrait):
    photo = torch.cat([portrait, portrait.flip(2) * 0.3], 2)
    judge, events = recogniser(picky, "picky"), []
    once = protect_photo(photo, [easy], replace(QUICK, tries=1), judge=judge)
    twice = protect_photo(photo, [easy], replace(QUICK, tries=2), judge=judge, on_step=events.append)
    assert [face.protected for face in once.faces] == [face.protected for face in twice.faces] == [True, False]
    assert [face.asked for face in once.faces] == [1, 1] and [face.asked for face in twice.faces] == [1, 2]
    assert torch.equal(once.image[..., :320], twice.image[..., :320])
    assert not torch.equal(once.image[..., 320:], twice.image[..., 320:])
    tries = [(event.attempt, event.face, event.faces) for event in events if event.stage == "protection"]
    assert list(dict.fromkeys(tries)) == [(1, 1, 2), (1, 2, 2), (2, 1, 1)]


# ------------------------------------------------------------------------------------------------ another photo


@pytest.mark.parametrize("position", [0, 1], ids=["left", "right"])
def test_the_other_photo_is_the_reference_for_the_face_of_that_person(easy, recognizer, portrait, somebody, position):
    people = [somebody, somebody]
    people[position] = portrait
    photo = torch.cat(people, 2)
    other = portrait.flip(2) * 0.8
    settings = replace(QUICK, tries=1)
    result = protect_photo(photo, [easy], settings, judge=recognizer, other=other)
    plain = protect_photo(photo, [easy], settings, judge=recognizer)
    assert torch.equal(result.image, plain.image), "what is compared in the end changes no pixel here"
    assert [face.other for face in result.faces] == [face.to_dict()["compared_with_another_photo"] for face in
                                                     result.faces] == [n == position for n in (0, 1)]  # fmt: skip
    assert result.faces[1 - position] == plain.faces[1 - position]
    hers, judge = result.faces[position], result.faces[position].scores[0]
    reference = recognizer.embed(other[None], find_face(other))
    before = recognizer.distance(recognizer.embed(photo[None], hers.face), reference).item()
    assert judge.before == pytest.approx(before, abs=1e-3) and before > 0.05 and judge.knew
    assert plain.faces[position].scores[0].before == 0


def test_whoever_did_not_know_the_person_on_the_other_photo_compares_with_the_photo_itself(
    recognizer, portrait, somebody
):
    """A stranger, or a poor photo, is far from every face, also from one that nobody changed."""
    found, knowing = find_face(portrait), stubborn()
    (verdict,) = judge_photo(portrait, portrait, [found], [], recognizer, other=somebody)
    assert not verdict.protected and not verdict.evidence and verdict.other and not verdict.scores[0].other
    plain = judge_photo(portrait, portrait, [found], [knowing], recognizer)
    (verdict,) = judge_photo(portrait, portrait, [found], [knowing], recognizer, other=somebody)
    assert verdict.scores[0] == plain[0].scores[0] and verdict.scores[1].other, "each for itself"


def test_a_face_that_is_gone_is_past_the_other_photo(recognizer, portrait):
    found = find_face(portrait)
    gone = portrait.clone()
    left, top, right, bottom = (round(value) for value in found.box_xyxy)
    gone[:, top:bottom, left:right] = 0.5
    (known,) = judge_photo(portrait, gone, [found], [], recognizer, other=portrait.flip(2))
    assert known.protected and known.scores[0].other and known.scores[0].knew and known.evidence


def test_another_photo_without_a_face_is_an_error(recognizer, portrait):
    with pytest.raises(ProtectionError, match="no face found.*How to fix"):
        judge_photo(portrait, portrait, [find_face(portrait)], [], recognizer, other=torch.full((3, 200, 200), 0.5))


def test_two_photos_of_different_sizes_are_refused(recognizer, portrait):
    with pytest.raises(ProtectionError, match=r"\[3, 300, 320\] and the finished photo \[3, 300, 319\].*How to fix"):
        judge_photo(portrait, portrait[..., 1:], [find_face(portrait)], [], recognizer)


# ------------------------------------------------------------------------------------------------ to impersonate


def test_to_impersonate_does_not_require_the_judge(easy, portrait, somebody):
    """Every recogniser that was used must take the face for the target; whether others do is said, and not wanted."""
    hers = find_face(portrait)
    arguments = portrait, portrait, [hers]
    for judge, taken in ((stubborn(), True), (fickle(), False)):
        (verdict,) = judge_photo(*arguments, [stubborn()], judge, "impersonate", somebody)
        assert [score.reached for score in verdict.scores] == [taken, True] and verdict.protected
    (verdict,) = judge_photo(*arguments, [stubborn(), fickle()], stubborn(), "impersonate", somebody)
    assert not verdict.protected, "one that was used does not"


def test_to_impersonate_is_to_match_the_target(recognizer, astronaut, detector):
    face = find_face(astronaut, detector)
    arguments = (astronaut, astronaut, [face], [recognizer], None, "impersonate")
    (herself,) = judge_photo(*arguments, astronaut, detector=detector)
    assert herself.protected, "she matches herself"
    (other,) = judge_photo(*arguments, load_synthetic_target(), detector=detector)
    assert not other.protected


# ------------------------------------------------------------------------------------------------ the finished photo


def test_the_verdict_is_about_the_photo_as_it_is_saved(recognizer, astronaut, detector):
    """A face that is gone is past the threshold, and the verdict says that no face was found there."""
    face = find_face(astronaut, detector)
    painted = astronaut.clone()
    left, top, right, bottom = (round(value) for value in face.box_xyxy)
    painted[:, top:bottom, left:right] = 0.5
    (verdict,) = judge_photo(astronaut, painted, [face], [recognizer], detector=detector)
    assert not verdict.found_again and verdict.protected
    (same,) = judge_photo(astronaut, astronaut, [face], [recognizer], detector=detector)
    assert same.found_again and not same.protected


def left_sided() -> FRSurrogate:
    """Looks at the left third of a face alone."""
    return recogniser(lambda image: 5 * image[..., :11].mean((1, 2))[:, :2], "left-sided")


def test_a_mirrored_copy_must_not_match_either(face):
    """Of a grey picture the left half of the face is changed: its mirror image has the old one there."""
    original = torch.full((3, 512, 512), 0.5)
    finished, middle = original.clone(), round((face.box_xyxy[0] + face.box_xyxy[2]) / 2)
    finished[:, :, :middle] = 0.9
    (half,) = judge_photo(original, finished, [face], [], left_sided())
    (whole,) = judge_photo(original, original + 0.4, [face], [], left_sided())
    assert not half.protected and whole.protected
    assert half.scores[0].after < 0.5 < whole.scores[0].after


def test_misled_landmarks_do_not_count_as_protection(recognizer, astronaut, detector, monkeypatch):
    """The same face, aligned wrongly, is far from itself: that must not pass, nor count as somebody matched."""
    face = find_face(astronaut, detector)
    wrong = replace(face, landmarks=face.landmarks[::-1])
    monkeypatch.setattr("faceprotect_core.verify.verdict.find_again", lambda *_: wrong)
    for goal, protected in (("dodge", False), ("impersonate", False)):
        arguments = (astronaut, astronaut, [face], [recognizer], None, goal, astronaut)
        (verdict,) = judge_photo(*arguments, detector=detector)
        assert verdict.protected == protected, goal


def test_misled_landmarks_do_not_count_for_the_judge_either(recognizer, astronaut, detector, monkeypatch):
    face = find_face(astronaut, detector)
    misled = replace(face, landmarks=face.landmarks[::-1])
    monkeypatch.setattr("faceprotect_core.verify.verdict.find_again", lambda *_: misled)
    (verdict,) = judge_photo(astronaut, astronaut, [face], [], recognizer, detector=detector)
    assert not verdict.protected


def test_a_verdict_on_doubtful_landmarks_says_so(recognizer, astronaut, detector):
    face = find_face(astronaut, detector)
    for one, doubtful in ((face, False), (replace(face, disagreement=0.2), True)):
        (verdict,) = judge_photo(astronaut, astronaut, [one], [recognizer], detector=detector)
        assert verdict.doubtful == verdict.to_dict()["doubtful"] == doubtful


def brightness(metric: str) -> FRSurrogate:
    """A recogniser that sees a face's mean colour: distances are what the test makes them."""

    def embed(image):
        mean = (image.mean((2, 3)) + 1) / 2
        return mean if metric == "euclidean" else torch.stack([mean[:, 0], 1 - mean[:, 0]], 1)

    return recogniser(embed, "brightness", metric=metric)


@pytest.mark.parametrize("role", [JUDGE, LOSS])
@pytest.mark.parametrize(("change", "protected"), [(0.2, False), (0.28, False), (0.29, False), (0.32, True)])
def test_a_face_counts_as_protected_only_with_room_to_spare(astronaut, detector, change, protected, role):
    """The threshold is 0.5, and 0.02 more is wanted; three channels that change by x are x * sqrt(3) apart."""
    face = find_face(astronaut, detector)
    grey = torch.full_like(astronaut, 0.4)
    asked = ([brightness("euclidean")], None) if role == LOSS else ([], brightness("euclidean"))
    (verdict,) = judge_photo(grey, grey + change, [face], *asked, detector=detector)
    (score,) = verdict.scores
    assert score.after == pytest.approx(round((0.4 + change) * 255) / 255 * 3**0.5 - 102 / 255 * 3**0.5, abs=1e-4)
    assert (verdict.protected, score.threshold, score.role) == (protected, 0.5, role)
    assert verdict.evidence == (protected and role == JUDGE)


def test_with_a_cosine_protected_means_below_the_threshold(astronaut, detector):
    face = find_face(astronaut, detector)
    dark, bright = torch.full_like(astronaut, 0.1), torch.full_like(astronaut, 0.9)
    for finished, protected in ((bright, True), (dark, False)):
        (verdict,) = judge_photo(dark, finished, [face], [brightness("cosine")], detector=detector)
        (score,) = verdict.scores
        assert (verdict.protected, score.reached, score.metric) == (protected, protected, "cosine")
        assert (score.after < 0.5) == protected and score.before == pytest.approx(1)


def test_a_change_that_8_bits_do_not_hold_is_none(astronaut, detector):
    face = find_face(astronaut, detector)
    grey = torch.full_like(astronaut, 102 / 255)
    (verdict,) = judge_photo(grey, grey + 0.001, [face], [brightness("euclidean")], detector=detector)
    assert verdict.scores[0].after < 1e-5


def test_the_built_in_judge_has_the_threshold_at_a_false_accept_rate_of_1_percent(recognizer):
    assert recognizer.threshold() == recognizer.thresholds[0.01] == 0.6476


def test_the_verdict_for_json_holds_every_score(face):
    scores = (
        Score("dlib_resnet", JUDGE, "euclidean", 0.0, 0.81, 0.6476, True, True),
        Score("mobileface", LOSS, "cosine", 1.0, 0.2, 0.3, True, True),
    )
    entry = FaceVerdict(face, True, scores, asked=2).to_dict()
    assert entry["scores"] == [
        {
            "recogniser": "dlib_resnet", "role": "judge", "metric": "euclidean", "before": 0.0, "after": 0.81,
            "threshold": 0.6476, "knew": True, "reached": True, "other": False,
        },
        {
            "recogniser": "mobileface", "role": "loss", "metric": "cosine", "before": 1.0, "after": 0.2,
            "threshold": 0.3, "knew": True, "reached": True, "other": False,
        },
    ]  # fmt: skip
    assert (entry["protected"], entry["evidence"], entry["judge_asked"]) == (True, True, 2)
    assert (entry["found_again"], entry["compared_with_another_photo"], entry["doubtful"]) == (True, False, False)

"""The trainings of Instant's network and of a remover: a few steps on a few photos go the right way."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from faceprotect_core import ProtectionError
from faceprotect_core.evaluation.training import draws
from faceprotect_core.evaluation.training.crops import embed_crops, with_both_photos
from faceprotect_core.evaluation.training.draws import DrawingNetwork, WithDraws, alike, draws_alike
from faceprotect_core.evaluation.training.first_look import (
    EQUAL,
    PLANES,
    Changes,
    at_equal_difference,
    network_of,
    train,
)
from faceprotect_core.evaluation.training.protector import LOOKS, ONE_LOOK, Training
from faceprotect_core.evaluation.training.remover import everybody_restored, train_remover
from faceprotect_core.evaluation.training.stage import WARM_UP, Learner, Stage
from faceprotect_core.evaluation.training.turns import InTurns, that_ships
from faceprotect_core.evaluation.training.ways import (
    PLAIN_DIFFUSION,
    STARTS,
    Withstanding,
    aim_of,
    by_network,
    file_name,
    restored,
)
from faceprotect_core.faces import crop_face
from faceprotect_core.faces.crop import cropped_images, cropped_masks
from faceprotect_core.instant.network import OF_A_PHOTO, ProtectorNetwork
from faceprotect_core.instant.protect import FIRST_PSNR, load_protector_network
from faceprotect_core.photos.batch import Aim, CropProtector
from faceprotect_core.photos.settings import BUILT_IN_SURROGATES, DIFFUSION, LIGHT, PRESETS
from faceprotect_core.verify.quality import ciede2000, psnr
from faceprotect_core.verify.visibility import FACE
from tiny import tiny_surrogate


@pytest.fixture(scope="module")
def crops(astronaut, face):
    """The same face, four times in another light."""
    return [crop_face((astronaut * gain).clamp(0, 1), face) for gain in (0.7, 0.8, 0.9, 1.0)]


@pytest.fixture
def recognisers():
    return {
        name: tiny_surrogate(seed=seed, dtype=torch.float32, default_threshold=0.5)
        for seed, name in enumerate(BUILT_IN_SURROGATES)
    }


@pytest.fixture
def training(crops, recognisers):
    """With tiny recognisers, and nothing learned."""
    torch.manual_seed(0)
    return Training(crops, recognisers)


def test_what_recognisers_see_is_what_they_see_one_by_one(crops):
    one = tiny_surrogate(seed=0, dtype=torch.float32)
    together = embed_crops({"one": one}, crops)["one"]
    torch.testing.assert_close(together[2:3], one.embed(crops[2].image[None], crops[2].face))
    brighter = embed_crops({"one": one}, crops, cropped_images(crops) + 0.1)["one"]
    assert brighter.shape == together.shape and not torch.equal(brighter, together)


def test_the_loss_of_the_network_falls_and_is_the_same_for_the_same_step(training):
    seed = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    optimizer = torch.optim.AdamW(training.network.parameters(), lr=1e-3)
    first = training.loss(0, seed())
    assert torch.equal(first, training.loss(0, seed()))
    assert not torch.equal(first, training.loss(1, seed())), "through other alignments"
    for _ in range(5):
        optimizer.zero_grad()
        training.loss(0, seed()).backward()
        optimizer.step()
    assert training.loss(0, seed()) < first


def test_a_first_look_has_one_size_whatever_its_plane_has_and_a_plane_that_grows_costs(training):
    first = training.loss(0, torch.Generator().manual_seed(1))
    value = training.value.detach()
    with torch.no_grad():
        for parameter in training.network.head.parameters():
            parameter.mul_(1e3)
    grown = training.loss(0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(training.value, value, rtol=0, atol=1e-4)
    assert grown > first + 0.1
    training.value = torch.zeros_like(value)
    training.value.grad = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    training.loss(ONE_LOOK + 1, torch.Generator().manual_seed(1))
    assert not training.size.any(), "further looks are as large as they are"


def test_the_network_goes_on_from_its_own_looks_and_then_begins_with_other_photos(training):
    values, losses = [], []
    for step in range(ONE_LOOK, ONE_LOOK + LOOKS + 1):
        loss = training.loss(step, torch.Generator().manual_seed(1))
        loss.backward()
        values.append(training.value.detach())
        losses.append(loss.item())
    assert losses[LOOKS - 1] < losses[0], "down the gradient, before anything is learned"
    assert torch.equal(values[LOOKS], values[0]) and not torch.equal(values[1], values[0])


def test_a_remover_learns_away_what_is_the_same_in_every_photo(crops, tmp_path):
    originals, masks = cropped_images(crops[2:]), cropped_masks(crops[2:])
    images = (originals + 0.05 * masks).clamp(0, 1)
    args = SimpleNamespace(out=tmp_path, seed=0, steps=60, device=torch.device("cpu"))
    remover = train_remover(originals, images, masks, "test", args)
    back = everybody_restored(remover, images, masks)
    assert (back - originals).abs().mean() < 0.3 * (images - originals).abs().mean()
    assert torch.equal(
        restored(remover, images, masks)[masks.expand_as(images) == 0], images[masks.expand_as(images) == 0]
    )


@pytest.mark.parametrize("steps", [1, 2, 20, 50, 120])
def test_of_a_training_of_any_length_the_rate_rises_and_falls(tmp_path, monkeypatch, steps):
    shares = []
    learning = Stage("any", torch.nn.Linear(1, 1), steps, 1e-3, SimpleNamespace(out=tmp_path, seed=0, device="cpu"))
    learn = learning.learn
    monkeypatch.setattr(learning, "learn", lambda loss, share: shares.append(share) or learn(loss, share))
    learning.run(lambda _step, _generator: learning.model(torch.ones(1)).square().sum())
    rising = min(WARM_UP, (steps + 1) // 2)
    assert len(shares) == steps and max(shares) == 1 == shares[rising - 1] and min(shares) > 0
    assert shares[:rising] == sorted(shares[:rising]) and shares[rising:] == sorted(shares[rising:], reverse=True)


def test_whoever_has_one_photo_only_is_left_out(crops):
    found = {"1_a": crops[0], "1_b": crops[1], "2_a": crops[2], "3_b": crops[3], "1_c": crops[3]}
    first, second = with_both_photos(found)
    assert first == [crops[0]] and second == [crops[1]]


def test_to_withstand_a_remover_what_it_gives_back_has_to_be_somebody_else_too(crops):
    torch.manual_seed(0)
    surrogate = tiny_surrogate(seed=0, dtype=torch.float32, default_threshold=0.5)
    wanted = "dodge", [surrogate], PRESETS[LIGHT]["fast"], None, None, None, None
    remover, images, masks = ProtectorNetwork(), cropped_images(crops[:2]), cropped_masks(crops[:2])
    plain = Aim(*wanted).objective(crops[:2])
    withstanding = Withstanding(*wanted, remover=remover).objective(crops[:2])
    darker = images - 0.1 * masks
    back = restored(remover, darker, masks)
    assert not torch.equal(back, darker)
    torch.testing.assert_close(withstanding.at(3)(darker), plain.at(3)(darker) + plain(back))
    assert torch.equal(withstanding.past(darker), plain.past(darker))
    with pytest.raises(ProtectionError, match="train one on 'fast'"):
        Withstanding(*wanted).objective(crops)


def test_in_turns_the_remover_learns_first_and_then_counts_in_the_loss_of_the_network(crops, recognisers, tmp_path):
    args = SimpleNamespace(out=tmp_path, seed=0, device=torch.device("cpu"))
    torch.manual_seed(0)
    remover = Learner("remover", ProtectorNetwork(), 1e-3, args)
    before = remover.model.head.weight.detach().clone()
    training = InTurns(crops, recognisers, remover)
    shipped = load_protector_network().state_dict()
    assert all(torch.equal(x, shipped[name]) for name, x in training.network.state_dict().items())
    loss = training.loss(ONE_LOOK, torch.Generator().manual_seed(1))
    plain = Training(crops, recognisers)
    plain.network.load_state_dict(shipped)
    assert loss > plain.loss(ONE_LOOK, torch.Generator().manual_seed(1)), "known again after the remover, too"
    assert remover.step == 1 and not torch.equal(remover.model.head.weight, before)
    learned = remover.model.head.weight.detach().clone()
    loss.backward()
    assert torch.equal(remover.model.head.weight, learned) and training.network.head.weight.grad.abs().sum() > 0


def test_with_draws_a_photo_is_there_twice_and_what_its_draws_have_in_common_costs(crops, recognisers):
    training = WithDraws(crops, recognisers)
    loss = training.loss(ONE_LOOK, torch.Generator().manual_seed(1))
    first, second = training.value.detach().chunk(2)
    assert training.chosen[: len(first)] == training.chosen[len(first) :] and not torch.equal(first, second)
    common = alike(first, second, training.masks[training.chosen[: len(first)]])
    image = training.images[training.chosen]
    torch.testing.assert_close(training.besides(image, 1), draws.APART * common.square().repeat(2))
    loss.backward()
    assert not torch.equal(training.slope, training.value.grad), "a look is not shown what its draws have in common"
    assert training.network.stem.weight.grad[:, OF_A_PHOTO].abs().sum() > 0, "what the noise is seen by learns"


def test_a_drawing_network_draws_only_where_it_is_given_nothing():
    network = that_ships(DrawingNetwork())
    seen = torch.rand(1, 3, 256, 256), torch.ones(1, 1, 256, 256), torch.ones(1)
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = network(*seen), network(*seen)
        torch.manual_seed(0)
        assert torch.equal(network(*seen), first) and not torch.equal(first, second)
        nothing = torch.zeros(1, 1, 64, 64)
        assert torch.equal(network(*seen, nothing), load_protector_network()(*seen))


def test_draws_are_compared_where_they_are_seen(crops):
    masks = torch.zeros(1, 1, 256, 256)
    masks[..., :128] = 1
    one = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    other = torch.where(torch.arange(64) < 32, 2 * one, -one)
    torch.testing.assert_close(alike(one, other, masks), torch.ones(1))
    torch.testing.assert_close(alike(one, -other, masks), -torch.ones(1))
    aim = aim_of("instant")
    assert draws_alike(load_protector_network(), crops[3:], aim) == pytest.approx(1, abs=1e-5)
    assert draws_alike(that_ships(DrawingNetwork()), crops[3:], aim) < 1


def test_what_is_kept_of_a_way_goes_by_its_settings(monkeypatch):
    names = [file_name(way) for way in ("fast", "instant", PLAIN_DIFFUSION)]
    assert names[2].startswith("diffusion_balanced_begun_at_the_photo_") and file_name("fast") == names[0]
    monkeypatch.setitem(PRESETS[LIGHT], "fast", PRESETS[LIGHT]["fast"].tuned(iterations=25))
    assert file_name("fast") != names[0] and file_name("instant") == names[1]


def test_other_starts_are_those_of_the_presets_the_other_way_round():
    fast, strong, plain = (aim_of(way).settings for way in STARTS)
    assert fast.after_head_start == replace(PRESETS[LIGHT]["fast"], head_start=True) and fast.head_start
    assert strong == replace(PRESETS[LIGHT]["strong"], head_start=True)
    assert plain == replace(PRESETS[DIFFUSION]["balanced"], head_start=False)
    assert not PRESETS[LIGHT]["strong"].head_start and PRESETS[DIFFUSION]["balanced"].head_start


@pytest.mark.parametrize("way", ["diffusion, balanced", PLAIN_DIFFUSION])
def test_pairs_by_diffusion_are_the_presets_of_the_built_in_model(way):
    aim = aim_of(way)
    same = replace(aim.settings, head_start=True)
    assert same == PRESETS[DIFFUSION]["balanced"] and aim.diffusion[2].shape[0] == 1


def test_what_the_network_that_ships_makes_is_instants_first_version(crops):
    (plain,), (same,) = CropProtector(aim_of("instant"))(crops[3:]), by_network(load_protector_network())(crops[3:])
    assert torch.equal(plain.image, same.image) and not torch.equal(plain.image, crops[3].image)


@pytest.mark.parametrize("what", PLANES)
def test_first_looks_of_every_kind_are_of_one_size_and_can_be_learned(crops, what, tmp_path, monkeypatch):
    changes, network = Changes(what, crops[2:]), network_of(what)
    planes = torch.randn(2, PLANES[what], 64, 64, generator=torch.Generator().manual_seed(0))
    change, mask = changes([0, 1], planes), changes.masks.expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        psnr(torch.zeros_like(change), change), torch.full((2,), FIRST_PSNR).double(), rtol=0, atol=1e-3
    )
    assert (change[mask == 0] == 0).all() and torch.equal(change[:, 0], change[:, 2]) == (what != "colour")
    with torch.no_grad():
        images = at_equal_difference(network, changes)
    seen, _ = ciede2000(changes.images, images, changes.masks > FACE)
    assert seen == pytest.approx(EQUAL, abs=0.1)
    recognisers = {"mobilefacenet": tiny_surrogate(seed=0, dtype=torch.float32, default_threshold=0.5)}
    args = SimpleNamespace(out=tmp_path, seed=0, steps=2, device=torch.device("cpu"))
    trained = train(what, crops, recognisers, args)
    torch.manual_seed(0)
    assert not torch.equal(trained.head.weight, network_of(what).head.weight)

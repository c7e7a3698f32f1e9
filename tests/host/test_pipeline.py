"""The five blocks in real workflows on a real ComfyUI: results, progress, cache, LoRAs, and a model left untouched."""

import json
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import graphs
from graphs import (
    LONG_BLOCKS,
    PHOTO,
    added,
    changed,
    checkpoint,
    demo,
    node,
    performance,
    pipeline,
    sampled,
    small_pipeline,
)

OURS = set(graphs.BLOCKS)


@pytest.fixture(scope="module", autouse=True)
def photos(comfyui):
    graphs.put_photos(comfyui)


@pytest.fixture
def left_half(comfyui) -> dict:
    """A mask that allows change in the left half of the photo only."""
    mask = np.zeros((256, 256, 3), np.uint8)
    mask[:, :128] = 255
    comfyui.upload_image(mask, "left_half.png")
    return node("LoadImageMask", image="left_half.png", channel="red")


def picture(comfyui, prompt) -> np.ndarray:
    return comfyui.image(comfyui.run(prompt).check().images("result")[0])


@pytest.fixture(scope="module")
def plain_picture(comfyui):
    """What the small pipeline makes of the photo on a checkpoint as it is, for each checkpoint once."""
    return cache(lambda name: picture(comfyui, small_pipeline(checkpoint(name), output="published")))


def original(comfyui) -> np.ndarray:
    return comfyui.image({"filename": PHOTO, "type": "input"})


# What comes out


@pytest.mark.parametrize("output", ["published", "detail"])
def test_the_protected_photo_has_the_size_of_the_photo_and_differs_from_it(comfyui, output):
    prompt = changed(pipeline(), optimizer={"output": output, "mask": None})
    protected = picture(comfyui, prompt)
    assert protected.shape == original(comfyui).shape
    assert (protected != original(comfyui)).any()


def test_pixels_outside_the_mask_are_bit_equal_and_inside_it_they_change(comfyui, left_half):
    prompt = changed(added(pipeline(), half=left_half), optimizer={"mask": ["half", 0], "learning_rate": 0.05})
    protected, photo = picture(comfyui, prompt), original(comfyui)
    assert np.array_equal(protected[:, 128:], photo[:, 128:])
    assert (protected[:, :128] != photo[:, :128]).mean() > 0.05


def test_no_iterations_with_output_detail_returns_the_photo_bit_equal(comfyui):
    protected = picture(comfyui, changed(pipeline(), optimizer={"iterations": 0, "mask": None}))
    assert np.array_equal(protected, original(comfyui))


def test_the_history_has_one_entry_per_iteration_and_the_surrogates_verdict(comfyui):
    result = comfyui.run(changed(pipeline(), optimizer={"iterations": 3})).check()
    history = json.loads(result.outputs["history"]["text"][0])
    assert len(history["identity"]) == len(history["structure"]) == 3
    assert [found["metric"] for found in history["surrogates"].values()] == ["euclidean"]


def test_more_optimisation_moves_the_recogniser_further_away(comfyui):
    """With a strong setting, so that a few iterations show it; the README's numbers are measured elsewhere."""

    def distance(iterations: int) -> float:
        strong = {"iterations": iterations, "learning_rate": 0.05, "objective_weight": 1.0}
        text = comfyui.run(changed(pipeline(), optimizer=strong)).check().outputs["history"]["text"][0]
        return next(iter(json.loads(text)["surrogates"].values()))["source"][0]

    assert distance(1) < distance(6)


# What the user sees while it runs


def test_each_long_block_counts_its_steps_and_the_optimizer_shows_the_picture(comfyui):
    prompt = changed(pipeline(), null_text={"iterations": 3, "learning_rate": 0.05}, optimizer={"iterations": 4})
    prompt = changed(prompt, inversion={"pairing": "exact"})
    result = comfyui.run(prompt).check()
    counted = {block: [e["value"] for e in result.progress if e["node"] == block] for block in LONG_BLOCKS}
    steps = {"inversion": 3, "null_text": 9, "structure": 3, "optimizer": 4}
    for block, last in steps.items():  # ComfyUI leaves out steps that follow quickly, but never the first and the last
        assert counted[block] == sorted(set(counted[block]))
        assert (counted[block][0], counted[block][-1]) == (1, last)
    assert all(event["max"] == steps[event["node"]] for event in result.progress if event["node"] in steps)
    assert len(result.previews) == 4
    assert min(preview.std() for preview in result.previews) > 10


# Cached, and deterministic


def test_performance_settings_low_memory_is_bit_equal_and_bfloat16_is_near(comfyui):
    plain, low, near = (
        picture(comfyui, small_pipeline(source)).astype(int)
        for source in (demo(), performance(demo(), memory="low"), performance(demo(), precision="bfloat16"))
    )
    assert np.array_equal(low, plain)
    assert 0 < np.abs(near - plain).mean() < 5


def test_a_second_run_is_served_from_the_cache(comfyui):
    prompt = pipeline()
    first = comfyui.run(prompt).check()
    second = comfyui.run(prompt).check()
    assert second.executed == []
    assert set(second.cached) == set(prompt)
    assert second.images("result") == first.images("result")


def test_a_changed_widget_of_the_optimizer_runs_only_it_and_what_follows(comfyui):
    comfyui.run(pipeline()).check()
    result = comfyui.run(changed(pipeline(), optimizer={"learning_rate": 0.02})).check()
    assert result.executed[0] == "optimizer"
    assert set(result.executed) == {"optimizer", "result", "history"}


def test_the_same_workflow_gives_the_same_picture_bit_for_bit_after_everything_was_freed(comfyui):
    first = picture(comfyui, pipeline())
    comfyui.free()
    time.sleep(1.0)  # the queue's thread wakes up, unloads the models and clears the cache
    again = comfyui.run(pipeline()).check()
    assert set(again.executed) >= OURS
    assert np.array_equal(comfyui.image(again.images("result")[0]), first)


# On checkpoints, as users load them


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_blocks_run_on_a_checkpoint_and_honour_its_lora(comfyui, request, plain_picture, family):
    name = request.getfixturevalue(f"{family}_checkpoint")
    source = checkpoint(name, lora=request.getfixturevalue(f"{family}_lora"))
    plain = plain_picture(name)
    assert plain.shape == (64, 64, 3)
    assert not np.array_equal(picture(comfyui, small_pipeline(source, output="published")), plain)


def test_v_prediction_set_by_model_sampling_discrete_is_honoured(comfyui, sd2_checkpoint, plain_picture):
    velocity = picture(comfyui, small_pipeline(checkpoint(sd2_checkpoint, v_prediction=True), output="published"))
    assert not np.array_equal(velocity, plain_picture(sd2_checkpoint))


def test_sdxls_sizes_and_another_autoencoder_are_honoured(comfyui, sdxl_checkpoint, other_vae, plain_picture):
    plain = checkpoint(sdxl_checkpoint)
    sizes = {"width": 1024, "height": 512, "crop_w": 0, "crop_h": 0, "target_width": 1024, "target_height": 512}
    sized = node("CLIPTextEncodeSDXL", clip=["checkpoint", 1], text_g="", text_l="", **sizes)
    elsewhere = node("VAELoader", vae_name=other_vae)
    for other in (
        replace(plain, nodes=plain.nodes | {"empty_prompt": sized}),
        replace(plain, nodes=plain.nodes | {"other_vae": elsewhere}, vae=["other_vae", 0]),
    ):
        found = picture(comfyui, small_pipeline(other, output="published"))
        assert not np.array_equal(found, plain_picture(sdxl_checkpoint))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_text_prompt_changes_the_picture(comfyui, request, plain_picture, family):
    """The photo is inverted, and changed, under it."""
    name = request.getfixturevalue(f"{family}_checkpoint")
    told = changed(
        small_pipeline(checkpoint(name), output="published"), empty_prompt={"text": "a portrait, soft light"}
    )
    assert not np.array_equal(picture(comfyui, told), plain_picture(name))


def test_after_all_that_the_plain_picture_of_a_checkpoint_is_the_same(comfyui, sd1_checkpoint, plain_picture):
    before = plain_picture(sd1_checkpoint)
    comfyui.free()
    time.sleep(1.0)  # the queue's thread wakes up, unloads the models and clears the cache
    assert np.array_equal(picture(comfyui, small_pipeline(checkpoint(sd1_checkpoint), output="published")), before)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "with a LoRA"])
def test_a_protection_run_leaves_the_model_untouched(comfyui, request, family, with_lora):
    name, lora = (request.getfixturevalue(f"{family}_{what}") for what in ("checkpoint", "lora"))
    source = checkpoint(name)
    patched = checkpoint(name, lora=lora) if with_lora else source
    before = picture(comfyui, sampled(source))
    run = comfyui.run(small_pipeline(patched)).check()
    after = comfyui.run(sampled(source)).check()
    assert "optimizer" in run.executed and "checkpoint" not in run.executed + after.executed
    assert "sampler" in after.executed
    assert np.array_equal(comfyui.image(after.images("result")[0]), before)


def test_a_protection_run_leaves_the_demo_model_untouched(comfyui):
    before = picture(comfyui, sampled(demo(), size=256))
    comfyui.run(graphs.pipeline()).check()
    after = comfyui.run(sampled(demo(), size=256)).check()
    assert "sampler" in after.executed and "model" not in after.executed
    assert np.array_equal(comfyui.image(after.images("result")[0]), before)

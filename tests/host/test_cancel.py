"""Cancel, as the button does it: within a second anywhere in a run, and nothing is left behind."""

import threading
import time

import numpy as np
import pytest

import graphs
from graphs import changed, checkpoint, node, pipeline, protect_photo, sampled, small_pipeline

SECONDS = 3.0  # generous: a busy machine; the claim is one second on an idle one, and tests record what they saw
MANY = {"null_text": {"iterations": 1000}, "optimizer": {"iterations": 10000}}


@pytest.fixture(scope="module", autouse=True)
def photos(comfyui):
    graphs.put_photos(comfyui)


def cancelled(comfyui, prompt, block: str, after_steps: float = 2) -> tuple:
    """Cancels after so many steps of the block: the result, the seconds it took, the seconds of one step.

    A fraction is waited for within a step, by the time that the steps before took: 2.5 is in the middle of the third.
    """
    seen, pressed = [], []

    def press():
        pressed.append(time.monotonic())
        comfyui.interrupt()

    def watch(event):
        if event["type"] == "progress" and event["data"]["node"] == block:
            seen.append(event["time"])
            if len(seen) == int(after_steps):
                threading.Timer(after_steps % 1 * step(), press).start()

    def step() -> float:
        return (seen[-1] - seen[0]) / max(len(seen) - 1, 1)

    result = comfyui.run(prompt, on_event=watch)
    (said,) = [message for message in result.messages if message["type"] == "execution_interrupted"]
    return result, said["time"] - pressed[0], step()


@pytest.mark.parametrize("block", MANY)
def test_cancel_takes_effect_within_a_second_and_the_next_run_works(comfyui, record_property, block):
    result, seconds, step = cancelled(comfyui, changed(pipeline(), **{block: MANY[block]}), block)
    record_property("seconds to cancel, seconds of a step", (seconds, step))
    assert result.status == "interrupted"
    assert result.images("result") == []
    assert seconds < SECONDS
    assert comfyui.run(pipeline()).check().images("result")


@pytest.mark.parametrize("after_steps", [2.25, 2.5])
def test_cancel_does_not_wait_for_the_end_of_a_long_step(comfyui, sd1_checkpoint, record_property, after_steps):
    """Stable Diffusion's own VAE makes a step long: 2.25 is in its forward pass, 2.5 in its backward pass."""
    prompt = small_pipeline(checkpoint(sd1_checkpoint), size=128, **MANY["optimizer"])
    result, seconds, step = cancelled(comfyui, changed(prompt, null_text={"iterations": 0}), "optimizer", after_steps)
    record_property("seconds to cancel, seconds of a step", (seconds, step))
    assert result.status == "interrupted"
    assert seconds < min(SECONDS, 0.3 * step)


@pytest.mark.parametrize("block", MANY)
def test_a_cancelled_run_leaves_the_model_untouched(comfyui, sd1_checkpoint, sd1_lora, block):
    def sample() -> np.ndarray:
        return comfyui.image(comfyui.run(sampled(checkpoint(sd1_checkpoint))).check().images("result")[0])

    before = sample()
    prompt = small_pipeline(checkpoint(sd1_checkpoint, lora=sd1_lora))
    result, *_ = cancelled(comfyui, changed(prompt, **{block: MANY[block]}), block, after_steps=2.6)
    assert "checkpoint" not in result.executed
    assert np.array_equal(sample(), before)


def test_protect_photo_is_cancelled_and_the_next_run_works(comfyui, record_property):
    """The whole method in one node; a photo that is left out when it fails is not what cancelling means."""
    prompt = {"photo": node("LoadImage", image=graphs.PHOTO)} | protect_photo(
        ["photo", 0], graphs.demo(), preset="strong", on_failure="leave out"
    )
    result, seconds, step = cancelled(comfyui, prompt, "protect", after_steps=30)
    record_property("seconds to cancel, seconds of a step", (seconds, step))
    assert result.status == "interrupted"
    assert result.images("result") == [] and "report" not in result.outputs
    assert seconds < SECONDS
    assert comfyui.run(pipeline()).check().images("result")

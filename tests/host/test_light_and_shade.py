"""Light and Shade on a real ComfyUI, with the three small recognisers that are built in."""

import json
import time

import numpy as np
import pytest

import graphs
from graphs import PHOTO, Prompt, added, changed, node, pipeline

SURROGATES = ("mobilefacenet", "faceres", "mobileface")
SECONDS = 3.0  # generous: a busy machine


@pytest.fixture(scope="module", autouse=True)
def photos(comfyui):
    graphs.put_photos(comfyui)


def shaded(**widgets) -> Prompt:
    """Photo, faces and objective of the pipeline, with Light and Shade in the place of everything else."""
    parts = {name: pipeline()[name] for name in ("photo", "faces", "objective")}
    loaders = {name: node("FaceProtectLoadSurrogate", surrogate=name) for name in SURROGATES}
    sockets = {f"surrogates.surrogate{index}": [name, 0] for index, name in enumerate(SURROGATES)}
    options = {"jitter": 1, "steepness": 6.0, "stop_at_margin": True, "margin": 0.25}
    links = {"image": ["photo", 0], "objective": ["objective", 0], "mask": ["faces", 2]}
    settings = {"iterations": 5, "grid": 64, "fidelity_weight": 0.4, "learning_rate": 0.25}
    light = node("FaceProtectLightAndShade", **links, **settings | {"early_stop": False, "seed": 0} | widgets)
    covered = node("ThresholdMask", mask=["faces", 2], value=0.0)
    return added(
        changed(parts, objective=sockets | options), **loaders,
        light=light,
        result=node("PreviewImage", images=["light", 0]),
        history=node("PreviewAny", source=["light", 1]),
        covered=covered,
        covered_image=node("MaskToImage", mask=["covered", 0]),
        where=node("PreviewImage", images=["covered_image", 0]),
    )  # fmt: skip


def picture(comfyui, result, name: str = "result") -> np.ndarray:
    return comfyui.image(result.images(name)[0]).astype(int)


def test_the_face_has_another_light_and_all_else_is_bit_equal(comfyui):
    result = comfyui.run(shaded(iterations=15)).check()
    photo = comfyui.image({"filename": PHOTO, "type": "input"}).astype(int)[..., :3]
    change, inside = picture(comfyui, result) - photo, picture(comfyui, result, "where")[..., 0] > 0
    assert (change[~inside] == 0).all() and 0.05 < inside.mean() < 0.5
    assert 3 < np.sqrt(np.square(change[inside]).mean()) < 15
    unclipped = inside & (photo.min(2) > 60) & (photo.max(2) < 195)
    assert np.ptp(change[unclipped], axis=-1).max() <= 1  # the same in red, green and blue, but for rounding


def test_the_recognisers_no_longer_match_and_the_node_and_the_history_say_so(comfyui):
    result = comfyui.run(shaded(iterations=15, seed=3)).check()  # another seed: the cached run would say nothing
    (text,) = result.outputs["light"]["text"]
    history = json.loads(result.outputs["history"]["text"][0])
    assert len(history["identity"]) == len(history["fidelity"]) == 15
    assert history["identity"][-1][0] < history["identity"][0][0]
    for number, name in enumerate(SURROGATES, start=1):
        assert history["surrogates"][f"{number}. {name}"]["matches_source"] == [False]
        assert f"{number}. {name} no longer matches the photo" in text
    assert "no evidence about other recognisers" in text
    assert len(result.previews) == 15


def test_more_fidelity_weight_changes_the_photo_less(comfyui):
    photo = comfyui.image({"filename": PHOTO, "type": "input"}).astype(int)[..., :3]
    lax, strict = (
        np.square(picture(comfyui, comfyui.run(shaded(iterations=15, fidelity_weight=weight)).check()) - photo).mean()
        for weight in (0.0, 10.0)
    )
    assert strict < 0.5 * lax


def test_the_seed_decides(comfyui):
    first = picture(comfyui, comfyui.run(shaded(seed=1)).check())
    other = picture(comfyui, comfyui.run(shaded(seed=2)).check())
    comfyui.free()
    again = picture(comfyui, comfyui.run(shaded(seed=1)).check())
    assert np.array_equal(again, first) and not np.array_equal(other, first)


def test_it_stops_early_once_every_recogniser_is_past_the_margin(comfyui):
    prompt = changed(shaded(iterations=200, early_stop=True), objective={"margin": 0.0})
    result = comfyui.run(prompt).check()
    assert len(json.loads(result.outputs["history"]["text"][0])["identity"]) < 200


def test_cancel_takes_effect_and_the_next_run_works(comfyui, record_property):
    pressed = []

    def watch(event):
        if event["type"] == "progress" and event["data"]["node"] == "light" and not pressed:
            pressed.append(time.monotonic())
            comfyui.interrupt()

    result = comfyui.run(shaded(iterations=10000), on_event=watch)
    (said,) = [message for message in result.messages if message["type"] == "execution_interrupted"]
    record_property("seconds to cancel", said["time"] - pressed[0])
    assert (result.status, result.images("result")) == ("interrupted", [])
    assert said["time"] - pressed[0] < SECONDS
    assert comfyui.run(shaded()).check().images("result")


@pytest.mark.parametrize(
    ("light", "objective", "block", "says"),
    [
        ({"image": ["small", 0], "mask": None}, {}, "light", "256 x 256 pixels, the image 64 x 64"),
        ({"mask": ["small", 1]}, {}, "light", "the mask is"),
        ({"early_stop": True}, {"stop_at_margin": False, "steepness": 0.0}, "light", "there is no margin"),
    ],
    ids=["another photo than the objective's", "another mask", "nothing that could be reached"],
)
def test_it_is_refused_with_a_reason_and_a_remedy(comfyui, light, objective, block, says):
    prompt = added(shaded(), small=node("LoadImage", image="face_64.png"))
    result = comfyui.run(changed(prompt, light=light, objective=objective))
    assert (result.status, result.error["node_id"]) == ("error", block)
    assert says in result.error_message and "How to fix: " in result.error_message

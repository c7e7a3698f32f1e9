"""The noise-based baselines on a real ComfyUI."""

import numpy as np
import pytest

import graphs
from graphs import PHOTO, Prompt, changed, node, pipeline

ROUNDED_DOWN = 1  # ComfyUI's preview cuts off what is between two 8-bit values; the core's tests are exact
BUDGETS = {"pgd": 8, "mi_fgsm": 16, "ti_dim": 16, "tip_im": 12}


@pytest.fixture(scope="module", autouse=True)
def photos(comfyui):
    graphs.put_photos(comfyui)


def noise(method: str = "pgd", mask: bool = True, **widgets) -> Prompt:
    """Photo, faces, recogniser and objective of the pipeline, and the attack in the place of everything else."""
    parts = {name: pipeline()[name] for name in ("photo", "surrogate", "faces", "objective")}
    links = {"image": ["photo", 0], "objective": ["objective", 0]} | ({"mask": ["faces", 2]} if mask else {})
    settings = {"method": method, "epsilon": 0.0, "iterations": 0, "seed": 0} | widgets
    return parts | {
        "attack": node("FaceProtectPixelAttack", **links, **settings),
        "result": node("PreviewImage", images=["attack", 0]),
    }


def picture(comfyui, prompt) -> np.ndarray:
    return comfyui.image(comfyui.run(prompt).check().images("result")[0]).astype(int)


@pytest.mark.parametrize("method", BUDGETS)
def test_each_method_stays_in_its_published_budget_and_in_the_mask(comfyui, method):
    result = comfyui.run(noise(method, iterations=3)).check()
    protected = comfyui.image(result.images("result")[0]).astype(int)
    photo = comfyui.image({"filename": PHOTO, "type": "input"}).astype(int)
    change = np.abs(protected - photo)
    assert 0.9 * BUDGETS[method] < change.max() <= BUDGETS[method] + ROUNDED_DOWN
    assert (change[:8] == 0).all() and (change.max(2) == 0).mean() > 0.1


def test_past_the_threshold_and_the_node_says_so_with_a_warning(comfyui):
    result = comfyui.run(noise()).check()
    (text,) = result.outputs["attack"]["text"]
    assert "dlib_resnet no longer matches the photo" in text
    assert "no evidence about other recognisers" in text


def test_the_seed_decides_and_the_model_is_untouched(comfyui):
    first = picture(comfyui, noise(seed=1))
    other = picture(comfyui, noise(seed=2))
    comfyui.free()
    assert np.array_equal(picture(comfyui, noise(seed=1)), first) and not np.array_equal(other, first)


def test_an_epsilon_of_its_own_is_kept(comfyui):
    photo = comfyui.image({"filename": PHOTO, "type": "input"}).astype(int)
    protected = picture(comfyui, noise(mask=False, epsilon=3.0))
    assert 3 <= np.abs(protected - photo).max() <= 3 + ROUNDED_DOWN


def test_another_photo_than_the_objectives_is_refused(comfyui):
    prompt = noise(mask=False) | {"small": node("LoadImage", image="face_64.png")}
    result = comfyui.run(changed(prompt, attack={"image": ["small", 0]}))
    assert (result.status, result.error["node_id"]) == ("error", "attack")
    assert "256 x 256" in result.error_message and "How to fix: " in result.error_message

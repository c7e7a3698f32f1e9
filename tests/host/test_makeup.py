"""Makeup Reference on a real ComfyUI: between FR Surrogate Loss and an optimizer, and as an input of Protect Photo."""

import json

import numpy as np
import pytest
from skimage.transform import resize

import graphs
from demo import made_up, portrait
from faceprotect_core.faces import find_face
from faceprotect_core.method.peers.makeup import MakeupLoss
from faceprotect_core.pixels import from_pixels
from graphs import PHOTO, Prompt, added, changed, node, pipeline, protect_photo

REFERENCE = "made_up.png"


@pytest.fixture(scope="module", autouse=True)
def photos(comfyui):
    graphs.put_photos(comfyui)
    comfyui.upload_image(made_up(), REFERENCE)
    grey = resize(portrait(), (256, 256), anti_aliasing=True).mean(2, keepdims=True)
    comfyui.upload_image(np.repeat(grey, 3, axis=2), "grey_256.png")
    comfyui.upload_image(np.full((256, 256, 3), 0.5), "nobody.png")


def with_makeup(prompt: Prompt, optimizer: str, weight: float = 60.0, **links) -> Prompt:
    """The same, with Makeup Reference between the loss and the optimizer."""
    inputs = {name: [name, 0] for name in ("objective", "photo", "reference", "faces")}
    weights = {"weight": weight, "lips": 1.0, "eye_shadow": 1.0, "skin": 0.1}
    makeup = node("FaceProtectMakeupReference", **inputs | links, **weights)
    reference = node("LoadImage", image=REFERENCE)
    return changed(added(prompt, reference=reference, makeup=makeup), **{optimizer: {"objective": ["makeup", 0]}})


def diffused(photo: str = PHOTO) -> Prompt:
    """The whole pipeline on the demo model, where more weight of the loss shows after few iterations."""
    settings = {"iterations": 5, "learning_rate": 0.03, "objective_weight": 0.1}
    return changed(pipeline(photo=photo), optimizer=settings, null_text={"iterations": 1})


def shaded(photo: str = PHOTO) -> Prompt:
    parts = {name: pipeline(photo=photo)[name] for name in ("photo", "faces", "surrogate", "objective")}
    links = {"image": ["photo", 0], "objective": ["objective", 0], "mask": ["faces", 2]}
    settings = {"iterations": 8, "grid": 64, "fidelity_weight": 0.2, "learning_rate": 0.25}
    light = node("FaceProtectLightAndShade", **links, **settings, early_stop=False, seed=0)
    shown = {"result": node("PreviewImage", images=["light", 0]), "history": node("PreviewAny", source=["light", 1])}
    return added(parts, light=light, **shown)


def picture(comfyui, prompt: Prompt) -> np.ndarray:
    return comfyui.image(comfyui.run(prompt).check().images("result")[0])[..., :3]


def unlike_the_reference(comfyui, *pictures: np.ndarray) -> list[float]:
    """The makeup loss of each, by the core."""
    photo = comfyui.image({"filename": PHOTO, "type": "input"})[..., :3]
    before, worn = from_pixels(photo), from_pixels(made_up())
    makeup = MakeupLoss(before[None], [find_face(before)], worn[None], find_face(worn))
    return [makeup(from_pixels(one)[None]).item() for one in (photo, *pictures)]


def test_the_latent_moves_towards_the_references_colours(comfyui):
    plain, made = picture(comfyui, diffused()), picture(comfyui, with_makeup(diffused(), "optimizer"))
    photo, without, with_it = unlike_the_reference(comfyui, plain, made)
    assert with_it < 0.8 * photo and with_it < 0.8 * without


def test_light_and_shade_moves_in_lightness_and_the_weight_decides(comfyui):
    plain, zero = picture(comfyui, shaded()), picture(comfyui, with_makeup(shaded(), "light", 0.0))
    made = picture(comfyui, with_makeup(shaded(), "light"))
    _, without, with_it = unlike_the_reference(comfyui, plain, made)
    assert with_it < 0.8 * without and np.array_equal(plain, zero)
    photo = comfyui.image({"filename": PHOTO, "type": "input"})[..., :3].astype(int)
    unclipped = (photo.min(2) > 60) & (photo.max(2) < 195)
    assert np.ptp((made.astype(int) - photo)[unclipped], axis=-1).max() <= 1  # the same in red, green and blue


def test_goal_and_report_are_those_of_identity(comfyui):
    prompt = changed(with_makeup(shaded(), "light"), objective={"stop_at_margin": True, "margin": 0.0})
    prompt = changed(prompt, light={"iterations": 300, "early_stop": True, "least_change": True})
    history = json.loads(comfyui.run(prompt).check().outputs["history"]["text"][0])
    assert 0 < len(history["identity"]) < 300
    assert history["surrogates"]["1. dlib_resnet"]["matches_source"] == [False]


def test_a_grey_photo_stays_grey(comfyui):
    made = picture(comfyui, with_makeup(diffused("grey_256.png"), "optimizer"))
    assert np.ptp(made.astype(int), axis=-1).max() == 0


def test_protect_photo_takes_a_reference(comfyui):
    loaders = {"photo": node("LoadImage", image=PHOTO), "reference": node("LoadImage", image=REFERENCE)}
    plain = picture(comfyui, loaders | protect_photo(["photo", 0]))
    made = picture(comfyui, loaders | protect_photo(["photo", 0], makeup=["reference", 0]))
    _, without, with_it = unlike_the_reference(comfyui, plain, made)
    assert with_it < 0.9 * without


@pytest.mark.parametrize(
    ("links", "says"),
    [
        ({"reference": ["nobody", 0]}, "Makeup Reference (reference): no face found"),
        ({"photo": ["small", 0], "faces": None}, "256 x 256 pixels, the image 64 x 64"),
        ({"reference": ["two", 0]}, "2 references are connected"),
        ({"photo": ["light", 0]}, "the photo comes out of Light and Shade"),
    ],
    ids=["no face in the reference", "another photo than the objective's", "two references", "protected already"],
)
def test_it_is_refused_with_a_reason_and_a_remedy(comfyui, links, says):
    loaders = {"nobody": node("LoadImage", image="nobody.png"), "small": node("LoadImage", image="face_64.png")}
    two = node("ImageBatch", image1=["reference", 0], image2=["reference", 0])
    prompt = added(with_makeup(shaded(), "light"), **loaders, two=two)
    if links.get("photo") == ["light", 0]:  # another Light and Shade before it
        prompt["before"] = {**prompt["light"], "inputs": {**prompt["light"]["inputs"], "objective": ["objective", 0]}}
        links = {"photo": ["before", 0]}
    result = comfyui.run(changed(prompt, makeup=links))
    assert (result.status, result.error["node_id"]) == ("error", "makeup")
    assert says in result.error_message and "How to fix: " in result.error_message


def test_detect_faces_gives_the_regions_of_the_face_as_masks(comfyui):
    parts = {name: pipeline()[name] for name in ("photo", "faces")}
    shown = {"image": node("MaskToImage", mask=["faces", 3]), "result": node("PreviewImage", images=["image", 0])}
    result = comfyui.run(added(parts, **shown)).check()
    masks = [comfyui.image(one)[..., 0] / 255 for one in result.images("result")]
    skin, eyes, brows, lips = (float(mask.sum()) for mask in masks)
    assert skin > 10 * max(eyes, brows, lips) and min(eyes, brows, lips) > 100
    assert sum(masks).max() <= 1 + 4 / 255

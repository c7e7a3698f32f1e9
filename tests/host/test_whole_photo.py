"""Photos of any size with several faces on a real ComfyUI: cut out, protected, carried back, never passed through."""

import re

import numpy as np
import pytest
import skimage.data

from faceprotect_core.photos import words
from faceprotect_core.photos.settings import BUILT_IN_SURROGATES, LIGHT, PRESETS, WEIGHTS
from graphs import added, changed, checkpoint, crop_and_paste, demo, node, performance, protect_photo

LEFT, RIGHT = (slice(None), slice(None, 420)), (slice(None), slice(420, None))
BALANCED = PRESETS[LIGHT]["balanced"]
PICTURE = 464  # rows of a preview, in whole blocks of a JPEG: below it is the caption


def group() -> np.ndarray:
    """Two faces of one person in a photo whose sides are no multiples of 8: [301, 837, 3]."""
    astronaut = skimage.data.astronaut()
    photo = np.full((301, 837, 3), 140, np.uint8)
    photo[:300, 10:410], photo[1:301, 430:830] = astronaut[:300, 30:430], astronaut[:300, 429:29:-1]
    return photo


@pytest.fixture(scope="module", autouse=True)
def photos(comfyui):
    noise = np.random.default_rng(0).integers(0, 256, (301, 837, 3), np.uint8)
    comfyui.upload_image(group(), "group.png")
    comfyui.upload_image(noise, "noise_group.png")
    right = np.zeros((301, 837, 3), np.uint8)
    right[RIGHT] = 255
    comfyui.upload_image(right, "right.png")
    for name, picture in (("a.png", group()[LEFT]), ("b.png", noise), ("c.png", skimage.data.astronaut())):
        comfyui.upload_image(picture, name, subfolder="holidays")


def photo(name: str = "group.png") -> dict:
    return {"photo": node("LoadImage", image=name)}


def right_mask() -> dict:
    return {"right": node("LoadImageMask", image="right.png", channel="red")}


def shown(comfyui, prompt, at: str = "result") -> np.ndarray:
    return comfyui.image(comfyui.run(prompt).check().images(at)[0])[..., :3]


# Crop Face and Paste Face Back


def test_crops_that_come_back_unchanged_give_the_photo_bit_by_bit(comfyui):
    prompt = photo() | crop_and_paste(["photo", 0])
    assert np.array_equal(shown(comfyui, prompt), group())


def test_only_the_change_on_the_faces_comes_back(comfyui):
    inverted = {"inverted": node("ImageInvert", image=["crop", 0])}
    result = shown(comfyui, photo() | inverted | crop_and_paste(["photo", 0], crops=["inverted", 0]))
    changed_pixels = (result != group()).any(-1)
    assert 0.05 < changed_pixels[LEFT].mean() < 0.4 and 0.05 < changed_pixels[RIGHT].mean() < 0.4
    assert not changed_pixels[:, 405:435].any() and not changed_pixels[280:].any()


def test_strength_zero_gives_the_photo_bit_by_bit(comfyui):
    inverted = {"inverted": node("ImageInvert", image=["crop", 0])}
    prompt = photo() | inverted | crop_and_paste(["photo", 0], crops=["inverted", 0], strength=0.0)
    assert np.array_equal(shown(comfyui, prompt), group())


CHOOSERS = {
    "by number": ({}, {"which": "numbered", "numbers": "1"}),
    "by mask": (right_mask(), {"mask": ["right", 0], "faces": ["found", 0]}),
    "by box": (
        {"box": node("PrimitiveBoundingBox", x=420, y=0, width=417, height=301)},
        {"bboxes": ["box", 0], "faces": ["found", 0]},
    ),
}


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_faces_that_are_not_chosen_stay_bit_equal(comfyui, chooser):
    nodes, inputs = CHOOSERS[chooser]
    nodes = nodes | {
        "inverted": node("ImageInvert", image=["crop", 0]),
        "found": node("FaceProtectDetectFaces", image=["photo", 0], threshold=0.0, mask_scale=1.0, min_face=80),
    }
    result = shown(comfyui, photo() | nodes | crop_and_paste(["photo", 0], crops=["inverted", 0], **inputs))
    assert np.array_equal(result[LEFT], group()[LEFT])
    assert (result[RIGHT] != group()[RIGHT]).any()


def test_boxes_of_another_detector_are_faces(comfyui):
    """Core's own box node, forehead to chin around the face at the left."""
    box = {"box": node("PrimitiveBoundingBox", x=160, y=55, width=82, height=120)}
    inverted = {"inverted": node("ImageInvert", image=["crop", 0])}
    prompt = photo() | box | inverted | crop_and_paste(["photo", 0], crops=["inverted", 0], bboxes=["box", 0])
    result = shown(comfyui, prompt)
    assert np.array_equal(result[RIGHT], group()[RIGHT])
    assert (result[90:140, 180:230] != group()[90:140, 180:230]).all(-1).mean() > 0.9


def test_a_batch_of_photos_is_sorted_out(comfyui):
    nodes = {
        "batch": node("ImageBatch", image1=["photo", 0], image2=["photo", 0]),
    }
    result = comfyui.run(photo() | nodes | crop_and_paste(["batch", 0])).check()
    pictures = [comfyui.image(entry)[..., :3] for entry in result.images("result")]
    assert len(pictures) == 2
    assert all(np.array_equal(picture, group()) for picture in pictures)


# Protect Photo


def previews_and_last(run) -> tuple[list, np.ndarray]:
    """The pictures of the face while it is worked on, without their captions; and what is shown in the end."""
    *_, last = run.previews
    return [one[:PICTURE] for one in run.previews if one.shape != last.shape], last


def blocks_on_the_largest_face() -> dict:
    """The blocks with the values of the preset balanced."""
    loaders = {name: node("FaceProtectLoadSurrogate", surrogate=name) for name in BUILT_IN_SURROGATES}
    sockets = {f"surrogates.surrogate{index}": [name, 0] for index, name in enumerate(loaders)}
    loss = node(
        "FaceProtectFRSurrogateLoss", **sockets, photo=["crop", 0], faces=["crop", 2], mode="dodge", framing="aligned",
        reduction="sum", stop_at_margin=True, margin=BALANCED.margin, jitter=BALANCED.jitter,
        steepness=BALANCED.steepness, weights=", ".join(str(WEIGHTS[name]) for name in loaders),
    )  # fmt: skip
    light = node(
        "FaceProtectLightAndShade", image=["crop", 0], objective=["objective", 0], mask=["crop", 3],
        iterations=BALANCED.light.iterations, grid=BALANCED.light.grid,
        fidelity_weight=BALANCED.light.fidelity_weight, learning_rate=BALANCED.light.lr, early_stop=False, seed=0,
        least_change=True,
    )  # fmt: skip
    blocks = loaders | {"objective": loss, "light": light}
    return photo() | blocks | crop_and_paste(["photo", 0], ["light", 0], which="largest")


@pytest.fixture(scope="module")
def run_of_largest(comfyui):
    """Without a judge, who may ask for more than the blocks do."""
    return comfyui.run(photo() | protect_photo(["photo", 0], which="largest", preset="balanced", judge="none")).check()


def test_protect_photo_protects_and_is_the_blocks(comfyui, run_of_largest):
    result = run_of_largest
    protected, mask = (comfyui.image(result.images(at)[0])[..., :3] for at in ("result", "mask_image"))
    assert np.array_equal(protected[mask == 0], group()[mask == 0])
    assert (protected[mask == 255] != group()[mask == 255]).mean() > 0.5
    (report,) = result.outputs["report"]["text"]
    assert "Photo 1: Protected, 1 face." in report and "No recogniser was kept out as a judge" in report
    assert re.search(r"Expected \d+ s and \d+\.\d GB of memory; took \d+ s", report), "what it costs, before and after"
    assert np.array_equal(shown(comfyui, blocks_on_the_largest_face()), protected)


def test_protect_photo_shows_the_picture_and_how_far_it_is(run_of_largest):
    values = [event["value"] for event in run_of_largest.progress if event["node"] == "protect"]
    assert values == sorted(values) and values[-1] == 1000 and len(values) > 5
    faces, after = previews_and_last(run_of_largest)
    assert after.shape[0] < after.shape[1] / 2, "the finished photo, which is wide, with its caption"
    assert len(faces) > 5 and all(np.array_equal(faces[0], one) for one in faces), "the preview of instant stands still"
    assert faces[0].std() > 10


def test_instant_says_that_its_looks_were_enough_and_leaves_a_connected_model_alone(comfyui):
    result = comfyui.run(photo() | protect_photo(["photo", 0], demo(), which="largest", preset="instant")).check()
    (report,) = result.outputs["report"]["text"]
    assert "Photo 1: Protected, 1 face." in report and words.BY_NETWORK in report
    assert "made by light and shade, without the model that is connected" in report
    protected, mask = (comfyui.image(result.images(at)[0])[..., :3] for at in ("result", "mask_image"))
    assert np.array_equal(protected[mask == 0], group()[mask == 0])
    change = protected.astype(int) - group()
    whole = ((group() > 60) & (group() < 195)).all(-1)  # nothing was clamped
    assert (change[whole].max(-1) - change[whole].min(-1)).max() <= 1, "light and shade, no colour"


def test_instant_has_no_way_through_diffusion(comfyui):
    result = comfyui.run(photo() | protect_photo(["photo", 0], demo(), preset="instant", way="diffusion"))
    assert result.status == "error" and "diffusion has no preset 'instant'" in result.error_message


def test_a_photo_without_a_face_stops_the_run_with_a_reason(comfyui):
    result = comfyui.run(photo("noise_group.png") | protect_photo(["photo", 0]))
    assert (result.status, result.error["node_id"]) == ("error", "protect")
    for part in ("Protect Photo, image 1 of 1", "no face found in the photo of 837 x 301", "How to fix: "):
        assert part in result.error_message
    assert result.images("result") == []


def test_a_photo_without_a_face_is_left_out_when_asked_and_never_passed_through(comfyui):
    result = comfyui.run(photo("noise_group.png") | protect_photo(["photo", 0], on_failure="leave out")).check()
    assert result.images("result") == [] and result.images("mask_image") == []
    (report,) = result.outputs["report"]["text"]
    assert "Photo 1: NOT PROTECTED, left out. No face found" in report


def test_one_bad_photo_of_a_folder_does_not_stop_the_others(comfyui):
    """Photos of three sizes with core's folder loader; the second has no face."""
    folder = {"photo": node("LoadImageDataSetFromFolder", folder="holidays")}
    result = comfyui.run(folder | protect_photo(["photo", 0], on_failure="leave out")).check()
    sizes = sorted(comfyui.image(entry).shape[:2] for entry in result.images("result"))
    assert sizes == [(301, 420), (512, 512)]
    reports = result.outputs["report"]["text"]
    assert sum("NOT PROTECTED" in text for text in reports) == 1
    assert sum("Photo 1: Protected" in text for text in reports) == 2


def test_the_faces_of_a_batch_of_photos_go_through_the_models_together(comfyui):
    """One face of each of two photos, at once by Performance Settings. Compared with single runs: a contract test."""
    prompt = photo() | {"batch": node("ImageBatch", image1=["photo", 0], image2=["photo", 0])}
    prompt |= protect_photo(["batch", 0], demo(), which="numbered", numbers="1")
    source = {name: prompt["protect"]["inputs"][name] for name in ("model", "vae")}
    settings = node("FaceProtectPerformance", **source, precision="as loaded", memory="automatic", faces_at_once=2)
    prompt = changed(added(prompt, settings=settings), protect={"model": ["settings", 0], "vae": ["settings", 1]})
    result = comfyui.run(prompt).check()
    pictures = [comfyui.image(entry)[..., :3] for entry in result.images("result")]
    (report,) = result.outputs["report"]["text"]
    assert all(f"Photo {number}: Protected, 1 face." in report for number in (1, 2)) and len(pictures) == 2
    assert all(np.array_equal(picture[LEFT], group()[LEFT]) for picture in pictures)
    assert all((picture[RIGHT] != group()[RIGHT]).any() for picture in pictures)
    faces, _ = previews_and_last(result)
    assert len(faces) > 5 and all(np.array_equal(faces[0], one) for one in faces), "the preview of instant stands still"


def test_a_judge_that_is_used_itself_is_refused(comfyui):
    loader = {"surrogate": node("FaceProtectLoadSurrogate", surrogate="dlib_resnet")}
    prompt = photo() | loader | protect_photo(["photo", 0], **{"surrogates.surrogate0": ["surrogate", 0]})
    result = comfyui.run(prompt)
    assert result.status == "error" and "the judge dlib_resnet is the same network" in result.error_message


def test_diffusion_without_a_model_is_refused(comfyui):
    result = comfyui.run(photo() | protect_photo(["photo", 0], way="diffusion"))
    assert result.status == "error" and "needs model and vae and conditioning" in result.error_message


def test_the_judge_compares_with_another_photo_that_is_connected(comfyui):
    comfyui.upload_image(skimage.data.astronaut(), "other.png")
    other = {"other": node("LoadImage", image="other.png")}
    result = comfyui.run(photo() | other | protect_photo(["photo", 0], which="largest", other_photo=["other", 0]))
    (report,) = result.check().outputs["report"]["text"]
    assert "dlib_resnet, which was not used to make this, knew you on the other photo before" in report


def test_to_impersonate_somebody_needs_their_photo(comfyui):
    result = comfyui.run(photo() | protect_photo(["photo", 0], goal="impersonate"))
    assert result.status == "error" and "no target is connected" in result.error_message


def test_every_input_of_crop_face_that_names_no_face_is_refused(comfyui):
    empty = {"nothing": node("SolidMask", value=0.0, width=837, height=301)}
    for inputs, says in (
        ({"mask": ["nothing", 0]}, "the mask is empty"),
        ({"which": "numbered", "numbers": "5"}, "numbered 0 to 1 from the left"),
        ({"size": 100}, "size of the crop is 100 pixels"),
    ):
        result = comfyui.run(photo() | empty | crop_and_paste(["photo", 0], **inputs))
        assert result.status == "error" and says in result.error_message, inputs


def test_crops_of_another_photo_are_refused(comfyui):
    other = added(photo(), other=node("LoadImage", image="right.png"))
    half = {
        "half": node("ImageScale", image=["photo", 0], upscale_method="area", width=400, height=300, crop="disabled")
    }
    prompt = changed(other | half | crop_and_paste(["photo", 0]), paste={"image": ["half", 0]})
    result = comfyui.run(prompt)
    assert "Paste Face Back" in result.error_message and "400 x 300" in result.error_message


def test_protect_photo_goes_through_sdxl_and_says_that_its_presets_were_measured_with_another(comfyui, sdxl_checkpoint):
    """Random weights protect nobody reliably: what comes out, or why it is left out, is said in the report."""
    source = performance(checkpoint(sdxl_checkpoint), memory="low")
    tried = {"size": 64, "which": "largest", "preset": "fast", "judge": "none", "on_failure": "leave out"}
    prompt = photo() | protect_photo(["photo", 0], source, **tried)
    result = comfyui.run(prompt).check()
    (report,) = result.outputs["report"]["text"]
    assert "Photo 1: " in report
    assert f"the presets were measured with the built-in model, and not with '{sdxl_checkpoint}'" in report

"""What was not protected is not saved as if it were, and what was protected is not taken for an original."""

import copy
import io
import json

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize

import graphs
from demo import portrait
from faceprotect_core.photos.write import write_photo
from faceprotect_core.pixels import from_pixels
from graphs import PHOTO, node, protect_photo

SAVE = {"filename_prefix": "bypassed", "format": "png", "quality": 95}


@pytest.fixture(scope="module", autouse=True)
def photos(comfyui):
    graphs.put_photos(comfyui)


@pytest.fixture(scope="module")
def photo():
    return {"photo": node("LoadImage", image=PHOTO)}


@pytest.mark.parametrize("between", [None, "ImageInvert"])
def test_a_photo_that_nothing_protected_is_not_saved(comfyui, photo, between):
    """As a bypassed Protect Photo leaves the graph: its input is linked to its output's readers."""
    images, nodes = ["photo", 0], dict(photo)
    if between:
        images, nodes["between"] = ["between", 0], node(between, image=["photo", 0])
    result = comfyui.run(nodes | {"saved": node("FaceProtectSaveImage", images=images, **SAVE)})
    assert result.status == "error"
    assert "no block that protects lies before it" in result.error_message and "How to fix: " in result.error_message
    assert not list((comfyui.base_dir / "output").glob("bypassed*"))


def test_a_crop_that_nothing_protected_is_not_saved_after_it_was_pasted_back(comfyui, photo):
    saved = node("FaceProtectSaveImage", images=["paste", 0], **SAVE)
    result = comfyui.run(photo | graphs.crop_and_paste(["photo", 0]) | {"saved": saved})
    assert result.status == "error" and "no block that protects" in result.error_message


def test_a_protected_photo_is_not_protected_again(comfyui, photo):
    """It would flee from the first version, and be judged against it."""
    first = protect_photo(["photo", 0])
    again = copy.deepcopy(first["protect"])
    again["inputs"]["image"] = ["protect", 0]
    result = comfyui.run(photo | first | {"again": again, "show": node("PreviewImage", images=["again", 0])})
    assert result.status == "error" and result.error["node_id"] == "again"
    assert "is protected already" in result.error_message and "connect the original photo" in result.error_message


def test_a_protected_photo_is_no_source_of_a_loss(comfyui, photo):
    nodes = photo | protect_photo(["photo", 0])
    nodes["recogniser"] = node("FaceProtectLoadSurrogate", surrogate="dlib_resnet")
    objective = {"surrogates.surrogate0": ["recogniser", 0], "photo": ["protect", 0], "mode": "dodge"}
    objective |= {"framing": "aligned", "reduction": "sum", "stop_at_margin": False, "margin": 0.0}
    nodes["objective"] = node("FaceProtectFRSurrogateLoss", **objective)
    result = comfyui.run(nodes | {"show": node("PreviewAny", source=["objective", 0])})
    assert result.status == "error" and "is protected already" in result.error_message


# What was protected in an earlier run, by its mark


@pytest.fixture(scope="module")
def protected(comfyui):
    """name -> what Load Image takes for a photo that says it is protected, in ComfyUI's input folder or another."""
    image = from_pixels((resize(portrait(), (256, 256), anti_aliasing=True) * 255).astype("uint8"))

    def written(name: str, folder: str = "input") -> str:
        path = comfyui.base_dir / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_photo(path, image)
        return name if folder == "input" else f"{name} [{folder}]"

    return written


def refused(comfyui, prompt: dict, said: str) -> None:
    result = comfyui.run(prompt)
    assert result.status == "error" and f"{said!r} is protected already" in result.error_message
    assert "How to fix: load the original photo" in result.error_message
    assert str(comfyui.base_dir) not in result.error_message


@pytest.mark.parametrize("name, folder", [("m.png", "input"), ("sub/m.jpg", "input"), ("m.webp", "output")])
def test_a_protected_photo_is_known_when_it_is_loaded_again(comfyui, protected, name, folder):
    photo = {
        "photo": node("LoadImage", image=protected(name, folder)),
        "inverted": node("ImageInvert", image=["photo", 0]),
    }
    refused(comfyui, photo | protect_photo(["inverted", 0]), name.split("/")[-1])


def test_what_the_node_for_outputs_loads_is_known_too(comfyui, protected):
    photo = {"photo": node("LoadImageOutput", image=protected("o.png", "output"))}
    refused(comfyui, photo | protect_photo(["photo", 0]), "o.png")


def test_a_folder_with_a_protected_photo_is_refused_and_the_photo_named(comfyui, protected):
    comfyui.upload_image(portrait(), "original.png", subfolder="holiday")
    protected("holiday/protected.jpg")
    photos = {"photos": node("LoadImageDataSetFromFolder", folder="holiday")}
    refused(comfyui, photos | protect_photo(["photos", 0]), "protected.jpg")


def test_a_mask_that_is_painted_on_a_protected_photo_does_not_hide_the_mark(comfyui, protected):
    """What the mask editor does: it writes another file, with what the first one said."""
    mask = np.full((256, 256, 4), 255, np.uint8)
    mask[30:90, 30:90, 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    original = {"filename": protected("painted.png"), "subfolder": "", "type": "input"}
    data = {"original_ref": json.dumps(original), "subfolder": "clipspace", "type": "input"}
    comfyui.post("/upload/mask", files={"image": ("mask.png", buffer.getvalue(), "image/png")}, data=data)
    photo = {"photo": node("LoadImage", image="clipspace/mask.png [input]")}
    refused(comfyui, photo | protect_photo(["photo", 0]), "mask.png")


def test_a_protected_photo_is_neither_the_other_photo_nor_the_source_of_a_loss(comfyui, photo, protected):
    nodes = photo | {"other": node("LoadImage", image=protected("other.png"))}
    refused(comfyui, nodes | protect_photo(["photo", 0], other_photo=["other", 0]), "other.png")
    nodes["recogniser"] = node("FaceProtectLoadSurrogate", surrogate="dlib_resnet")
    objective = {"surrogates.surrogate0": ["recogniser", 0], "photo": ["other", 0], "mode": "dodge"}
    objective |= {"framing": "aligned", "reduction": "sum", "stop_at_margin": False, "margin": 0.0}
    nodes["objective"] = node("FaceProtectFRSurrogateLoss", **objective)
    refused(comfyui, nodes | {"show": node("PreviewAny", source=["objective", 0])}, "other.png")


def test_verify_takes_a_protected_photo(comfyui, photo, protected):
    nodes = photo | {"after": node("LoadImage", image=protected("after.jpg"))}
    nodes["verify"] = node("FaceProtectVerify", original=["photo", 0], protected=["after", 0])
    comfyui.run(nodes).check()

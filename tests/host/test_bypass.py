"""What was not protected is not saved as if it were, and what was protected is not taken for an original."""

import copy

import pytest

import graphs
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

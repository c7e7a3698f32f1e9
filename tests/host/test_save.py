"""Save Protected Image on a real ComfyUI: the file holds pixels, the mark that it is protected and nothing else, and
stays in the output folder."""

import io

import numpy as np
import pytest
from PIL import Image

from graphs import changed, node

NAME = "faceprotect_saved.png"
PIXELS = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def photo(comfyui):
    comfyui.upload_image(PIXELS, NAME)


def save(seed: int = 0, **inputs) -> dict:
    """Any picture, its light and shade changed, saved; and shown by ComfyUI itself."""
    objective = {"surrogates.surrogate0": ["recogniser", 0], "photo": ["photo", 0], "mode": "dodge"}
    objective |= {"framing": "whole image", "reduction": "sum", "stop_at_margin": False, "margin": 0.0}
    light = {"image": ["photo", 0], "objective": ["objective", 0], "iterations": 1, "grid": 8}
    light |= {"fidelity_weight": 0.2, "learning_rate": 0.2, "early_stop": False, "seed": seed}
    prompt = {
        "photo": node("LoadImage", image=NAME),
        "recogniser": node("FaceProtectLoadSurrogate", surrogate="dlib_resnet"),
        "objective": node("FaceProtectFRSurrogateLoss", **objective),
        "light": node("FaceProtectLightAndShade", **light),
        "shown": node("PreviewImage", images=["light", 0]),
        "saved": node(
            "FaceProtectSaveImage", images=["light", 0], filename_prefix="FaceProtect", format="png", quality=95
        ),
    }
    return changed(prompt, saved=inputs)


@pytest.fixture
def outputs(comfyui):
    """The files below the output folder, by their path there."""

    def listed() -> dict[str, bytes]:
        folder = comfyui.base_dir / "output"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return listed


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_saved_image_has_no_workflow_no_prompt_and_says_nothing_but_that_it_is_protected(comfyui, kind):
    entry = comfyui.run(save(format=kind)).check().images("saved")[0]
    data = comfyui.view(entry)
    assert not [word for word in (b"LoadImage", b"workflow", b"prompt", b"FaceProtectL", b"eXIf") if word in data]
    assert data.count(b"FaceProtect") == 1
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind.upper() and image.size == (60, 40)
        said = {key: image.info.pop(key) for key in ("Software",) if key in image.info}
        assert said | dict(image.getexif()) == {"Software" if kind == "png" else 0x0131: "FaceProtect"}
        technical = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "loop", "background"}
        assert not set(image.info) - technical - (set() if kind == "png" else {"exif"})


def test_comfyuis_own_save_image_does_write_them(comfyui):
    """The control: what the test above looks for is found where it is."""
    prompt = {"photo": node("LoadImage", image=NAME), "saved": node("SaveImage", images=["photo", 0])}
    prompt["saved"]["inputs"]["filename_prefix"] = "core"
    data = comfyui.view(comfyui.run(prompt).check().images("saved")[0])
    assert b"LoadImage" in data and b"prompt" in data


@pytest.mark.parametrize("kind, quality", [("png", 50), ("webp", 100)])
def test_png_and_webp_at_100_keep_every_pixel(comfyui, kind, quality):
    result = comfyui.run(save(seed=quality, format=kind, quality=quality)).check()  # a cached run would show nothing
    shown, kept = (comfyui.image(result.images(name)[0]).astype(int) for name in ("shown", "saved"))
    assert not np.array_equal(shown, PIXELS)
    assert set(np.unique(kept - shown)) <= {0, 1}  # ComfyUI's own rounds down, ours to the nearest


def test_jpeg_has_full_colour_and_gets_smaller_with_less_quality(comfyui):
    sizes = [
        len(comfyui.view(comfyui.run(save(format="jpeg", quality=quality)).check().images("saved")[0]))
        for quality in (30, 95)
    ]
    assert sizes[0] < sizes[1]


def test_what_comes_out_is_what_the_file_holds(comfyui):
    """So that Verify Protection after it asks about the file, with what JPEG did to it."""
    prompt = save(seed=7, format="jpeg", quality=60)
    prompt["read back"] = node("PreviewImage", images=["saved", 0])
    result = comfyui.run(prompt).check()
    shown, file, out = (comfyui.image(result.images(name)[0]).astype(int) for name in ("shown", "saved", "read back"))
    assert np.abs(out - shown).max() > 5
    assert set(np.unique(file - out)) <= {0, 1}  # ComfyUI's own preview rounds down


def test_no_file_is_overwritten_not_even_by_another_format(comfyui, outputs):
    before = outputs()
    entries = []
    for kind in ("png", "jpeg", "png"):
        prompt = save(format=kind, filename_prefix="sub/again")
        prompt["inverted"] = node("ImageInvert", image=["light", 0])  # a new workflow, so that nothing is cached
        entries += (
            comfyui.run(changed(prompt, saved={"images": ["inverted", 0], "quality": 90 + len(entries)}))
            .check()
            .images("saved")
        )
    assert [entry["filename"] for entry in entries] == ["again_00001.png", "again_00002.jpg", "again_00003.png"]
    assert {entry["subfolder"] for entry in entries} == {"sub"}
    after = outputs()
    assert all(after[name] == data for name, data in before.items())
    assert not [name for name in after if name.endswith(".part")]


@pytest.mark.parametrize("prefix", ["../outside", "sub/../../outside", "/tmp/faceprotect_outside", ".."])
def test_no_name_leaves_the_output_folder(comfyui, outputs, prefix):
    before = outputs()
    result = comfyui.run(save(filename_prefix=prefix))
    assert result.status == "error"
    assert "leads out of the output folder" in result.error_message and "How to fix: " in result.error_message
    assert str(comfyui.base_dir) not in result.error_message
    assert outputs() == before
    assert not list(comfyui.base_dir.glob("outside*")) and not list(comfyui.base_dir.parent.glob("*outside*"))

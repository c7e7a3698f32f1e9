"""What goes in and what must come out: the table's files through Load Image, Protect Photo and Save Protected Image, as
ComfyUI itself reads, checks and runs them. Only the optimiser is another: it inverts what is around the face."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import maximum_filter

from comfyui_here import ComfyUIHere
from faceprotect_core.photos.read import is_marked
from photo_table import PhotoCase, table

FORMATS = ("png", "jpeg", "webp")
# Of the turned ones a few do; those that mirror core's Load Image only turns.
CASES = [
    case for case in table() if case.orientation in (1, 6) or case.name in ("turned_JPEG_3.jpg", "turned_PNG_8.png")
]
MISREAD = ("cut.png", "animated.png")  # core's Load Image reads what it can of them


@pytest.fixture(scope="module")
def here(pack, tmp_path_factory):
    photo, masks = pack.nodes.photo, []

    def inverted(cut_photos, *_, **__):
        for cut in cut_photos:
            if isinstance(cut, Exception):
                yield cut
                continue
            left, top, right, bottom = (int(side) for side in cut.crops[0].photo_face.box_xyxy)
            mask = torch.zeros_like(cut.photo[:1])
            mask[:, top:bottom, left:right] = 1
            masks[:] = [mask[0].bool().numpy()]
            yield photo.PhotoResult(torch.where(mask > 0, 1 - cut.photo, cut.photo), mask, cut.crops, ())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo, "protect_photos", inverted)
        patch.setattr(photo, "_recognisers", lambda *_: ([], []))
        comfyui = ComfyUIHere(pack, tmp_path_factory.mktemp("comfyui"), patch)
        comfyui.masks = masks
        yield comfyui


def workflow(name: str, kind: str) -> dict:
    protect = {"preset": "fast", "way": "automatic", "judge": "dlib_resnet", "goal": "dodge", "size": 128}
    protect |= {"which": "all", "numbers": "0", "on_failure": "stop", "image": ["photo", 0]}
    save = {"images": ["protect", 0], "filename_prefix": f"sub/{kind}", "format": kind, "quality": 100}
    return {
        "photo": {"class_type": "LoadImage", "inputs": {"image": name}},
        "protect": {"class_type": "FaceProtectProtectPhoto", "inputs": protect},
        "saved": {"class_type": "FaceProtectSaveImage", "inputs": save},
    }


def loaded(case: PhotoCase) -> np.ndarray:
    """What core's Load Image makes of a file, in 0 to 255."""
    import nodes

    return nodes.LoadImage().load_image(case.name)[0][0].numpy() * 255


@pytest.mark.parametrize("number, case", list(enumerate(CASES)), ids=lambda value: getattr(value, "name", None))
def test_the_node_saves_what_it_must_or_nothing(here, number, case):
    case.write(here.folder / "input")
    kind = FORMATS[number % len(FORMATS)]
    outcome = here.run(workflow(case.name, kind))
    if case.damage:
        assert outcome.error or outcome.refused
        assert not outcome.saved and (case.name in MISREAD) == ("How to fix: " in outcome.error)
        return
    assert not outcome.refused and not outcome.error
    (path,) = outcome.saved
    assert path.parent == here.folder / "output" / "sub" and is_marked(path)
    with Image.open(path) as written:
        assert written.format == kind.upper() and written.mode == "RGB" and "icc_profile" not in written.info
        seen = np.asarray(written).astype(float)
    before, upright = loaded(case), np.asarray(case.upright().convert("RGB")).astype(float)
    assert seen.shape == before.shape == upright.shape and np.abs(before - upright).mean() < 4
    difference, face = np.abs(seen - before).max(-1), here.masks[0]
    around = maximum_filter(face, 17) if kind == "jpeg" else face  # a block of JPEG
    assert (difference[face] > 12).mean() > 0.8 and 0.1 < face.mean() < 0.6
    assert difference[~around].max() < (12 if kind == "jpeg" else 0.51)
    assert not {b"THE-CAMERA", b"THE-PROGRAM", b"LoadImage"} & set(path.read_bytes().split(b"\0"))


def test_what_was_saved_is_refused_when_it_is_loaded_again(here):
    case = PhotoCase("once.png")
    case.write(here.folder / "input")
    for kind in FORMATS:
        (path,) = here.run(workflow(case.name, kind)).saved
        outcome = here.run(workflow(f"sub/{path.name} [output]", kind))
        assert f"{path.name!r} is protected already" in outcome.error and not outcome.saved


@pytest.mark.parametrize(
    "node, name, value",
    [
        ("saved", "quality", value) for value in (float("nan"), float("inf"), 0, 101, -1, 10**30, "x", None, [], {})
    ]
    + [("protect", "size", value) for value in (float("nan"), -64, 10**9, "big", None, 63)]
    + [("protect", name, "../x") for name in ("preset", "way", "judge", "goal", "which", "on_failure")]
    + [("protect", "judge", value) for value in ("", None, 3, "dlib_resnet.pth", "/etc/passwd")]
    + [("saved", "format", value) for value in ("tiff", "../png", "PNG", None, 0)]
    + [("saved", "filename_prefix", value) for value in ("../x", "/tmp/x", "a\0b", "..", "\ud800", "x" * 300)]
    + [("photo", "image", value) for value in ("../once.png", "/etc/passwd", "", "a\0.png", "x" * 5000, None, 3, [])],
)  # fmt: skip
def test_no_odd_value_writes_a_file_or_ends_without_words(here, node, name, value):
    PhotoCase("once.png").write(here.folder / "input")
    prompt = workflow("once.png", "png")
    prompt[node]["inputs"][name] = value
    outcome = here.run(prompt)
    assert (outcome.refused or outcome.error) and not outcome.saved
    assert node != "saved" or outcome.refused or "How to fix: " in outcome.error
    assert node != "saved" or str(here.folder) not in outcome.error
    assert not list(here.folder.parent.glob("x*")) and not list(here.folder.glob("x*"))


@pytest.mark.parametrize(
    "numbers", ["", "nan", "-1", "99999999999999999999", "0,0,0", "1e3", "../0", "0;0", "٣", "x" * 9999]
)
def test_numbers_of_faces_are_numbers_of_faces_that_are_there(here, numbers):
    PhotoCase("once.png").write(here.folder / "input")
    prompt = workflow("once.png", "png")
    prompt["protect"]["inputs"] |= {"which": "numbered", "numbers": numbers}
    outcome = here.run(prompt)
    fine = numbers in ("0,0,0",)
    assert bool(outcome.saved) == fine and ("How to fix: " in outcome.error) != fine

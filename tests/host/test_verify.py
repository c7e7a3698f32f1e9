"""Verify Protection and Verify Robustness on a real server: who was in the loss is known, and nothing is flattered."""

import json

import numpy as np
import pytest
import skimage.data
import torch

import graphs
from faceprotect_core.surrogates.networks.mobile_facenet import MobileFaceNet
from graphs import Prompt, added, changed, demo, node, pipeline, protect_photo

FILE = "unseen.pth"
PROCESSINGS = ("jpeg 50", "median 3x3", "screenshot", "vae", "ddim")


@pytest.fixture(scope="module", autouse=True)
def files(comfyui):
    """A portrait, the same with alpha, in grey, noise, and a recogniser with random weights."""
    graphs.put_photos(comfyui)
    portrait = skimage.data.astronaut()[:300, 80:400]
    comfyui.upload_image(portrait, "portrait.png")
    comfyui.upload_image(np.dstack([portrait, np.full(portrait.shape[:2], 90, np.uint8)]), "alpha.png")
    comfyui.upload_image(np.random.default_rng(0).integers(0, 256, portrait.shape, np.uint8), "noise.png")
    folder = comfyui.models_dir / "face_recognition"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    torch.save(MobileFaceNet().state_dict(), folder / FILE)
    yield
    (folder / FILE).unlink()


def verify(original: list, protected: list, kind: str = "FaceProtectVerify", **inputs) -> Prompt:
    """The node and what it gives out; its inputs as they are named in API format."""
    return {
        "verify": node(kind, original=original, protected=protected, **inputs),
        "picture": node("PreviewImage", images=["verify", 0]),
        "verdict": node("PreviewAny", source=["verify", 1]),
        "table": node("PreviewAny", source=["verify", 2]),
        "json": node("PreviewAny", source=["verify", 3]),
    }


def photo(name: str = "portrait.png", **more: str) -> Prompt:
    return {key: node("LoadImage", image=file) for key, file in ({"photo": name} | more).items()}


def text(result, at: str) -> str:
    return result.outputs[at]["text"][0]


def found(result) -> list[dict]:
    return json.loads(text(result, "json"))["photos"]


def asked(result) -> dict[str, dict]:
    """What each recogniser says about the only face of the only photo."""
    ((face,),) = (one["faces"] for one in found(result))
    return {one["recogniser"]: one for one in face["recognisers"]}


TWO = {"recognizers.recognizer0": ["surrogate", 0], "recognizers.recognizer1": ["unseen", 0]}
LOADERS = {
    "surrogate": node("FaceProtectLoadSurrogate", surrogate="dlib_resnet"),
    "unseen": node("FaceProtectLoadSurrogate", surrogate=FILE),
}


def test_through_the_optimizer_a_recogniser_in_the_loss_is_marked_and_is_no_evidence(comfyui):
    """dlib_resnet is loaded a second time for the check: it is known again by its weights."""
    again = {"again": node("FaceProtectLoadSurrogate", surrogate="dlib_resnet", threshold=0.5)}
    recognizers = TWO | {"recognizers.recognizer0": ["again", 0], "seen": ["objective", 0]}
    prompt = added(pipeline(), **LOADERS, **again, **verify(["photo", 0], ["optimizer", 0], **recognizers))
    result = comfyui.run(changed(prompt, optimizer={"iterations": 6})).check()
    seen = {name: (one["seen"], one["counts"]) for name, one in asked(result).items()}
    assert seen == {"dlib_resnet": (True, False), "unseen": (False, True)}
    assert found(result)[0]["protected"] is False  # six iterations protect nobody
    assert "STILL MATCHES: unseen" in text(result, "verdict") and "| 0 | unseen | similarity |" in text(result, "table")
    ((face,),) = (one["faces"] for one in found(result))
    assert face["change"]["visible"] in ("hardly visible", "visible when compared", "clearly visible")
    assert f"| 0 | {face['change']['visible']} | {face['change']['ciede2000']:.1f} |" in text(result, "table")
    assert result.outputs["verify"]["text"] == [text(result, "verdict")]
    picture = comfyui.image(result.images("picture")[0])
    assert picture.shape[1] == 1200 and picture.std() > 20


def test_protect_photo_says_what_it_saw(comfyui):
    """And without that, nothing counts."""
    prompt = photo() | protect_photo(["photo", 0]) | verify(["photo", 0], ["protect", 0], seen=["protect", 3])
    result = comfyui.run(prompt).check()
    assert {name: one["seen"] for name, one in asked(result).items()} == {
        "dlib_resnet": False, "mobilefacenet": True, "faceres": True, "mobileface": True
    }  # fmt: skip
    assert asked(result)["dlib_resnet"]["counts"] and found(result)[0]["protected"] is True
    result = comfyui.run(changed(prompt, verify={"seen": None})).check()
    assert asked(result)["dlib_resnet"]["seen"] is None and found(result)[0]["protected"] is None
    assert "it is not known which of them were used to make this" in text(result, "verdict")


def test_a_workflow_of_protect_photo_that_was_saved_before_it_had_this_output_still_runs(comfyui):
    prompt = photo() | protect_photo(["photo", 0])
    assert all(value != ["protect", 3] for one in prompt.values() for value in one["inputs"].values())
    assert comfyui.run(prompt).check().images("result")


def test_robustness_through_the_optimizer_with_purification(comfyui):
    links = {"vae": ["model", 1], "model": ["model", 0], "conditioning": ["model", 2], "seen": ["objective", 0]}
    check = verify(["photo", 0], ["optimizer", 0], "FaceProtectVerifyRobustness", **TWO, **links)
    result = comfyui.run(added(pipeline(), **LOADERS, **check)).check()
    (report,) = found(result)
    assert set(PROCESSINGS) < set(report["processed"]) and "none" not in report["processed"]
    for face in (one for faces in report["processed"].values() for one in faces):
        assert [one["seen"] for one in face["recognisers"]] == [True, False]
    rows = text(result, "table").splitlines()
    assert rows[2].startswith("| unprocessed |") and rows[-1].startswith("| ddim |")
    assert comfyui.image(result.images("picture")[0]).shape[1] == 1200
    assert max(event["value"] for event in result.progress if event["node"] == "verify") == len(report["processed"])


def test_a_vae_is_enough_for_the_round_trip(comfyui):
    check = verify(["photo", 0], ["photo", 0], "FaceProtectVerifyRobustness", vae=["model", 1])
    result = comfyui.run(photo() | demo().nodes | check).check()
    assert list(found(result)[0]["processed"])[-1] == "vae"
    assert "nothing was changed" in text(result, "verdict")


def test_a_batch_with_alpha_is_as_many_single_photos(comfyui):
    batch = {"batch": node("ImageBatch", image1=["photo", 0], image2=["photo", 0])}
    brighter = {"brighter": node("ImageBlend", image1=["photo", 0], image2=["photo", 0], blend_factor=0.1,
                                 blend_mode="screen")}  # fmt: skip
    both = {"both": node("ImageBatch", image1=["brighter", 0], image2=["photo", 0])}
    prompt = photo("alpha.png") | batch | brighter | both | verify(["batch", 0], ["both", 0], other=["photo", 0])
    result = comfyui.run(prompt).check()
    changed_photo, same = found(result)
    assert (changed_photo["unchanged"], same["unchanged"]) == (False, True)
    assert (changed_photo["against"], changed_photo["protected"]) == ("another photo", False)
    assert text(result, "verdict").startswith("Photo 1: ") and "Photo 2: NOT PROTECTED" in text(result, "verdict")
    assert len(result.images("picture")) == 2


REFUSED = {
    "no face in the original": (
        photo("noise.png") | verify(["photo", 0], ["photo", 0]), "photo 1 of 1", "no face found in the original of 320"
    ),
    "no face in the other photo": (
        photo(other="noise.png") | verify(["photo", 0], ["photo", 0], other=["other", 0]), "photo 1 of 1",
        "no face found in the other photo",
    ),
    "another size": (
        photo(other="face_256.png") | verify(["photo", 0], ["other", 0]), "320 x 300", "256 x 256"
    ),
    "another number": (
        photo() | {"two": node("ImageBatch", image1=["photo", 0], image2=["photo", 0])}
        | verify(["two", 0], ["photo", 0]),
        "1 protected photos are connected, and 2 originals", "",
    ),
    "one recogniser twice": (
        photo() | LOADERS | verify(["photo", 0], ["photo", 0], **TWO | {"recognizers.recognizer1": ["surrogate", 0]}),
        "the same network, which would count twice", "",
    ),
    "a model without a vae": (
        photo() | demo().nodes | verify(
            ["photo", 0], ["photo", 0], "FaceProtectVerifyRobustness", model=["model", 0], conditioning=["model", 2]
        ),
        "a model is connected, and no vae", "",
    ),
    "a model without conditioning": (
        photo() | demo().nodes | verify(
            ["photo", 0], ["photo", 0], "FaceProtectVerifyRobustness", model=["model", 0], vae=["model", 1]
        ),
        "model is connected alone", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_a_reason_and_a_remedy(comfyui, case):
    prompt, *says = REFUSED[case]
    result = comfyui.run(prompt)
    assert (result.status, result.error["node_id"]) == ("error", "verify")
    for part in (*says, "Verify ", "How to fix: "):
        assert part in result.error_message
    assert result.images("picture") == []


def test_the_frontend_may_connect_an_objective_or_what_protect_photo_saw(comfyui):
    kind, _ = comfyui.object_info()["FaceProtectVerify"]["input"]["optional"]["seen"]
    assert kind == "FACEPROTECT_OBJECTIVE,FACEPROTECT_SEEN"

"""Several recognisers from files on a real server, with every option of the ensemble."""

import json

import numpy as np
import pytest
import torch

import graphs
from comfyui import PACK
from demo import upload_portrait
from faceprotect_core.surrogates.networks.mobile_facenet import MobileFaceNet
from graphs import Prompt, added, changed, node, pipeline

EVERYTHING = {"jitter": 2, "jitter_seed": 7, "steepness": 6.0, "weights": "1, 2, 0.5", "stop_at_margin": True}


@pytest.fixture(scope="module")
def files(comfyui):
    """Recognisers with random weights: what is in a file counts, not what it is called."""
    names = ("irse50.pth", "ir152.pth", "facenet.pth")
    folder = comfyui.models_dir / "face_recognition"
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        torch.save(MobileFaceNet().state_dict(), folder / name)
    graphs.put_photos(comfyui)
    yield names
    for name in names:
        (folder / name).unlink()


def ensemble(files, **objective) -> Prompt:
    """The small pipeline with a built-in recogniser and two files."""
    loaders = {name: node("FaceProtectLoadSurrogate", surrogate=file) for name, file in zip("ab", files, strict=False)}
    sockets = {f"surrogates.surrogate{index}": [name, 0] for index, name in enumerate(("surrogate", *loaders))}
    return changed(added(pipeline(), **loaders), objective=sockets | objective)


def history(result) -> dict:
    return json.loads(result.outputs["history"]["text"][0])


def test_every_option_runs_and_each_recogniser_is_reported(comfyui, files):
    result = comfyui.run(ensemble(files, **EVERYTHING)).check()
    assert list(history(result)["surrogates"]) == ["1. dlib_resnet", "2. irse50", "3. ir152"]
    assert result.images("result")


def test_the_same_run_again_gives_the_same_picture_and_another_seed_another(comfyui, files):
    def picture(seed: int):
        result = comfyui.run(ensemble(files, **EVERYTHING | {"jitter_seed": seed})).check()
        assert "optimizer" in result.executed
        return comfyui.image(result.images("result")[0])

    first = picture(1)
    picture(2)
    comfyui.free()
    again = picture(1)
    other = picture(3)
    assert (first == again).all() and (first != other).any()


def test_the_photo_keeps_its_colours_where_that_is_wanted(comfyui, files):
    def change(keep: bool):
        prompt = changed(pipeline(), optimizer={"keep_colours": keep, "iterations": 5, "learning_rate": 0.05})
        return comfyui.image(comfyui.run(prompt).check().images("result")[0]).astype(int) - photo

    photo = comfyui.image({"filename": graphs.PHOTO, "type": "input"}).astype(int)[..., :3]
    unclipped = (photo.min(2) > 60) & (photo.max(2) < 195)
    coloured, lightness = change(False)[unclipped], change(True)[unclipped]
    assert np.ptp(coloured, axis=-1).max() > 2
    assert np.ptp(lightness, axis=-1).max() <= 1 and (lightness != 0).any()  # equal but for rounding


def test_it_stops_early_once_every_recogniser_is_past_the_margin(comfyui, files):
    """A random network is past a threshold of 0.9999 after a few steps."""
    strict = {"surrogate": files[0], "threshold": 0.9999}
    quick = {"iterations": 40, "early_stop": True, "learning_rate": 0.05}
    prompt = changed(pipeline(), surrogate=strict, objective={"stop_at_margin": True, "margin": 0}, optimizer=quick)
    assert len(history(comfyui.run(prompt).check())["identity"]) < 40


def test_several_photos_of_a_target_are_one_person(comfyui, files):
    both = node("ImageBatch", image1=["photo", 0], image2=["photo", 0])
    options = {"mode": "both", "target": ["both", 0], "average_targets": True}
    result = comfyui.run(changed(added(pipeline(), both=both), objective=options)).check()
    found = history(result)["surrogates"]["1. dlib_resnet"]
    assert len(found["target"]) == 1


@pytest.mark.parametrize(
    ("objective", "optimizer", "block", "says"),
    [
        ({"weights": "1, two"}, {}, "objective", "'1, two' are not all numbers"),
        ({"weights": "1, 1"}, {}, "objective", "[1.0, 1.0], for 3 surrogates"),
        ({"framing": "box", "faces": None, "jitter": 1}, {}, "objective", "with framing 'box' nothing is aligned"),
        ({"steepness": 6.0}, {}, "objective", "without stop_at_margin pushing has nowhere"),
        ({"stop_at_margin": False}, {"early_stop": True}, "optimizer", "there is no margin"),
        ({}, {"keep_colours": True, "output": "published", "mask": None}, "optimizer", "keep_colours works with"),
    ],
    ids=[
        "weights that are no numbers",
        "too few weights",
        "jitter of no alignment",
        "steepness without a margin",
        "nothing that could be reached",
        "colours of the published output",
    ],
)
def test_it_is_refused_with_a_reason_and_a_remedy(comfyui, files, objective, optimizer, block, says):
    result = comfyui.run(changed(ensemble(files, **objective), optimizer=optimizer))
    assert (result.status, result.error["node_id"]) == ("error", block)
    assert says in result.error_message and "How to fix: " in result.error_message


def test_the_workflow_protects_against_three_built_in_recognisers_and_asks_the_fourth(comfyui):
    prompt = json.loads((PACK / "workflows/api/black_box_ensemble.json").read_text(encoding="utf-8"))
    upload_portrait(comfyui, prompt)
    kinds = {one["class_type"]: name for name, one in prompt.items()}
    for kind in ("FaceProtectNullTextLearner", "FaceProtectLatentOptimizer"):
        prompt = changed(prompt, **{kinds[kind]: {"iterations": 1}})
    result = comfyui.run(prompt).check()
    optimizer, verify = (result.outputs[kinds[kind]] for kind in ("FaceProtectLatentOptimizer", "FaceProtectVerify"))
    for name in ("mobilefacenet", "faceres", "mobileface"):
        assert name in optimizer["text"][0]
    assert "dlib_resnet" in verify["text"][0] and "dlib_resnet" not in optimizer["text"][0]


def test_a_workflow_that_was_saved_before_there_were_these_options_still_runs(comfyui):
    """In API format every value is named; the new ones are not there."""
    prompt = pipeline()
    named = {key for one in prompt.values() for key in one["inputs"]}
    assert not {"jitter", "jitter_seed", "steepness", "keep_colours", "early_stop"} & named
    assert comfyui.run(prompt).check().images("result")

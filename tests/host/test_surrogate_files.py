"""Recognisers from files on a real server: every format through the node; what is bad or out of bounds is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import graphs
from comfyui import PromptRejected
from faceprotect_core.surrogates.networks.mobile_facenet import MobileFaceNet
from graphs import Prompt, node, small_pipeline
from onnx_models import write_iresnet_onnx

NODE = "FaceProtectLoadSurrogate"


class RunsCode:
    """Unpickled by plain pickle, it would write the file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return (open, (str(self.canary), "w"))


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: tensor.detach() for name, tensor in MobileFaceNet().state_dict().items()}


def write_legacy(tensors: dict, path: Path) -> None:
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)


def put(writer: Callable, content: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer(content, path)


FORMATS = {
    "face_recognition/mobile_face.safetensors": save_file,
    "face_recognition/mobile_face.pth": torch.save,
    "face_recognition/older/legacy.pt": write_legacy,
    "face_recognition/mobile face.bin": torch.save,
    "facexlib/recognition_small.pth": torch.save,
    "facedetection/recognition_small.pth": torch.save,
}
NO_RECOGNISERS = ("facexlib/detection_Resnet50_Final.pth", "insightface/models/buffalo_l/det_10g.onnx")


@pytest.fixture(scope="module", autouse=True)
def models(comfyui) -> Path:
    graphs.put_photos(comfyui)
    for name, writer in FORMATS.items():
        put(writer, weights(), comfyui.models_dir / name)
    for name in NO_RECOGNISERS:
        put(torch.save, {"a": torch.zeros(1)}, comfyui.models_dir / name)
    return comfyui.models_dir


def listed(comfyui) -> list[str]:
    kind, options = comfyui.object_info(NODE)["input"]["required"]["surrogate"]
    return options["options"] if kind == "COMBO" else kind


def in_list(name: str) -> str:
    return name.removeprefix("face_recognition/")


def loading(name: str, **inputs) -> Prompt:
    return {"surrogate": node(NODE, surrogate=name, **inputs), "result": node("PreviewAny", source=["surrogate", 0])}


def protecting(name: str, iterations: int = 1, **inputs) -> Prompt:
    """A small pipeline, on which the file's network looks."""
    return small_pipeline(graphs.demo(), iterations=iterations) | {"surrogate": node(NODE, surrogate=name, **inputs)}


def shown(result) -> str:
    (text,) = result.check().outputs["surrogate"]["text"]
    return text


def test_the_list_has_the_built_in_one_first_and_every_file(comfyui):
    names = listed(comfyui)
    assert names[0] == "dlib_resnet"
    assert comfyui.object_info(NODE)["input"]["required"]["surrogate"][1]["default"] == "dlib_resnet"
    assert {in_list(name) for name in FORMATS} <= set(names)
    assert not [name for name in names if "detection_Resnet50" in name or "det_10g" in name]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_loaded_and_says_what_it_is(comfyui, name):
    result = comfyui.run(loading(in_list(name)))
    text = shown(result)
    for part in (
        f"MobileFaceNet in {Path(name).name}", "112 x 112", "RGB", "arcface_112", "by similarity", "above 0.302",
        "AMT-GAN release, for its own mobile_face.pth", "Doubtful", "check the licence of your file",
    ):  # fmt: skip
        assert part in text


def test_the_recogniser_of_an_insightface_pack_is_loaded_from_where_it_is(comfyui, models):
    file = models / "insightface/models/antelopev2/glintr100.onnx"
    file.parent.mkdir(parents=True)
    write_iresnet_onnx(file)
    text = shown(comfyui.run(loading("insightface/antelopev2/glintr100.onnx")))
    for part in ("IResNet-18 (fused) in glintr100.onnx", "112 x 112", "arcface_112", "no threshold known", "AuraFace"):
        assert part in text
    file.unlink()


def test_the_optimizer_sees_through_it_and_a_threshold_of_ones_own_decides(comfyui):
    result = comfyui.run(protecting("mobile_face.pth", threshold=0.45))
    assert "above 0.45 (the default 0.45 is the user's own" in shown(result)
    history = result.outputs["history"]["text"][0]
    assert "mobile_face" in history and '"threshold": 0.45' in history
    assert result.images("result")


def test_a_file_that_was_replaced_is_loaded_again(comfyui, models):
    file = models / "face_recognition/replaced.safetensors"
    save_file(weights(0), file)
    prompt = protecting(file.name, iterations=2)  # before the first step every network sees the same face
    first = comfyui.run(prompt).check().outputs["history"]["text"][0]
    assert comfyui.run(prompt).check().executed == []
    save_file(weights(1), file)
    os.utime(file, ns=(1, 10**18))
    again = comfyui.run(prompt).check()
    assert "surrogate" in again.executed and again.outputs["history"]["text"][0] != first


# What is refused


def refused(comfyui, prompt: Prompt, *says: str) -> None:
    result = comfyui.run(prompt)
    assert (result.status, result.error and result.error["node_id"]) == ("error", "surrogate"), result.error_message
    for part in (*says, "How to fix: "):
        assert part in result.error_message
    assert "result" not in result.outputs


def test_a_pickle_that_runs_code_is_refused_and_not_run(comfyui, models, tmp_path):
    canary = tmp_path / "canary"
    for name, legacy in (("evil.pth", False), ("evil_legacy.pt", True)):
        content = {"state_dict": weights(), "optimizer": RunsCode(canary)}
        torch.save(content, models / "face_recognition" / name, _use_new_zipfile_serialization=not legacy)
        assert name in listed(comfyui)
        refused(comfyui, loading(name), name, "wants to run code", "It was NOT run")
        assert not canary.exists()
    assert "weights_only=False" not in comfyui.log()


def test_broken_and_unknown_files_are_refused_with_their_reason(comfyui, models):
    folder = models / "face_recognition"
    data = (folder / "mobile_face.pth").read_bytes()
    (folder / "half.pth").write_bytes(data[: len(data) // 2])
    torch.save({"encoder.weight": torch.zeros(3, 4)}, folder / "unknown.pth")
    torch.save(weights() | {"linear.weight": torch.zeros(1).expand(10**6, 10**6)}, folder / "bomb.pth")
    refused(comfyui, loading("half.pth"), "half.pth", "is no complete .pth weights file")
    refused(comfyui, loading("unknown.pth"), "1 tensors, encoder.weight [3, 4]", "MobileFaceNet")
    refused(comfyui, loading("bomb.pth"), "bomb.pth claims 4000")


def test_a_damaged_file_of_an_insightface_pack_is_refused(comfyui, models):
    file = models / "insightface/models/buffalo_l/w600k_r50.onnx"
    file.write_bytes(bytes(range(255, 0, -1)) * 9)
    assert "insightface/buffalo_l/w600k_r50.onnx" in listed(comfyui)
    refused(comfyui, loading("insightface/buffalo_l/w600k_r50.onnx"), "w600k_r50.onnx")


@pytest.mark.parametrize("name", ["../checkpoints/secret.pth", "sub/../../checkpoints/secret.pth", "{absolute}", ""])
def test_a_name_that_leaves_the_folder_is_refused(comfyui, models, name):
    secret = models / "checkpoints/secret.pth"
    put(torch.save, weights(), secret)
    with pytest.raises(PromptRejected, match="not in list"):
        comfyui.run(loading(name.format(absolute=secret)))


def test_a_link_that_leaves_the_folder_is_not_listed_and_refused(comfyui, models):
    put(torch.save, weights(), models / "checkpoints/secret.pth")
    link = models / "face_recognition/link.pth"
    link.symlink_to(models / "checkpoints/secret.pth")
    assert "link.pth" not in listed(comfyui)
    with pytest.raises(PromptRejected, match="not in list"):
        comfyui.run(loading("link.pth"))
    link.unlink()


def test_a_file_that_vanished_is_no_choice_any_more(comfyui, models):
    file = models / "face_recognition/soon_gone.pth"
    torch.save(weights(), file)
    assert file.name in listed(comfyui)
    file.unlink()
    assert file.name not in listed(comfyui)
    with pytest.raises(PromptRejected, match="not in list"):
        comfyui.run(loading(file.name))

"""What cannot be protected is refused: the error says what, where, which value and how to fix it; nothing comes out."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import graphs
from graphs import Prompt, added, changed, checkpoint, demo, node, pipeline, small_pipeline


@dataclass(frozen=True)
class Refusal:
    """A workflow that must fail: at which node, and what its error says."""

    name: str
    workflow: Callable[..., Prompt]
    block: str
    says: tuple[str, ...]
    checkpoints: tuple[str, ...] = ()  # fixtures that write model files; the workflow gets their names

    def __str__(self) -> str:
        return self.name


def conditioning_of_another_model(name: str) -> Prompt:
    source = replace(checkpoint(name), conditioning=["demo", 2])
    return added(small_pipeline(source), demo=node("FaceProtectLoadDemoModel"))


def conditioning_in_parts() -> Prompt:
    both = node("ConditioningCombine", conditioning_1=["model", 2], conditioning_2=["model", 2])
    return changed(added(pipeline(), both=both), inversion={"conditioning": ["both", 0]})


def latent_of_another_size() -> Prompt:
    half = node("ImageScale", image=["photo", 0], upscale_method="area", width=128, height=128, crop="disabled")
    return changed(added(pipeline(), half=half), latent={"pixels": ["half", 0]})


def photo_of_odd_size() -> Prompt:
    odd = node("ImageScale", image=["photo", 0], upscale_method="area", width=250, height=256, crop="disabled")
    prompt = added(pipeline(), odd=odd)
    links = {"latent": {"pixels": ["odd", 0]}, "faces": {"image": ["odd", 0]}, "objective": {"photo": ["odd", 0]}}
    return changed(prompt, **links, optimizer={"image": ["odd", 0]})


def photo_of_the_optimizer_of_another_size() -> Prompt:
    half = node("ImageScale", image=["photo", 0], upscale_method="area", width=128, height=128, crop="disabled")
    return changed(added(pipeline(), half=half), optimizer={"image": ["half", 0], "mask": None})


def another_lora(name: str, lora: str) -> Prompt:
    patched = checkpoint(name, lora=lora)
    return changed(small_pipeline(patched), null_text={"model": ["checkpoint", 0]})


def another_model(name: str) -> Prompt:
    return changed(
        added(small_pipeline(demo()), other=node("CheckpointLoaderSimple", ckpt_name=name)),
        structure={"model": ["other", 0]},
    )


def another_prediction(name: str) -> Prompt:
    source = checkpoint(name, v_prediction=True)
    return changed(small_pipeline(source), optimizer={"model": ["checkpoint", 0]})


def no_face() -> Prompt:
    return pipeline(photo="noise.png")


def no_face_in_the_loss() -> Prompt:
    prompt = changed(pipeline(photo="noise.png"), objective={"faces": None}, optimizer={"mask": None})
    return {name: one for name, one in prompt.items() if name != "faces"}


def no_face_in_the_target() -> Prompt:
    noise = node("LoadImage", image="noise.png")
    return changed(added(pipeline(), noise=noise), objective={"mode": "impersonate", "target": ["noise", 0]})


def faces_of_another_batch() -> Prompt:
    twice = node("ImageBatch", image1=["photo", 0], image2=["photo", 0])
    return changed(added(pipeline(), twice=twice), faces={"image": ["twice", 0]})


def nan_latent() -> Prompt:
    return changed(added(pipeline(), nan=node("LoadLatent", latent="nan.latent")), inversion={"latent": ["nan", 0]})


def nan_photo() -> Prompt:
    prompt = added(
        small_pipeline(demo()),
        nan=node("LoadLatent", latent="nan.latent"),
        decoded=node("VAEDecode", samples=["nan", 0], vae=["model", 1]),
    )
    return changed(prompt, objective={"photo": ["decoded", 0]})


def nan_photo_for_the_detector() -> Prompt:
    prompt = added(
        pipeline(),
        nan=node("LoadLatent", latent="nan.latent"),
        decoded=node("VAEDecode", samples=["nan", 0], vae=["model", 1]),
    )
    return changed(prompt, faces={"image": ["decoded", 0]})


def mask_of_another_size() -> Prompt:
    mask = node("SolidMask", value=1.0, width=128, height=64)
    return changed(added(pipeline(), small=mask), optimizer={"mask": ["small", 0]})


def latent_of_another_kind() -> Prompt:
    """16 channels, as Stable Diffusion 3's and Flux's have."""
    other = node("EmptySD3LatentImage", width=256, height=256, batch_size=1)
    return changed(added(pipeline(), other=other), inversion={"latent": ["other", 0]})


REFUSALS = [
    Refusal(
        "an inpainting model", conditioning_of_another_model, "inversion",
        ("9 input channels (inpainting", "sd_xl_base_1.0"), ("inpainting_checkpoint",),
    ),
    Refusal("a latent of another kind", latent_of_another_kind, "inversion", ("DDIM Inversion", "[1, 16, 32, 32]")),
    Refusal(
        "a conditioning of another model", conditioning_of_another_model, "inversion",
        ("DDIM Inversion", "64 channels", "768"), ("sd1_checkpoint",),
    ),
    Refusal("a conditioning in parts", conditioning_in_parts, "inversion", ("DDIM Inversion", "2 parts")),
    Refusal("a latent of another size", latent_of_another_size, "optimizer", ("256 x 256", "128 x 128")),
    Refusal("a photo whose sides are no multiples of 8", photo_of_odd_size, "optimizer", ("256 x 250", "256 x 248")),
    Refusal(
        "another photo at the optimizer", photo_of_the_optimizer_of_another_size, "optimizer",
        ("Adversarial Latent Optimizer", "[1, 3, 128, 128]", "[1, 3, 256, 256]"),
    ),
    Refusal("another LoRA", another_lora, "null_text", ("Null-Text", "LoRA"), ("sd1_checkpoint", "sd1_lora")),
    Refusal(
        "another model", another_model, "structure", ("Self-Attention Capture", "another model"), ("sd1_checkpoint",)
    ),
    Refusal(
        "another prediction type", another_prediction, "optimizer",
        ("Adversarial Latent Optimizer", "model sampling"), ("sd2_checkpoint",),
    ),
    Refusal("no face", no_face, "faces", ("Detect Faces", "no face found in image 1 of 1", "256 x 256")),
    Refusal("no face, detected in the loss", no_face_in_the_loss, "objective", ("FR Surrogate Loss", "no face found")),
    Refusal("no face in the target", no_face_in_the_target, "objective", ("(target)", "no face found")),
    Refusal("faces of another batch", faces_of_another_batch, "objective", ("faces of 2 images", "photo has 1")),
    Refusal("NaN in the latent", nan_latent, "inversion", ("DDIM Inversion", "NaN")),
    Refusal("NaN in the photo", nan_photo, "objective", ("FR Surrogate Loss", "NaN")),
    Refusal("NaN before the detector", nan_photo_for_the_detector, "faces", ("detect_faces", "nan at channel 0")),
    Refusal(
        "nobody to impersonate", lambda: changed(pipeline(), objective={"mode": "impersonate"}), "objective",
        ("FR Surrogate Loss", "'impersonate'", "no target"),
    ),
    Refusal(
        "output detail without the photo", lambda: changed(pipeline(), optimizer={"image": None, "mask": None}),
        "optimizer", ("Adversarial Latent Optimizer", '"detail"', "no image is connected"),
    ),
    Refusal("a mask of another size", mask_of_another_size, "optimizer", ("mask", "64 x 128", "256 x 256")),
    Refusal(
        "a mask with output published", lambda: changed(pipeline(), optimizer={"output": "published"}), "optimizer",
        ("Adversarial Latent Optimizer", "mask", "'published'"),
    ),
    Refusal(
        "more steps than there are", lambda: changed(pipeline(), inversion={"depth": 21}), "inversion",
        ("DDIM Inversion", "1 to 20", "21"),
    ),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def inputs(comfyui):
    graphs.put_photos(comfyui)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    comfyui.upload_image(noise, "noise.png")
    nan = {"latent_tensor": torch.full((1, 4, 32, 32), torch.nan), "latent_format_version_0": torch.zeros(0)}
    save_file(nan, comfyui.base_dir / "input" / "nan.latent")


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_it_is_refused_with_a_reason_and_a_remedy(comfyui, request, refusal):
    names = [request.getfixturevalue(fixture) for fixture in refusal.checkpoints]
    result = comfyui.run(refusal.workflow(*names))
    assert (result.status, result.error and result.error["node_id"]) == ("error", refusal.block), result.error_message
    for part in (*refusal.says, "How to fix: "):
        assert part in result.error_message
    assert result.images("result") == []


def test_after_a_refusal_the_next_run_works(comfyui):
    assert comfyui.run(no_face()).status == "error"
    assert comfyui.run(pipeline()).check().images("result")

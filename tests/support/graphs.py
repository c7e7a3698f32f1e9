"""Workflows in API format for the host tests: the whole pipeline, on the demo model or on a checkpoint.

    prompt = pipeline()                                             # demo model, few iterations
    prompt = pipeline(checkpoint("sd1.safetensors", lora="..."))
    longer = changed(prompt, optimizer={"iterations": 100})         # a copy; None disconnects an input

Node ids are the blocks' names, so that a test reads `result.executed == ["optimizer", "result"]`.
"""

import copy
from dataclasses import dataclass

from skimage.transform import resize

from demo import portrait

Prompt = dict[str, dict]
Link = list

PHOTO = "face_256.png"
SIZES = (64, 128, 256)  # put_photos() puts a face_SIZE.png of each into ComfyUI's input folder
LONG_BLOCKS = ("inversion", "null_text", "structure", "optimizer")
BLOCKS = (*LONG_BLOCKS, "surrogate", "faces", "objective")


@dataclass(frozen=True)
class Source:
    """The nodes that load a diffusion model, and where its parts come out."""

    nodes: Prompt
    model: Link
    vae: Link
    conditioning: Link


def put_photos(server) -> None:
    """A portrait with one face, in all sizes."""
    for size in SIZES:
        server.upload_image(resize(portrait(), (size, size), anti_aliasing=True), f"face_{size}.png")


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def demo() -> Source:
    return Source({"model": node("FaceProtectLoadDemoModel")}, ["model", 0], ["model", 1], ["model", 2])


def checkpoint(name: str, lora: str | None = None, strength: float = 1.0, v_prediction: bool = False) -> Source:
    """A checkpoint, the empty prompt, and what is patched onto the model."""
    nodes = {"checkpoint": node("CheckpointLoaderSimple", ckpt_name=name)}
    nodes["empty_prompt"] = node("CLIPTextEncode", text="", clip=["checkpoint", 1])
    model = ["checkpoint", 0]
    if lora:
        nodes["lora"] = node("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=strength)
        model = ["lora", 0]
    if v_prediction:
        nodes["sampling"] = node("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=False)
        model = ["sampling", 0]
    return Source(nodes, model, ["checkpoint", 2], ["empty_prompt", 0])


def performance(source: Source, precision: str = "as loaded", memory: str = "automatic", **more) -> Source:
    """With Performance Settings behind the loaders."""
    settings = node(
        "FaceProtectPerformance", model=source.model, vae=source.vae, precision=precision, memory=memory, **more
    )
    return Source(source.nodes | {"performance": settings}, ["performance", 0], ["performance", 1], source.conditioning)


def pipeline(source: Source | None = None, photo: str = PHOTO) -> Prompt:
    """All five blocks from photo to PreviewImage; dodging with output "detail", masked, 2 iterations each."""
    source = source or demo()
    prompt = copy.deepcopy(source.nodes)
    prompt["photo"] = node("LoadImage", image=photo)
    prompt["latent"] = node("VAEEncode", pixels=["photo", 0], vae=source.vae)
    prompt["inversion"] = _inversion(source)
    prompt["null_text"] = node(
        "FaceProtectNullTextLearner",
        model=source.model, trajectory=["inversion", 0], iterations=2, learning_rate=0.1,
    )  # fmt: skip
    prompt["structure"] = node(
        "FaceProtectSelfAttentionCapture", model=source.model, trajectory=["inversion", 0], null_text=["null_text", 0]
    )
    prompt["surrogate"] = node("FaceProtectLoadSurrogate", surrogate="dlib_resnet")
    prompt["faces"] = node("FaceProtectDetectFaces", image=["photo", 0], threshold=0.0, mask_scale=1.0, min_face=80)
    prompt["objective"] = _objective()
    prompt["optimizer"] = _optimizer(source)
    prompt["result"] = node("PreviewImage", images=["optimizer", 0])
    prompt["history"] = node("PreviewAny", source=["optimizer", 2])
    return prompt


def small_pipeline(source: Source, size: int = 64, **optimizer) -> Prompt:
    """The same on fewer pixels than a face is found in: the surrogate sees the whole image, and there is no mask."""
    prompt = pipeline(source, f"face_{size}.png")
    del prompt["faces"]
    prompt = changed(prompt, objective={"framing": "whole image", "faces": None})
    return changed(prompt, optimizer={"mask": None} | optimizer)


def _inversion(source: Source) -> dict:
    steps = {"depth": 3, "pairing": "published", "num_inference_steps": 20, "steps_offset": 1}
    links = {"model": source.model, "conditioning": source.conditioning, "latent": ["latent", 0]}
    return node("FaceProtectDDIMInversion", **links, **steps)


def _objective() -> dict:
    links = {"surrogates.surrogate0": ["surrogate", 0], "photo": ["photo", 0], "faces": ["faces", 0]}
    widgets = {"mode": "dodge", "framing": "aligned", "reduction": "sum", "stop_at_margin": False, "margin": 0.1}
    return node("FaceProtectFRSurrogateLoss", **links, **widgets)


def _optimizer(source: Source) -> dict:
    links = {"model": source.model, "vae": source.vae, "trajectory": ["inversion", 0], "null_text": ["null_text", 0]}
    links |= {"objective": ["objective", 0], "structure": ["structure", 0], "image": ["photo", 0], "mask": ["faces", 2]}
    widgets = {"iterations": 2, "output": "detail", "learning_rate": 0.01, "objective_weight": 0.003}
    return node("FaceProtectLatentOptimizer", **links, **widgets, fidelity_weight=0.0)


def crop_and_paste(photo: Link, crops: Link | None = None, strength: float = 1.0, **crop) -> Prompt:
    """Crop Face and Paste Face Back; crops None pastes the crops back as they were cut."""
    widgets = {"size": 256, "which": "all", "numbers": "0", "crop_scale": 1.0, "upright": True, "mask_scale": 1.0}
    return {
        "crop": node("FaceProtectCropFace", image=photo, **widgets | crop),
        "paste": node(
            "FaceProtectPasteFace", image=photo, crop=["crop", 1], crops=crops or ["crop", 0], strength=strength
        ),
        "result": node("PreviewImage", images=["paste", 0]),
    }


def protect_photo(photo: Link, source: Source | None = None, **inputs) -> Prompt:
    """Protect Photo with the preset fast, and what it gives out: by light and shade, or by a source's model."""
    links = {"image": photo}
    if source:
        links |= {"model": source.model, "vae": source.vae, "conditioning": source.conditioning}
    widgets = {"preset": "fast", "way": "automatic", "judge": "dlib_resnet", "goal": "dodge", "size": 256}
    widgets |= {"which": "all", "numbers": "0", "on_failure": "stop"}
    return copy.deepcopy(source.nodes if source else {}) | {
        "protect": node("FaceProtectProtectPhoto", **links, **widgets | inputs),
        "result": node("PreviewImage", images=["protect", 0]),
        "mask": node("MaskToImage", mask=["protect", 1]),
        "mask_image": node("PreviewImage", images=["mask", 0]),
        "report": node("PreviewAny", source=["protect", 2]),
    }


def sampled(source: Source, size: int = 64) -> Prompt:
    """An ordinary picture from the same loader: KSampler, 3 steps, no node of ours."""
    prompt = copy.deepcopy(source.nodes)
    prompt["noise"] = node("EmptyLatentImage", width=size, height=size, batch_size=1)
    prompt["sampler"] = node(
        "KSampler",
        model=source.model, positive=source.conditioning, negative=source.conditioning, latent_image=["noise", 0],
        seed=1, steps=3, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    prompt["decoded"] = node("VAEDecode", samples=["sampler", 0], vae=source.vae)
    prompt["result"] = node("PreviewImage", images=["decoded", 0])
    return prompt


def changed(prompt: Prompt, **inputs_of: dict) -> Prompt:
    """A copy with other inputs: changed(prompt, optimizer={"iterations": 5, "mask": None}); None: no input."""
    copied = copy.deepcopy(prompt)
    for name, inputs in inputs_of.items():
        kept = copied[name]["inputs"] | inputs
        copied[name]["inputs"] = {key: value for key, value in kept.items() if value is not None}
    return copied


def added(prompt: Prompt, **nodes: dict) -> Prompt:
    return copy.deepcopy(prompt) | nodes

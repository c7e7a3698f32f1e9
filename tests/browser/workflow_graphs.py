"""The workflows that the pack ships, described in Python; export_workflows.py builds them in the real frontend.

Blocks stand left to right, in the order of the paper's figure; inside a block, columns of nodes.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import workflow_parts as parts
from faceprotect_core.demo.settings import DEMO, DEMO_MARGIN
from faceprotect_core.method.peers.makeup import for_makeup
from faceprotect_core.method.protect import PAPER
from faceprotect_core.photos.settings import BUILT_IN_SURROGATES, DIFFUSION, PRESETS, WEIGHTS
from workflow_canvas import App, Block, Node, Workflow
from workflow_models import SD2_BASE, SDXL_BASE
from workflow_notes import (
    APP_NOTE,
    BASELINE_NOTE,
    DEMO_NOTE,
    ENSEMBLE_NOTE,
    FOLDER_NOTE,
    IMPERSONATION_NOTE,
    LIGHT_MARGIN,
    LIGHT_NOTE,
    MAKEUP_NOTE,
    OBFUSCATION_NOTE,
    PHOTO_NOTE,
    SDXL_NOTE,
    VERIFY_NOTE,
    WHOLE_NOTE,
)

PORTRAIT, TARGET, MAKEUP = "faceprotect_portrait.png", "faceprotect_target.png", "faceprotect_makeup.png"
PHOTO, PHOTO_FOLDER = "faceprotect_photo.png", "faceprotect_photos"  # a whole photo; a folder of them in the input
BLUE, GREEN, PURPLE, RED, ORANGE = "#3f789e", "#6d9a4a", "#8a5fb0", "#a1484c", "#b58b2a"
# What helps against recognisers that were not asked, in FR Surrogate Loss.
BLACK_BOX = {"jitter": 1, "steepness": 6.0, "stop_at_margin": True}
# Of mobilefacenet, faceres and mobileface, as Protect Photo has them.
PRODUCT_WEIGHTS = ", ".join(f"{WEIGHTS[name]:g}" for name in BUILT_IN_SURROGATES)


def demo() -> Workflow:
    """The blocks on a portrait, without any download, and Light and Shade beside them, from one loss."""
    flow, canvas, loss, faces, square, _ = _demo("demo", DEMO_NOTE)
    light = flow.node(
        "FaceProtectLightAndShade", size=(290, 0), image=square["IMAGE"], objective=loss["objective"],
        mask=faces["mask"], least_change=True,
    )  # fmt: skip
    after = flow.node("PreviewImage", "After, by light and shade", size=(290, 310), images=light["image"])
    flow.canvas = [*canvas, [Block("The other way, without a diffusion model", ORANGE, [[light, after]])]]
    return flow


def black_box_ensemble() -> Workflow:
    """The demo against three recognisers of different kinds, and what a fourth says that was not among them."""
    flow, canvas, loss, faces, square, protected = _demo("black_box_ensemble", ENSEMBLE_NOTE)
    checked = parts.asked(flow, square["IMAGE"], protected["image"], loss["objective"], faces["faces"])
    flow.canvas = [*canvas, [Block("5  Did it work?", GREEN, [checked])]]
    return flow


def light_and_shade() -> Workflow:
    """A photo of any size without any diffusion model."""
    flow = Workflow("light_and_shade")
    note = flow.node("MarkdownNote", "Read me first", size=(400, 860), text=LIGHT_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(285, 400), image=PHOTO)
    found = flow.node("FaceProtectDetectFaces", size=(285, 0), image=photo["IMAGE"])
    crop = flow.node("FaceProtectCropFace", size=(285, 0), image=photo["IMAGE"], faces=found["faces"])
    surrogates, sockets = parts.built_in_surrogates(flow)
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(290, 0), photo=crop["crops"], faces=crop["faces"], mode="dodge",
        framing="aligned", **BLACK_BOX, margin=LIGHT_MARGIN, weights=PRODUCT_WEIGHTS, **sockets,
    )  # fmt: skip
    light = flow.node(
        "FaceProtectLightAndShade", size=(290, 0), image=crop["crops"], objective=loss["objective"], mask=crop["mask"],
        least_change=True,
    )  # fmt: skip
    pasted = flow.node(
        "FaceProtectPasteFace", size=(290, 0), image=photo["IMAGE"], crop=crop["crop"], crops=light["image"]
    )
    checked = parts.asked(flow, photo["IMAGE"], pasted["image"], loss["objective"], found["faces"])
    compare = parts.compare(flow, photo["IMAGE"], pasted["image"])
    save = parts.save(flow, pasted["image"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and face", BLUE, [[photo, found], [crop]])],
        [Block("2  Who must not recognise it", PURPLE, [surrogates, [loss]])],
        [Block("3  Light and shade", RED, [[light, pasted]])],
        [Block("4  Did it work?", GREEN, [checked])],
        [Block("5  Look, and save", GREEN, [[compare, save]])],
    ]
    return flow


def makeup() -> Workflow:
    """The demo, and what it changes pulled towards the makeup of a reference photo."""
    flow, canvas, *_ = _demo("makeup", MAKEUP_NOTE, reference=MAKEUP)
    flow.canvas = canvas
    return flow


def _demo(name: str, text: str, reference: str = "") -> tuple[Workflow, list[list[Block]], Node, Node, Node, Node]:
    """The demo setting against the three built-in recognisers other than the judge.

    reference: a photo with makeup, if the loss should have that, too; then colours change, and nothing is taken back.

    Returns the workflow, where its blocks stand, and of its nodes the loss, the faces, the square photo, the optimizer.
    """
    flow = Workflow(name)
    note = flow.node("MarkdownNote", "Read me first", size=(400, 1060), text=text)
    photo, square = parts.photo(flow, "Your photo", PORTRAIT)
    model = flow.node("FaceProtectLoadDemoModel", size=(270, 0))
    latent = flow.node("VAEEncode", size=(270, 0), pixels=square["IMAGE"], vae=model["vae"])
    settings = for_makeup(DEMO) if reference else DEMO
    kept = parts.keep(flow, model["model"], model["empty_prompt"], latent["LATENT"], settings)
    trajectory, null_text, structure = kept
    faces = flow.node("FaceProtectDetectFaces", size=(285, 0), image=square["IMAGE"])
    surrogates, sockets = parts.built_in_surrogates(flow)
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(290, 0), photo=square["IMAGE"], faces=faces["faces"], mode="dodge",
        framing="aligned", **BLACK_BOX, margin=DEMO_MARGIN, **sockets,
    )  # fmt: skip
    worn = parts.reference(flow, reference, loss, square, faces) if reference else []
    protected = parts.optimizer(
        flow, model["model"], model["vae"], kept, worn[-1] if worn else loss, settings,
        image=square["IMAGE"], mask=faces["mask"], least_change=not reference,
    )  # fmt: skip
    results = parts.results(flow, square, protected)
    aims = Block("3  Who must not recognise it", PURPLE, [surrogates, [faces, loss], *([worn] if worn else [])])
    canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, square, model, latent]])],
        [Block("2  Weaken the purification", GREEN, [[trajectory], [null_text, structure]]), aims],
        [Block("4  Protect", RED, [[protected], results])],
    ]
    return flow, canvas, loss, faces, square, protected


def protect_photo() -> Workflow:
    """One node for a photo of any size."""
    flow = Workflow("protect_photo")
    note = flow.node("MarkdownNote", "Read me first", size=(380, 750), text=PHOTO_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(300, 400), image=PHOTO)
    protected = parts.protect_photo(flow, None, photo["IMAGE"], on_failure="stop")
    return _compared(flow, note, [Block("1  Photo", BLUE, [[photo]])], photo, protected)


def sdxl() -> Workflow:
    """The same node through Stable Diffusion XL."""
    flow = Workflow("sdxl")
    note = flow.node("MarkdownNote", "Read me first", size=(380, 760), text=SDXL_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(300, 400), image=PHOTO)
    model = _checkpoint(flow, SDXL_BASE)
    settings = flow.node(
        "FaceProtectPerformance", size=(290, 0), model=model["MODEL"], vae=model["VAE"], precision="bfloat16"
    )
    empty = flow.node("CLIPTextEncode", "Empty prompt", size=(290, 110), clip=model["CLIP"], text="")
    protected = flow.node(
        "FaceProtectProtectPhoto", size=(300, 900), image=photo["IMAGE"], model=settings["model"], vae=settings["vae"],
        conditioning=empty["CONDITIONING"], preset="fast",
    )  # fmt: skip
    loaders = Block("2  Stable Diffusion XL", BLUE, [[model, settings, empty]])
    return _compared(flow, note, [Block("1  Photo", BLUE, [[photo]]), loaders], photo, protected, number=3)


def _checkpoint(flow: Workflow, model: dict) -> Node:
    return flow.node("CheckpointLoaderSimple", size=(285, 0), properties={"models": [model]}, ckpt_name=model["name"])


def _compared(
    flow: Workflow, note: Node, before: list[Block], photo: Node, protected: Node, number: int = 2
) -> Workflow:
    """What Protect Photo gives, beside the photo, and a file of it. number: of the node's block."""
    report = flow.node("PreviewAny", "Did it work?", size=(400, 200), source=protected["report"])
    save = parts.save(flow, protected["image"])
    compare = parts.compare(flow, photo["IMAGE"], save["images"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        before,
        [Block(f"{number}  Protect", RED, [[protected]])],
        [Block(f"{number + 1}  Look, and save", GREEN, [[report, save], [compare]])],
    ]
    return flow


def protect_photo_app() -> Workflow:
    """The same as a form: a photo in; the report, the file and a picture of the verdict out.

    A form shows no error's words, so a photo that fails is left out, and the report says why.
    """
    flow = Workflow("protect_photo_app")
    note = flow.node("MarkdownNote", "Read me first", size=(380, 660), text=APP_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(300, 400), image="")  # the form asks for it
    protected = parts.protect_photo(
        flow, None, photo["IMAGE"], on_failure="leave out", properties={"Execution Message": "Protecting your photo"}
    )
    save = parts.save(flow, protected["image"])
    compare = parts.compare(flow, photo["IMAGE"], save["images"])
    # After the file, so that the form ends with the verdict.
    check, picture = parts.verify(flow, "FaceProtectVerify", photo["IMAGE"], save["images"], protected["seen"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo", BLUE, [[photo]])],
        [Block("2  Protect", RED, [[protected]])],
        [Block("3  Look, and save", GREEN, [[save, compare]])],
        [Block("4  Did it work?", GREEN, [[check, picture]])],
    ]
    flow.app = App(
        inputs=[
            (photo, "image", "Your photo"),
            (protected, "preset", "How strong"),
            (protected, "which", "Which faces"),
        ],
        outputs=[protected, save, picture],
    )
    return flow


def whole_photo() -> Workflow:
    """The blocks on a photo of any size, and Protect Photo beside them: the same settings, with a head start."""
    flow, same = Workflow("whole_photo"), PRESETS[DIFFUSION]["balanced"]
    note = flow.node("MarkdownNote", "Read me first", size=(380, 660), text=WHOLE_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(285, 400), image=PHOTO)
    model = flow.node("FaceProtectLoadDemoModel", size=(285, 0))
    found = flow.node("FaceProtectDetectFaces", size=(285, 0), image=photo["IMAGE"])
    crop = flow.node("FaceProtectCropFace", size=(285, 0), image=photo["IMAGE"], faces=found["faces"], size_=same.size)
    latent = flow.node("VAEEncode", size=(285, 0), pixels=crop["crops"], vae=model["vae"])
    kept = parts.keep(flow, model["model"], model["empty_prompt"], latent["LATENT"], same.diffusion)
    trajectory, null_text, structure = kept
    surrogates, sockets = parts.built_in_surrogates(flow)
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(290, 0), photo=crop["crops"], faces=crop["faces"], mode="dodge",
        framing="aligned", stop_at_margin=True, margin=same.margin, jitter=same.jitter, steepness=same.steepness,
        weights=PRODUCT_WEIGHTS, **sockets,
    )  # fmt: skip
    optimizer = parts.optimizer(
        flow, model["model"], model["vae"], kept, loss, same.diffusion, image=crop["crops"], mask=crop["mask"],
        least_change=True,
    )  # fmt: skip
    pasted = flow.node(
        "FaceProtectPasteFace", size=(290, 0), image=photo["IMAGE"], crop=crop["crop"], crops=optimizer["image"]
    )
    by_blocks = [
        flow.node("PreviewImage", "After, by the blocks", size=(290, 320), images=pasted["image"]),
        parts.compare(flow, photo["IMAGE"], pasted["image"], "Before and after, by the blocks"),
    ]
    one_node = parts.protect_photo(flow, model, photo["IMAGE"], faces=found["faces"], on_failure="leave out")
    save = parts.save(flow, one_node["image"])
    by_one = [
        flow.node("PreviewAny", "Did it work?", size=(400, 200), source=one_node["report"]),
        save,
        parts.compare(flow, photo["IMAGE"], save["images"], "Before and after, by the one node"),
    ]
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, model]]), Block("2  Cut the faces out", BLUE, [[found, crop]])],
        [
            Block("3  Weaken the purification", GREEN, [[latent, trajectory], [null_text, structure]]),
            Block("4  Who must not recognise it", PURPLE, [surrogates, [loss]]),
        ],
        [Block("5  Protect", RED, [[optimizer]])],
        [Block("6  Carry the change back", BLUE, [[pasted, *by_blocks]])],
        [Block("One node for all of it", ORANGE, [[one_node], by_one])],
    ]
    return flow


def verify() -> Workflow:
    """Does it work, and does it last? Protect Photo, and what recognisers say about the result."""
    flow = Workflow("verify")
    note = flow.node("MarkdownNote", "Read me first", size=(400, 720), text=VERIFY_NOTE)
    photo = flow.node("LoadImage", "Your photo", size=(300, 400), image=PHOTO)
    model = flow.node("FaceProtectLoadDemoModel", "To purify with", size=(300, 0))
    protected = parts.protect_photo(flow, None, photo["IMAGE"], on_failure="stop")
    works = parts.verify(flow, "FaceProtectVerify", photo["IMAGE"], protected["image"], protected["seen"])
    lasts = parts.verify_robustness(flow, model, photo["IMAGE"], protected["image"], protected["seen"])
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
    ours = parts.protect_photo(flow, model, photo["IMAGE"], on_failure="stop")
    ours_lasts = parts.verify_robustness(flow, model, photo["IMAGE"], ours["image"], ours["seen"])
    surrogates, sockets = parts.built_in_surrogates(flow)
    found = flow.node("FaceProtectDetectFaces", size=(300, 0), image=photo["IMAGE"])
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(300, 0), photo=photo["IMAGE"], faces=found["faces"], mode="dodge",
        framing="aligned", **sockets,
    )  # fmt: skip
    noise = flow.node(
        "FaceProtectPixelAttack", size=(300, 0), image=photo["IMAGE"], objective=loss["objective"], mask=found["mask"],
        method="pgd",
    )  # fmt: skip
    noise_lasts = parts.verify_robustness(flow, model, photo["IMAGE"], noise["image"], loss["objective"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photo and model", BLUE, [[photo, model]])],
        [Block("2  The latent method", RED, [[ours]])],
        [Block("Does it last?", GREEN, [list(ours_lasts)])],
        [Block("3  Noise on the pixels", PURPLE, [surrogates, [found, loss, noise]])],
        [Block("Does it last?", GREEN, [list(noise_lasts)])],
    ]
    return flow


def batch_folder() -> Workflow:
    """A folder of photos through one node; a photo that fails is left out and reported."""
    flow = Workflow("batch_folder")
    note = flow.node("MarkdownNote", "Read me first", size=(380, 660), text=FOLDER_NOTE)
    photos = flow.node("LoadImageDataSetFromFolder", "Your photos", size=(300, 0), folder=PHOTO_FOLDER)
    protected = parts.protect_photo(flow, None, photos["images"], on_failure="leave out", preset="fast")
    report = flow.node("PreviewAny", "Did it work?", size=(400, 300), source=protected["report"])
    save = parts.save(flow, protected["image"])
    compare = parts.compare(flow, photos["images"], save["images"])
    flow.canvas = [
        [Block("What this is", ORANGE, [[note]])],
        [Block("1  Photos", BLUE, [[photos]])],
        [Block("2  Protect", RED, [[protected]])],
        [Block("3  Look, and save", GREEN, [[report, save], [compare]])],
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
    photo, square = parts.photo(flow, "Photo to protect", PORTRAIT)
    target, target_square = parts.photo(flow, "Target: whom to look like", TARGET)
    model = _checkpoint(flow, SD2_BASE)
    empty = flow.node("CLIPTextEncode", "Empty prompt", size=(290, 110), clip=model["CLIP"], text="")
    latent = flow.node("VAEEncode", size=(290, 0), pixels=square["IMAGE"], vae=model["VAE"])
    kept = parts.keep(flow, model["MODEL"], empty["CONDITIONING"], latent["LATENT"], PAPER)
    trajectory, null_text, structure = kept
    surrogate = flow.node("FaceProtectLoadSurrogate", size=(285, 0), surrogate="dlib_resnet")
    loss = flow.node(
        "FaceProtectFRSurrogateLoss", size=(290, 0), surrogates__surrogate0=surrogate["surrogate"],
        photo=square["IMAGE"], target=target_square["IMAGE"], mode=mode, framing="box",
    )  # fmt: skip
    protected = parts.optimizer(flow, model["MODEL"], model["VAE"], kept, loss, PAPER)
    results = parts.results(flow, square, protected)
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


BUILDERS = (
    protect_photo,
    protect_photo_app,
    verify,
    noise_baseline,
    light_and_shade,
    whole_photo,
    batch_folder,
    demo,
    black_box_ensemble,
    makeup,
    sdxl,
    paper_impersonation,
    paper_obfuscation,
)
WORKFLOWS = {build.__name__: build for build in BUILDERS}

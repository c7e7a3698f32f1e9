"""The groups of nodes that several workflows have; workflow_graphs.py puts them together."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from faceprotect_core.method.protect import Settings
from faceprotect_core.photos.settings import BUILT_IN_JUDGE, BUILT_IN_SURROGATES
from workflow_canvas import Node, Output, Workflow


def photo(flow: Workflow, title: str, file: str) -> tuple[Node, Node]:
    """A picture and its centre at the size that the model works on."""
    photo = flow.node("LoadImage", title, size=(270, 340), image=file)
    square = flow.node(
        "ImageScale", "Crop to 256 x 256", size=(270, 0), image=photo["IMAGE"],
        upscale_method="lanczos", width=256, height=256, crop="center",
    )  # fmt: skip
    return photo, square


def reference(flow: Workflow, file: str, loss: Node, square: Node, faces: Node) -> list[Node]:
    """A photo with makeup, and the node that adds it to a loss."""
    photo = flow.node("LoadImage", "Somebody with makeup", size=(285, 340), image=file)
    added = flow.node(
        "FaceProtectMakeupReference", size=(290, 0), objective=loss["objective"], photo=square["IMAGE"],
        reference=photo["IMAGE"], faces=faces["faces"], weight=60,
    )  # fmt: skip
    return [photo, added]


def built_in_surrogates(flow: Workflow) -> tuple[list[Node], dict[str, Output]]:
    """A loader for each recogniser but the judge, and the sockets that they go into."""
    loaders = [
        flow.node("FaceProtectLoadSurrogate", name, size=(285, 0), surrogate=name) for name in BUILT_IN_SURROGATES
    ]
    return loaders, {f"surrogates__surrogate{index}": one["surrogate"] for index, one in enumerate(loaders)}


def asked(flow: Workflow, original: Output, protected: Output, seen: Output, faces: Output) -> list[Node]:
    """What the recogniser says that was not in the loss: its loader, Verify Protection and the picture."""
    judge = flow.node(
        "FaceProtectLoadSurrogate", f"The judge: {BUILT_IN_JUDGE}", size=(460, 0), surrogate=BUILT_IN_JUDGE
    )
    links = {"faces": faces, "recognizers__recognizer0": judge["surrogate"]}
    return [judge, *verify(flow, "FaceProtectVerify", original, protected, seen, **links)]


def keep(flow, model, conditioning, latent, settings: Settings) -> tuple[Node, Node, Node]:
    """The three blocks that keep the photo: inversion, null-text, self-attention."""
    trajectory = flow.node(
        "FaceProtectDDIMInversion", size=(285, 0), model=model, conditioning=conditioning, latent=latent,
        depth=settings.depth, pairing=settings.pairing,
    )  # fmt: skip
    null_text = flow.node(
        "FaceProtectNullTextLearner", size=(290, 0), model=model, trajectory=trajectory["trajectory"],
        iterations=settings.null_text_iterations, learning_rate=settings.null_text_lr,
    )  # fmt: skip
    structure = flow.node(
        "FaceProtectSelfAttentionCapture", size=(290, 0), model=model, trajectory=trajectory["trajectory"],
        null_text=null_text["null_text"],
    )  # fmt: skip
    return trajectory, null_text, structure


def optimizer(flow, model, vae, kept: tuple[Node, Node, Node], loss, settings: Settings, **inputs) -> Node:
    """kept: what `keep` returns."""
    trajectory, null_text, structure = kept
    return flow.node(
        "FaceProtectLatentOptimizer", size=(290, 760), model=model, vae=vae, trajectory=trajectory["trajectory"],
        null_text=null_text["null_text"], objective=loss["objective"], structure=structure["structure"],
        iterations=settings.iterations, output=settings.output, learning_rate=settings.lr,
        objective_weight=settings.objective_weight, fidelity_weight=settings.fidelity_weight,
        keep_colours=settings.keep_colours, **inputs,
    )  # fmt: skip


def protect_photo(flow: Workflow, model: Node | None, image: Output, **inputs) -> Node:
    """By diffusion with a model, else by light and shade."""
    names = {"model": "model", "vae": "vae", "conditioning": "empty_prompt"}
    links = {} if model is None else {name: model[output] for name, output in names.items()}
    return flow.node("FaceProtectProtectPhoto", size=(300, 900), image=image, **links, **inputs)


def compare(flow: Workflow, before: Output, after: Output, title: str = "Before and after") -> Node:
    """Both pictures under a slider, which the frontend draws with Nodes 2.0 only.

    Frontend 1.58 shows what the nodes show that it is connected to, and their preview rather than their result: after
    Protect Photo connect it to the file that is saved.
    """
    return flow.node("ImageCompare", title, size=(400, 440), image_a=before, image_b=after)


def verify(flow: Workflow, kind: str, original: Output, protected: Output, seen: Output, **inputs) -> tuple[Node, Node]:
    """One of the two verifying nodes and its picture."""
    check = flow.node(kind, size=(460, 290), original=original, protected=protected, seen=seen, **inputs)
    return check, flow.node("PreviewImage", "Report", size=(460, 420), images=check["report"])


def verify_robustness(flow: Workflow, model: Node, *photos: Output) -> tuple[Node, Node]:
    """With purification by the model."""
    links = {"vae": model["vae"], "model": model["model"], "conditioning": model["empty_prompt"]}
    return verify(flow, "FaceProtectVerifyRobustness", *photos, **links)


def save(flow: Workflow, images: Output) -> Node:
    return flow.node("FaceProtectSaveImage", size=(330, 380), images=images)


def results(flow: Workflow, square: Node, protected: Node) -> list[Node]:
    return [
        compare(flow, square["IMAGE"], protected["image"]),
        flow.node("PreviewImage", "After", size=(280, 310), images=protected["image"]),
        flow.node("PreviewAny", "Numbers of the run", size=(280, 280), source=protected["history"]),
    ]

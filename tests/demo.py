"""From a portrait to a protected photo in a real ComfyUI, and the numbers that show it: `make demo`, `make serve`.

Starts ComfyUI without a browser on a free port, with this pack as its only custom node, runs workflows/api/demo.json
on a public-domain portrait, and writes demo_output/protected.png, original.png and report.png.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from comfyui import PACK, ComfyUIServer
from comfyui_run import Result

sys.path.append(str(PACK))  # for faceprotect_core, after the tests' own modules

OUTPUT = PACK / "demo_output"
WORKFLOW = PACK / "workflows/api/demo.json"
PORTRAIT = "faceprotect_portrait.png"
HEAD = (slice(11, 191), slice(132, 312))  # rows, columns: framed as the demo model's training photos are
OPTIMIZER = "FaceProtectLatentOptimizer"
AMPLIFICATION = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="open the same ComfyUI for a browser, and wait")
    parser.add_argument("--device", choices=("cpu", "auto"), default="cpu", help="auto: what ComfyUI chooses")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server is stopped then, too
    try:
        serve(arguments.device) if arguments.serve else demo(arguments.device)
    except KeyboardInterrupt:
        print("\nstopped")


def demo(device: str):
    prompt = json.loads(WORKFLOW.read_text())
    print("ComfyUI is starting ...", flush=True)
    with ComfyUIServer(device=device) as server:
        print(f"ComfyUI runs on {server.url}", flush=True)
        upload_portrait(server, prompt)
        start = time.monotonic()
        result = server.run(prompt, timeout=1800, on_event=ProgressBar(prompt)).check()
        seconds = time.monotonic() - start
        before, after = shown_images(prompt)
        original, protected = (rgb(server.image(result.images(node)[0])) for node in (before, after))
    OUTPUT.mkdir(exist_ok=True)
    save_without_metadata(original, OUTPUT / "original.png")
    save_without_metadata(protected, OUTPUT / "protected.png")
    make_report(original, protected, read_history(result), OUTPUT / "report.png")
    print_table(measure(original, protected), seconds)
    print(f"\nLook at {OUTPUT.name}/report.png, protected.png and original.png.")


def serve(device: str):
    """The same server with the portrait and the workflows in it, until Ctrl+C; pictures are kept in demo_output/."""
    OUTPUT.mkdir(exist_ok=True)
    with ComfyUIServer(device=device, flags=["--output-directory", str(OUTPUT)]) as server:
        server.upload_image(portrait(), PORTRAIT)
        for workflow in (PACK / "workflows").glob("*.json"):
            shutil.copy(workflow, server.base_dir / "user/default/workflows")
        print(f"Open {server.url} and choose a workflow (press W). Ctrl+C stops the server.", flush=True)
        server.process.wait()


def upload_portrait(server: ComfyUIServer, prompt: dict):
    """Puts the portrait where the workflow's LoadImage node looks for it."""
    name = server.upload_image(portrait(), PORTRAIT)
    for node in nodes_of(prompt, "LoadImage").values():
        node["inputs"]["image"] = name


def portrait() -> np.ndarray:
    """NASA's portrait of Eileen Collins, in the public domain: the head, uint8 [180, 180, 3]."""
    return whole_photo()[HEAD]


def whole_photo() -> np.ndarray:
    """All of it: uint8 [512, 512, 3]."""
    return skimage.data.astronaut()


def nodes_of(prompt: dict, *class_types: str) -> dict:
    return {node_id: node for node_id, node in prompt.items() if node["class_type"] in class_types}


def shown_images(prompt: dict) -> tuple[str, str]:
    """The ids of the nodes that show the photo before and after: the latter is fed by the optimizer."""
    shown = nodes_of(prompt, "PreviewImage", "SaveImage")
    after = [one for one, node in shown.items() if prompt[node["inputs"]["images"][0]]["class_type"] == OPTIMIZER]
    before = [one for one in shown if one not in after]
    if not after or not before:
        raise ValueError(
            f"{WORKFLOW.name} shows {len(before)} images before and {len(after)} images after {OPTIMIZER}, and one of "
            "each is needed. How to fix: connect a PreviewImage to the cropped photo and one to the optimizer's image."
        )
    return before[0], after[0]


def read_history(result: Result) -> dict[str, list[float]]:
    """The optimizer's history from the node that shows it as text; per iteration, of the first image."""
    for output in result.outputs.values():
        for text in output.get("text", []):
            if text.lstrip().startswith("{"):
                history = json.loads(text)
                lists = {name: values for name, values in history.items() if isinstance(values, list)}
                return {name: [float(np.ravel(value)[0]) for value in values] for name, values in lists.items()}
    raise ValueError(
        f"{WORKFLOW.name} shows no history. How to fix: connect the optimizer's history to a PreviewAny node."
    )


class ProgressBar:
    """One line per node, with a bar where the node reports its progress."""

    WIDTH = 30

    def __init__(self, prompt: dict):
        self.titles = {one: node.get("_meta", {}).get("title", node["class_type"]) for one, node in prompt.items()}
        self.title = None

    def __call__(self, event: dict):
        data = event["data"]
        if event["type"] == "executing":
            self._end_line()
            self.title = self.titles.get(data["node"])
            self._draw("")
        elif event["type"] == "progress" and sys.stdout.isatty():
            done = round(self.WIDTH * data["value"] / max(data["max"], 1))
            self._draw(f"[{'#' * done}{'.' * (self.WIDTH - done)}] {data['value']}/{data['max']}")

    def _draw(self, bar: str):
        if self.title is not None:
            sys.stdout.write(f"\r  {self.title:<32} {bar}")
            sys.stdout.flush()

    def _end_line(self):
        if self.title is not None:
            sys.stdout.write("\n")


def measure(original: np.ndarray, protected: np.ndarray) -> dict:
    """uint8 [H, W, 3] twice -> what the recogniser and the image measures say about the pair.

    The face is found again in the protected photo, as a stranger would have to.
    """
    from faceprotect_core import load_surrogate
    from faceprotect_core.faces import detect_faces, find_face

    recognizer = load_surrogate("dlib_resnet")
    face = find_face(to_tensor(original))
    found = detect_faces(to_tensor(protected))
    reference = recognizer.embed(to_tensor(original)[None], face)
    changed = recognizer.embed(to_tensor(protected)[None], found[0] if found else face)
    a, b = original / 255, protected / 255
    return {
        "threshold": recognizer.threshold(),
        "before": recognizer.distance(reference, reference).item(),
        "after": recognizer.distance(changed, reference).item(),
        "face_found": bool(found),
        "psnr": peak_signal_noise_ratio(a, b, data_range=1.0),
        "ssim": structural_similarity(a, b, channel_axis=-1, data_range=1.0),
    }


def print_table(numbers: dict, seconds: float):
    threshold = numbers["threshold"]
    verdicts = ["same person" if numbers[when] < threshold else "not the same" for when in ("before", "after")]
    rows = [
        ("", "before", "after"),
        ("distance to the original", f"{numbers['before']:.3f}", f"{numbers['after']:.3f}"),
        (f"verdict at {threshold:.2f}", *verdicts),
        ("face found", "yes", "yes" if numbers["face_found"] else "no"),
        ("PSNR", "", f"{numbers['psnr']:.1f} dB"),
        ("SSIM", "", f"{numbers['ssim']:.3f}"),
        ("seconds", "", f"{seconds:.0f}"),
    ]
    print()
    for row in rows:
        print("  {:<28}{:>14}{:>14}".format(*row))
    print("\nThe built-in recogniser judged, the one that the optimizer worked against: no evidence about others.")


def make_report(original: np.ndarray, protected: np.ndarray, history: dict[str, list[float]], path: Path):
    """Writes the picture: before, after, what changed (amplified around grey), and each curve of the history."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    change = protected / 255 - original / 255
    panels = {
        "before": original,
        "after": protected,
        f"the change, {AMPLIFICATION} times": np.clip(0.5 + AMPLIFICATION * change, 0, 1),
    }
    figure, axes = pyplot.subplots(1, 4, figsize=(17, 4.6), width_ratios=(1, 1, 1, 1.15), layout="constrained")
    for axis, (title, picture) in zip(axes, panels.items(), strict=False):
        axis.imshow(picture, interpolation="lanczos")
        axis.set_title(title)
        axis.axis("off")
    draw_curves(axes[-1], {name: values for name, values in history.items() if values})
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_curves(axis, history: dict[str, list[float]]):
    """One vertical scale for each curve: an identity loss and a structure loss differ by orders of magnitude."""
    axis.set_title("the optimizer's losses")
    axis.set_xlabel("iteration")
    for index, (name, values) in enumerate(history.items()):
        scale = axis if index == 0 else axis.twinx()
        if index > 1:
            scale.spines["right"].set_position(("outward", 55 * (index - 1)))
        scale.plot(range(1, len(values) + 1), values, color=f"C{index}")
        scale.set_ylabel(name, color=f"C{index}")
        scale.tick_params(axis="y", colors=f"C{index}")


def to_tensor(image: np.ndarray):
    """uint8 [H, W, 3] -> float32 [3, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., :3])


def save_without_metadata(image: np.ndarray, path: Path):
    """Pixels only: ComfyUI's own SaveImage writes the prompt and the workflow into the file."""
    Image.fromarray(image).save(path, format="PNG")


if __name__ == "__main__":
    main()

"""From a portrait to a protected photo in a real ComfyUI, and the numbers that show it: `make demo`, `make serve`.

Starts ComfyUI without a browser on a free port, with this pack as its only custom node, runs workflows/api/demo.json
on a public-domain portrait, both ways from one loss, and writes demo_output/diffusion.png, light_and_shade.png,
original.png and report.png.
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

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

from comfyui import PACK, ComfyUIServer

sys.path.append(str(PACK))  # for faceprotect_core, after the tests' own modules

OUTPUT = PACK / "demo_output"
WORKFLOW = PACK / "workflows/api/demo.json"
PORTRAIT, MAKEUP = "faceprotect_portrait.png", "faceprotect_makeup.png"
HEAD = (slice(11, 191), slice(132, 312))  # rows, columns: framed as the demo model's training photos are
WAYS = {"diffusion": "FaceProtectLatentOptimizer", "light and shade": "FaceProtectLightAndShade"}
JUDGE = "dlib_resnet"  # in no loss of the workflow
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
        pictures = {name: rgb(server.image(entry)) for name, entry in shown_images(prompt, result.outputs).items()}
    OUTPUT.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        save_without_metadata(picture, OUTPUT / f"{name.replace(' ', '_')}.png")
    original = pictures.pop("original")
    make_report(original, pictures, OUTPUT / "report.png")
    print_table({name: measure(original, picture) for name, picture in pictures.items()}, seconds)
    print(f"\nLook at {OUTPUT.name}/report.png, {', '.join(one.replace(' ', '_') + '.png' for one in pictures)}.")


def serve(device: str):
    """The same server with the portrait and the workflows in it, until Ctrl+C; pictures are kept in demo_output/."""
    OUTPUT.mkdir(exist_ok=True)
    with ComfyUIServer(device=device, flags=["--output-directory", str(OUTPUT)]) as server:
        server.upload_image(portrait(), PORTRAIT)
        server.upload_image(made_up(), MAKEUP)
        for workflow in (PACK / "workflows").glob("*.json"):
            shutil.copy(workflow, server.base_dir / "user/default/workflows")
        print(f"Open {server.url} and choose a workflow (press W). Ctrl+C stops the server.", flush=True)
        server.process.wait()


def upload_portrait(server: ComfyUIServer, prompt: dict):
    """Puts the portrait, and the reference for makeup, where the workflow's LoadImage nodes look for them."""
    server.upload_image(made_up(), MAKEUP)
    name = server.upload_image(portrait(), PORTRAIT)
    for node in nodes_of(prompt, "LoadImage").values():
        if node["inputs"]["image"] != MAKEUP:
            node["inputs"]["image"] = name


def portrait() -> np.ndarray:
    """NASA's portrait of Eileen Collins, in the public domain: the head, uint8 [180, 180, 3]."""
    return whole_photo()[HEAD]


def made_up() -> np.ndarray:
    """The same with makeup, as it ships; see faceprotect_core/evaluation/painted.py."""
    return np.asarray(Image.open(PACK / "workflows" / MAKEUP))


def whole_photo() -> np.ndarray:
    """All of it: uint8 [512, 512, 3]."""
    return skimage.data.astronaut()


def nodes_of(prompt: dict, *class_types: str) -> dict:
    return {node_id: node for node_id, node in prompt.items() if node["class_type"] in class_types}


def shown_images(prompt: dict, outputs: dict) -> dict[str, dict]:
    """What each picture of a run is -> its entry in the outputs: the photo, from a slider, and each optimizer's."""
    sliders = [one for one, node in nodes_of(prompt, "ImageCompare").items() if "image_a" in node["inputs"]]
    found = {"original": outputs[sliders[0]]["a_images"][0]} if sliders else {}
    shown = nodes_of(prompt, "PreviewImage", "SaveImage")
    made_by = {one: prompt[node["inputs"]["images"][0]]["class_type"] for one, node in shown.items()}
    ways = {optimizer: way for way, optimizer in WAYS.items()}
    found |= {ways[by]: outputs[one]["images"][0] for one, by in made_by.items() if by in ways}
    if len(found) < 2 or not sliders:
        raise ValueError(
            f"The workflow shows {', '.join(found) or 'nothing'}. How to fix: connect Compare Images to the photo, and "
            "a PreviewImage to the image of each optimizer."
        )
    return found


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
    """uint8 [H, W, 3] twice -> the judge's verdict in words, and the image measures.

    The face is found again in the protected photo, as a stranger would have to.
    """
    from faceprotect_core import load_surrogate
    from faceprotect_core.faces import find_face
    from faceprotect_core.photos import words
    from faceprotect_core.verify.verdict import judge_photo

    before, after = to_tensor(original), to_tensor(protected)
    (face,) = judge_photo(before, after, [find_face(before)], [], load_surrogate(JUDGE))
    (score,) = face.scores
    a, b = original / 255, protected / 255
    return {
        "threshold": score.threshold,
        "after": score.after,
        "evidence": face.evidence,
        "face_found": face.found_again,
        "words": words.verdict(face),
        "psnr": peak_signal_noise_ratio(a, b, data_range=1.0),
        "ssim": structural_similarity(a, b, channel_axis=-1, data_range=1.0),
    }


def print_table(ways: dict[str, dict], seconds: float):
    numbers = list(ways.values())
    rows = [
        ("", *ways),
        (f"distance, {JUDGE}", *(f"{one['after']:.3f}" for one in numbers)),
        (f"same person below {numbers[0]['threshold']:.2f}", *("no" if one["evidence"] else "YES" for one in numbers)),
        ("evidence of protection", *("yes" if one["evidence"] else "NO" for one in numbers)),
        ("face found", *("yes" if one["face_found"] else "no" for one in numbers)),
        ("PSNR", *(f"{one['psnr']:.1f} dB" for one in numbers)),
        ("SSIM", *(f"{one['ssim']:.3f}" for one in numbers)),
    ]
    print()
    for row in rows:
        print("  {:<28}{:>18}{:>18}".format(*row))
    for name, one in ways.items():
        print(f"\n{name}: {one['words']}")
    print(f"\n{seconds:.0f} s for both. {JUDGE} was in no loss: what it says is evidence.")


def make_report(original: np.ndarray, ways: dict[str, np.ndarray], path: Path):
    """Writes the picture: before, and for each way after and what changed, amplified around grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {"before": original}
    for name, protected in ways.items():
        change = protected / 255 - original / 255
        panels[name] = protected
        panels[f"{name}: the change, {AMPLIFICATION} times"] = np.clip(0.5 + AMPLIFICATION * change, 0, 1)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 4.4), layout="constrained")
    for axis, (title, picture) in zip(axes, panels.items(), strict=True):
        axis.imshow(picture, interpolation="lanczos")
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


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

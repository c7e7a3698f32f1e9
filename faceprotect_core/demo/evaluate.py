"""How well the demo setting protects, on held-out people, and what each part of the method contributes.

    python -m faceprotect_core.demo.evaluate --images FACES --out results.json [--identities 20] [--variants demo,...]

FACES holds aligned 256x256 photos <identity>_a.jpg and <identity>_b.jpg. Photo a is protected and compared with photo b
of the same person, which the optimiser never sees. Only identities that the demo model was not trained on are used.
The recogniser is the one that the optimiser works against: a white-box number. Resumable: finished photos are kept.
"""

import argparse
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .. import DDIMSchedule, FRSurrogate, IdentityObjective, load_surrogate
from ..attention import SelfAttentionReference, capture_self_attention
from ..evaluation.quality import psnr, ssim
from ..faces import Face, detect_faces, face_mask, find_face, load_detector
from ..inversion import Trajectory, ddim_invert
from ..null_text import learn_null_text
from ..optimizer import optimize_latent
from . import load_demo_model
from .settings import DEMO
from .train import read_images, split_identities

log = logging.getLogger("faceprotect.demo.evaluate")


@dataclass(frozen=True)
class Variant:
    """A change to the demo setting: pairing and learning, then what the optimiser gets."""

    pairing: str = DEMO.pairing
    null_text: bool = True
    structure: bool = True
    mask: bool = True
    margin: float | None = DEMO.margin
    optimizer: dict = field(default_factory=dict)


VARIANTS = {
    "demo": Variant(),
    "no learned embeddings": Variant(null_text=False),
    "no structure loss": Variant(structure=False),
    "pairing published": Variant(pairing="published"),
    "output published": Variant(mask=False, optimizer={"output": "published"}),
    "detail alone": Variant(mask=False, margin=None, optimizer={"fidelity_weight": 0.0}),
    "all as in the paper": Variant(
        pairing="published",
        mask=False,
        margin=None,
        optimizer={"iterations": 35, "lr": 0.01, "fidelity_weight": 0.0, "output": "published"},
    ),
}


@dataclass(eq=False)
class Photo:
    """One identity: photo a with what the method made of it so far, and photo b to compare with."""

    original: Tensor
    other: Tensor
    face: Face
    other_face: Face
    prepared: dict = field(default_factory=dict)


class Evaluation:
    def __init__(self, device: torch.device):
        self.denoiser, self.codec, self.context = load_demo_model()
        self.denoiser.unet.to(device)
        self.codec.vae.to(device)
        self.context = self.context.to(device)
        self.recognizer: FRSurrogate = load_surrogate("dlib_resnet").to(device)
        self.detector = load_detector(device)
        self.device = device

    def photo(self, path_a: Path, path_b: Path) -> Photo:
        original, other = read_images([path_a, path_b]).to(self.device).float().div(255)[:, None]
        faces = find_face(original[0], self.detector), find_face(other[0], self.detector)
        return Photo(original, other, *faces)

    def prepare(self, photo: Photo, variant: Variant) -> tuple[Trajectory, Tensor, SelfAttentionReference]:
        """Inversion, embeddings and structure; shared by the variants that agree on them."""
        key = (variant.pairing, variant.null_text)
        if key not in photo.prepared:
            latent = self.codec.encode(photo.original)
            schedule = DDIMSchedule.scaled_linear()
            trajectory = ddim_invert(self.denoiser, latent, self.context, schedule, DEMO.depth, variant.pairing)
            iterations = DEMO.null_text_iterations if variant.null_text else 0
            embeddings = learn_null_text(self.denoiser, trajectory, self.context, iterations, DEMO.null_text_lr)
            structure = capture_self_attention(self.denoiser, trajectory, embeddings)
            photo.prepared[key] = (trajectory, embeddings, structure)
        return photo.prepared[key]

    def protect(self, photo: Photo, variant: Variant) -> Tensor:
        trajectory, embeddings, structure = self.prepare(photo, variant)
        objective = IdentityObjective(
            [self.recognizer],
            source=photo.original,
            face=photo.face,
            source_face=photo.face,
            margin=variant.margin,
        )
        settings = DEMO.optimizer | variant.optimizer
        detail = settings["output"] == "detail"
        mask = face_mask([photo.face], *photo.original.shape[2:]).to(self.device) if detail and variant.mask else None
        result = optimize_latent(
            self.denoiser,
            self.codec,
            trajectory,
            embeddings,
            objective,
            structure=structure if variant.structure else None,
            image=photo.original if detail else None,
            mask=mask,
            **settings,
        )
        return result.image.mul(255).round().div(255)

    def score(self, photo: Photo, variant: Variant) -> dict[str, float | bool]:
        """Distances to photo b as a stranger would measure them: the face is found again in the saved photo."""
        start = time.perf_counter()
        protected = self.protect(photo, variant)
        seconds = time.perf_counter() - start
        found = detect_faces(protected[0], self.detector)
        reference = self.recognizer.embed(photo.other, photo.other_face)
        trajectory, _, structure = self.prepare(photo, variant)

        def distance(image: Tensor, face: Face) -> float:
            return self.recognizer.distance(self.recognizer.embed(image, face), reference).item()

        return {
            "distance_before": distance(photo.original, photo.face),
            "distance_after": distance(protected, found[0] if found else photo.face),
            "face_found": bool(found),
            "psnr": psnr(photo.original, protected).item(),
            "ssim": ssim(photo.original, protected, "reflect").item(),
            "reconstruction_mse": (structure.latent - trajectory.latents[0]).square().mean().item(),
            "seconds": seconds,
        }


def summarize(results: dict[str, dict[str, dict]], threshold: float = 0.6) -> str:
    """A Markdown table with one row per variant."""
    header = (
        "| variant | photos | distance before | distance after | past the threshold | PSNR | SSIM | latent MSE | s |"
    )
    rows = [header, "|---" * header.count(" |") + "|"]
    for name, photos in results.items():
        if photos:
            values = torch.tensor([[float(p[k]) for k in _COLUMNS] for p in photos.values()], dtype=torch.float64)
            mean = values.mean(0).tolist()
            past = int((values[:, 1] > threshold).sum())
            rows.append(
                f"| {name} | {len(photos)} | {mean[0]:.3f} | {mean[1]:.3f} | {past} of {len(photos)} "
                f"| {mean[2]:.1f} | {mean[3]:.3f} | {mean[4]:.4f} | {mean[5]:.0f} |"
            )
    return "\n".join(rows)


_COLUMNS = ("distance_before", "distance_after", "psnr", "ssim", "reconstruction_mse", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON with every photo's numbers")
    parser.add_argument("--identities", type=int, default=20, help="how many held-out people")
    parser.add_argument("--start", type=int, default=0, help="skip this many of them first (to share the work)")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    names = args.variants.split(",")
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    evaluation = Evaluation(args.device)
    _, held_out = split_identities(args.images)
    pairs = list(zip(held_out[::2], held_out[1::2], strict=True))
    for path_a, path_b in pairs[args.start : args.start + args.identities]:
        photo = evaluation.photo(path_a, path_b)
        for name in names:
            done = results.setdefault(name, {})
            if path_a.stem not in done:
                done[path_a.stem] = evaluation.score(photo, VARIANTS[name])
                args.out.write_text(json.dumps(results, indent=1))
                log.info("%s, %s: %s", path_a.stem, name, {k: round(v, 3) for k, v in done[path_a.stem].items()})
    log.info("%s", summarize(results))


if __name__ == "__main__":
    main()

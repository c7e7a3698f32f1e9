"""Trains the three small recognisers of small_recognizers.py.

    python -m faceprotect_core.evaluation.train_recognizers --images FACES --out DIR [--only small_resnet]

FACES holds aligned 256x256 photos named <identity>_<photo>.jpg. Every tenth identity is held out, the same as for the
demo model. CosFace (Wang et al., 2018) over the other identities, with heavy augmentation: two photos each are few.
Seeded, bfloat16 on CPU or CUDA. About 40 minutes on 2 idle CPU cores.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..demo.train import read_images, split_identities
from ..faces import find_face, load_detector
from ..faces.align import chip_to_image
from .recognition import Rates, verification_rates
from .small_recognizers import SMALL, SmallSpec, save_small

log = logging.getLogger("faceprotect.evaluation.train_recognizers")
SCALE, MARGIN = 24.0, 0.2  # CosFace's s and m
IDENTITIES_A_BATCH = 40  # with two photos each
TURN, ZOOM, SHIFT = 12.0, 0.10, 0.04  # standard deviations of the geometry: degrees, of the size, of the size


class FacePhotos:
    """Photos with the place of the face in each: the transform [2, 3] from a network's chip to the photo."""

    def __init__(self, paths: list[Path], spec: SmallSpec, device: torch.device):
        detector = load_detector()
        images = read_images(paths)
        faces = [find_face(image.float() / 255, detector) for image in images]
        chips = np.stack([chip_to_image(face, spec.template, spec.input_size) for face in faces])
        self.images, self.size = images.to(device), spec.input_size
        self.to_photo = torch.from_numpy(chips).float().to(device)
        names = [path.stem.split("_")[0] for path in paths]
        self.labels = torch.tensor([sorted(set(names), key=int).index(name) for name in names], device=device)

    def chips(self, chosen: Tensor, jitter: Tensor) -> Tensor:
        """[B, 3, size, size] in [0, 1]; jitter [B, 3, 3] moves the chip's own pixels first."""
        height, width = self.images.shape[2:]
        axis = torch.arange(self.size, device=jitter.device, dtype=torch.float32)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # [3, size * size]
        xy = self.to_photo[chosen] @ jitter @ points
        scale = torch.tensor([2 / width, 2 / height], device=jitter.device)[:, None]
        grid = ((xy + 0.5) * scale - 1).unflatten(-1, (self.size, self.size)).movedim(1, -1)
        photos = self.images[chosen].float() / 255
        return F.grid_sample(photos, grid, align_corners=False)


def random_geometry(count: int, size: int, generator: torch.Generator) -> Tensor:
    """[count, 3, 3]: small turns, zooms, shifts and mirror images about the middle of a chip."""

    def normal() -> Tensor:
        return torch.randn(count, generator=generator)

    angle, zoom = torch.deg2rad(TURN * normal()), torch.exp(ZOOM * normal())
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = zoom * torch.cos(angle), zoom * torch.sin(angle)
    middle = (size - 1) / 2
    shift_x, shift_y = middle + SHIFT * size * normal(), middle + SHIFT * size * normal()
    matrix = torch.zeros(count, 3, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = mirror * cosine, -sine
    matrix[:, 1, 0], matrix[:, 1, 1] = mirror * sine, cosine
    matrix[:, 0, 2] = shift_x - middle * (matrix[:, 0, 0] + matrix[:, 0, 1])
    matrix[:, 1, 2] = shift_y - middle * (matrix[:, 1, 0] + matrix[:, 1, 1])
    matrix[:, 2, 2] = 1
    return matrix


def random_light(chips: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, gamma, tint, grey, lower resolution, blur, noise and a covered patch, image by image."""
    count, size = len(chips), chips.shape[-1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *(shape or (1, 1, 1)), generator=generator).to(chips)

    def some(probability: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator).to(chips) < probability

    x = chips.clamp(1e-3, 1) ** uniform(0.6, 1.6)
    x = (x - 0.45) * uniform(0.6, 1.4) + 0.45 + uniform(-0.2, 0.2)
    x = x * uniform(0.85, 1.15, 3, 1, 1)
    x = torch.where(some(0.2), x.mean(1, keepdim=True), x)
    coarse = F.interpolate(x, scale_factor=0.35, mode="bilinear", antialias=True)
    x = torch.where(some(0.2), F.interpolate(coarse, (size, size), mode="bilinear"), x)
    x = torch.where(some(0.2), F.avg_pool2d(x, 3, 1, 1), x)
    x = x + torch.randn(x.shape, generator=generator).to(x) * uniform(0.0, 0.06)
    return torch.where(_random_patches(count, size, generator).to(x.device), uniform(0, 1, 3, 1, 1), x)


def _random_patches(count: int, size: int, generator: torch.Generator) -> Tensor:
    """[count, 1, size, size]: a rectangle in half of the images."""
    half = torch.rand(count, 2, generator=generator) * 0.2 * size
    half = half * (torch.rand(count, 1, generator=generator) < 0.5)
    middle = torch.rand(count, 2, generator=generator) * size
    axis = torch.arange(size)
    inside = (axis[None, None] - middle[..., None]).abs() < half[..., None]  # [count, 2, size]
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def cosface(embeddings: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Softmax over s (cos - m at the true identity), CosFace equation 4; with label smoothing 0.1."""
    cosines = F.normalize(embeddings) @ F.normalize(centres).T
    margins = MARGIN * F.one_hot(labels, len(centres))
    return F.cross_entropy(SCALE * (cosines - margins), labels, label_smoothing=0.1)


def train(name: str, photos: FacePhotos, spec: SmallSpec, steps: int, seed: int) -> nn.Module:
    device = photos.images.device
    torch.manual_seed(seed)
    network = spec.build().to(device).to(memory_format=torch.channels_last)
    identities = int(photos.labels.max()) + 1
    centres = nn.Parameter(torch.randn(identities, spec.dim, device=device) * 0.05)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": [*decayed, centres], "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=spec.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    by_identity = [torch.nonzero(photos.labels == label)[:, 0] for label in range(identities)]
    for _ in (bar := tqdm(range(steps), desc=name, mininterval=10)):
        drawn = torch.randperm(identities, generator=generator)[:IDENTITIES_A_BATCH]
        chosen = torch.cat([by_identity[label] for label in drawn])
        chips = photos.chips(chosen, random_geometry(len(chosen), spec.input_size, generator).to(device))
        inputs = (random_light(chips, generator) * 2 - 1).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = network(inputs)
        loss = cosface(embeddings.float(), centres, photos.labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        scheduler.step()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    return network.eval()


@torch.no_grad()
def rates(network: nn.Module, photos: FacePhotos) -> Rates:
    """Verification on held-out people, each photo a against each photo b."""
    still = torch.eye(3, device=photos.images.device).expand(len(photos.images), 3, 3)
    chips = photos.chips(torch.arange(len(photos.images)), still) * 2 - 1
    embeddings = F.normalize(torch.cat([network(batch) for batch in chips.split(32)]).float())
    return verification_rates(embeddings[::2] @ embeddings[1::2].T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(SMALL), nargs="*", default=sorted(SMALL))
    parser.add_argument("--steps", type=int, default=None, help="instead of each network's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    training, held_out = split_identities(args.images)
    for name in args.only:
        spec = SMALL[name]
        photos = FacePhotos(training, spec, args.device)
        network = train(name, photos, spec, args.steps or spec.steps, args.seed)
        found = rates(network, FacePhotos(held_out, spec, args.device))
        save_small(network, found.thresholds, args.out / f"{name}.safetensors")
        log.info("%s, held-out: %s", name, json.dumps(found.to_dict()))


if __name__ == "__main__":
    main()

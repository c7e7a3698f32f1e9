"""Trains the demo model's light decoder: distilled from the autoencoder's, on the photos.

    python -m faceprotect_core.evaluation.training.light_decoder --images FACES --out DIR --minutes 80

FACES as for demo_model.py, with the same identities held out. Every training photo's latent, and one beside it, are
decoded once by the autoencoder (DIR/pairs.safetensors); the light decoder learns both images, the photo, and the change
from one latent to the other. The learning rate falls to zero over the minutes given. Resumable (a checkpoint in DIR
every 100 steps), seeded, bfloat16 on CPU or CUDA. DIR/decoder.safetensors is what the package ships.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ...demo import load_demo_model
from ...demo.light_decoder import LightDecoder
from ...diffusers_backend import DiffusersCodec
from ..people import command, read_images, split_identities
from .demo_model import reconstruction_loss, save_half, to_model_range
from .stage import Learner, parsed

log = logging.getLogger("faceprotect.demo.light_decoder")

BESIDE = 0.6  # standard deviation, at most, of the noise from a photo's latent to the one beside it; the latent's is 1
PHOTOS = 2  # in a step, each with both of its latents
LEARNING_RATE, WARM_UP = 1e-3, 100


@dataclass(frozen=True, eq=False)
class Pairs:
    """Photos, and what the autoencoder makes of their latents; images are uint8 [N, 3, 256, 256].

    Args:
        photos: as they are.
        latents, beside: scaled [N, 4, 32, 32]; the photos' own, and one beside each.
        decoded, decoded_beside: of these latents, by the autoencoder.
    """

    photos: Tensor
    latents: Tensor
    beside: Tensor
    decoded: Tensor
    decoded_beside: Tensor


@torch.no_grad()
def make_pairs(photos: Tensor, codec: DiffusersCodec, args: argparse.Namespace) -> Pairs:
    """Encodes and decodes every photo once, in bfloat16."""
    generator = torch.Generator().manual_seed(args.seed)
    made = []
    for photo in tqdm(photos.split(1), desc="pairs", mininterval=5.0):
        with torch.autocast(args.device.type, torch.bfloat16):
            latent = codec.encode(photo.to(args.device).float() / 255).float()
            spread = BESIDE * torch.rand((), generator=generator)
            other = latent + spread * torch.randn(latent.shape, generator=generator).to(args.device)
            images = codec.decode(torch.cat([latent, other])).float()
        pixels = images.clamp(0, 1).mul(255).round().byte().cpu().contiguous()
        made.append((latent.cpu(), other.cpu(), pixels[:1], pixels[1:]))
    return Pairs(photos, *map(torch.cat, zip(*made, strict=True)))


def load_pairs(name: str, paths: list[Path], codec: DiffusersCodec, args: argparse.Namespace) -> Pairs:
    """From DIR/<name>.safetensors, which is made where it is missing."""
    path = args.out / f"{name}.safetensors"
    if not path.exists():
        pairs = make_pairs(read_images(paths), codec, args)
        temporary = path.with_suffix(".tmp")
        save_file(vars(pairs), temporary)
        temporary.replace(path)
    return Pairs(**load_file(path))


def distillation_loss(decoder: nn.Module, pairs: Pairs, chosen: Tensor, device: torch.device) -> Tensor:
    """How far the light decoder is from the autoencoder at both latents, from the photo, and from the change."""
    photo, decoded, decoded_beside = (
        to_model_range(images[chosen], device) for images in (pairs.photos, pairs.decoded, pairs.decoded_beside)
    )
    latents = torch.cat([pairs.latents[chosen], pairs.beside[chosen]]).to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16):
        output = decoder(latents)
    output, beside = (2.0 * output - 1.0).chunk(2)
    change = F.l1_loss(beside - output, decoded_beside - decoded)
    of_photo = reconstruction_loss(output, 0.5 * (photo + decoded))
    return of_photo + reconstruction_loss(beside, decoded_beside) + change


class Distillation(Learner):
    """The light decoder learns for some minutes; the learning rate falls to zero over them."""

    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        super().__init__("decoder", LightDecoder().to(memory_format=torch.channels_last), LEARNING_RATE, args)
        self.seconds = 60.0 * args.minutes
        if self.step:
            log.info("goes on at step %d, after %.0f minutes", self.step, self.spent / 60)

    def run(self, loss_of, report) -> nn.Module:
        """loss_of(decoder, generator) -> scalar loss, which hangs on the seed and the step; report(decoder) speaks."""
        bar = tqdm(total=round(self.seconds), initial=round(self.spent), desc="seconds", mininterval=30.0)
        while self.spent < self.seconds:
            started = time.monotonic()
            share = min((self.step + 1) / WARM_UP, 1 - self.spent / self.seconds)
            loss = self.learn(lambda generator: loss_of(self.model, generator), share)
            if self.step % 1000 == 0:
                report(self.model)
            seconds = time.monotonic() - started
            self.spent += seconds
            bar.update(seconds)
            bar.set_postfix(step=self.step, loss=loss, refresh=False)
        bar.close()
        self.save()
        return self.model


@torch.no_grad()
def psnr(images: Tensor, targets: Tensor) -> float:
    """Mean PSNR in dB over uint8 images."""
    errors = (images.float() - targets.float()).div(255).square().mean((1, 2, 3))
    return errors.log10().mul(-10).mean().item()


@torch.no_grad()
def report(decoder: LightDecoder, held_out: Pairs, device: torch.device) -> None:
    """Logs how near the light decoder and the autoencoder are to the held-out photos, and to each other."""

    def decode(latents: Tensor) -> Tensor:
        images = torch.cat([decoder(latent.to(device)).cpu() for latent in latents.split(1)])
        return images.clamp(0, 1).mul(255).round()

    images = decode(held_out.latents)
    log.info(
        "held-out photos: light decoder %.2f dB, autoencoder %.2f; to each other %.2f, beside the latents %.2f",
        psnr(images, held_out.photos),
        psnr(held_out.decoded, held_out.photos),
        psnr(images, held_out.decoded),
        psnr(decode(held_out.beside), held_out.decoded_beside),
    )


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="pairs, checkpoint and weights go here")
    parser.add_argument("--minutes", type=float, default=80.0, help="to train, the pairs not counted")
    args = parsed(parser, gpu=True)

    codec = load_demo_model()[1]
    codec.vae.to(args.device)
    train_paths, held_out_paths = split_identities(args.images)
    held_out = load_pairs("held_out", held_out_paths, codec, args)
    train = load_pairs("pairs", train_paths, codec, args)
    log.info("%d photos to train on, %d held out", len(train.photos), len(held_out.photos))

    def loss_of(decoder: LightDecoder, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(train.photos), (PHOTOS,), generator=generator)
        return distillation_loss(decoder, train, chosen, args.device)

    decoder = Distillation(args).run(loss_of, lambda decoder: report(decoder, held_out, args.device))
    report(decoder, held_out, args.device)
    save_half(decoder.state_dict(), args.out / "decoder.safetensors", "light_decoder")


if __name__ == "__main__":
    main()

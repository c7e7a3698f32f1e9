"""Trains the demo diffusion model: first the autoencoder, then the UNet on its latents.

    python -m faceprotect_core.evaluation.training.demo_model --images FACES --out DIR

FACES holds aligned 256x256 photos named <identity>_<photo>.jpg. Every tenth identity is held out of both stages.
Resumable (a checkpoint in DIR every 100 steps), seeded, bfloat16 on CPU or CUDA. The weights of DIR/vae.safetensors,
DIR/unet.safetensors and DIR/null_context.safetensors are what the package ships. About 1.5 hours on 2 CPU cores.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import nn

from ...demo.architecture import CONTEXT_DIM, CONTEXT_TOKENS, IMAGE_SIZE, LATENT_SCALE, UNET_CONFIG, VAE_CONFIG
from ...method.schedule import scaled_linear_alphas_cumprod
from ..people import command, read_images, split_identities
from .stage import Stage, parsed

log = logging.getLogger("faceprotect.demo.train")


# ------------------------------------------------------------------------------------------------ data


def to_model_range(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return images.to(device).float() / 127.5 - 1.0


def random_crops(images: torch.Tensor, batch: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random photos, cropped at random to size and flipped half of the time."""
    chosen = torch.randint(len(images), (batch,), generator=generator)
    corners = torch.randint(IMAGE_SIZE - size + 1, (batch, 2), generator=generator)
    flips = torch.rand(batch, generator=generator) < 0.5
    crops = []
    for index, (top, left), flip in zip(chosen, corners.tolist(), flips, strict=True):
        crop = images[index, :, top : top + size, left : left + size]
        crops.append(crop.flip(-1) if flip else crop)
    return torch.stack(crops)


# ------------------------------------------------------------------------------------------------ autoencoder


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 on pixels, half of it on the image's gradients, and a little structural dissimilarity."""
    from kornia.losses import ssim_loss

    def gradients(x):
        return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]

    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(output), gradients(target), strict=True))
    structure = ssim_loss(output / 2 + 0.5, target / 2 + 0.5, window_size=7)
    return F.l1_loss(output, target) + 0.5 * edges + 0.2 * structure


def train_autoencoder(images: torch.Tensor, args: argparse.Namespace) -> nn.Module:
    """Random 128x128 crops; the last fifth on whole images, so that normalisation and attention fit their real size."""
    from diffusers import AutoencoderKL

    torch.manual_seed(args.seed)
    vae = AutoencoderKL(**VAE_CONFIG).to(memory_format=torch.channels_last)
    stage = Stage("autoencoder", vae, args.autoencoder_steps, 1e-3, args)

    def loss_of(step, generator):
        size, batch = (IMAGE_SIZE, 2) if step >= 0.8 * args.autoencoder_steps else (128, 8)
        target = to_model_range(random_crops(images, batch, size, generator), args.device)
        target = target.to(memory_format=torch.channels_last)
        with torch.autocast(args.device.type, torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
        return reconstruction_loss(output.float(), target) + 3e-4 * divergence

    return stage.run(loss_of)


@torch.no_grad()
def encode_all(vae: nn.Module, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The posterior's mean, unscaled: [N, 4, 32, 32] float32 (computed in bfloat16)."""
    with torch.autocast(device.type, torch.bfloat16):
        batches = [vae.encode(to_model_range(batch, device)).latent_dist.mean for batch in images.split(8)]
    return torch.cat(batches).float()


@torch.no_grad()
def standardize_latents(vae: nn.Module, images: torch.Tensor, device: torch.device) -> None:
    """Folds each channel's mean and spread into the 1x1 convolutions around the latent, so that the scaled latent
    has zero mean and unit variance per channel: one learning rate then fits all channels."""
    latents = encode_all(vae, images[:: max(1, len(images) // 200)], device)
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3)) * LATENT_SCALE
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] /= spread[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / spread
    quant.bias[4:] -= 2.0 * spread.log()  # the log-variance of the same, rescaled latent
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= spread[None, :, None, None]


@torch.no_grad()
def reconstruction_psnr(vae: nn.Module, images: torch.Tensor, device: torch.device) -> float:
    """Mean PSNR in dB over the images, range [0, 1]."""
    scores = []
    for batch in images.split(8):
        target = to_model_range(batch, device)
        output = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        scores += ((output - target) / 2).square().mean((1, 2, 3)).log10().mul(-10).tolist()
    return float(np.mean(scores))


# ------------------------------------------------------------------------------------------------ UNet


class ConditionedUNet(nn.Module):
    """The UNet, the learned null context, and an image prompt that is used in training only.

    Half of the training samples see a context made from their own clean latent. So the UNet learns to read detail from
    its context, as a text-conditioned model does, and null-text embeddings have something to work with.
    """

    def __init__(self):
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(**UNET_CONFIG)
        self.null_context = nn.Parameter(torch.randn(1, CONTEXT_TOKENS, CONTEXT_DIM) * 0.5)
        self.image_prompt = nn.Conv2d(4, CONTEXT_DIM, kernel_size=8, stride=8)
        self.position = nn.Parameter(torch.randn(1, CONTEXT_TOKENS, CONTEXT_DIM) * 0.1)

    def context(self, latent: torch.Tensor, use_image: torch.Tensor) -> torch.Tensor:
        prompt = rearrange(self.image_prompt(latent), "b c h w -> b (h w) c")
        prompt = F.layer_norm(prompt, (CONTEXT_DIM,)) + self.position
        null = self.null_context.expand(len(latent), -1, -1)
        return torch.where(use_image[:, None, None], prompt, null)

    def forward(self, noisy, timestep, latent, use_image):
        return self.unet(noisy, timestep, encoder_hidden_states=self.context(latent, use_image)).sample


def sample_timesteps(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Three quarters below 260: the protection works in the last few denoising steps."""
    low = torch.randint(1, 260, (batch,), generator=generator)
    high = torch.randint(260, 1000, (batch,), generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < 0.75, low, high)


def train_denoiser(latents: torch.Tensor, args: argparse.Namespace) -> ConditionedUNet:
    """Noise prediction (epsilon) on the scaled latents [N, 4, 32, 32]."""
    alphas_cumprod = scaled_linear_alphas_cumprod().float()
    torch.manual_seed(args.seed + 1)
    model = ConditionedUNet().to(memory_format=torch.channels_last)
    stage = Stage("denoiser", model, args.denoiser_steps, 1e-3, args)

    def loss_of(step, generator):
        batch = 24
        latent = latents[torch.randint(len(latents), (batch,), generator=generator)]
        timestep = sample_timesteps(batch, generator)
        noise = torch.randn(latent.shape, generator=generator)
        alpha = alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        use_image = torch.rand(batch, generator=generator) < 0.5
        with torch.autocast(args.device.type, torch.bfloat16):
            prediction = model(*(x.to(args.device) for x in (noisy, timestep, latent, use_image)))
        return F.mse_loss(prediction.float(), noise.to(args.device))

    return stage.run(loss_of)


@torch.no_grad()
def denoising_loss(model: ConditionedUNet, latents: torch.Tensor, args: argparse.Namespace) -> dict[str, float]:
    """Held-out noise-prediction loss at timestep 101 with the null context and with the image prompt."""
    alpha = scaled_linear_alphas_cumprod().float()[101]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    losses = {}
    for name, flag in (("null context", False), ("image prompt", True)):
        use_image = torch.full((len(latents),), flag)
        batches = [t.split(8) for t in (noisy, torch.full((len(latents),), 101), latents, use_image, noise)]
        errors = [
            F.mse_loss(model(*(x.to(args.device) for x in batch[:4])).cpu(), batch[4]).item()
            for batch in zip(*batches, strict=True)
        ]
        losses[name] = float(np.mean(errors))
    return losses


# ------------------------------------------------------------------------------------------------ command


def save_half(tensors: dict[str, torch.Tensor], path: Path, script: str = "demo_model") -> None:
    half = {name: tensor.detach().half().cpu().contiguous() for name, tensor in tensors.items()}
    origin = f"python -m faceprotect_core.evaluation.training.{script}"
    save_file(half, path, metadata={"origin": origin, "license": "research only"})


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and weights go here")
    parser.add_argument("--autoencoder-steps", type=int, default=1500)
    parser.add_argument("--denoiser-steps", type=int, default=900)
    args = parsed(parser, gpu=True)

    train_paths, held_out_paths = split_identities(args.images)
    train, held_out = read_images(train_paths), read_images(held_out_paths)
    log.info("%d photos to train on, %d held out", len(train), len(held_out))

    vae = train_autoencoder(train, args)
    standardize_latents(vae, train, args.device)
    log.info("held-out reconstruction: %.2f dB", reconstruction_psnr(vae, held_out, args.device))
    save_half(vae.state_dict(), args.out / "vae.safetensors")

    both_ways = torch.cat([train, train.flip(-1)])
    latents = encode_all(vae, both_ways, args.device).cpu() * LATENT_SCALE
    model = train_denoiser(latents, args)
    held_out_latents = encode_all(vae, held_out, args.device).cpu() * LATENT_SCALE
    log.info("held-out noise-prediction loss at timestep 101: %s", denoising_loss(model, held_out_latents, args))
    save_half(model.unet.state_dict(), args.out / "unet.safetensors")
    save_half({"null_context": model.null_context}, args.out / "null_context.safetensors")


if __name__ == "__main__":
    main()

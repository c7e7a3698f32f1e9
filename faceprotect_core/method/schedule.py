"""The DDIM noise schedule: which timesteps are visited, and the one transfer between two noise levels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import require

NUM_TRAIN_TIMESTEPS = 1000


def scaled_linear_alphas_cumprod(
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Tensor:
    """Stable Diffusion's schedule: the square root of beta is linear. float64 [num_train_timesteps]."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The same levels, shifted and scaled so that the last holds (nearly) no signal: Lin et al. 2024, algorithm 1.

    alphas_cumprod: [T]. The last level keeps 2^-24 of the signal, which no inversion can do without.
    """
    roots = alphas_cumprod.sqrt()
    rescaled = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return rescaled.square().clamp_min(2.0**-24)


@dataclass(frozen=True, eq=False)
class DDIMSchedule:
    """Noise levels of deterministic DDIM sampling (Song et al. 2021, eta = 0).

    Args:
        alphas_cumprod: float64 [T], the share of signal left at each training timestep, falling.
        num_inference_steps: how many steps a full sampling would have; their distance is T // num_inference_steps.
        steps_offset: the first (cleanest) timestep; 1 for Stable Diffusion.
    """

    alphas_cumprod: Tensor
    num_inference_steps: int
    steps_offset: int

    @classmethod
    def from_alphas_cumprod(
        cls, alphas_cumprod: Tensor, num_inference_steps: int = 20, steps_offset: int = 1
    ) -> "DDIMSchedule":
        """The schedule of a model's own noise levels; they are copied, in float64, to the CPU.

        Raises:
            ProtectionError: levels outside (0, 1], or steps that do not fit into them.
        """
        alphas = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64).clone()
        require(
            alphas.ndim == 1 and bool(((alphas > 0) & (alphas <= 1)).all()),
            f"DDIMSchedule: alphas_cumprod must be one row of values in (0, 1], got shape {list(alphas.shape)}",
            "pass the model's cumulative product of alphas, one value per training timestep",
        )
        require(
            1 <= num_inference_steps <= len(alphas),
            f"DDIMSchedule: num_inference_steps must be 1 to {len(alphas)}, got {num_inference_steps}",
            "use 20, the paper's value",
        )
        require(
            0 <= steps_offset < len(alphas) // num_inference_steps,
            f"DDIMSchedule: steps_offset must be below the step width {len(alphas) // num_inference_steps}, "
            f"got {steps_offset}",
            "use 1, Stable Diffusion's value",
        )
        return cls(alphas, num_inference_steps, steps_offset)

    @classmethod
    def scaled_linear(cls, num_inference_steps: int = 20, steps_offset: int = 1) -> "DDIMSchedule":
        """The schedule of Stable Diffusion 1.x, 2.x and SDXL: 0.00085 to 0.012 over 1000 timesteps."""
        return cls.from_alphas_cumprod(scaled_linear_alphas_cumprod(), num_inference_steps, steps_offset)

    def level(self, index: int) -> int:
        """Timestep of noise level index; 0 is the cleanest. The last level ends at the last training timestep."""
        width = len(self.alphas_cumprod) // self.num_inference_steps
        return min(self.steps_offset + index * width, len(self.alphas_cumprod) - 1)

    def alpha(self, timestep: int) -> float:
        """alphas_cumprod at the timestep; before the first one, that of timestep 0 (set_alpha_to_one = false)."""
        return self.alphas_cumprod[max(timestep, 0)].item()

    def transfer(self, latent: Tensor, noise: Tensor, from_timestep: int, to_timestep: int) -> Tensor:
        """Moves a latent between noise levels along the predicted noise (DDIM, eq. 12 of Song et al. 2021, eta = 0).

        Used in both directions: inversion adds noise, sampling removes it. Shapes of latent and noise agree.
        """
        a_from, a_to = self.alpha(from_timestep), self.alpha(to_timestep)
        clean = (latent - (1.0 - a_from) ** 0.5 * noise) / a_from**0.5
        return a_to**0.5 * clean + (1.0 - a_to) ** 0.5 * noise

"""The noise-based attacks of the field as baselines: PGD, MI-FGSM, TI-DIM and TIP-IM, on the pixels themselves.

They share the objective, the photos and the measurements with the method of this pack, and differ from it in where the
change is made: each pixel may change by at most epsilon (an L-infinity budget), with no diffusion model that could keep
the change natural. Such noise is known to be weakened by purification.

    protected = attack_pixels(photo, objective, "pgd")
    weaker = attack_pixels(photo, objective, "pgd", settings=replace(PUBLISHED["pgd"], epsilon=4 / 255))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..checks import require, require_finite, require_image
from ..method.objectives import IdentityObjective
from ..progress import OnStep, Step
from .input_diversity import Change, at, diversified, random_affine, resize_and_pad, uniform

WHERE = "Pixel-Space Attack"
Diversity, Direction = Literal["none", "resize and pad", "affine"], Literal["sign", "rms"]
DIVERSITIES, STEPS = get_args(Diversity), get_args(Direction)
# A gradient with which a whole step could change the loss by less than this is rounding, and has no direction.
FLAT = 1e-5


@dataclass(frozen=True)
class PixelAttackSettings:
    """What an attack does in each iteration; see PUBLISHED.

    Args:
        epsilon: how far each value of a pixel may move from the photo, of a range of 1.
        iterations: gradient steps; the size of a step is reach * epsilon / iterations.
        reach: how many epsilon all steps together could cover.
        seed: of all that is drawn. The draws are the same for each image of a batch.
        random_start: start from uniform noise within the budget.
        momentum: the decay factor mu of the earlier gradients, each of unit size (Dong et al. 2018, equation 6); 0 for
            none.
        kernel: width in pixels of the Gaussian that smooths the gradient (odd; three standard deviations to either
            side); 0 for none (Dong et al. 2019, equation 7).
        diversity: what each network's input goes through before it is seen (Xie et al. 2019): "resize and pad", or
            TIP-IM's random "affine" map; "none" for neither.
        diversity_probability: how often, per iteration.
        step: "sign" moves every value by the step size. "rms" follows the gradient itself, with the step size as the
            root mean square.
        naturalness: weight gamma of TIP-IM's naturalness loss.
    """

    epsilon: float
    iterations: int
    reach: float
    seed: int = 0
    random_start: bool = False
    momentum: float = 0.0
    kernel: int = 0
    diversity: Diversity = "none"
    diversity_probability: float = 1.0
    step: Direction = "sign"
    naturalness: float = 0.0

    @property
    def step_size(self) -> float:
        return self.reach * self.epsilon / max(self.iterations, 1)


# The numbers of the authors' own releases, where epsilon is of 255. They differ from each other, and papers that take
# one of these attacks as a baseline choose a budget of their own: compare methods at equal PSNR, not at these.
PUBLISHED: dict[str, PixelAttackSettings] = {
    # Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018. MadryLab/cifar10_challenge,
    # config.json: epsilon 8, 10 steps of 2, random start.
    "pgd": PixelAttackSettings(8 / 255, 10, reach=2.5, random_start=True),
    # Dong et al., "Boosting Adversarial Attacks with Momentum", 2018. dongyp13/Non-Targeted-Adversarial-Attacks,
    # attack_iter.py: epsilon 16, 10 steps of epsilon / 10, mu 1.
    "mi_fgsm": PixelAttackSettings(16 / 255, 10, reach=1.0, momentum=1.0),
    # Dong et al., "Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks", 2019, over
    # Xie et al., "Improving Transferability of Adversarial Examples with Input Diversity", 2019. Kernel, steps and mu:
    # dongyp13/Translation-Invariant-Attacks, attack_iter.py, whose defaults of epsilon 32 and probability 0.4 are not
    # taken over: epsilon 16 and probability 0.5 are those of cihangxie/DI-2-FGSM, attack.py.
    "ti_dim": PixelAttackSettings(
        16 / 255, 10, reach=1.0, momentum=1.0,
        kernel=15, diversity="resize and pad", diversity_probability=0.5,
    ),
    # Yang et al., "Towards Face Encryption by Generating Adversarial Identity Masks", 2021. ShawnXYang/TIP-IM, run.py:
    # epsilon 12, 100 steps of 1.5 * epsilon / 100, mu 1, steps by the norm "l2", gamma 0.
    "tip_im": PixelAttackSettings(12 / 255, 100, reach=1.5, momentum=1.0, diversity="affine", step="rms"),
}  # fmt: skip


@torch.enable_grad()
def attack_pixels(
    image: Tensor,
    objective: IdentityObjective | Sequence[IdentityObjective],
    method: str = "pgd",
    *,
    settings: PixelAttackSettings | None = None,
    mask: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The photo with noise of at most epsilon that lowers the objective: x <- project(x - step_size * direction).

    At the start of dodging the loss is at its maximum, where its gradient is 0 and what is left of it is rounding. PGD
    starts elsewhere; the other three, as published, start from the photo itself, because a classifier's gradient is not
    0 there. Here an image whose first gradient is flat takes its first step in random directions instead, which its
    momentum does not keep.

    What is in of TIP-IM: the loss d(x, target) - d(x, source), which is an objective with both (the release has squared
    distances of embeddings, IdentityObjective has 1 - cosine); the momentum, the step and the random affine map of the
    input; the naturalness loss; and the greedy choice among targets: with several objectives, one per target, each
    iteration tries a step towards each and keeps, per image, the one that came closest to its own target. What is not:
    the release also counts what a step gained towards the other targets; its naturalness loss compares batches, here
    each image is compared with its own photo (the same for its default, a batch of 1); its affine map is drawn per
    image and resampled twice, here it is drawn once per iteration, and the two maps are one.

    The networks of faces have inputs of a fixed size: DIM's "resize and pad" shrinks to between 299/330 and all of it
    and pads back to that size, where the release enlarges 299 pixels to up to 330. The budget, the momentum and the
    smoothing are in pixels of the photo, also where a network sees an aligned and resized part of it.

    Args:
        image: [B, 3, H, W] in [0, 1]; not changed.
        objective: image [B, 3, H, W] -> loss [B], lower is better; several for the greedy choice of TIP-IM. One with a
            margin has no gradient past it: momentum alone carries the image on.
        method: a name of PUBLISHED, whose settings are used unless others are given.
        settings: instead of those, such as replace(PUBLISHED[method], epsilon=4 / 255); they alone say what is done.
        mask: [1 or B, 1, H, W] in [0, 1], or [1, H, W] as of face_mask, by which epsilon is multiplied; where it is 0,
            pixels stay bit-equal.
        on_step: called after every iteration, with the loss "identity" per image, and the image before the step.

    Returns:
        [B, 3, H, W] in [0, 1], nowhere further than epsilon from the photo; the last iterate, as published. Whether it
        protects is for `judge` or an evaluation to say.

    Raises:
        ProtectionError: wrong shapes or settings, NaN in the image, the mask or a loss.
    """
    objectives = [objective] if callable(objective) else list(objective)
    settings = _checked(image, objectives, method, settings, mask)
    attack = _Attack(image, mask, settings)
    now = _State(attack.start(), torch.zeros_like(image), image.new_zeros(len(image)))
    for iteration in range(settings.iterations):
        before = now.image
        now = _best(objectives, [attack.step(one, now, iteration) for one in objectives], iteration)
        if on_step:
            on_step(Step("protection", iteration + 1, settings.iterations, {"identity": now.loss.tolist()}, before))
    require_finite(now.image, f"{WHERE}: the protected image", "load the recognisers in float32")
    return now.image


@dataclass(frozen=True, eq=False)
class _State:
    """The image so far, the sum of its gradients, and the loss [B] from which the last step was made."""

    image: Tensor
    velocity: Tensor
    loss: Tensor


class _Attack:
    """The parts of one iteration."""

    def __init__(self, photo: Tensor, mask: Tensor | None, settings: PixelAttackSettings):
        self.photo, self.settings = photo.detach().clone(), settings
        radius = torch.full_like(self.photo, settings.epsilon)
        self.lower, self.upper = _bounds(self.photo, radius if mask is None else radius * mask.detach().to(radius))

    def start(self) -> Tensor:
        """The photo, or uniform noise within the budget."""
        if not self.settings.random_start or not self.settings.iterations:
            return self.photo.clone()
        noise = torch.rand(self.photo.shape[1:], generator=self._generator(-1), dtype=torch.float64).to(self.photo)
        return self.project(self.photo + self.settings.epsilon * (2 * noise - 1))

    def step(self, objective: IdentityObjective, now: _State, iteration: int) -> _State:
        loss, gradient = self.gradient(objective, now.image, iteration)
        size = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
        velocity = self.settings.momentum * now.velocity + gradient / size
        direction = self.direction(velocity)
        if iteration == 0:
            flat = gradient.abs().sum((1, 2, 3), keepdim=True) * self.settings.step_size < FLAT
            velocity = torch.where(flat, 0.0, velocity)
            direction = torch.where(flat, self._random_signs(), direction)
        return _State(self.project(now.image - self.settings.step_size * direction), velocity, loss)

    def gradient(self, objective: IdentityObjective, image: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        """The identity loss [B], and the gradient of all of the loss, smoothed."""
        image = image.detach().requires_grad_()
        identity = diversified(objective, self._diversity(iteration), iteration)(image)
        require(
            identity.shape == image.shape[:1],
            f"{WHERE}: the objective has {identity.numel()} photos, the image {len(image)}",
            "make the objective from the very photos that are given here",
        )
        require_finite(identity, f"{WHERE}: the loss of iteration {iteration}", "load the recognisers in float32")
        loss = identity
        if self.settings.naturalness:
            loss = loss + self.settings.naturalness * _naturalness_loss(image, self.photo)
        (gradient,) = torch.autograd.grad(loss.sum(), image)
        return identity.detach(), _smoothed(gradient, self.settings.kernel)

    def direction(self, velocity: Tensor) -> Tensor:
        if self.settings.step == "sign":
            return velocity.sign()
        mean_square = velocity.square().mean((1, 2, 3), keepdim=True)
        return velocity / mean_square.sqrt().clamp_min(torch.finfo(velocity.dtype).tiny)

    def project(self, image: Tensor) -> Tensor:
        """Back into the budget and into [0, 1]."""
        return torch.minimum(torch.maximum(image, self.lower), self.upper)

    def _random_signs(self) -> Tensor:
        signs = torch.randint(0, 2, self.photo.shape[1:], generator=self._generator(-1))
        return (2 * signs - 1).to(self.photo)

    def _diversity(self, iteration: int) -> Change | None:
        """What the networks' inputs go through in this iteration."""
        generator = self._generator(iteration)
        if self.settings.diversity == "none" or uniform(0, 1, generator) >= self.settings.diversity_probability:
            return None
        return resize_and_pad(generator) if self.settings.diversity == "resize and pad" else random_affine(generator)

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed * 1_000_003 + number + 1)


def _bounds(photo: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest values within the budget and [0, 1]; rounding never leaves the budget."""
    lower, upper = photo - radius, photo + radius
    lower = torch.where(photo - lower > radius, torch.nextafter(lower, photo), lower)
    upper = torch.where(upper - photo > radius, torch.nextafter(upper, photo), upper)
    return lower.clamp_min(0.0), upper.clamp_max(1.0)


def _smoothed(gradient: Tensor, width: int) -> Tensor:
    """By a Gaussian of so many pixels, three standard deviations to either side; 0 and 1 change nothing."""
    if width < 2:
        return gradient
    from kornia.filters import gaussian_blur2d

    sigma = (width - 1) / 6
    return gaussian_blur2d(gradient, width, (sigma, sigma), border_type="constant")


# The kernel widths sigma of the release's mmd.py, for values from 0 to 255.
MMD_WIDTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)


def _naturalness_loss(image: Tensor, photo: Tensor) -> Tensor:
    """TIP-IM's maximum mean discrepancy (MMD) between each image and its photo, sums of Gaussian kernels -> [B]."""
    distance = (255 * (image - photo)).square().flatten(1).sum(1)
    return 2 * (1 - torch.exp(-distance[:, None] / (2 * image.new_tensor(MMD_WIDTHS)))).sum(1)


@torch.no_grad()
def _best(objectives: Sequence[IdentityObjective], steps: list[_State], iteration: int) -> _State:
    """Per image the step whose own target came closest; TIP-IM's greedy choice."""
    if len(steps) == 1:
        return steps[0]
    losses = torch.stack([at(one, iteration)(step.image) for one, step in zip(objectives, steps, strict=True)])
    best, images = losses.argmin(0), torch.arange(losses.shape[1], device=losses.device)
    parts = ([getattr(step, name) for step in steps] for name in ("image", "velocity", "loss"))
    return _State(*(torch.stack(part)[best, images] for part in parts))


# ------------------------------------------------------------------------------------------------ checks


def _checked(image, objectives, method, settings, mask) -> PixelAttackSettings:
    require(method in PUBLISHED, f"{WHERE}: there is no method {method!r}", f"use one of {', '.join(PUBLISHED)}")
    settings = settings or PUBLISHED[method]
    require(len(objectives) > 0, f"{WHERE}: there is no objective", "give an IdentityObjective")
    require_image(image, WHERE)
    low, high = image.min().item(), image.max().item()
    require(
        low >= 0 and high <= 1, f"{WHERE}: the image has values from {low:g} to {high:g}", "clamp the image to [0, 1]"
    )
    require(
        0 <= settings.epsilon <= 1 and settings.iterations >= 0 and settings.reach > 0 and settings.momentum >= 0,
        f"{WHERE}: epsilon {settings.epsilon:g}, iterations {settings.iterations}, reach {settings.reach:g}, "
        f"momentum {settings.momentum:g}",
        "use an epsilon from 0 to 1 (8 of 255 is 0.031), and numbers that are not negative",
    )
    require(
        settings.diversity in DIVERSITIES and settings.step in STEPS,
        f"{WHERE}: diversity {settings.diversity!r}, step {settings.step!r}",
        f"use one of {', '.join(DIVERSITIES)}, and one of {', '.join(STEPS)}",
    )
    require(
        settings.kernel == 0 or settings.kernel % 2 == 1,
        f"{WHERE}: the kernel is {settings.kernel} pixels wide",
        "use an odd width, or 0 for none",
    )
    if mask is not None:
        _check_mask(mask, image)
    return settings


def _check_mask(mask: Tensor, image: Tensor) -> None:
    batch, _, height, width = image.shape
    shape = tuple(mask.shape[-4:-3] or (1,)) + tuple(mask.shape[-3:])
    require(
        mask.ndim in (3, 4) and shape in {(count, 1, height, width) for count in (1, batch)},
        f"{WHERE}: the mask is {list(mask.shape)}, the image {list(image.shape)}",
        "draw the mask on the very image that is connected",
    )
    require_finite(mask, f"{WHERE}: the mask", "draw the mask again")
    require(0 <= mask.min() and mask.max() <= 1, f"{WHERE}: the mask leaves [0, 1]", "clamp the mask to [0, 1]")

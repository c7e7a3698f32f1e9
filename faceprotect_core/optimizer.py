"""Adversarial latent optimisation: the noisy latent is changed until the surrogates see somebody else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .attention import SelfAttentionReference, StructureLoss, require_embeddings
from .checks import require, require_finite, require_image
from .inversion import OnStep, Trajectory
from .model import Denoiser, ImageCodec

Output = Literal["published", "detail"]
Objective = Callable[[Tensor], Tensor]
WHERE = "Adversarial Latent Optimizer"


@dataclass(frozen=True, eq=False)
class ProtectionResult:
    """image: [B, 3, H, W] in [0, 1]. latent: the optimised noisy latent z_adv. decoded_latent: what z_adv denoises to.

    history: lists with one entry per iteration: "identity" and "structure" (each [B floats], before the weights).
    """

    image: Tensor
    latent: Tensor
    decoded_latent: Tensor
    history: dict[str, list[list[float]]]


@torch.enable_grad()
def optimize_latent(
    denoiser: Denoiser,
    codec: ImageCodec,
    trajectory: Trajectory,
    embeddings: Tensor,
    objective: Objective,
    *,
    structure: SelfAttentionReference | None = None,
    iterations: int = 35,
    lr: float = 0.01,
    objective_weight: float = 0.003,
    output: Output = "published",
    image: Tensor | None = None,
    mask: Tensor | None = None,
    fidelity_weight: float = 0.0,
    momentum: float = 0.0,
    early_stop: bool = False,
    on_step: OnStep | None = None,
) -> ProtectionResult:
    """The paper's second stage: AdamW on the noisy latent, min over z of objective_weight * identity + structure.

    embeddings: [depth, B, tokens, dim] of learn_null_text. objective: image [B, 3, H, W] -> loss [B]; where it has a
        method `at`, at(iteration) is used instead.
    structure: the unchanged run's self-attention; None leaves the structure loss out.
    output: "published" returns the decoded latent, as the paper does, and shows it to the surrogates unclamped.
        "detail" adds only the change to the untouched photo, image + mask * (D(z_adv) - D(z)), clamped to [0, 1], and
        shows the surrogates exactly that.
    image: the untouched photo [B, 3, H, W] in [0, 1], needed for "detail".
    mask: [1 or B, 1, H, W] in [0, 1], where "detail" may change the photo; where it is 0, pixels stay bit-equal.
    fidelity_weight: weight of the mean squared change of the returned image; 0 in the paper.
    momentum: the gradient is summed over the iterations, each before it fades by this factor, and each of unit size:
        MI-FGSM (Dong et al., "Boosting Adversarial Attacks with Momentum", 2018, equation 6). 0 in the paper.
    early_stop: an image is left as it is once objective.reached(image) says so, and the run ends with the last one.
    on_step: called after every iteration with {"stage", "step", "steps", "identity", "structure", "image"}.
    Raises ProtectionError when shapes do not fit together and when a loss or the image becomes NaN.
    """
    require_embeddings(trajectory, embeddings, WHERE)
    _check(output, image, mask, iterations, lr, momentum)
    photo = image if output == "detail" else None
    run = _Run(denoiser, codec, trajectory, embeddings, structure, photo, mask)
    fidelity = _Fidelity(fidelity_weight, run)
    latent = trajectory.latents[-1].detach().clone().requires_grad_()
    stop = _EarlyStop(objective if early_stop else None, latent)
    descend, history = _Descent(latent, lr, momentum, stop), _History(iterations, on_step)
    for iteration in range(iterations):
        changed, _, structure_loss = run(latent)
        if stop(changed):
            break
        identity_loss = _at(objective, iteration)(changed)
        loss = objective_weight * identity_loss + structure_loss + fidelity(changed)
        descend(_finite(loss, iteration))
        history.add(changed, identity=identity_loss, structure=structure_loss)
    with torch.no_grad():
        changed, decoded_latent, _ = run(latent)
    require_finite(changed, "the protected image", "run the model in float32 or bfloat16, or lower lr")
    return ProtectionResult(changed.clamp(0.0, 1.0), latent.detach(), decoded_latent, history.losses)


def _at(objective: Objective, iteration: int) -> Objective:
    return objective.at(iteration) if hasattr(objective, "at") else objective


class _Fidelity:
    """weight * mean squared change of the image [B]; 0.0 for a weight of 0."""

    def __init__(self, weight: float, run: "_Run"):
        self.weight, self.unchanged = weight, run.unchanged_image() if weight else None

    def __call__(self, changed: Tensor) -> Tensor | float:
        return self.weight * (changed - self.unchanged).square().flatten(1).mean(1) if self.weight else 0.0


class _EarlyStop:
    """Remembers which images [B] have reached the objective; None: none ever does."""

    def __init__(self, objective: Objective | None, latent: Tensor):
        require(
            objective is None or hasattr(objective, "reached"),
            f"{WHERE}: early_stop needs an objective that can be reached, got {type(objective)}",
            "switch early_stop off, or give the objective a method reached(image) -> [B] of bool",
        )
        self.objective, self.stopped = objective, torch.zeros(len(latent), dtype=torch.bool, device=latent.device)

    def __call__(self, changed: Tensor) -> bool:
        """Whether all images have."""
        if self.objective is None:
            return False
        self.stopped |= self.objective.reached(changed)
        return bool(self.stopped.all())


class _Descent:
    """A step of AdamW down a loss [B]; the images that have stopped stay as they are."""

    def __init__(self, latent: Tensor, lr: float, momentum: float, stop: _EarlyStop):
        self.latent, self.optimizer = latent, torch.optim.AdamW([latent], lr=lr)
        self.direction, self.stop = _Momentum(momentum), stop

    def __call__(self, loss: Tensor) -> None:
        (gradient,) = torch.autograd.grad(loss.sum(), self.latent)
        self.latent.grad = self.direction(gradient)
        stopped = self.stop.stopped
        with torch.no_grad():
            before = self.latent[stopped].clone()
            self.optimizer.step()
            self.latent[stopped] = before


SMALLEST_GRADIENT = 1e-8  # AdamW's eps: what is smaller is rounding, as at the start of dodging, where it is 0


class _Momentum:
    """The gradient as it is for a factor of 0, else MI-FGSM's, per image: g <- factor * g + gradient / |gradient|.

    |.| is the mean absolute value; the published one is the sum, which AdamW cannot tell from it.
    """

    def __init__(self, factor: float):
        self.factor, self.velocity = factor, 0.0

    def __call__(self, gradient: Tensor) -> Tensor:
        if self.factor == 0:
            return gradient
        size = gradient.abs().flatten(1).mean(1).clamp_min(SMALLEST_GRADIENT)
        self.velocity = self.factor * self.velocity + gradient / size[:, None, None, None]
        return self.velocity


class _History:
    """The losses of every iteration, each reported as it comes."""

    def __init__(self, iterations: int, on_step: OnStep | None):
        self.iterations, self.on_step = iterations, on_step
        self.losses: dict[str, list[list[float]]] = {"identity": [], "structure": []}

    def add(self, changed: Tensor, **losses: Tensor) -> None:
        now = {name: loss.tolist() for name, loss in losses.items()}
        for name, values in now.items():
            self.losses[name].append(values)
        if self.on_step:
            event = {"stage": "protection", "step": len(self.losses["identity"]), "steps": self.iterations}
            self.on_step(event | now | {"image": changed.detach()})


class _Run:
    """From a noisy latent to the image that the surrogates see."""

    def __init__(self, denoiser, codec, trajectory, embeddings, structure, photo, mask):
        self.denoiser, self.codec, self.trajectory = denoiser, codec, trajectory
        self.embeddings, self.structure = embeddings.detach(), structure
        self.photo, self.mask = photo, mask
        if photo is not None:
            self.decoded_unchanged = self._decode_unchanged()
            _require_same_size(photo, self.decoded_unchanged)

    @torch.no_grad()
    def _decode_unchanged(self) -> Tensor:
        structure, start = self.structure, self.trajectory.latents[-1]
        return self.codec.decode(structure.latent if structure else self.denoise(start)[0])

    def unchanged_image(self) -> Tensor:
        """What the surrogates would see of the unchanged latent: the photo itself for "detail"."""
        return self._decode_unchanged() if self.photo is None else self.photo

    def __call__(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, C, h, w] -> the changed image, the denoised latent, the structure loss [B]."""
        decoded_latent, structure_loss = self.denoise(latent)
        image = self.codec.decode(decoded_latent)
        if self.photo is not None:
            change = image - self.decoded_unchanged
            image = (self.photo + (change if self.mask is None else change * self.mask)).clamp(0.0, 1.0)
        return image, decoded_latent, structure_loss

    def denoise(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        structure_loss = latent.new_zeros(latent.shape[0])
        for step in range(self.trajectory.depth):
            layers = StructureLoss(self.structure.queries_and_keys[step]) if self.structure else None
            latent = self.trajectory.denoise_step(self.denoiser, latent, step, self.embeddings[step], layers)
            structure_loss = structure_loss + (layers.loss if layers else 0.0)
        return latent, structure_loss


def _check(output: str, image: Tensor | None, mask: Tensor | None, iterations: int, lr: float, momentum: float) -> None:
    require(
        output in ("published", "detail"),
        f'{WHERE}: output must be "published" or "detail", got {output!r}',
        'use "published" to repeat the paper, "detail" to keep the photo\'s own pixels',
    )
    require(
        output == "published" or image is not None,
        f'{WHERE}: output "detail" needs the photo it adds the change to, and no image is connected',
        "connect the photo to the input image",
    )
    require(
        output == "detail" or mask is None,
        f'{WHERE}: a mask works with output "detail" only, got {output!r}',
        'choose output "detail", or disconnect the mask',
    )
    require(
        iterations >= 0 and lr > 0,
        f"{WHERE}: iterations must not be negative and lr must be positive, got {iterations}, {lr}",
        "use 35 iterations with a learning rate of 0.01, the paper's values",
    )
    require(
        0 <= momentum < 1,
        f"{WHERE}: momentum must be at least 0 and less than 1, got {momentum}",
        "use 0 for the paper's plain gradient, or 0.9",
    )
    if output == "detail":
        require_image(image, WHERE)


def _require_same_size(photo: Tensor, decoded: Tensor) -> None:
    require(
        photo.shape == decoded.shape,
        f"{WHERE}: the photo is {list(photo.shape)}, the decoded latent {list(decoded.shape)}",
        "encode the very photo that is connected here (its height and width must be multiples of 8)",
    )


def _finite(loss: Tensor, iteration: int) -> Tensor:
    require_finite(
        loss,
        f"{WHERE}: the loss of iteration {iteration}",
        "run the model in float32 or bfloat16 (float16 overflows here), or lower lr",
    )
    return loss

"""Adversarial latent optimisation: the noisy latent is changed until the surrogates see somebody else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..checks import given, require, require_image
from ..progress import OnStep
from ..protocols import Denoiser, ImageCodec, decoder_of_changes
from .attention import HELD_AT_MOST, SelfAttentionReference, StructureLoss, require_embeddings
from .inversion import Trajectory
from .restraint.fidelity import Fidelity
from .variables import Objective, Rendering, optimize, weight_of

Output = Literal["published", "detail"]
LUMA = (0.299, 0.587, 0.114)  # of R, G, B: ITU-R BT.601
WHERE = "Adversarial Latent Optimizer"


@dataclass(frozen=True, eq=False)
class ProtectionResult:
    """The protected images, and the latents that they were made from.

    Args:
        image: [B, 3, H, W] in [0, 1].
        latent: the optimised noisy latent z_adv, [B, C, h, w].
        decoded_latent: what z_adv denoises to, [B, C, h, w].
        history: lists with one entry per iteration: "identity" and "structure" (each [B floats], before the weights).
    """

    image: Tensor
    latent: Tensor
    decoded_latent: Tensor
    history: dict[str, list[list[float]]]


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
    keep_colours: bool = False,
    early_stop: bool = False,
    start: Tensor | None = None,
    on_step: OnStep | None = None,
) -> ProtectionResult:
    """The paper's second stage: AdamW on the noisy latent, min over z of objective_weight * identity + structure.

    Args:
        denoiser: the U-Net.
        codec: the autoencoder.
        trajectory: of `ddim_invert`.
        embeddings: [depth, B, tokens, dim] of `learn_null_text`.
        objective: image [B, 3, H, W] -> loss [B]; where it has a method `at`, at(iteration) is used instead.
        structure: the unchanged run's self-attention; None leaves the structure loss out.
        iterations: of AdamW; 0 leaves the latent as it is.
        lr: of AdamW.
        objective_weight: of the identity loss; the structure loss counts 1.
        output: "published" returns the decoded latent, as the paper does, and shows it to the surrogates unclamped.
            "detail" adds only the change to the untouched photo, image + mask * (D(z_adv) - D(z)), clamped to [0, 1],
            and shows the surrogates exactly that.
        image: the untouched photo [B, 3, H, W] in [0, 1], needed for "detail".
        mask: [1 or B, 1, H, W] in [0, 1], where "detail" may change the photo; where it is 0, pixels stay bit-equal.
        fidelity_weight: of `Fidelity` of the returned image, beside the identity loss of a recogniser (times how many
            there are, and times objective_weight); 0 in the paper.
        keep_colours: with "detail", only the lightness of the change is added, to all channels alike; a grey photo
            stays grey in any case.
        early_stop: an image is left as it is once objective.reached(image) says so, and the run ends with the last one.
        start: the `latent` of an earlier result, to go on from there; None starts from the trajectory's.
        on_step: called after every iteration, with the losses and the image.

    Raises:
        ProtectionError: shapes that do not fit together, or a loss or an image that becomes NaN.
    """
    require_embeddings(trajectory, embeddings, WHERE)
    check_output(output, image, mask, keep_colours, WHERE)
    photo = image if output == "detail" else None
    with torch.enable_grad():
        variable = NoisyLatent(
            denoiser, codec, trajectory, embeddings, structure, photo, mask,
            objective_weight * weight_of(objective) * fidelity_weight, keep_colours,
        )  # fmt: skip
    result = optimize(
        variable,
        objective,
        iterations=iterations,
        lr=lr,
        objective_weight=objective_weight,
        start=start,
        early_stop=early_stop,
        on_step=on_step,
        where=WHERE,
    )
    rendering = result.rendering
    assert rendering.decoded is not None  # a NoisyLatent always has one
    return ProtectionResult(rendering.image.clamp(0.0, 1.0), result.value, rendering.decoded, result.history)


class NoisyLatent:
    """The paper's variable: the noisiest latent of a trajectory, rendered by denoising and decoding it."""

    losses: tuple[str, ...] = ("structure",)

    def __init__(
        self, denoiser, codec, trajectory, embeddings, structure, photo, mask, fidelity_weight=0.0, keep_colours=False
    ):
        self.denoiser, self.trajectory = denoiser, trajectory
        self.decode = codec.decode if photo is None else decoder_of_changes(codec)
        self.embeddings, self.structure = embeddings.detach(), structure
        small = structure is not None and structure.map_elements <= HELD_AT_MOST
        self.maps = structure.maps() if small else ({},) * trajectory.depth
        self.photo, self.mask = photo, mask
        self.start, self.fidelity_weight = trajectory.latents[-1], fidelity_weight
        if photo is not None:
            self.decoded_unchanged = self._decode_unchanged()
            _require_same_size(photo, self.decoded_unchanged)
            self.without_colours = is_grey(photo)[:, None, None, None] | keep_colours
        self.fidelity = Fidelity(self._unchanged_image(), mask) if fidelity_weight else None

    @torch.no_grad()
    def _decode_unchanged(self) -> Tensor:
        structure = self.structure
        return self.decode(structure.latent if structure else self.denoise(self.start)[0])

    def _unchanged_image(self) -> Tensor:
        """What the surrogates would see of the unchanged latent: the photo itself for "detail"."""
        return self._decode_unchanged() if self.photo is None else self.photo

    def render(self, value: Tensor) -> Rendering:
        """[B, C, h, w] -> the changed image, the structure loss [B], and what was denoised."""
        return self.shown(*self.denoise(value))

    def shown(self, decoded_latent: Tensor, structure_loss: Tensor) -> Rendering:
        """What `denoise` gave -> the changed image, as `output` wants it."""
        image = self.decode(decoded_latent)
        if self.photo is not None:
            change = image - self.decoded_unchanged
            lightness = (change * change.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True).expand_as(change)
            change = torch.where(self.without_colours, lightness, change)
            image = (self.photo + (change if self.mask is None else change * self.mask)).clamp(0.0, 1.0)
        losses = {"structure": structure_loss}
        if self.fidelity:
            losses["fidelity"] = self.fidelity_weight * self.fidelity(image)
        return Rendering(image, losses, decoded_latent)

    def denoise(self, latent: Tensor, denoisers: Sequence[Denoiser] | None = None) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] -> what it denoises to, and the structure loss [B]. denoisers: one for each step, if not one for
        all."""
        denoisers = denoisers or [self.denoiser] * self.trajectory.depth
        structure_loss = latent.new_zeros(latent.shape[0])
        for step, denoiser in enumerate(denoisers):
            reference = self.structure and self.structure.queries_and_keys[step]
            layers = StructureLoss(reference, maps=self.maps[step]) if reference else None
            latent = self.trajectory.denoise_step(denoiser, latent, step, self.embeddings[step], layers)
            structure_loss = structure_loss + (layers.loss if layers else 0.0)
        return latent, structure_loss


def is_grey(photo: Tensor) -> Tensor:
    """[B] of bool: which of the photos [B, 3, H, W] have no colour in any pixel."""
    return (photo[:, 1:] == photo[:, :1]).flatten(1).all(1)


def check_output(output: str, image: Tensor | None, mask: Tensor | None, keep_colours: bool, where: str) -> None:
    """Refuses what does not go together; where: the block, for messages. The others: see `optimize_latent`."""
    require(
        output in ("published", "detail"),
        f'{where}: output must be "published" or "detail", got {output!r}',
        'use "published" to repeat the paper, "detail" to keep the photo\'s own pixels',
    )
    require(
        output == "detail" or mask is None,
        f'{where}: a mask works with output "detail" only, got {output!r}',
        'choose output "detail", or disconnect the mask',
    )
    require(
        output == "detail" or not keep_colours,
        f'{where}: keep_colours works with output "detail" only, got {output!r}',
        'choose output "detail", or switch keep_colours off',
    )
    if output == "detail":
        problem = f'{where}: output "detail" needs the photo it adds the change to, and no image is connected'
        require_image(given(image, problem, "connect the photo to the input image"), where)


def _require_same_size(photo: Tensor, decoded: Tensor) -> None:
    require(
        photo.shape == decoded.shape,
        f"{WHERE}: the photo is {list(photo.shape)}, the decoded latent {list(decoded.shape)}",
        "encode the very photo that is connected here (its height and width must be multiples of 8)",
    )

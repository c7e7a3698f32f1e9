"""Does it still look like the photo? How visible the change of a face is, in plain words and in numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from torch import Tensor

from ..faces import Face, face_mask
from .quality import MS_SSIM_SMALLEST, ciede2000, ms_ssim, psnr

FACE = 0.5  # of the mask over a face: above it a pixel is the face's
# Mokrzycki, Tatol, "Colour difference Delta E - A survey" (2011): below 2 only somebody experienced notices it, up to
# 3.5 everybody does, above it is clear. The mean over a face is held against that. So that a small patch does not hide
# in the mean, the most changed twentieth of the face must stay below 3.5, too, and below 7 (ours, by looking at pairs).
HARDLY, COMPARED = (2.0, 3.5), (3.5, 7.0)  # CIEDE2000: mean, 95th percentile


@dataclass(frozen=True)
class Visibility:
    """What was changed of one face, both photos with 8 bits a channel.

    Args:
        ciede2000, ciede2000_95: mean and 95th percentile over the face.
        psnr: in dB, over the face; infinite where nothing was changed.
        ms_ssim: of the face's box; None where a side is below 161 pixels.
    """

    ciede2000: float
    ciede2000_95: float
    psnr: float
    ms_ssim: float | None

    @property
    def words(self) -> str:
        """For a layman, from CIEDE2000 alone."""
        if self.ciede2000 == 0:
            return "not changed"
        for (mean, worst), said in ((HARDLY, "hardly visible"), (COMPARED, "visible when compared")):
            if self.ciede2000 <= mean and self.ciede2000_95 <= worst:
                return said
        return "clearly visible"

    @property
    def numbers(self) -> str:
        """The same for those who know the measures."""
        return (
            f"CIEDE2000 {self.ciede2000:.1f} on average, {self.ciede2000_95:.1f} at the 95th percentile; "
            f"PSNR {self.psnr:.1f} dB; MS-SSIM {self.cells['MS-SSIM']}"
        )

    @property
    def cells(self) -> dict[str, str]:
        """Name of a measure -> its value, for a table."""
        return {
            "CIEDE2000, mean": f"{self.ciede2000:.1f}",
            "95 %": f"{self.ciede2000_95:.1f}",
            "PSNR, dB": f"{self.psnr:.1f}",
            "MS-SSIM": f"- (below {MS_SSIM_SMALLEST} pixels)" if self.ms_ssim is None else f"{self.ms_ssim:.3f}",
        }

    def to_dict(self) -> dict:
        """For JSON, rounded; a PSNR that is infinite is null."""
        found = {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}
        return {"visible": self.words} | found | ({"psnr": None} if math.isinf(self.psnr) else {})


def visibility_of(original: Tensor, protected: Tensor, face: Face) -> Visibility | None:
    """How visible the change of a face is, [3, H, W] in [0, 1] twice; None for a face that has no pixel of its own.

    On the CPU: the measures are in float64, which Apple's GPUs lack.
    """
    a, b = original[None].cpu(), protected[None].cpu()
    mask = face_mask([face], *a.shape[2:])[None] > FACE
    if not mask.any():
        return None
    rows, columns = (_span(mask[0, 0].any(axis)) for axis in (1, 0))
    parts = [image[..., rows, columns] for image in (a, b, mask)]
    mean, worst = ciede2000(*parts)
    return Visibility(mean.item(), worst.item(), psnr(*parts).item(), _ms_ssim_of_box(a, b, face))


def _span(some: Tensor) -> slice:
    """From the first that is true to the last."""
    places = some.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1)


def _ms_ssim_of_box(a: Tensor, b: Tensor, face: Face) -> float | None:
    left, top, right, bottom = (max(0, round(value)) for value in face.box_xyxy)
    a, b = a[..., top:bottom, left:right], b[..., top:bottom, left:right]
    return ms_ssim(a, b).item() if min(a.shape[2:]) >= MS_SSIM_SMALLEST else None

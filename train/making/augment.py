"""Augmentation on the device, a batch at a time: every picture gets its own geometry, scanner and compression.

What makes a bleed must survive all of it, and what a scanner does must not point to one: size, place and angle in the
picture, noise and its grain, sharpness, resolution, calibration, cupping and JPEG are varied for all pictures alike.
Amounts are given in HU or in pixels of the 224 x 224 picture; pictures run from 0 (0 HU or less, or outside of the
head) to 1 (80 HU or more).

What happens to which picture, and how much, is drawn on the host and sent to the device at once: a device that drew it
would have to be asked, and waited for, before those pictures could be taken out. Noise is drawn on the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it

from train.making.warping import warped
from train.sending import sent

HU = 1 / 80  # one HU, in the units of a picture
JPEG_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)  # ITU-T T.81, table K.1


@dataclass(frozen=True)
class Change:
    """What a scanner does to some pictures."""

    share: float
    """Share of the pictures changed: the chance of each."""
    amounts: Callable[[int], torch.Tensor]
    """For that many pictures: (A, n), on the host."""
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Pictures (n, 1, S, S) by their amounts (A, n, 1, 1, 1)."""

    def drawn(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers (n,) of those out of `count` pictures that are changed, and the amounts."""
        rows = (torch.rand(count) < self.share).nonzero()[:, 0]
        return rows, self.amounts(len(rows))[:, :, None, None, None]


def augment(pictures: torch.Tensor, blood: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`pictures`: (B, 1, 224, 224) in 0..1; `blood`: (B, 1, h, w), share of each cell that shows blood. Both, changed.

    Draws from torch's global generators of host and device: seed them, and the result is fixed.
    """
    count = len(pictures)
    drawn = [each for change in CHANGES for each in change.drawn(count)]
    theta, *drawn = sent([_geometry(count), *drawn], pictures.device)
    pictures, blood = warped(pictures, theta), warped(blood, theta)
    inside = pictures > 0
    for change, rows, amounts in zip(CHANGES, drawn[::2], drawn[1::2], strict=True):
        if len(rows):
            pictures[rows] = change.apply(pictures[rows], amounts)
    # Outside of the head is 0, as brace removal leaves it; otherwise noise there would show how it was made.
    return (pictures * inside).clamp_(0, 1), blood


def _geometry(count: int) -> torch.Tensor:
    """(B, 2, 3): turned by up to 20 degrees, scaled by 0.8 to 1.2 (each axis by up to 6 % more), moved by up to 8 %,
    mirrored.
    """
    angle = _spread(math.radians(20), count)
    scale = 1 + _spread(0.2, count)
    stretch = 1 + _spread(0.06, count)
    mirror = (torch.rand(count) < 0.5).float() * 2 - 1
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    columns = torch.stack((mirror * cosine * stretch, -sine, _spread(0.16, count)), 1)
    rows = torch.stack((mirror * sine * stretch, cosine, _spread(0.16, count)), 1)
    return torch.stack((columns, rows), 1)


def _grains(count: int) -> torch.Tensor:
    """Amounts of white and of coarse noise, such that every mixture is equally strong: up to 7 HU."""
    white, strength = torch.rand(2, count)
    each = strength * 7 * HU / (white.square() + (1 - white).square()).sqrt()
    return torch.stack((white * each, (1 - white) * each * 1.6))  # interpolation leaves 1 / 1.6 of the spread


def _grain(pictures: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Noise, white and with a grain of about two pixels."""
    count, _, height, width = pictures.shape
    white = torch.randn_like(pictures)
    small = torch.randn(count, 1, height // 2, width // 2, device=pictures.device)
    return torch.addcmul(pictures, white, amounts[0]).addcmul_(_enlarged(small, pictures), amounts[1])


def _glows(count: int) -> torch.Tensor:
    """Up to 14 HU brighter or 3 HU darker."""
    return (5.5 + _spread(8.5, 1, count)) * HU


def _bone_glow(pictures: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Tissue amid bone brighter or darker: partial volume and beam hardening at base and vertex."""
    bone = F.avg_pool2d((pictures > 0.97).float(), 8)
    return torch.addcmul(pictures, _enlarged(F.avg_pool2d(bone, 5, 1, 2), pictures), amounts[0])


def _calibrations(count: int) -> torch.Tensor:
    """Gain of up to 8 %; offset of up to 4 HU and, in 3 x 3 places of the picture, drift of up to 4 HU, in one."""
    gain, offset, drift = _spread(0.08, 1, count), _spread(4 * HU, 1, count), _spread(4 * HU, 9, count)
    return torch.cat((1 + gain, offset + drift))


def _calibration(pictures: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Gain, offset, and a slow drift over the picture (cupping, tilt)."""
    drift = amounts[1:, :, 0, 0, 0].T.reshape(-1, 1, 3, 3)
    return torch.addcmul(_enlarged(drift, pictures), pictures, amounts[0])


def _none(count: int) -> torch.Tensor:
    return torch.empty(0, count)


def _resolution(pictures: torch.Tensor, _amounts: torch.Tensor) -> torch.Tensor:
    """Seen at 45 to 95 % of its pixels: one size for the batch, so that it stays one operation."""
    size = int(pictures.shape[-1] * (0.45 + 0.5 * float(torch.rand(()))))
    return _enlarged(F.interpolate(pictures, (size, size), mode="bilinear", antialias=True), pictures)


def _sharpenings(count: int) -> torch.Tensor:
    return _spread(1.0, 1, count)


def _sharpness(pictures: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """From blurred over 5 pixels to sharpened by as much, as reconstruction kernels differ."""
    # Four sums of neighbours weigh 1 4 6 4 1: on a CPU far faster than a convolution of one channel.
    p = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    for _ in range(4):
        p = p[..., 1:] + p[..., :-1]
    for _ in range(4):
        p = p[..., 1:, :] + p[..., :-1, :]
    return torch.lerp(p.div_(256), pictures, 1 + amounts[0])


def _compressions(count: int) -> torch.Tensor:
    """Quality 30 to 95."""
    return coarseness(30 + 65 * torch.rand(1, count))


def _compressed(pictures: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    return quantised(pictures, amounts[0])


CHANGES = (
    Change(0.4, _grains, _grain),
    Change(0.5, _glows, _bone_glow),
    Change(0.8, _calibrations, _calibration),
    Change(0.25, _none, _resolution),
    Change(0.5, _sharpenings, _sharpness),
    Change(0.25, _compressions, _compressed),
)


def coarseness(quality: torch.Tensor) -> torch.Tensor:
    """What the table of JPEG is multiplied by for a quality of 1 to 100, as libjpeg does it."""
    return torch.where(quality < 50, 50 / quality, 2 - quality / 50)


def quantised(pictures: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Blocks of 8 x 8 through DCT, quantisation by the table times `coarse` (B, 1, 1, 1), and back."""
    count, _, height, width = pictures.shape
    transform, table = _dct(pictures.device)
    steps = (table * coarse[:, 0]).clamp(min=1)  # (B, 1, 64)
    blocks = (pictures.clamp(0, 1) * 255 - 128).view(count, height // 8, 8, width // 8, 8)
    coefficients = blocks.transpose(2, 3).reshape(count, -1, 64) @ transform.T
    restored = ((coefficients / steps).round_() * steps) @ transform
    restored = restored.view(count, height // 8, width // 8, 8, 8).transpose(2, 3)
    return (restored.reshape(count, 1, height, width) + 128) / 255


@functools.cache
def _dct(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(64, 64), the orthonormal DCT of a block of 8 x 8 as one matrix, and the table (64,): once for each device."""
    k = torch.arange(8, dtype=torch.float64)
    dct = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    table = torch.tensor(JPEG_LUMINANCE, dtype=torch.float32).flatten()
    return torch.kron(dct, dct).float().to(device), table.to(device)


def _enlarged(small: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(small, like.shape[-2:], mode="bilinear")


def _spread(reach: float, *shape: int) -> torch.Tensor:
    """Uniform between -reach and reach, on the host."""
    return (torch.rand(shape) * 2 - 1) * reach

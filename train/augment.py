"""Augmentation on the device, a batch at a time: every picture gets its own geometry, scanner and compression.

What a bleed is must survive all of it, and what a scanner does must not tell a bleed: size, place and angle in the
picture, noise and its grain, sharpness, resolution, calibration, cupping and JPEG are varied for all pictures alike.
Amounts are given in HU or in pixels of the 224 x 224 picture; pictures run from 0 (0 HU or less, or outside of the
head) to 1 (80 HU or more).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it

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


def augment(pictures: torch.Tensor, blood: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`pictures`: (B, 1, 224, 224) in 0..1; `blood`: (B, 1, h, w), share of each cell that shows blood. Both, changed.

    Draws from torch's global generator: seed it, and the result is fixed.
    """
    pictures, blood = geometry(pictures, blood)
    inside = (pictures > 0).float()
    for share, change in (
        (0.4, _grain),
        (0.5, _bone_glow),
        (0.8, _calibration),
        (0.25, _resolution),
        (0.5, _sharpness),
        (0.25, _compressed),
    ):
        chosen = torch.rand(len(pictures), device=pictures.device) < share
        if chosen.any():
            pictures[chosen] = change(pictures[chosen])
    # Outside of the head is 0, as brace removal leaves it; without this, noise there would tell how it was made.
    return (pictures * inside).clamp(0, 1), blood


def geometry(pictures: torch.Tensor, blood: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turned by up to 20 degrees, scaled by 0.8 to 1.2 (each axis by up to 6 % more), moved by up to 8 %, mirrored."""
    count = len(pictures)
    angle = _spread(count, math.radians(20), pictures)
    scale = 1 + _spread(count, 0.2, pictures)
    stretch = 1 + _spread(count, 0.06, pictures)
    mirror = (torch.rand(count, device=pictures.device) < 0.5).float() * 2 - 1
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = (
        torch.stack((mirror * cosine * stretch, -sine, _spread(count, 0.16, pictures)), 1),
        torch.stack((mirror * sine * stretch, cosine, _spread(count, 0.16, pictures)), 1),
    )
    theta = torch.stack(rows, 1)  # (B, 2, 3)
    moved = [
        F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
        for x in (pictures, blood)
    ]
    return moved[0], moved[1]


def _grain(pictures: torch.Tensor) -> torch.Tensor:
    """Noise of up to 7 HU, white or with a grain of up to about two pixels."""
    count = len(pictures)
    white = torch.randn_like(pictures)
    small = torch.randn(count, 1, pictures.shape[-2] // 2, pictures.shape[-1] // 2, device=pictures.device)
    coarse = (
        F.interpolate(small, pictures.shape[-2:], mode="bilinear") * 1.6
    )  # interpolation leaves 1 / 1.6 of the spread
    mixed = _each(torch.rand(count, device=pictures.device))
    noise = (white * mixed + coarse * (1 - mixed)) / (mixed.square() + (1 - mixed).square()).sqrt()
    return pictures + noise * _each(torch.rand(count, device=pictures.device)) * 7 * HU


def _bone_glow(pictures: torch.Tensor) -> torch.Tensor:
    """Tissue amid bone up to 14 HU brighter or 3 HU darker: partial volume and beam hardening at base and vertex."""
    bone = F.avg_pool2d((pictures > 0.97).float(), 8)
    near = F.interpolate(F.avg_pool2d(bone, 5, 1, 2), pictures.shape[-2:], mode="bilinear")
    return pictures + near * _each(5.5 + _spread(len(pictures), 8.5, pictures)) * HU


def _calibration(pictures: torch.Tensor) -> torch.Tensor:
    """Offset of up to 4 HU, gain of up to 8 %, a slow drift over the picture (cupping, tilt) of up to 4 HU."""
    count = len(pictures)
    drift = F.interpolate(
        _spread(count * 9, 4 * HU, pictures).view(count, 1, 3, 3), pictures.shape[-2:], mode="bilinear"
    )
    return pictures * (1 + _each(_spread(count, 0.08, pictures))) + _each(_spread(count, 4 * HU, pictures)) + drift


def _resolution(pictures: torch.Tensor) -> torch.Tensor:
    """Seen at 45 to 95 % of its pixels: one size for the batch, so that it stays one operation."""
    size = int(pictures.shape[-1] * (0.45 + 0.5 * float(torch.rand(()))))
    small = F.interpolate(pictures, (size, size), mode="bilinear", antialias=True)
    return F.interpolate(small, pictures.shape[-2:], mode="bilinear")


def _sharpness(pictures: torch.Tensor) -> torch.Tensor:
    """From blurred over 5 pixels to sharpened by as much, as reconstruction kernels differ."""
    p = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    # binomial weights 1 4 6 4 1 in sums of slices: on a CPU ten times faster than a convolution of one channel
    p = (p[..., :-4] + p[..., 4:] + 4 * (p[..., 1:-3] + p[..., 3:-1]) + 6 * p[..., 2:-2]) / 16
    blurred = (p[..., :-4, :] + p[..., 4:, :] + 4 * (p[..., 1:-3, :] + p[..., 3:-1, :]) + 6 * p[..., 2:-2, :]) / 16
    return pictures + (pictures - blurred) * _each(_spread(len(pictures), 1.0, pictures))


def _compressed(pictures: torch.Tensor) -> torch.Tensor:
    return jpeg(pictures, 30 + 65 * torch.rand(len(pictures), device=pictures.device))


def jpeg(pictures: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """As after JPEG of the given quality (B,), 1..100: blocks of 8 x 8 through DCT, quantisation, and back."""
    count, _, height, width = pictures.shape
    device = pictures.device
    k = torch.arange(8, dtype=torch.float32, device=device)
    dct = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(count, 1, 1, 1, 1)
    table = torch.tensor(JPEG_LUMINANCE, dtype=torch.float32, device=device)[:, None, :]  # (8, 1, 8)
    steps = (table * scale).clamp(min=1)
    blocks = (pictures.clamp(0, 1) * 255 - 128).view(count, height // 8, 8, width // 8, 8)
    coefficients = torch.einsum("ui,bhiwj,vj->bhuwv", dct, blocks, dct)
    rounded = (coefficients / steps).round() * steps
    restored = torch.einsum("ui,bhuwv,vj->bhiwj", dct, rounded, dct)
    return (restored.reshape(count, 1, height, width) + 128) / 255


def _spread(count: int, reach: float, like: torch.Tensor) -> torch.Tensor:
    """(count,), even between -reach and reach."""
    return (torch.rand(count, device=like.device) * 2 - 1) * reach


def _each(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)

"""The papers' augmentation, on the 256 x 256 picture before CenterCrop 224, a batch at a time on the device.

Each picture is turned by up to 15 degrees and, with probability 0.5, sharpened by the factor 2: torchvision's
RandomRotation (nearest neighbour, black corners) and RandomAdjustSharpness (PIL's SMOOTH filter, extrapolated; borders
kept), which is what the numbers in Fan et al. 2024, section 2.2.2, stand for.
"""

from __future__ import annotations

import math

import torch

from train.making.warping import warped
from train.sending import sent

TURN = math.radians(15)
SHARPER = 2.0
CHANCE = 0.5


def augment(pictures: torch.Tensor, blood: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`pictures`: (B, 1, S, S) in 0..1; `blood`: (B, 1, s, s), share of each cell. Both, changed.

    Draws from the host's global generator, so that nothing waits for the device to say which pictures are sharpened.
    """
    count = len(pictures)
    angle = (torch.rand(count) * 2 - 1) * TURN
    rows = (torch.rand(count) < CHANCE).nonzero()[:, 0]
    theta, rows = sent([turn(angle), rows], pictures.device)
    pictures, blood = (warped(each, theta, mode="nearest") for each in (pictures, blood))
    pictures[rows] = sharpened(pictures[rows])
    return pictures, blood


def turn(angle: torch.Tensor) -> torch.Tensor:
    """(B, 2, 3), for `warped`: rotations about the middle by each angle (B,), in radians."""
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack((torch.stack((cosine, -sine, zero), 1), torch.stack((sine, cosine, zero), 1)), 1)


def sharpened(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures `SHARPER` times as far from their smoothed selves; smoothing weighs the middle 5, its neighbours 1."""
    inner = 4 * pictures[..., 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            height, width = pictures.shape[-2] - 2, pictures.shape[-1] - 2
            inner = inner + pictures[..., row : row + height, column : column + width]
    smooth = pictures.clone()
    smooth[..., 1:-1, 1:-1] = inner / 13
    return (smooth + (pictures - smooth) * SHARPER).clamp(0, 1)

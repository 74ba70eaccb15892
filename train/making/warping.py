"""Pictures turned, scaled and moved, each by a matrix of its own."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it


def warped(pictures: torch.Tensor, theta: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """(B, 1, H, W) sampled where `theta` (B, 2, 3) puts each pixel, in -1..1 of width and height; black beyond.

    As `F.affine_grid` without `align_corners`, which would compute the pixels' places again each time: on a GPU eight
    small operations.
    """
    count, _, height, width = pictures.shape
    places = _places(height, width, pictures.device).expand(count, -1, -1)
    grid = torch.bmm(places, theta.transpose(1, 2)).view(count, height, width, 2)
    return F.grid_sample(pictures, grid, mode=mode, align_corners=False)


@functools.cache  # a training has one size of picture, and one of the map of blood
def _places(height: int, width: int, device: torch.device) -> torch.Tensor:
    """(H * W, 3): column, row and 1 of each pixel's middle."""
    rows, columns = ((2 * torch.arange(n, dtype=torch.float32) + 1) / n - 1 for n in (height, width))
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((column, row, torch.ones_like(row)), -1).view(-1, 3).to(device)

"""Brace removal in `paper` mode for many slices at once, by torch on any device: the masks of `brace.paper`, exactly.

For a machine whose GPU waits for its CPU, as in preparing training pictures. The node does not use it: it reads slice
by slice, and its `robust` mode (distances, hulls, parts judged one by one) has no such form. Written without a GPU at
hand: equal on every test slice on the CPU; its speed on a GPU is not measured (`benchmarks.brace --device cuda`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtvit.brace import PAPER_LEVEL, PAPER_RADIUS, WINDOW_HU


def paper(hu: Tensor) -> Tensor:
    """The papers' masks: (N, row, column) bool of `hu` (N, row, column) float32, on the device of `hu`."""
    thin = _erode(_binarised(hu), PAPER_RADIUS)
    labels = components(thin, diagonal=True)
    body = _dilate(_largest(labels), PAPER_RADIUS)
    body[:, :, 0] = body[:, :, -1] = False
    outside = components(~body, diagonal=False)
    found: Tensor = outside != outside[:, :1, :1]  # the flood from the corner
    return found & thin.flatten(1).any(1)[:, None, None]


def _binarised(hu: Tensor) -> Tensor:
    """As `brace._binarised`, whose arithmetic is double up to the level itself."""
    low, high = (edge.double().clamp(*WINDOW_HU) for edge in torch.aminmax(hu.flatten(1), dim=1))
    level = (low + (PAPER_LEVEL + 1) * (high - low) / 255.0).float()
    return (hu >= level[:, None, None]) & (high > low)[:, None, None]


def components(mask: Tensor, *, diagonal: bool) -> Tensor:
    """Each pixel's part of `mask` (N, row, column), 8-connected if `diagonal`, else 4-connected: the index, row by row,
    of the part's first pixel in its slice; outside the mask the number of pixels. int64, as `mask` in shape.

    Every pixel points to an earlier one of its part. Each round the pixel pointed to learns the least that is known
    around those who point to it, and every pointer is followed twice: rounds grow as the logarithm of a part's length.
    """
    slices, rows, columns = mask.shape
    size = rows * columns
    inside = mask.flatten(1)
    nothing = torch.full((slices, 1), size, device=mask.device)
    points_to = torch.where(inside, torch.arange(size, device=mask.device), size)
    while True:
        around = _least_around(points_to.view(mask.shape), size, diagonal).flatten(1)
        told = torch.cat([points_to, nothing], 1).scatter_reduce(
            1, points_to, torch.where(inside, around, size), "amin"
        )
        told = told.gather(1, told)
        told = told.gather(1, told)[:, :size]
        if torch.equal(told, points_to):
            return points_to.view(mask.shape)
        points_to = told.contiguous()


def _largest(labels: Tensor) -> Tensor:
    """Where the part of largest area is, the first of equals; nowhere where there is none."""
    slices, rows, columns = labels.shape
    size = rows * columns
    areas = torch.zeros((slices, size + 1), dtype=torch.int64, device=labels.device)
    areas.scatter_add_(1, labels.flatten(1), torch.ones_like(labels.flatten(1)))
    areas = areas[:, :size] * size - torch.arange(size, device=labels.device)  # argmax takes any of equals on a GPU
    return labels == areas.argmax(1)[:, None, None]


def _least_around(values: Tensor, beyond: int, diagonal: bool) -> Tensor:
    """The least of each pixel and its neighbours; `beyond` the border."""
    up, down = _shifted(values, 1, 0, beyond), _shifted(values, -1, 0, beyond)
    column = torch.minimum(torch.minimum(up, down), values)
    row = column if diagonal else values
    return torch.minimum(column, torch.minimum(_shifted(row, 0, 1, beyond), _shifted(row, 0, -1, beyond)))


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """By disk(radius); nothing lies beyond the border."""
    found = torch.zeros_like(mask)
    wide, reach = mask, 0
    for down in range(radius, -1, -1):  # rows far from the disk's centre are short, the middle one is longest
        half = int((radius * radius - down * down) ** 0.5)
        while reach < half:
            reach += 1
            wide = wide | _shifted(mask, 0, reach, False) | _shifted(mask, 0, -reach, False)
        found |= _shifted(wide, down, 0, False) | _shifted(wide, -down, 0, False)
    return found


def _erode(mask: Tensor, radius: int) -> Tensor:
    """By disk(radius); what lies beyond the border counts as mask."""
    return ~_dilate(~mask, radius)


def _shifted(values: Tensor, down: int, right: int, beyond: int) -> Tensor:
    """(N, row, column) moved by so many pixels, the places that come free filled with `beyond`."""
    moved = torch.full_like(values, beyond)
    rows, columns = values.shape[1:]
    to_rows, from_rows = _overlap(down, rows)
    to_columns, from_columns = _overlap(right, columns)
    moved[:, to_rows, to_columns] = values[:, from_rows, from_columns]
    return moved


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    return slice(max(0, by), max(0, size + min(0, by))), slice(max(0, -by), max(0, size - max(0, by)))

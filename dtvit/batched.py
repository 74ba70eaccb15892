"""Brace removal in `paper` mode for many slices at once, by torch on any device: the masks of `brace.paper`, exactly.

For a machine whose GPU waits for its CPU, as when preparing training pictures. The node does not use it: it reads slice
by slice, and its `robust` mode (distances, hulls, parts judged one by one) has no such form.

All slices lie in one long row of pixels, a `Sheet`: line after line, with gaps that no step to a neighbour crosses, so
that a step is one shift of everything. Regions are told apart by their runs, the unbroken stretches of a line: about a
thousand per slice, against a quarter of a million pixels. Pixels are only looked at to find runs and to draw them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from dtvit.brace import PAPER_LEVEL, PAPER_RADIUS, WINDOW_HU

GAP = PAPER_RADIUS
"""Empty pixels after each line, and empty lines after each slice."""
WORD = 8
"""Pixels moved as one where whole lines move; lines are padded to a multiple of it."""


def paper(hu: Tensor) -> Tensor:
    """The papers' masks: (N, row, column) bool of `hu` (N, row, column) float32, on the device of `hu`."""
    sheet = Sheet(*hu.shape)
    dark = sheet.laid_out(~_binarised(hu))
    thin = sheet.laid_out(~sheet.taken_up(_dilated(dark, sheet.stride)))  # what lies beyond the border is not dark
    body = sheet.taken_up(_dilated(_largest(thin, sheet), sheet.stride))
    body[:, :, 0] = body[:, :, -1] = False
    return ~sheet.taken_up(_flooded(sheet.laid_out(~body), sheet))


def _binarised(hu: Tensor) -> Tensor:
    """As `brace._binarised`, whose arithmetic is double up to the level itself."""
    low, high = (edge.double().clamp(*WINDOW_HU) for edge in torch.aminmax(hu.flatten(1), dim=1))
    level = (low + (PAPER_LEVEL + 1) * (high - low) / 255.0).float()
    return (hu >= level[:, None, None]) & (high > low)[:, None, None]


@dataclass(frozen=True)
class Sheet:
    """How slices lie in one row of pixels, all of them `slices` x `rows` x `columns`."""

    slices: int
    rows: int
    columns: int

    @property
    def stride(self) -> int:
        """From a pixel to the one below it."""
        return -(-(self.columns + GAP) // WORD) * WORD

    @property
    def slice_stride(self) -> int:
        """From a slice's first pixel to the next slice's."""
        return (self.rows + GAP) * self.stride

    def laid_out(self, mask: Tensor) -> Tensor:
        """(slices, rows, columns) as one row; the gaps are False."""
        return pad(mask, (0, self.stride - self.columns, 0, GAP)).flatten()

    def taken_up(self, flat: Tensor) -> Tensor:
        """The inverse of `laid_out`: a view without the gaps."""
        return flat.view(self.slices, -1, self.stride)[:, : self.rows, : self.columns]


def _dilated(flat: Tensor, stride: int) -> Tensor:
    """By disk(3), which is the square of 5 x 5 with one more pixel at the middle of each side."""
    square = _five(_five(flat, 1).view(torch.int64), stride // WORD).view(torch.bool)
    for reach in (PAPER_RADIUS, PAPER_RADIUS * stride):
        square[reach:] |= flat[:-reach]
        square[:-reach] |= flat[reach:]
    return square


def _five(values: Tensor, step: int) -> Tensor:
    """Each value or-ed with those `step` and twice `step` away on either side."""
    wide = pad(values, (2 * step, 2 * step))
    two = wide[:-step] | wide[step:]
    four = two[: -2 * step] | two[2 * step :]
    return four[:-step] | wide[4 * step :]


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a mask in its sheet, in order, and which of them belong together."""

    starts: Tensor
    """Each run's first pixel."""
    ends: Tensor
    """The pixel after its last."""
    region: Tensor
    """The number of the first run of the region to which it belongs."""
    of_slice: Tensor

    @classmethod
    def of(cls, flat: Tensor, sheet: Sheet, *, diagonal: bool) -> Runs:
        """Regions are 8-connected if `diagonal`, else 4-connected."""
        changes = flat.clone()
        changes[1:] ^= flat[:-1]
        turns = changes.nonzero().flatten()
        starts, ends = turns[::2].contiguous(), turns[1::2].contiguous()
        first = changes & flat
        if diagonal:  # runs that touch at a corner overlap once each is longer by one; a run's end is never a start
            flat = flat | changes
        # Two runs that overlap do so first where one of them starts.
        meet = flat[: -sheet.stride] & flat[sheet.stride :] & (first[: -sheet.stride] | first[sheet.stride :])
        above = meet.nonzero().flatten()
        upper, lower = (torch.searchsorted(starts, at, right=True) - 1 for at in (above, above + sheet.stride))
        return cls(starts, ends, _joined(len(starts), upper, lower), starts // sheet.slice_stride)

    def drawn(self, kept: Tensor, flat: Tensor) -> Tensor:
        """The mask (in shape like `flat`) of those runs that are `kept`."""
        changes = torch.zeros_like(flat, dtype=torch.int8)
        changes[self.starts] = kept.to(torch.int8)
        changes[self.ends] = -kept.to(torch.int8)
        return changes.cumsum(0, dtype=torch.int8).view(torch.bool)


def _joined(count: int, upper: Tensor, lower: Tensor) -> Tensor:
    """For each of `count` runs the least one that it is connected with, `upper` and `lower` listing those that touch.

    Every run points to an earlier one of its region, or to itself. Each round, of the two that touching runs point to,
    the greater is pointed to the lesser; then every pointer is followed twice. So rounds grow as the logarithm of a
    region's length: 5 to 10, even in the worst of mazes.
    """
    points_to = torch.arange(count, device=upper.device)
    while True:
        left, right = points_to[upper], points_to[lower]
        told = points_to.scatter_reduce(0, torch.maximum(left, right), torch.minimum(left, right), "amin")
        told = told[told]
        told = told[told]
        if torch.equal(told, points_to):
            return told
        points_to = told


def _largest(flat: Tensor, sheet: Sheet) -> Tensor:
    """Each slice's 8-connected region of largest area, the first of equals; nothing if there is none."""
    runs = Runs.of(flat, sheet, diagonal=True)
    count = len(runs.starts)
    areas = torch.zeros_like(runs.starts).scatter_add(0, runs.region, runs.ends - runs.starts)
    rank = areas[runs.region] * count - runs.region
    best = torch.zeros(sheet.slices, dtype=rank.dtype, device=rank.device)
    best = best.scatter_reduce(0, runs.of_slice, rank, "amax")
    return runs.drawn(rank == best[runs.of_slice], flat)


def _flooded(flat: Tensor, sheet: Sheet) -> Tensor:
    """The 4-connected regions of the slices' first pixels, all of which `flat` must have."""
    runs = Runs.of(flat, sheet, diagonal=False)
    corners = torch.arange(sheet.slices, device=flat.device) * sheet.slice_stride
    outside = runs.region[torch.searchsorted(runs.starts, corners, right=True) - 1]
    return runs.drawn(runs.region == outside[runs.of_slice], flat)

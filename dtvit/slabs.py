"""Thin slices as the model is to see them: the mean over neighbours, as thick as the slices that it learned from.

Those of the papers are some 5 mm thick. One of 1 mm has more than twice their noise, and what it calls hemorrhage in a
head without any is mostly that (docs/shipped-checkpoint.md). A radiologist reads such a series as slabs, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dtvit.findings import SAME_MM

if TYPE_CHECKING:
    from dtvit.ct import CTSlice  # not at run time: training has no pydicom

THIN_MM = 2.5  # from this thickness on, slices are seen as they are
SLAB_MM = 6.0  # from edge to edge, at most; the slice is the middle of its slab, except at the ends of the series


def neighbours(positions_mm: Sequence[float], thicknesses_mm: Sequence[float | None]) -> list[list[int]]:
    """For each slice, ordered along the series, the indices of those whose mean stands for it, itself among them.

    Where no thickness is stated, the distance to the nearest other position is taken for it. Of several slices at one
    position, each stands for itself.
    """
    return [
        _around(i, positions_mm, _nearest(i, positions_mm) if thickness is None else thickness)
        for i, thickness in enumerate(thicknesses_mm)
    ]


def _around(i: int, positions_mm: Sequence[float], thickness_mm: float | None) -> list[int]:
    if thickness_mm is None or thickness_mm >= THIN_MM:
        return [i]
    reach = (SLAB_MM - thickness_mm) / 2 + SAME_MM
    found = [i]
    for step in (-1, 1):
        j = i + step
        while 0 <= j < len(positions_mm) and (apart := abs(positions_mm[j] - positions_mm[i])) <= reach:
            found += [j] if apart > SAME_MM else []
            j += step
    return sorted(found)


def _nearest(i: int, positions_mm: Sequence[float]) -> float | None:
    """Distance to the nearest other position; None where there is none."""
    here, found = positions_mm[i], []
    for step in (-1, 1):
        j = i + step
        while 0 <= j < len(positions_mm) and abs(positions_mm[j] - here) <= SAME_MM:
            j += step
        if 0 <= j < len(positions_mm):
            found.append(abs(positions_mm[j] - here))
    return min(found, default=None)


@dataclass(frozen=True, eq=False)
class Slab:
    """What the model sees in place of a slice."""

    hu: npt.NDArray[np.float32]
    """(row, column)."""
    averaged: int
    """Of how many slices it is the mean."""


def slab(one: CTSlice, others: Sequence[CTSlice]) -> Slab:
    """The mean of a slice and of those of the others that have their pixels in the same places."""
    alike = [other.hu for other in others if other.hu.shape == one.hu.shape and other.pixel_mm == one.pixel_mm]
    if not alike:
        return Slab(one.hu, 1)
    total = one.hu.copy()
    for hu in alike:
        total += hu
    return Slab(total / np.float32(1 + len(alike)), 1 + len(alike))

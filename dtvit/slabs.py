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

SLAB_MM = 5.0  # as thick as most slices of the papers' data
THIN_MM = 4.0  # from this thickness on, slices are seen as they are
MOST_BESIDE = 16  # on each side; at 0.4 mm six touch and a dozen overlap. All are held in memory at once
ALIGNED_MM = 3.0  # a gantry that leans by 30 degrees moves the pixels of a slice 4.5 mm away by 2.6
PARALLEL = 0.02  # between direction cosines: one degree, as in `dicom_node.anatomy`


def weights(positions_mm: Sequence[float], thicknesses_mm: Sequence[float | None]) -> list[dict[int, float]]:
    """For each slice, ordered along the series, the slices whose mean stands for it, itself among them, and how much
    each counts: by how much of it lies in a slab of `SLAB_MM` round the middle of the slice. They sum to 1.

    Where no thickness is stated, or none that a slice can have, the distance to the nearest other position is taken for
    it. Of several slices at one position, each stands for itself. At most the nearest `MOST_BESIDE` on each side count.
    """
    thick = [each if each and each > 0 else _nearest(i, positions_mm) for i, each in enumerate(thicknesses_mm)]
    return [_around(i, positions_mm, thick) for i in range(len(thick))]


def _around(i: int, positions_mm: Sequence[float], thicknesses_mm: Sequence[float | None]) -> dict[int, float]:
    own = thicknesses_mm[i]
    if own is None or own >= THIN_MM:
        return {i: 1.0}
    found = {i: own}
    for step in (-1, 1):
        j, most = i + step, len(found) + MOST_BESIDE
        while 0 <= j < len(positions_mm) and (apart := abs(positions_mm[j] - positions_mm[i])) < SLAB_MM:
            inside = (SLAB_MM + own) / 2 - apart  # of one as thick as this
            if inside <= SAME_MM or len(found) == most:
                break
            if apart > SAME_MM:
                found[j] = min(own, inside)
            j += step
    total = sum(found.values())
    return {j: found[j] / total for j in sorted(found)}


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


def slab(one: CTSlice, members: Sequence[tuple[CTSlice, float]]) -> Slab:
    """The mean of the members, itself among them, that have their pixels where `one` has them, each by its weight."""
    alike = [(each.hu, weight) for each, weight in members if _is_alike(each, one)]
    if len(alike) < 2:
        return Slab(one.hu, 1)
    whole = sum(weight for _, weight in alike)
    total = np.zeros_like(one.hu)
    for hu, weight in alike:
        total += hu * np.float32(weight / whole)
    return Slab(total, len(alike))


def _is_alike(one: CTSlice, other: CTSlice) -> bool:
    return one.hu.shape == other.hu.shape and one.pixel_mm == other.pixel_mm and _lies_over(one, other)


def _lies_over(one: CTSlice, other: CTSlice) -> bool:
    """Whether the same pixel is the same place beside the slice: two scans in one series are often centred otherwise,
    and one image may be turned or mirrored against the next."""
    if one.orientation is None or other.orientation is None or one.normal is None:
        return one.orientation == other.orientation
    if max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True)) > PARALLEL:
        return False
    if one.corner_mm is None or other.corner_mm is None:
        return True
    apart = np.subtract(other.corner_mm, one.corner_mm)
    return bool(np.linalg.norm(apart - np.dot(apart, one.normal) * np.array(one.normal)) < ALIGNED_MM)

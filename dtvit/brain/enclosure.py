"""What is enclosed by bone, on a grid of a few thousand cells: in how many directions a cell meets bone, and which
pieces of tissue are wide enough to be brain. Used by `selection`; cells are (row, column) of GRID_MM.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

GRID_MM = 2.0  # coarse enough to be quick and free of noise, finer than any sulcus matters here
DIRECTIONS = 16
PIECE_RADIUS_MM = 6.0  # half the width of a spinal canal at C1; brain is wider, neck muscles between bones mostly not
LEAST_HU = 0.0  # denser than fat
VOID_HU = -190.0  # of a cell clipped at -200: nothing but air or padding


def with_cropped_border(bone: Mask, mean: npt.NDArray[np.float32]) -> Mask:
    """Tissue at the border of the picture: the field of view cuts the head, and the skull is assumed just outside."""
    closed = bone.copy()
    if not bone.any():  # then what is cut is not a head
        return closed
    # one cell further in: brace removal clears the outermost columns
    for edge, next_to_it in (
        (np.s_[0, :], np.s_[1, :]),
        (np.s_[-1, :], np.s_[-2, :]),
        (np.s_[:, 0], np.s_[:, 1]),
        (np.s_[:, -1], np.s_[:, -2]),
    ):
        closed[edge] |= mean[next_to_it] > LEAST_HU
    return closed


def within_circle(everything: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """How many cells deep each one lies within the circle of reconstruction, negative outside it; None if there is no
    circle. `everything`: means of all that is in the cells; outside the circle a scanner gives only air or padding.
    """
    depth = _circle((everything.shape[0], everything.shape[1]))
    return None if everything[depth < -1].max(initial=VOID_HU) > VOID_HU else depth


@lru_cache(maxsize=8)
def _circle(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    rows, columns = (np.arange(n, dtype=np.float32) + 0.5 - n / 2 for n in shape)
    return np.asarray(np.float32(min(shape) / 2) - np.hypot(rows[:, None], columns))


def with_cropped_circle(bone: Mask, mean: npt.NDArray[np.float32], depth: npt.NDArray[np.float32] | None) -> Mask:
    """Tissue at the circle of reconstruction (`depth`: see `within_circle`), as at the border of the picture."""
    import cv2

    if depth is None or not bone.any():
        return bone
    inside = (mean > LEAST_HU) & (depth >= 1) & (depth < 3)  # the circle halves the cells that lie on it
    grown = cv2.dilate(inside.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_)
    return np.asarray(bone | (grown & (depth < 1)))


def directions_with_bone(bone: Mask) -> npt.NDArray[np.uint8]:
    """For each cell, in how many of 16 directions bone is met: four directions in each of four turns of the grid.

    0 outside a square around the middle of the grid that holds all bone however it is turned: there, at most half of
    the directions could meet any.
    """
    import cv2

    middle = [n // 2 for n in bone.shape]
    at = [np.flatnonzero(bone.any(axis)) for axis in (1, 0)]
    if not len(at[0]):
        return np.zeros(bone.shape, np.uint8)
    half = math.ceil(math.hypot(*(max(m - i[0], i[-1] - m) for m, i in zip(middle, at, strict=True)))) + 1
    side = 2 * half + 1
    wider = np.zeros([n + 2 * half for n in bone.shape], np.uint8)
    grid, square = (slice(half, -half),) * 2, tuple(slice(m, m + side) for m in middle)
    wider[grid] = bone
    turned = np.empty((DIRECTIONS // 4, side, side), np.uint8)
    turned[0] = wider[square]
    for turn in range(1, len(turned)):
        forth = cv2.getRotationMatrix2D((half, half), 22.5 * turn, 1.0)
        cv2.warpAffine(turned[0], forth, (side, side), turned[turn], cv2.INTER_NEAREST)
    counts = _four_directions(turned)
    for turn in range(1, len(turned)):
        back = cv2.getRotationMatrix2D((half, half), -22.5 * turn, 1.0)
        counts[0] += cv2.warpAffine(counts[turn], back, (side, side), flags=cv2.INTER_NEAREST)
    wider[:] = 0
    wider[square] = counts[0]
    return wider[grid]


def _four_directions(bone: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """For each cell of squares (n, side, side), in how many directions along rows and columns bone is met."""
    side = bone.shape[-1]
    place: npt.NDArray[Any] = np.arange(side, dtype=np.uint8 if side < 255 else np.int16)
    met = np.zeros(bone.shape, np.uint8)
    for axis, along in ((2, place), (1, place[:, None])):
        end = (bone * (along + 1)).max(axis, keepdims=True)  # behind the last of a line; 0 where it has none
        from_end = (bone * (side - along)).max(axis, keepdims=True)
        met += (along >= side - from_end).view(np.uint8)
        met += (along < end).view(np.uint8)
    return met


def wide_pieces(tissue: Mask) -> Mask:
    """The pieces of `tissue` that hold a disk of PIECE_RADIUS_MM, without their thin appendages."""
    import cv2

    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    opened = cv2.morphologyEx(tissue.view(np.uint8), cv2.MORPH_OPEN, disk)
    if not opened.any():
        return np.asarray(opened.view(np.bool_))
    count, labels = cv2.connectedComponents(opened, connectivity=4)
    depth = cv2.distanceTransform(opened, cv2.DIST_L2, 5)
    wide = np.zeros(count, np.bool_)
    wide[labels[depth >= PIECE_RADIUS_MM / GRID_MM]] = True
    return np.asarray(wide[labels])

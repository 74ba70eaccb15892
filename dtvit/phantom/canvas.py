"""A slice being painted: shapes arrive as distances on a coarse grid, colours land on a fine one, edges antialiased.

Distances change slowly, so they are computed on every third point in each direction and interpolated; that is what
makes a slice cheap. Only the window a shape touches is painted.
"""

from __future__ import annotations

import cv2
import numpy as np

from dtvit.phantom.fields import Array, soft

STEP = 3
"""Fine points per coarse point, each way."""


def finer(coarse: Array, *, smooth: bool = False) -> Array:
    """(rows, columns) coarse -> (rows * STEP, columns * STEP); `smooth` interpolates cubically."""
    rows, columns = coarse.shape
    how = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    coarse = coarse.astype(np.float32, copy=False)
    return np.asarray(cv2.resize(coarse, (columns * STEP, rows * STEP), interpolation=how), np.float32)


class Canvas:
    """HU on the fine grid. Distances and values given to `paint` lie on the coarse grid."""

    def __init__(self, coarse_shape: tuple[int, int], fine_mm: float, hu: float) -> None:
        self.fine_mm = fine_mm
        self.coarse_mm = fine_mm * STEP
        self.hu: Array = np.full((coarse_shape[0] * STEP, coarse_shape[1] * STEP), hu, np.float32)

    def paint(self, distance: Array, value: float | Array, edge_mm: float = 0.0, strength: float = 1.0) -> None:
        """Lay `value` HU over the inside; `edge_mm` blurs the border, `strength` < 1 lets the old colour through."""
        width = max(self.fine_mm, edge_mm)
        reach = distance < width
        rows, columns = np.flatnonzero(reach.any(axis=1)), np.flatnonzero(reach.any(axis=0))
        if not rows.size:
            return
        top, bottom = max(rows[0] - 1, 0), min(rows[-1] + 2, distance.shape[0])
        left, right = max(columns[0] - 1, 0), min(columns[-1] + 2, distance.shape[1])
        share = soft(finer(distance[top:bottom, left:right]), width)
        if strength != 1.0:
            share *= np.float32(strength)
        window = self.hu[top * STEP : bottom * STEP, left * STEP : right * STEP]
        colour = finer(value[top:bottom, left:right]) if isinstance(value, np.ndarray) else np.float32(value)
        window += share * (colour - window)

    def shell(self, distance: Array, half_mm: float, value: float, limit: Array | None = None) -> None:
        """Paint what lies within `half_mm` of the surface and inside `limit`, however thin that is."""
        reach = np.abs(distance) < half_mm + 2.0 * self.coarse_mm
        rows, columns = np.flatnonzero(reach.any(axis=1)), np.flatnonzero(reach.any(axis=0))
        if not rows.size:
            return
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        there = np.abs(finer(distance[part])) - np.float32(half_mm)
        if limit is not None:
            there = np.maximum(there, finer(limit[part]))
        window = self.hu[part[0].start * STEP : part[0].stop * STEP, part[1].start * STEP : part[1].stop * STEP]
        window += soft(there, self.fine_mm) * (np.float32(value) - window)

    def lay(self, share: Array, value: float | Array) -> None:
        """The same with a share already on the fine grid, over the whole slice."""
        self.hu += share * ((value if isinstance(value, np.ndarray) else np.float32(value)) - self.hu)

"""Implicit shapes and smooth noise, the clay a phantom is made of. Signed distances in mm, negative inside.

Everything is a function of points, never of a grid, so any plane through the head can be evaluated on its own. The
distances are first order: exact at the surface, where they decide what a pixel shows, and only roughly right far away.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating[Any]]
Vector = tuple[float, float, float]

_BANK = 112  # voxels along each side of the noise volume; it repeats beyond
_WAVES = 7  # plane waves in slow noise
_WAVELENGTH = 14.0  # voxels; the wavelength where the bank's spectrum (difference of Gaussians 2 and 3.6) peaks


@dataclass(frozen=True)
class Points:
    """Places in mm, three arrays of one shape: x to the patient's left, y to the back, z to the vertex."""

    x: Array
    y: Array
    z: Array

    def moved(self, dx: Array | float = 0.0, dy: Array | float = 0.0, dz: Array | float = 0.0) -> Points:
        return Points(self.x + np.float32(dx), self.y + np.float32(dy), self.z + np.float32(dz))

    def mapped(self, matrix: NDArray[np.float64], shift: Vector = (0.0, 0.0, 0.0)) -> Points:
        """matrix @ (point - shift)"""
        m = matrix.astype(np.float32)
        x, y, z = (c - np.float32(s) for c, s in zip((self.x, self.y, self.z), shift, strict=True))
        return Points(*(m[i, 0] * x + m[i, 1] * y + m[i, 2] * z for i in range(3)))


@functools.cache
def _bank() -> Array:
    """One periodic volume of band-passed noise, unit variance. Heads differ by where and how they look into it."""
    white = np.random.default_rng(20240506).standard_normal((_BANK,) * 3, dtype=np.float32)
    band = ndimage.gaussian_filter(white, 2.0, mode="wrap") - ndimage.gaussian_filter(white, 3.6, mode="wrap")
    return np.asarray(band / band.std(), np.float32)


@dataclass(frozen=True)
class Noise:
    """Smooth noise with zero mean and unit variance whose hills and valleys repeat about every wavelength."""

    offset: Vector
    turn: tuple[int, int, int]
    waves: tuple[tuple[float, float, float, float], ...]
    """Wave vectors of about unit length, and phases."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Noise:
        ox, oy, oz = (float(v) for v in rng.uniform(0, _BANK, 3))
        tx, ty, tz = (int(v) for v in rng.permutation(3))
        directions = rng.standard_normal((_WAVES, 3))
        directions *= (rng.uniform(0.6, 1.4, _WAVES) / np.linalg.norm(directions, axis=1))[:, None]
        waves = np.column_stack([directions, rng.uniform(0, 2 * np.pi, _WAVES)])
        return cls((ox, oy, oz), (tx, ty, tz), tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in waves))

    def slow(self, p: Points, wavelength_mm: float) -> Array:
        """A sum of a few plane waves: cheap and perfectly smooth, for shapes and slow changes."""
        table = np.asarray(self.waves, np.float32)
        at = np.stack([p.x.ravel(), p.y.ravel(), p.z.ravel()])
        phase = (table[:, :3] * np.float32(2 * np.pi / wavelength_mm)) @ at + table[:, 3:]
        return np.asarray(np.sin(phase).sum(axis=0).reshape(p.x.shape) * np.float32((2 / _WAVES) ** 0.5), np.float32)

    def fine(self, p: Points, wavelength_mm: float, stretch: Vector = (1.0, 1.0, 1.0)) -> Array:
        """Band-passed noise, for textures; `stretch` > 1 draws the pattern out along that axis."""
        scale = _WAVELENGTH / wavelength_mm
        coordinates = np.empty((3, *p.x.shape), np.float32)
        for axis, (c, s) in enumerate(zip((p.x, p.y, p.z), stretch, strict=True)):
            coordinates[self.turn[axis]] = c * np.float32(scale / s) + np.float32(self.offset[axis])
        value = ndimage.map_coordinates(_bank(), coordinates, order=1, mode="grid-wrap", prefilter=False)
        return np.asarray(value, np.float32)


def soft(distance: Array, width: float) -> Array:
    """Share of a pixel inside, 0..1: a ramp of `width` mm across the surface."""
    return np.asarray(np.clip(0.5 - distance / np.float32(width), 0.0, 1.0), np.float32)


def step(value: Array, width: float) -> Array:
    """0 far below zero, 1 far above, smooth over `width`."""
    return np.asarray(0.5 + 0.5 * np.tanh(value / np.float32(width)), np.float32)


def bump(*terms: Array) -> Array:
    """exp(-sum of squares): a hill of height 1."""
    total = np.square(terms[0])
    for term in terms[1:]:
        total = total + np.square(term)
    return np.exp(-total)


def union(a: Array, b: Array, blend_mm: float) -> Array:
    """Smallest of two distances with a fillet of about `blend_mm`."""
    h = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0.0)
    return np.minimum(a, b) - h * h * np.float32(0.25 / blend_mm)


def ellipsoid(p: Points, centre: Vector, radii: Vector) -> Array:
    x, y, z = ((c - np.float32(m)) / np.float32(r) for c, m, r in zip((p.x, p.y, p.z), centre, radii, strict=True))
    k = np.sqrt(x * x + y * y + z * z)
    slope = np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2)
    return np.asarray(k * (k - 1.0) / np.maximum(slope, np.float32(1e-3)), np.float32)


def tube(p: Points, path: Sequence[tuple[float, float, float, float]], blend_mm: float = 2.0) -> Array:
    """A round tube through (x, y, z, radius) in mm."""
    distance: Array | None = None
    for (x0, y0, z0, r0), (x1, y1, z1, r1) in pairwise(path):
        bx, by, bz = x1 - x0, y1 - y0, z1 - z0
        px, py, pz = p.x - np.float32(x0), p.y - np.float32(y0), p.z - np.float32(z0)
        t = np.clip((px * bx + py * by + pz * bz) * np.float32(1.0 / (bx * bx + by * by + bz * bz)), 0.0, 1.0)
        part = np.sqrt((px - t * bx) ** 2 + (py - t * by) ** 2 + (pz - t * bz) ** 2) - (r0 + t * np.float32(r1 - r0))
        distance = part if distance is None else union(distance, part, blend_mm)
    if distance is None:
        raise ValueError("a tube needs at least two points")
    return np.asarray(distance, np.float32)

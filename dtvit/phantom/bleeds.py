"""Intracerebral hemorrhage and what comes with it: edema, mass effect, blood in the ventricles, fluid levels.

A bleed is an ellipsoid ruffled by noise, kept inside the compartment it belongs to, and scaled until it holds the
volume asked for. Acute clot 50..85 HU (Osborn, Brain, chapter on intracranial hemorrhage); serum above a level 25..40.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dtvit.phantom.compartments import infratentorial, tentorium
from dtvit.phantom.fields import Array, Noise, Points, Vector, step
from dtvit.phantom.spec import Bleed

ANCHORS: dict[str, tuple[Vector, ...]] = {
    "putamen": ((26.0, 1.0, 4.0),),
    "thalamus": ((12.0, 11.0, 6.0),),
    "caudate": ((14.0, -14.0, 11.0),),
    "frontal": ((26.0, -42.0, 24.0), (20.0, -50.0, 8.0), (25.0, -18.0, 45.0), (38.0, -24.0, 26.0)),
    "parietal": ((34.0, 30.0, 34.0), (24.0, 38.0, 44.0), (42.0, 14.0, 30.0), (18.0, 12.0, 52.0)),
    "temporal": ((42.0, -8.0, -20.0), (43.0, 18.0, -8.0), (46.0, 26.0, 6.0)),
    "occipital": ((22.0, 66.0, 10.0), (30.0, 56.0, 20.0)),
    "cerebellum": ((25.0, 52.0, -32.0),),
    "vermis": ((3.0, 52.0, -22.0),),
    "pons": ((1.0, 14.0, -28.0),),
}
"""Centres in reference coordinates, patient's left side."""


@dataclass(frozen=True)
class Hematoma:
    """A bleed in its place: distances from rigid head coordinates (mm), so that its volume is a true one."""

    bleed: Bleed
    centre: Vector
    radius_mm: float
    level: float
    noise: Noise

    def shape(self, p: Points) -> Array:
        """Zero-mean ruffled ellipsoid distance; the blood is where it is below `level`."""
        radii = self.bleed.radii
        x, y, z = (
            (c - np.float32(m)) / np.float32(r) for c, m, r in zip((p.x, p.y, p.z), self.centre, radii, strict=True)
        )
        distance = np.sqrt(x * x + y * y + z * z)
        size = self.radius_mm
        ruffle = 0.40 * self.noise.slow(p, 2.4 * size + 4) + 0.24 * self.noise.fine(p, 1.2 * size + 5)
        ruffle = ruffle * np.float32(size)
        return np.asarray(distance + ruffle * np.float32(self.bleed.irregularity), np.float32)

    def distance(self, p: Points) -> Array:
        return self.shape(p) - np.float32(self.level)

    @property
    def reach_mm(self) -> float:
        """Beyond this distance from the centre the head is as it was."""
        return self.radius_mm * max(self.bleed.radii) * 3.4 + 3.0 * self.bleed.edema_mm + 12.0

    def pushed(self, p: Points, depth: Array) -> tuple[Array, Array, Array]:
        """How far the tissue now at `p` was pushed, in mm; nothing next to the skull (`depth` inside the cavity)."""
        x, y, z = (c - np.float32(m) for c, m in zip((p.x, p.y, p.z), self.centre, strict=True))
        r = np.sqrt(x * x + y * y + z * z) + np.float32(1e-3)
        size = self.radius_mm
        fade = np.clip(1.0 - (r - size) / np.float32(1.8 * size + 8.0), 0.0, 1.0) ** 2
        push = 0.55 * self.bleed.mass_effect * size * np.minimum(r / size, 1.0) * fade * np.clip(depth / 18.0, 0.0, 1.0)
        return tuple((c * push / r).astype(np.float32) for c in (x, y, z))  # type: ignore[return-value]

    def density(self, p: Points, down: Array) -> Array:
        """HU of the clot; `down` is mm towards the floor, for a fluid level."""
        hu = self.bleed.density_hu + 4.5 * self.noise.slow(p.moved(20), 14.0) + 2.5 * self.noise.slow(p.moved(70), 6.0)
        hu = hu - 7.0 * step(self.distance(p) + 2.5, 2.0)
        if self.bleed.fluid_level:
            hu = hu - (self.bleed.density_hu - 34.0) * step(-down + np.float32(0.1 * self.radius_mm), 1.0)
        return np.asarray(hu, np.float32)


def compartment(bleed: Bleed, cavity: Array, p: Points) -> Array:
    """Where blood of this bleed may be, negative inside; `p` in reference coordinates before any mass effect."""
    inside = cavity + np.float32(2.0)
    if bleed.location == "subtentorial":
        return np.asarray(np.maximum(inside, infratentorial(p) + 1.5), np.float32)
    above = np.maximum(inside, np.float32(1.5) - tentorium(p))
    return np.asarray(np.maximum(above, 2.0 - bleed.side * p.x), np.float32)


def place(
    bleed: Bleed, noise: Noise, choice: float, to_rigid: Callable[[Vector], Vector], room: Callable[[Points], Array]
) -> Hematoma:
    """Find the level at which the hematoma holds `bleed.volume_ml`.

    `room` says where blood may be (distance, rigid head coordinates), `choice` 0..1 picks among the site's centres.
    Raises ValueError where the compartment has no room for that much.
    """
    anchors = ANCHORS[bleed.site]
    x, y, z = anchors[int(choice * len(anchors))]
    centre = to_rigid((bleed.side * x + bleed.shift_mm[0], y + bleed.shift_mm[1], z + bleed.shift_mm[2]))
    radius = (bleed.volume_ml * 1000.0 * 3 / (4 * math.pi)) ** (1 / 3)
    first = Hematoma(bleed, centre, radius, radius, noise)
    half = 2.6 * radius * max(bleed.radii) + 4.0
    count = 44
    axis = (np.arange(count, dtype=np.float32) + 0.5) / count * 2 * half - half
    gz, gy, gx = np.meshgrid(axis + centre[2], axis + centre[1], axis + centre[0], indexing="ij")
    box = Points(*(np.asarray(g, np.float32) for g in (gx, gy, gz)))
    allowed = np.sort(first.shape(box)[room(box) < 0])
    cells = bleed.volume_ml * 1000.0 / (2 * half / count) ** 3
    if allowed.size <= cells:
        found = allowed.size * (2 * half / count) ** 3 / 1000.0
        raise ValueError(f"{bleed.site}: {bleed.volume_ml:.1f} ml of blood asked, there is room for {found:.1f} ml")
    return replace(first, level=float(allowed[int(cells)]))

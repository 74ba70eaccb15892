"""The rooms of the cranial cavity and the fluid inside them, as distances in mm in reference coordinates (see `skull`).

Both bleeds and tissue ask these: blood stays above or below the tentorium, and breaks into ventricles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dtvit.phantom.fields import Array, Noise, Points, bump, ellipsoid, step, tube, union
from dtvit.phantom.spec import Head


def tentorium(p: Points) -> Array:
    """mm above the tentorium cerebelli: positive in the cerebrum, negative in cerebellum, pons and medulla."""
    ramp = np.clip((88.0 - p.y) / 52.0, 0.0, 1.0)
    height = -16.0 + 23.0 * ramp * bump(p.x / 27.0) - 0.06 * np.maximum(36.0 - p.y, 0) * step(36.0 - p.y, 6.0)
    notch = -11.0 - height  # midbrain belongs above, pons below
    opening = bump(p.x / 17.0, np.minimum(p.y - 22.0, 0.0) / 60.0) * step(26.0 - p.y, 3.0)
    return np.asarray((p.z - height - notch * opening) * 0.85, np.float32)


def infratentorial(p: Points) -> Array:
    """Distance to the posterior fossa's contents: below the tentorium and behind clivus and petrous ridge."""
    ridge = -5.0 + 0.88 * np.maximum(np.abs(p.x) - 9.0, 0.0)
    return np.maximum(tentorium(p), (ridge - p.y) * np.float32(0.75))


def mirrored(p: Points) -> Points:
    """Both halves folded onto the left one; the warp of each head makes them differ."""
    return Points(np.abs(p.x), p.y, p.z)


@dataclass(frozen=True)
class Ventricles:
    head: Head
    noise: Noise
    sides: tuple[float, float]
    """Width of the right and the left lateral ventricle against `head.ventricles`."""

    def upper(self, p: Points) -> Array:
        """Distance to the lateral and third ventricles."""
        v = 1.12 * self.head.ventricles
        side = np.where(p.x > 0, np.float32(self.sides[1]), np.float32(self.sides[0]))
        q = mirrored(p).moved(0.35)
        body = tube(
            q,
            [
                (13 + 2 * v, -35 - v, 4, 2.2 * v),
                (8 + v, -26, 10, 4.4 * v),
                (4.5 + 1.8 * v, -8, 16, 3.7 * v),
                (6 + 3.5 * v, 12, 22, 3.6 * v),
                (13 + 4 * v, 28, 19, 4.6 * v),
                (20 + 4 * v, 38, 11, 5.6 * v),
            ],
        )
        occipital = tube(q, [(21 + 3 * v, 38, 10, 4.8 * v), (23 + 2 * v, 52, 6, 2.9 * v), (18 + v, 66, 3, 1.1 * v)])
        temporal = tube(
            q, [(22 + 3 * v, 38, 8, 4.3 * v), (31, 26, -6, 1.9 * v), (32, 8, -17, 1.2 * v), (28, -8, -21, 1.5 * v)]
        )
        lateral = union(body, union(occipital, temporal, 3.0), 3.0) - (side - 1.0) * 4.0
        caudate = ellipsoid(q, (13.5 + 2.2 * v, -15.0, 9.0), (5.5, 12.0, 9.0))
        septum = 0.7 + 0.3 * v - np.abs(p.x)
        lateral = np.maximum(lateral, np.maximum(0.6 - caudate, septum))
        third = ellipsoid(p, (0.0, 1.0, -3.0), (0.9 + 1.6 * v, 14.0, 9.0))
        return np.asarray(np.minimum(lateral, third) + 0.5 * self.noise.slow(p, 16.0), np.float32)

    def fourth(self, p: Points) -> Array:
        """Distance to the fourth ventricle and the aqueduct; its roof is a tent that points backwards."""
        v = self.head.ventricles**0.6
        tent = np.abs(p.x) * 0.75 + (p.y - 41.5) * 0.66
        chamber = np.maximum(ellipsoid(p, (0.0, 34.0, -30.0), (7.0 * v, 5.5 * v, 10.0)), tent)
        aqueduct = tube(p, [(0, 22, -4, 1.0), (0, 25, -16, 1.0), (0, 30, -24, 1.5)])
        return np.asarray(np.minimum(chamber, aqueduct) + 0.3 * self.noise.slow(p, 12.0), np.float32)


def brainstem(p: Points) -> Array:
    """Distance to midbrain with its peduncles, pons and medulla."""
    column = tube(
        Points(p.x * np.float32(0.82), p.y, p.z),
        [(0, 10, -2, 10), (0, 10, -12, 10.5), (0, 15, -24, 13), (0, 17, -32, 12), (0, 27, -48, 7.5), (0, 36, -66, 6)],
    )
    peduncles = tube(mirrored(p), [(9, 0, -6, 4.5), (8, 5, -16, 5.5)])
    return union(column, peduncles, 4.0)

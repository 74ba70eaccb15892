"""Falx, tentorium, venous sinuses, and the lime that gathers in falx, pineal gland and choroid plexus with age."""

from __future__ import annotations

import numpy as np

from dtvit.phantom.canvas import Canvas
from dtvit.phantom.compartments import mirrored, tentorium
from dtvit.phantom.fields import Array, Noise, Points, ellipsoid, step, tube
from dtvit.phantom.spec import Head

DURA_HU, VEIN_HU = 50.0, 54.0


def paint(canvas: Canvas, p: Points, cavity: Array, head: Head, noise: Noise) -> None:
    """`cavity`: distance to the inside of the bone."""
    side, tent = np.abs(p.x), tentorium(p)
    half_mm = 0.45 + 0.25 * step(p.y - 20, 20.0)
    callosum = ellipsoid(p, (0.0, 0.0, 4.0), (24.0, 40.0, 22.0))
    free_edge = 10.5 + 0.045 * np.maximum(-p.y, 0.0) - callosum
    falx = np.maximum(np.maximum(side - half_mm, free_edge), np.maximum(-tent, cavity))
    canvas.paint(falx, DURA_HU, edge_mm=0.8)

    notch = np.minimum(19.0 - side, 34.0 - p.y)  # the brainstem passes here
    rim = np.maximum(0.55 * (p.y - 24) + 8 - side, 3.0 + 0.7 * (side - 9) - p.y)
    sheet = np.maximum(np.maximum(np.abs(tent) - 0.7, cavity), np.maximum(notch, rim))
    canvas.paint(sheet, DURA_HU - 2.0, edge_mm=1.0)
    canvas.paint(_sinuses(p, cavity, tent), VEIN_HU, edge_mm=1.2)

    if head.falx_hu:
        plaques = np.maximum(falx - 0.5, (1.1 - noise.slow(p.moved(60), 34.0)) * 9.0)
        canvas.paint(plaques, head.falx_hu)
    grains = noise.slow(p, 9.0)
    if head.pineal_hu:
        canvas.paint(ellipsoid(p, (0.5, 19.0, 1.0), (2.4, 3.0, 2.4)) + 0.9 * grains, head.pineal_hu)
    if head.choroid_hu:
        v = head.ventricles
        q = mirrored(p).moved(np.where(p.x > 0, np.float32(0.0), np.float32(1.5)))
        plexus = tube(q, [(11 + 3 * v, 27, 18, 1.4), (18 + 4 * v, 37, 10, 3.2), (20 + 3.5 * v, 41, 6, 1.6)])
        canvas.paint(plexus, 44.0, edge_mm=1.5)
        canvas.paint(plexus + 0.9 + 1.3 * grains, head.choroid_hu)


def _sinuses(p: Points, cavity: Array, tent: Array) -> Array:
    """Straight, superior sagittal (a triangle on the bone) and transverse sinuses; the right one is the wider."""
    side = np.abs(p.x)
    straight = tube(p, [(0, 38, 6, 1.7), (0, 62, -4, 1.9), (0, 83, -11, 3.2)])
    triangle = np.maximum(side * 0.85 - 7.5 - 0.5 * cavity, np.maximum(side - 5.0 - 0.7 * cavity, -5.5 - cavity))
    sagittal = np.maximum(np.maximum(triangle, cavity), -8.0 - p.z)
    transverse = np.maximum(np.abs(tent) - 4.0 + 0.8 * (p.x > 0), np.maximum(-5.0 - cavity, cavity + 0.3))
    transverse = np.maximum(transverse, 44.0 - p.y)
    return np.asarray(np.minimum(straight, np.minimum(sagittal, transverse)), np.float32)

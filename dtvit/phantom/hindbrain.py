"""Posterior fossa and cranial base: cerebellum with its leaves, brainstem, basal cisterns, vessels, pituitary."""

from __future__ import annotations

import numpy as np

from dtvit.phantom.canvas import Canvas
from dtvit.phantom.compartments import brainstem, mirrored
from dtvit.phantom.fields import Array, Noise, Points, ellipsoid, step, tube
from dtvit.phantom.spec import Head


def paint(
    canvas: Canvas, p: Points, edge: Array, lower: Array, cavity: Array, head: Head, noise: Noise, folds: Noise
) -> None:
    """`edge`: distance to the brain's surface; `lower`: to the posterior fossa; `cavity`: to the inside of the bone."""
    stem = brainstem(p)
    canvas.paint(np.maximum(lower, cavity), head.csf_hu + 2.0)
    _cerebellum(canvas, p, edge, lower, stem, head, noise, folds)
    q, wide = mirrored(p), head.sulcus_mm
    cisterns = (
        ellipsoid(p, (0.0, -9.0, -14.0), (11.0 + 2.0 * wide, 9.0, 9.0)),  # suprasellar
        tube(q, [(8, -14, -13, 3.0), (22, -19, -11, 1.2), (36, -24, -8, 1.5)]),  # to the Sylvian fissure
        ellipsoid(p, (0.0, 24.0, -1.0), (12.0, 2.2 + wide, 6.0)),  # quadrigeminal
        np.maximum(np.abs(stem - 0.8) - 0.9 - wide * 0.8, np.abs(p.z + 8) - 9),  # ambient
        tube(q, [(11, 16, -30, 1.5 + wide), (24, 22, -32, 0.8 + wide)]),  # cerebellopontine
    )
    uneven = 0.5 * noise.slow(p, 10.0)
    for cistern in cisterns:
        canvas.paint(np.maximum(cistern + uneven, cavity + 0.5), head.csf_hu, edge_mm=1.2)
    canvas.paint(np.maximum(stem, cavity + 1.0), head.white_hu + 3.5, edge_mm=1.2)
    gland = ellipsoid(p, (0.0, -13.0, -26.0), (6.0, 4.5, 4.0))
    cavernous = ellipsoid(q, (11.0, -13.0, -27.0), (4.5, 11.0, 5.0))
    canvas.paint(np.minimum(gland, cavernous), 46.0, edge_mm=1.5)
    basilar = tube(p, [(0.5, -1.5, -12, 1.4), (-0.5, 0, -28, 1.6), (1, 12, -44, 1.6)])
    carotid = tube(q, [(9, -15, -24, 2.0), (9, -15, -16, 1.9), (22, -19, -12, 1.4), (34, -23, -9, 1.1)])
    vessels = np.minimum(basilar, carotid)
    canvas.paint(vessels, 44.0, edge_mm=1.0)
    if head.vessel_hu:
        plaque = np.maximum(vessels + 0.4, (0.7 - noise.slow(p, 8.0)) * 2.0)
        canvas.paint(np.maximum(plaque, -20.0 - p.z), head.vessel_hu)


def _cerebellum(
    canvas: Canvas, p: Points, edge: Array, lower: Array, stem: Array, head: Head, noise: Noise, folds: Noise
) -> None:
    front = 22.0 - 0.9 * np.maximum(np.abs(p.x) - 15.0, 0.0) - p.y
    joined = 14.0 * step(p.z + 46, 3.0) * step(-13.0 - p.z, 3.0)  # at the pons the two are one
    beside = 1.6 + 1.2 * head.sulcus_mm - np.maximum(stem, 0.0) - joined
    width = 2.0 + 0.14 * (p.y - 66) - 0.08 * (p.z + 30) + 1.2 * noise.slow(p, 22.0)
    vallecula = np.maximum(np.abs(p.x) - width, np.maximum(68 + 2 * noise.slow(p, 18.0) - p.y, p.z + 26))
    body = np.maximum(np.maximum(edge, lower + 1.0 + 0.6 * head.sulcus_mm), np.maximum(front, beside))
    body = np.maximum(body, -vallecula)
    canvas.paint(body, head.grey_hu - 1.0 + noise.slow(p, 12.0))
    q = mirrored(p)
    core = ellipsoid(q, (21.0, 46.0, -33.0), (17.0, 13.0, 10.0)) + 2.0 * noise.slow(p, 14.0)
    peduncle = tube(q, [(12, 16, -29, 7), (21, 30, -32, 7), (22, 44, -33, 8)])
    canvas.paint(np.maximum(np.minimum(core, peduncle), body + 4.0), head.white_hu + 1.0, edge_mm=4.0)
    leaf = np.abs(folds.fine(p, 13.0, (3.5, 0.8, 1.1)))
    clefts = (leaf - 0.15 - 0.15 * head.sulcus_mm) * 3.5
    clefts = np.maximum(clefts, np.maximum(body, -13.0 - body + 6 * leaf))
    canvas.paint(clefts, head.csf_hu + 4.0, edge_mm=1.2, strength=0.9)

"""The cerebral hemispheres: folded cortex, white matter, fissures, basal ganglia and thalamus.

Sulci are the zero lines of smooth noise that hardly changes along a radius, so that they run inwards from the surface;
they are cut off at a depth, and open to a width, that vary from place to place. Coordinates as in `skull`.
"""

from __future__ import annotations

import numpy as np

from dtvit.phantom.canvas import Canvas, finer
from dtvit.phantom.compartments import mirrored
from dtvit.phantom.fields import Array, Noise, Points, bump, ellipsoid, soft, tube
from dtvit.phantom.spec import Head

FOLD_MM = 32.0  # wavelength of the folding; two sulci to a wave, so gyri are about as wide as a finger
REACH_MM = 19.0  # how deep an ordinary sulcus goes


def _fissures(p: Points, noise: Noise) -> tuple[Array, Array, Array]:
    """Distance to the middle of the interhemispheric, insular and Sylvian clefts."""
    side = np.abs(p.x)
    callosal = ellipsoid(p, (0.0, -1.0, 4.0), (24.0, 44.0, 26.0))
    midline = np.maximum(side, -callosal - 1.0)
    insula = 36.0 + 3.0 * bump((p.y + 6) / 20) - 0.05 * np.abs(p.y + 6) + 1.5 * noise.slow(p, 30.0)
    insular = np.maximum(np.abs(side - insula), np.maximum(np.abs(p.y + 6) - 20, np.abs(p.z - 4) - 13))
    rise = (p.y + 24.0 - 1.7 * p.z) * 0.51 + 2.0 * noise.slow(p, 30.0)
    sylvian = np.maximum(np.abs(rise), np.maximum(insula - side, np.abs(p.z - 6) - 22))
    return midline, insular, sylvian


def paint(canvas: Canvas, p: Points, edge: Array, lower: Array, head: Head, noise: Noise, folds: Noise) -> None:
    """`edge`: distance to the brain's surface below the fluid; `lower`: to the posterior fossa, which is left out."""
    mm = canvas.fine_mm
    midline, insular, sylvian = _fissures(p, noise)
    inner = np.minimum(insular, sylvian)
    surface = np.minimum(np.minimum(-edge, midline), inner)
    mouth = np.minimum(np.minimum(-edge, 5.0 + 2.0 * midline), 4.0 + 1.5 * inner)  # hidden sulci are short

    outwards = np.sqrt((p.x / 66) ** 2 + ((p.y - 3) / 82) ** 2 + (p.z / 72) ** 2)
    squeeze = (0.45 + 0.55 / np.maximum(outwards, 0.3)).astype(np.float32)
    q = Points(p.x * squeeze, (p.y - 3) * squeeze, p.z * squeeze)
    q = q.moved(2.5 * noise.slow(p.moved(5), 21.0), 2.5 * noise.slow(p.moved(55), 21.0))
    fold = folds.fine(q, FOLD_MM) + 0.26 * folds.fine(q.moved(31), 11.0)
    across, down = np.gradient(fold, canvas.coarse_mm)
    sulcus = np.abs(finer(fold, smooth=True)) / finer(np.sqrt(across**2 + down**2) + np.float32(0.05))

    reach = np.maximum(REACH_MM + 7.0 * noise.slow(q.moved(7), 30.0), 3.0)
    openness = np.clip(1.0 - mouth / reach, 0.0, 1.0) * np.clip((outwards - 0.42) * 8, 0.0, 1.0)
    wide = np.clip(1.0 + 0.7 * noise.slow(p.moved(17), 38.0), 0.15, 2.5)
    half_mm = head.sulcus_mm * wide * (0.6 + 0.4 * openness) * (openness > 0)
    fluid = soft(sulcus - finer(half_mm), 1.1 * mm) * finer(np.clip(openness * 6, 0.0, 1.0))
    opening = 0.5 + 1.3 * head.sulcus_mm
    lateral = opening * (0.7 + 0.7 * bump((np.abs(p.x) - 44) / 12)) / (1.0 + np.maximum(p.z - 5, 0) / 12)
    clefts = np.minimum(insular - 0.9 * opening, sylvian - lateral)
    clefts = np.minimum(clefts, midline - 0.5 - 0.7 * head.sulcus_mm * wide)
    fluid = np.maximum(fluid, soft(finer(clefts), 1.1 * mm))

    beyond = finer(np.where(openness > 0, 0.0, 7.5))
    cortex = np.minimum(sulcus + beyond, finer(surface))
    grey = soft(cortex - finer(4.3 + 0.8 * noise.slow(p, 20.0)), 2.2)
    mottle = finer(0.8 * noise.slow(p, 13.0) + 0.8 * noise.slow(p, 50.0))
    tissue = head.white_hu + grey * (head.grey_hu - head.white_hu) + mottle
    tissue += fluid * (head.csf_hu - tissue)
    canvas.lay(soft(finer(np.maximum(edge, -lower)), mm), tissue)


def paint_nuclei(canvas: Canvas, p: Points, head: Head, noise: Noise, folds: Noise) -> None:
    """Corpus callosum, internal capsule, lentiform and caudate nuclei, thalamus, and lime in the pallidum."""
    q = mirrored(p)
    v = 1.2 * (head.ventricles - 1.0)  # wide ventricles push the nuclei apart
    turned = Points(q.x * 0.94 - (q.y + 2) * 0.34, (q.y + 2) * 0.94 + q.x * 0.34, q.z)
    wobble = 0.8 * noise.slow(p, 18.0)
    callosum = np.abs(ellipsoid(p, (0.0, -1.0, 4.0), (22.0, 41.0, 24.0))) - 3.0
    canvas.paint(np.maximum(callosum, q.x - 16), head.white_hu, edge_mm=2.5)
    capsule = ellipsoid(q, (23.0, -2.0, 6.0), (15.0, 25.0, 17.0))
    canvas.paint(capsule + wobble, head.white_hu + 0.5, edge_mm=5.0)
    nuclei = (
        ellipsoid(turned, (23.5, 8.0, 3.0), (6.5, 15.0, 10.0)),
        ellipsoid(q, (10.5 + v, 10.0, 6.0), (8.5, 14.5, 9.5)),
        ellipsoid(q, (13.5 + 2 * v, -15.0, 9.0), (5.5, 12.0, 9.0)),
        tube(q, [(15 + 2 * v, -8, 18, 3.2), (17 + 3 * v, 12, 25, 2.4)]),
    )
    for nucleus in nuclei:
        canvas.paint(nucleus + wobble, head.grey_hu - 0.5, edge_mm=3.0)
    if head.ganglia_hu:
        pallidum = ellipsoid(turned, (20.0, 6.0, 2.0), (2.5, 6.0, 4.0)) + 1.6 * folds.fine(p, 9.0)
        canvas.paint(pallidum, head.ganglia_hu, edge_mm=1.5)

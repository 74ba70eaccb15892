"""The soft contents of the skull, from the fluid outwards in: which part is painted when.

Coordinates as in `skull`. HU: cerebrospinal fluid 0..15, white matter 22..32, grey matter 34..40, dura and venous blood
45..60, calcification 80 and more (Osborn, Brain).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dtvit.phantom import cerebrum, dura, hindbrain
from dtvit.phantom.canvas import Canvas
from dtvit.phantom.compartments import Ventricles, infratentorial
from dtvit.phantom.fields import Array, Noise, Points
from dtvit.phantom.skull import Shell
from dtvit.phantom.spec import Head


@dataclass(frozen=True)
class Brain:
    head: Head
    noise: Noise
    folds: Noise
    ventricles: Ventricles

    def paint(self, canvas: Canvas, p: Points, shell: Shell) -> None:
        """`p` carries the mass effect, `shell` does not (bone stays where it is)."""
        head, cavity = self.head, shell.cavity
        lower = infratentorial(p)
        edge = cavity + head.fluid_mm * (0.8 + 0.35 * self.noise.slow(p, 45.0))
        canvas.paint(cavity, head.csf_hu + 2.0)
        top, bottom = float(p.z.max()), float(p.z.min())
        if top > -45.0:
            cerebrum.paint(canvas, p, edge, lower, head, self.noise, self.folds)
        if bottom < 12.0:
            hindbrain.paint(canvas, p, edge, lower, cavity, head, self.noise, self.folds)
        if top > -20.0 and bottom < 40.0:
            cerebrum.paint_nuclei(canvas, p, head, self.noise, self.folds)
        ventricle = self.ventricles.upper(p)
        self._white_matter_disease(canvas, p, ventricle, edge, lower)
        canvas.paint(np.maximum(ventricle, cavity + 4.0), head.csf_hu, edge_mm=1.2)
        if bottom < 0.0:
            canvas.paint(np.maximum(self.ventricles.fourth(p), cavity + 3.0), head.csf_hu, edge_mm=1.2)
        dura.paint(canvas, p, cavity, head, self.noise)

    def _white_matter_disease(self, canvas: Canvas, p: Points, ventricle: Array, edge: Array, lower: Array) -> None:
        """Leukoaraiosis: dark caps and bands along the ventricles, and patches further out in the severe."""
        head, degree = self.head, self.head.leukoaraiosis
        band = ventricle - 2.0 - 9.0 * degree * (1.0 + 0.5 * self.noise.slow(p, 22.0))
        band = np.maximum(band, np.maximum(edge + 8.0, lower - 3.0))
        canvas.paint(band, head.white_hu - 7.0, edge_mm=7.0, strength=0.25 + 0.6 * degree)
        if degree > 0.25:
            patches = (1.9 - degree - self.noise.slow(p.moved(40), 26.0)) * 6.0
            patches = np.maximum(np.maximum(patches, edge + 11.0), 4.0 - p.z)
            canvas.paint(patches, head.white_hu - 6.0, edge_mm=5.0)

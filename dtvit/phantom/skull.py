"""The solid head: cranial cavity, skull base, calvaria, scalp and face, in the coordinates of the reference adult.

Origin midway between anterior and posterior commissure; landmarks from textbook stereotactic anatomy (Talairach and
Tournoux, Co-planar stereotaxic atlas; Gray's Anatomy, chapters on skull and orbit), rounded to millimetres: cavity
136 x 168 mm, vertex 76 above, foramen magnum 60 below, petrous ridges at 40 degrees, orbits 35 below and 55 in front.
HU: cortical bone 900..1500, diploe 300..700, fat -100..-80, muscle 45..60, vitreous 5..15, lens 80, air -1000.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dtvit.phantom.canvas import Canvas
from dtvit.phantom.fields import Array, Noise, Points, bump, ellipsoid, step, tube, union
from dtvit.phantom.spec import Head

_P = 2.3  # exponent of the outline; 2 is an ellipse, and skulls are a little fuller
_X0, _Y0 = -110.0, -130.0  # corner of the skull base map, mm; 1 mm a cell
FAT, MUSCLE, SKIN, AIR = -95.0, 52.0, 75.0, -1000.0


def _base_map() -> tuple[Array, Array]:
    """Height of the cavity's floor and thickness of the bone below it, both (y, x) at 1 mm: the three fossae."""
    y, x = np.meshgrid(np.arange(_Y0, 131.0), np.arange(0.0, 111.0), indexing="ij")
    y, x = y.astype(np.float32), x.astype(np.float32)
    anterior = -14.0 - 7.0 * bump(x / 9, (y + 55) / 25) + 2.0 * bump((x - 29) / 14, (y + 50) / 20)
    middle = -37.0 + 10.0 * ((x - 38) / 34) ** 2 + 5.0 * ((y + 12) / 35) ** 2
    sella = -21.0 - 8.0 * bump(x / 8, (y + 13) / 5)
    middle = middle + (sella - middle) * step(13.0 - x, 4.0)
    posterior = np.minimum(-57.0 + 32.0 * ((x / 52) ** 2 + (np.maximum(y - 48, 0) / 38) ** 2) ** 1.4, -18.0)
    clivus = -21.0 - 1.7 * np.maximum(y + 4.0, 0)
    posterior = np.maximum(posterior, clivus - 0.4 * np.maximum(x - 8, 0))
    wing_y = -16.0 - 0.48 * np.maximum(x - 8, 0)
    ridge_y = -3.0 + 0.88 * np.maximum(x - 9, 0)
    floor = anterior + (middle - anterior) * step(y - wing_y, 2.5)
    floor = floor + (posterior - floor) * step(y - ridge_y, 2.0)
    wing = -13.0 - 0.10 * np.maximum(x - 40, 0) ** 1.4 - 1.2 * np.abs(y - wing_y)
    wing -= 8.0 * step(10.0 - x, 2.0)
    behind = (y - ridge_y) * 0.8
    petrous = -19.5 - 1.1 * np.maximum(behind, 0) + 0.62 * np.minimum(behind, 0) - 0.05 * np.maximum(x - 45, 0) ** 2
    petrous += 1.5 * bump((x - 28) / 6, behind / 8)
    floor = np.maximum(floor, np.maximum(wing, petrous))
    magnum = np.sqrt((x / 15.0) ** 2 + ((y - 37) / 18.0) ** 2)
    thick = 3.0 + 1.5 * step(y - wing_y, 3.0) + 2.0 * step(y - ridge_y, 3.0)
    thick += 17.0 * bump(behind / 13, np.maximum(x - 60, 0) / 8) * step(x - 12, 3.0)  # the pyramid itself
    thick += 16.0 * bump(x / 13, (y + 6) / 17)  # sphenoid body and clivus
    thick += 9.0 * bump((x - 20) / 6, (y - 32) / 10)  # condyles
    thick += 12.0 * bump((x - 56) / 9, (y - 42) / 13)  # mastoid
    floor = np.where(magnum < 1.0, floor - 20.0, floor)  # from there on the spinal canal takes over
    both = [cv2.GaussianBlur(np.hstack([a[:, :0:-1], a]).astype(np.float32), (0, 0), 1.1) for a in (floor, thick)]
    return both[0], both[1]


_FLOOR, _THICK = _base_map()
_SLOPE = np.asarray(1.0 / np.sqrt(1.0 + sum(np.square(g) for g in np.gradient(_FLOOR))), np.float32)


@dataclass(frozen=True)
class Shell:
    """Distances at some points: cavity, calvaria's outside, skin, and the bone of skull and base."""

    cavity: Array
    outer: Array
    skin: Array
    bone: Array
    under: Array
    """mm below the cavity's floor; negative above it."""


@dataclass(frozen=True)
class Skull:
    head: Head
    noise: Noise
    texture: Noise

    def cavity(self, p: Points) -> tuple[Array, Array, Array, Array]:
        """(cavity, vault, under the floor, thickness of the base below)"""
        width = (66.0 + np.clip(0.055 * p.y, -5.0, 5.0) - 8.0 * step(-p.z - 42, 14.0)).astype(np.float32)
        length = (81.5 + 2.5 * np.tanh((p.y - 3) / 20)).astype(np.float32)
        up = np.maximum(p.z - 4.0, 0.0) / np.float32(71.0)
        ax, ay = np.abs(p.x) / width, np.abs(p.y - np.float32(3.0)) / length
        sx, sy, sz = ax ** (_P - 1), ay ** (_P - 1), up ** (_P - 1)
        rho = np.maximum(sx * ax + sy * ay + sz * up, np.float32(1e-3)) ** np.float32(1 / _P)
        slope = np.sqrt((sx / width) ** 2 + (sy / length) ** 2 + (sz / 71.0) ** 2) / rho ** np.float32(_P - 1)
        vault = (rho - 1.0) / np.maximum(slope, np.float32(1 / 90.0))
        flat = p.x.reshape(len(p.x), -1)  # cv2 knows two dimensions only
        at = (flat - np.float32(_X0)), p.y.reshape(flat.shape) - np.float32(_Y0)
        maps = (_FLOOR, _THICK, _SLOPE)
        floor, thick, cosine = (
            cv2.remap(m, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(p.x.shape) for m in maps
        )
        floor = floor + 1.5 * self.noise.slow(p, 26.0)
        under = (floor - p.z) * np.maximum(cosine, np.float32(0.35))
        return np.maximum(vault, under), vault, under, thick * cosine

    def shell(self, p: Points) -> Shell:
        cavity, vault, under, thick = self.cavity(p)
        bone_mm = self.head.skull_mm * (
            1.0
            + 0.22 * self.noise.slow(p, 70.0)
            + 0.09 * self.noise.slow(p.moved(15), 24.0)
            - 0.35 * bump((p.z + 8) / 22, (p.y + 2) / 32)
            + 0.15 * step(p.z - 55, 10)
        )
        bone_mm = (
            bone_mm + 3.5 * bump(p.x / 12, (p.y - 90) / 10, (p.z + 8) / 16) + 2.0 * bump((p.y + 80) / 12, p.z / 25)
        )
        outer = vault - np.maximum(bone_mm, 1.8)
        scalp_mm = self.head.scalp_mm * (1.0 + 0.18 * self.noise.slow(p.moved(90), 60.0))
        scalp_mm = scalp_mm + 7.0 * bump((np.abs(p.x) - 66) / 14, (p.y + 28) / 22, (p.z + 14) / 24)  # temporalis
        scalp = np.maximum(outer - scalp_mm, -62.0 - p.z)
        skin = union(scalp, self._face(p), 9.0)
        bone = np.maximum(np.maximum(outer, -cavity), under - thick)
        return Shell(cavity, outer, skin, bone, under)

    def _face(self, p: Points) -> Array:
        """Outline of face and neck below the brow."""
        levels = [-140.0, -105.0, -80.0, -60.0, -40.0, -25.0, -10.0, 5.0]

        def at_level(*values: float) -> Array:
            return np.interp(p.z, levels, values).astype(np.float32)

        front, back = at_level(-60, -88, -97, -98, -91, -91, -90, -78), at_level(78, 80, 84, 92, 97, 92, 88, 80)
        width = at_level(58, 62, 67, 72, 75, 75, 72, 62)
        ax, ay = np.abs(p.x) / width, np.abs(2 * p.y - front - back) / (back - front)
        rho = np.maximum(ax**2.4 + ay**2.4, np.float32(1e-3)) ** np.float32(1 / 2.4)
        trunk = np.maximum((rho - 1.0) * np.minimum(width, 0.5 * (back - front)), p.z - 5.0)
        nose = ellipsoid(p, (0.0, -97.0, -52.0), (13.0, 17.0, 25.0))
        return union(trunk, nose, 8.0)

    def ears(self, p: Points) -> Array:
        side = np.abs(p.x) - 0.28 * (p.y - 20) - np.float32(79.0) - 2.5 * self.noise.slow(p, 18.0)
        disc = np.sqrt(((p.y - 24) / 17) ** 2 + ((p.z + 32) / 29) ** 2) - 1.0
        return np.asarray(np.maximum(np.abs(side) - 1.8, disc * 17), np.float32)

    def paint(self, canvas: Canvas, p: Points, shell: Shell) -> None:
        """Everything outside the cranial cavity, from the skin inwards."""
        low = float(p.z.min()) < 2.0
        if low:
            canvas.paint(self.ears(p), 35.0)
        canvas.paint(shell.skin, SKIN)
        texture = self.texture.fine(p, 9.0)
        canvas.paint(shell.skin + 2.3 + 0.5 * self.noise.slow(p, 14.0), FAT + 8.0 * texture)
        galea = np.maximum(shell.outer - 2.2 - 0.8 * self.noise.slow(p, 30.0), shell.skin + 2.5)
        canvas.paint(galea, 25.0, edge_mm=1.5)
        if low:
            self._soft_face(canvas, p, shell)
        edge = np.minimum(-shell.outer, shell.cavity)
        marrow = step(edge - 2.0, 0.7) * np.clip((shell.cavity - shell.outer - 4.0) / 2.0, 0, 1)
        hu = self.head.bone_hu * (1.0 - marrow * (0.55 - 0.16 * texture)) + 60 * texture
        canvas.paint(shell.bone, hu.astype(np.float32))
        if low:
            self._air_cells(canvas, p, shell)

    def _soft_face(self, canvas: Canvas, p: Points, shell: Shell) -> None:
        side = np.abs(p.x)
        q = Points(side, p.y, p.z)
        grain = self.texture.fine(p, 28.0, (1.3, 1.0, 2.5))
        below = np.maximum(p.z + 24.0 + 8.0 * self.noise.slow(p, 40.0), shell.skin + self.head.scalp_mm * 0.9)
        meat = np.maximum(below, (0.3 - np.abs(grain)) * 5.0)
        canvas.paint(np.maximum(meat, -shell.bone - 40), MUSCLE + 6.0 * grain, edge_mm=1.4)
        temporalis = ellipsoid(q, (67.0, -26.0, -16.0), (7.0, 24.0, 30.0)) + 1.2 * grain
        canvas.paint(np.maximum(temporalis, shell.skin + 4.0), MUSCLE + 4.0 * grain, edge_mm=1.0)
        self._orbits(canvas, q)
        bone = self.head.bone_hu * 0.8
        arch = tube(q, [(50, -62, -50, 4), (64, -42, -46, 3), (69, -18, -44, 2.6), (66, 8, -42, 3.5)])
        jaw = tube(q, [(49, 9, -46, 5), (50, 10, -58, 4), (50, 4, -85, 5), (44, -22, -108, 6), (16, -72, -118, 7)])
        canvas.paint(np.minimum(arch, jaw), bone)
        palate = np.maximum(ellipsoid(p, (0, -58, -86), (30, 36, 9)), -ellipsoid(p, (0, -52, -92), (20, 28, 9)))
        canvas.paint(palate, bone)
        sinus = ellipsoid(q, (28.0, -60.0, -66.0), (15.0, 18.0, 18.0)) + 2.0 * self.noise.slow(p, 25.0)
        canvas.shell(sinus, 0.9, 600.0)
        canvas.paint(sinus + 0.8, AIR)
        if self.head.sinus_fluid:
            canvas.paint(np.maximum(sinus + 0.8, -52.0 - p.y), 22.0)
        nose = np.maximum(ellipsoid(p, (0.0, -62.0, -52.0), (14.0, 30.0, 34.0)), p.z + 22.0)
        canvas.paint(nose, AIR)
        turns = (np.abs(self.texture.fine(p, 14.0, (0.8, 2.5, 1.5))) - 0.5) * 2.0
        canvas.paint(np.maximum(nose, turns), 40.0)
        canvas.paint(np.maximum(nose, turns + 0.5 - 0.9 * step(p.z + 45, 8.0)), 350.0)
        canvas.paint(np.maximum(nose, np.abs(p.x - 2.0 * self.noise.slow(p, 50.0)) - 0.9), 260.0)
        canvas.shell(nose, 0.8, 420.0)
        canvas.paint(ellipsoid(p, (0.0, -14.0, -78.0), (12.0, 9.0, 20.0)), AIR)
        self._neck(canvas, p, q)

    def _orbits(self, canvas: Canvas, q: Points) -> None:
        orbit = ellipsoid(q, (29.5, -55.0, -34.0), (17.5, 27.0, 16.5)) + 1.0 * self.noise.slow(q, 30.0)
        canvas.paint(np.maximum(orbit - 1.5, q.z + 16.0), self.head.bone_hu * 0.75, edge_mm=1.0)
        canvas.paint(np.maximum(orbit, -85.0 - q.y), FAT)
        canvas.paint(tube(q, [(31, -62, -33, 2.4), (24, -46, -31, 2.1), (10, -24, -27, 2.3)]), 38.0)
        for dx, dz in ((12.0, 0.0), (-11.0, 0.0), (0.0, 11.0), (0.0, -11.0)):
            path = [(31 + dx, -68, -33 + dz, 1.3), (27 + dx * 0.9, -52, -32 + dz * 0.8, 2.7), (14, -28, -29, 1.5)]
            canvas.paint(tube(q, path), 48.0)
        globe = ellipsoid(q, (32.0, -73.0, -34.0), (12.2, 12.4, 12.2))
        canvas.paint(globe, 48.0)
        canvas.paint(globe + 1.5, 9.0)
        canvas.paint(ellipsoid(q, (32.0, -82.0, -34.0), (4.6, 2.1, 4.6)), 85.0)

    def _neck(self, canvas: Canvas, p: Points, q: Points) -> None:
        bone = self.head.bone_hu * 0.72
        axis = p.y - 0.12 * (p.z + 70)
        canal = np.sqrt((p.x / 13.0) ** 2 + ((axis - 37) / 13.5) ** 2)
        ring = np.maximum(np.abs(canal - 1.22) * 13 - 3.0, np.abs(p.z + 76) - 6.5 + 2 * self.noise.slow(p, 20.0))
        canvas.paint(ring, bone)
        canvas.paint(ellipsoid(q, (21.0, 30.0, -75.0), (10.0, 11.0, 9.0)), bone)
        canvas.paint(tube(p, [(0, 21, -66, 4), (0, 22, -84, 5.5), (0, 24, -140, 9)]), bone)
        canvas.paint(np.maximum(np.maximum(np.abs(canal - 1.2) * 13 - 3, -84 - p.z), -(p.z + 92)), bone)
        inside = np.maximum((canal - 1.0) * 13, p.z + 50)
        canvas.paint(inside, 12.0)
        canvas.paint(np.maximum(np.sqrt(p.x**2 + (axis - 35) ** 2) - 6.2, p.z + 55), 36.0)

    def _air_cells(self, canvas: Canvas, p: Points, shell: Shell) -> None:
        side = np.abs(p.x)
        q = Points(side, p.y, p.z)
        cells = self.texture.fine(p, 7.0)
        inside = np.maximum(shell.bone, shell.under * 0.0 - shell.cavity) + 2.0
        mastoid = np.maximum(ellipsoid(q, (56.0, 38.0, -40.0), (13.0, 15.0, 22.0)), inside)
        canvas.paint(np.maximum(mastoid, (0.1 - cells) * 3.0), AIR)
        ear = ellipsoid(q, (45.0, 17.0, -33.0), (5.0, 5.0, 5.0))
        canvas.paint(np.maximum(ear, (-0.4 - cells) * 3.0), AIR)
        canvas.paint(tube(q, [(50, 18, -35, 3.0), (66, 17, -36, 3.4), (84, 18, -36, 4.5)]), AIR)
        canvas.paint(tube(q, [(16, 20, -30, 2.8), (27, 18, -29, 2.2)]), 10.0)
        labyrinth = np.minimum(
            ellipsoid(q, (31.0, 17.0, -29.0), (3.0, 3.0, 2.5)),
            np.abs(ellipsoid(q, (37.0, 24.0, -27.0), (4, 4, 4))) - 0.6,
        )
        canvas.paint(labyrinth, 150.0)
        sphenoid = ellipsoid(p, (1.5, -24.0, -41.0), (13.0, 13.0, 11.0)) + 1.5 * self.noise.slow(p, 22.0)
        canvas.shell(sphenoid, 1.0, 650.0)
        septum = np.abs(p.x - 2.0 * self.noise.slow(p, 40.0)) - 0.6
        canvas.paint(np.maximum(sphenoid + 0.9, -septum), AIR)
        frontal = ellipsoid(q, (11.0, -85.0, -8.0), (15.0, 5.0, 15.0)) + 2.0 * self.noise.slow(p, 18.0)
        canvas.paint(np.maximum(np.maximum(frontal, shell.outer + 1.8), 1.8 - shell.cavity), AIR)

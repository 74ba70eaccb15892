"""The soft contents of the skull: cerebrum with its folds, cerebellum, brainstem, ventricles, cisterns, dura.

Coordinates as in `skull`. HU: cerebrospinal fluid 0..15, white matter 25..32, grey matter 34..40, dura and venous blood
45..60, calcification 80 and more (Osborn, Brain). Sulci are the zero lines of smooth noise that hardly changes with
depth, so that they run inwards from the surface, and are cut off at a depth that varies from place to place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dtvit.phantom.canvas import Canvas, finer
from dtvit.phantom.fields import Array, Noise, Points, bump, ellipsoid, soft, step, tube, union
from dtvit.phantom.skull import Shell
from dtvit.phantom.spec import Head

DURA, VEIN = 50.0, 54.0


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


@dataclass(frozen=True)
class Brain:
    head: Head
    noise: Noise
    folds: Noise
    sides: tuple[float, float]
    """Width of the right and the left lateral ventricle against `head.ventricles`."""

    def ventricle(self, p: Points) -> Array:
        """Distance to the lateral and third ventricles (blood can break into these)."""
        v = 1.12 * self.head.ventricles
        side = np.where(p.x > 0, np.float32(self.sides[1]), np.float32(self.sides[0]))
        q = Points(np.abs(p.x) + np.float32(0.35), p.y, p.z)
        body = tube(
            q,
            [
                (13 + 2 * v, -35 - v, 4, 2.2 * v), (8 + v, -26, 10, 4.4 * v), (4.5 + 1.8 * v, -8, 16, 3.7 * v),
                (6 + 3.5 * v, 12, 22, 3.6 * v), (13 + 4 * v, 28, 19, 4.6 * v), (20 + 4 * v, 38, 11, 5.6 * v),
            ],
        )  # fmt: skip
        rear = tube(q, [(21 + 3 * v, 38, 10, 4.8 * v), (23 + 2 * v, 52, 6, 2.9 * v), (18 + v, 66, 3, 1.1 * v)])
        below = tube(
            q, [(22 + 3 * v, 38, 8, 4.3 * v), (31, 26, -6, 1.9 * v), (32, 8, -17, 1.2 * v), (28, -8, -21, 1.5 * v)]
        )
        lateral = union(body, union(rear, below, 3.0), 3.0) - (side - 1.0) * 4.0
        caudate = ellipsoid(q, (13.5 + 2.2 * v, -15.0, 9.0), (5.5, 12.0, 9.0))
        lateral = np.maximum(lateral, np.float32(0.6) - caudate)
        lateral = np.maximum(lateral, 0.7 + 0.3 * v - np.abs(p.x))  # septum pellucidum
        third = ellipsoid(p, (0.0, 1.0, -3.0), (0.9 + 1.6 * v, 14.0, 9.0))
        return np.asarray(np.minimum(lateral, third) + 0.5 * self.noise.slow(p, 16.0), np.float32)

    def fourth(self, p: Points) -> Array:
        v = self.head.ventricles**0.6
        roof = ellipsoid(p, (0.0, 34.0, -30.0), (7.0 * v, 5.5 * v, 10.0))
        tent = np.abs(p.x) * 0.75 + (p.y - 41.5) * 0.66  # its roof is a tent pointing backwards
        duct = tube(p, [(0, 22, -4, 1.0), (0, 25, -16, 1.0), (0, 30, -24, 1.5)])
        return np.asarray(np.minimum(np.maximum(roof, tent), duct) + 0.3 * self.noise.slow(p, 12.0), np.float32)

    def stem(self, p: Points) -> Array:
        q = Points(p.x * np.float32(0.82), p.y, p.z)
        column = tube(
            q,
            [
                (0, 10, -2, 10),
                (0, 10, -12, 10.5),
                (0, 15, -24, 13),
                (0, 17, -32, 12),
                (0, 27, -48, 7.5),
                (0, 36, -66, 6),
            ],
        )
        peduncles = tube(Points(np.abs(p.x), p.y, p.z), [(9, 0, -6, 4.5), (8, 5, -16, 5.5)])
        return union(column, peduncles, 4.0)

    def paint(self, canvas: Canvas, p: Points, shell: Shell) -> None:
        """`p` carries the mass effect, `shell` does not (bone stays where it is)."""
        head = self.head
        white, fluid = head.white_hu, head.csf_hu
        tent = tentorium(p)
        lower = infratentorial(p)
        brain_edge = shell.cavity + head.gap_mm * (0.8 + 0.35 * self.noise.slow(p, 45.0))
        canvas.paint(shell.cavity, fluid + 2.0)
        if float(p.z.max()) > -45.0:
            self._cerebrum(canvas, p, brain_edge, lower)
        if float(p.z.min()) < 12.0:
            self._posterior_fossa(canvas, p, brain_edge, lower, shell)
        self._deep(canvas, p, brain_edge)
        ventricle = self.ventricle(p)
        caps = np.maximum(ventricle - 2.0 - 9.0 * head.leukoaraiosis * (1 + 0.5 * self.noise.slow(p, 22.0)), lower - 3)
        dark = step(-self.noise.slow(p.moved(40), 24.0) - 1.1 + head.leukoaraiosis, 0.4) * 0.5
        canvas.paint(
            np.maximum(caps, brain_edge + 8.0), white - 7.0, edge_mm=7.0, strength=0.25 + 0.6 * head.leukoaraiosis
        )
        if head.leukoaraiosis > 0.25 and float(p.z.max()) > 5:
            canvas.paint(
                np.maximum(np.maximum((0.6 - dark) * 20.0, brain_edge + 11.0), 4.0 - p.z), white - 6.0, edge_mm=5.0
            )
        canvas.paint(np.maximum(ventricle, shell.cavity + 4.0), fluid, edge_mm=1.2)
        if float(p.z.min()) < 0.0:
            canvas.paint(np.maximum(self.fourth(p), shell.cavity + 3.0), fluid, edge_mm=1.2)
        self._membranes(canvas, p, shell, tent)

    def _cerebrum(self, canvas: Canvas, p: Points, edge: Array, lower: Array) -> None:
        head, mm = self.head, canvas.fine_mm
        side = np.abs(p.x)
        depth = -edge
        callosal = ellipsoid(p, (0.0, -1.0, 4.0), (24.0, 44.0, 26.0))
        midline = np.maximum(side, -callosal - 1.0)  # depth below the medial surface, above the corpus callosum
        curve = 36.0 + 3.0 * bump((p.y + 6) / 20) - 0.05 * np.abs(p.y + 6) + 1.5 * self.noise.slow(p, 30.0)
        insular = np.maximum(np.abs(side - curve), np.maximum(np.abs(p.y + 6) - 20, np.abs(p.z - 4) - 13))
        rise = (p.y + 24.0 - 1.7 * p.z) * 0.51 + 2.0 * self.noise.slow(p, 30.0)
        sylvian = np.maximum(np.abs(rise), np.maximum(curve - side, np.abs(p.z - 6) - 22))
        inner = np.minimum(insular, sylvian)
        surface = np.minimum(np.minimum(depth, midline), inner)
        mouth = np.minimum(np.minimum(depth, 5.0 + 2.0 * midline), 4.0 + 1.5 * inner)  # hidden sulci are short

        outwards = np.sqrt((p.x / 66) ** 2 + ((p.y - 3) / 82) ** 2 + (p.z / 72) ** 2)
        squeeze = (0.45 + 0.55 / np.maximum(outwards, 0.3)).astype(np.float32)  # noise changes slowly along a radius
        q = Points(p.x * squeeze, (p.y - 3) * squeeze, p.z * squeeze)
        q = q.moved(2.5 * self.noise.slow(p.moved(5), 21.0), 2.5 * self.noise.slow(p.moved(55), 21.0))
        fold = self.folds.fine(q, 32.0) + 0.26 * self.folds.fine(q.moved(31), 11.0)
        across, down = np.gradient(fold, canvas.coarse_mm)
        sulcus = np.abs(finer(fold, smooth=True)) / finer(np.sqrt(across**2 + down**2) + np.float32(0.05))
        reach = 19.0 + 7.0 * self.noise.slow(q.moved(7), 30.0)
        openness = np.clip(1.0 - mouth / np.maximum(reach, 3.0), 0.0, 1.0) * np.clip((outwards - 0.42) * 8, 0, 1)
        wide = np.clip(1.0 + 0.7 * self.noise.slow(p.moved(17), 38.0), 0.15, 2.5)
        half = finer((head.sulcus_mm * wide * (0.6 + 0.4 * openness) * (openness > 0)).astype(np.float32))
        fluid = soft(sulcus - half, 1.1 * mm) * finer(np.clip(openness * 6, 0, 1))
        opening = 0.5 + 1.3 * head.sulcus_mm
        clefts = np.minimum(
            insular - opening * 0.9,
            sylvian - opening * (0.7 + 0.7 * bump((side - 44) / 12)) / (1.0 + np.maximum(p.z - 5, 0) / 12),
        )
        clefts = np.minimum(clefts, midline - 0.5 - 0.7 * head.sulcus_mm * wide)
        fluid = np.maximum(fluid, soft(finer(clefts.astype(np.float32)), 1.1 * mm))

        ribbon = 4.3 + 0.8 * self.noise.slow(p, 20.0)
        cortex = np.minimum(
            sulcus + finer(np.where(openness > 0, 0.0, 30.0).astype(np.float32)) * 0.25,
            finer(surface.astype(np.float32)),
        )
        grey = soft(cortex - finer(ribbon), 2.2)
        mottle = finer(0.8 * self.noise.slow(p, 13.0) + 0.8 * self.noise.slow(p, 50.0))
        tissue = head.white_hu + grey * (head.grey_hu - head.white_hu) + mottle
        tissue += fluid * (head.csf_hu - tissue)
        inside = soft(finer(np.maximum(edge, -lower).astype(np.float32)), mm)
        canvas.lay(inside, tissue)

    def _posterior_fossa(self, canvas: Canvas, p: Points, edge: Array, lower: Array, shell: Shell) -> None:
        head = self.head
        stem = self.stem(p)
        cerebellum = np.maximum(
            np.maximum(edge, lower + 1.0 + 0.6 * head.sulcus_mm), 22.0 - 0.9 * np.maximum(np.abs(p.x) - 15.0, 0.0) - p.y
        )
        cerebellum = np.maximum(
            cerebellum,
            1.6
            + 1.2 * head.sulcus_mm
            - np.maximum(stem, 0.0)
            - 14.0 * step(p.z + 46, 3.0) * step(-13.0 - p.z, 3.0),  # at the pons the two are one
        )
        behind = (
            2.0 + 0.14 * (p.y - 66) - 0.08 * (p.z + 30) + 1.2 * self.noise.slow(p, 22.0)
        )  # vallecula, cisterna magna
        cleft = np.maximum(np.abs(p.x) - behind, np.maximum(68 + 2 * self.noise.slow(p, 18.0) - p.y, p.z + 26))
        cerebellum = np.maximum(cerebellum, -cleft)
        canvas.paint(np.maximum(lower, shell.cavity), head.csf_hu + 2.0)
        leaf = np.abs(self.folds.fine(p, 13.0, (3.5, 0.8, 1.1)))
        core = ellipsoid(
            Points(np.abs(p.x), p.y, p.z), (21.0, 46.0, -33.0), (17.0, 13.0, 10.0)
        ) + 2.0 * self.noise.slow(p, 14.0)
        canvas.paint(cerebellum, head.grey_hu - 1.0 + 1.0 * self.noise.slow(p, 12.0))
        arm = tube(Points(np.abs(p.x), p.y, p.z), [(12, 16, -29, 7), (21, 30, -32, 7), (22, 44, -33, 8)])
        canvas.paint(np.maximum(np.minimum(core, arm), cerebellum + 4.0), head.white_hu + 1.0, edge_mm=4.0)
        lines = np.maximum(
            (leaf - 0.15 - 0.15 * head.sulcus_mm) * 3.5, np.maximum(cerebellum, -13.0 - cerebellum + 6 * leaf)
        )
        canvas.paint(lines, head.csf_hu + 4.0, edge_mm=1.2, strength=0.9)
        cisterns = [
            ellipsoid(p, (0.0, -9.0, -14.0), (11.0 + 2.0 * head.sulcus_mm, 9.0, 9.0)),
            tube(Points(np.abs(p.x), p.y, p.z), [(8, -14, -13, 3.0), (22, -19, -11, 1.2), (36, -24, -8, 1.5)]),
            ellipsoid(p, (0.0, 24.0, -1.0), (12.0, 2.2 + head.sulcus_mm, 6.0)),
            np.maximum(np.abs(stem - 0.8) - 0.9 - head.sulcus_mm * 0.8, np.abs(p.z + 8) - 9),
            tube(
                Points(np.abs(p.x), p.y, p.z),
                [(11, 16, -30, 1.5 + head.sulcus_mm), (24, 22, -32, 0.8 + head.sulcus_mm)],
            ),
        ]
        for cistern in cisterns:
            canvas.paint(
                np.maximum(cistern + 0.5 * self.noise.slow(p, 10.0), shell.cavity + 0.5), head.csf_hu, edge_mm=1.2
            )
        canvas.paint(np.maximum(stem, shell.cavity + 1.0), head.white_hu + 3.5, edge_mm=1.2)
        gland = ellipsoid(p, (0.0, -13.0, -26.0), (6.0, 4.5, 4.0))
        cavernous = ellipsoid(Points(np.abs(p.x), p.y, p.z), (11.0, -13.0, -27.0), (4.5, 11.0, 5.0))
        canvas.paint(np.minimum(gland, cavernous), 46.0, edge_mm=1.5)
        vessels = np.minimum(
            tube(p, [(0.5, -1.5, -12, 1.4), (-0.5, 0, -28, 1.6), (1, 12, -44, 1.6)]),
            tube(
                Points(np.abs(p.x), p.y, p.z),
                [(9, -15, -24, 2.0), (9, -15, -16, 1.9), (22, -19, -12, 1.4), (34, -23, -9, 1.1)],
            ),
        )
        canvas.paint(vessels, 44.0, edge_mm=1.0)
        if head.vessel_hu:
            spots = np.maximum(vessels + 0.4, (0.7 - self.noise.slow(p, 8.0)) * 2.0)
            canvas.paint(np.maximum(spots, -20.0 - p.z), head.vessel_hu)

    def _deep(self, canvas: Canvas, p: Points, edge: Array) -> None:
        if float(p.z.max()) < -20 or float(p.z.min()) > 40:
            return
        head = self.head
        q = Points(np.abs(p.x), p.y, p.z)
        v = 1.2 * (head.ventricles - 1.0)
        turned = Points(q.x * 0.94 - (q.y + 2) * 0.34, (q.y + 2) * 0.94 + q.x * 0.34, q.z)
        wobble = 0.8 * self.noise.slow(p, 18.0)
        callosum = np.abs(ellipsoid(p, (0.0, -1.0, 4.0), (22.0, 41.0, 24.0))) - 3.0
        canvas.paint(np.maximum(callosum, np.abs(p.x) - 16), head.white_hu, edge_mm=2.5)
        capsule = ellipsoid(q, (23.0, -2.0, 6.0), (15.0, 25.0, 17.0))
        canvas.paint(capsule + wobble, head.white_hu + 0.5, edge_mm=5.0)
        lentiform = ellipsoid(turned, (23.5, 8.0, 3.0), (6.5, 15.0, 10.0))
        thalamus = ellipsoid(q, (10.5 + v, 10.0, 6.0), (8.5, 14.5, 9.5))
        caudate = ellipsoid(q, (13.5 + 2 * v, -15.0, 9.0), (5.5, 12.0, 9.0))
        tail = tube(q, [(15 + 2 * v, -8, 18, 3.2), (17 + 3 * v, 12, 25, 2.4)])
        for nucleus in (lentiform, thalamus, caudate, tail):
            canvas.paint(nucleus + wobble, head.grey_hu + 1.0, edge_mm=2.0)
        if head.ganglia_hu:
            pallidum = ellipsoid(turned, (20.0, 6.0, 2.0), (2.5, 6.0, 4.0)) + 1.6 * self.folds.fine(p, 9.0)
            canvas.paint(pallidum, head.ganglia_hu, edge_mm=1.5)

    def _membranes(self, canvas: Canvas, p: Points, shell: Shell, tent: Array) -> None:
        head, side = self.head, np.abs(p.x)
        thick = 0.45 + 0.25 * step(p.y - 20, 20.0)
        free = np.where(p.y < 5, 36.0, 34.0) + 0.15 * np.abs(p.y) * (p.y < 0)
        from_callosum = ellipsoid(p, (0.0, 0.0, 4.0), (24.0, 40.0, 22.0))
        falx = np.maximum(side - thick, np.maximum(free * 0.3 - from_callosum, -tent))
        falx = np.maximum(falx, shell.cavity)
        canvas.paint(falx, DURA, edge_mm=0.8)
        sheet = np.maximum(
            np.maximum(np.abs(tent) - 0.7, shell.cavity), np.maximum(0.55 * (p.y - 24) + 8 - side, -30 + 0 * side)
        )
        in_notch = np.maximum(side - 19.0, p.y - 34.0)
        sheet = np.maximum(sheet, np.maximum(-in_notch, 3.0 + 0.7 * (side - 9) - p.y))
        canvas.paint(sheet, DURA - 2, edge_mm=1.0)
        straight = tube(p, [(0, 38, 6, 1.7), (0, 62, -4, 1.9), (0, 83, -11, 3.2)])
        rim = np.maximum(side * 0.85 - 4.5 - 0.5 * shell.cavity - 3.0, -shell.cavity - 5.5)
        sagittal = np.maximum(np.maximum(rim, np.maximum(side - 5 + -shell.cavity * 0.7, shell.cavity)), -8.0 - p.z)
        transverse = np.maximum(
            np.abs(tent) - 4.0, np.maximum(-shell.cavity - 5.0, np.maximum(shell.cavity + 0.3, 44 - p.y))
        )
        sinuses = np.minimum(straight, np.minimum(sagittal, transverse + 0.8 * (p.x > 0)))
        canvas.paint(sinuses, VEIN, edge_mm=1.2)
        grains = self.noise.slow(p, 9.0)
        if head.falx_hu:
            plaque = np.maximum(falx + 0.1 - 0.6, (1.1 - self.noise.slow(p.moved(60), 34.0)) * 9.0)
            canvas.paint(plaque, head.falx_hu)
        if head.pineal_hu:
            canvas.paint(ellipsoid(p, (0.5, 19.0, 1.0), (2.4, 3.0, 2.4)) + 0.9 * grains, head.pineal_hu)
        if head.choroid_hu:
            v = head.ventricles
            q = Points(np.abs(p.x) + np.where(p.x > 0, 0.0, 1.5).astype(np.float32), p.y, p.z)
            plexus = tube(q, [(11 + 3 * v, 27, 18, 1.4), (18 + 4 * v, 37, 10, 3.2), (20 + 3.5 * v, 41, 6, 1.6)])
            canvas.paint(plexus, 44.0, edge_mm=1.5)
            canvas.paint(plexus + 0.9 + 1.3 * grains, head.choroid_hu)

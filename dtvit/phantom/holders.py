"""What lies around a head in the scanner: holders of several shapes, cushions, tubes, a hand. The same in every slice.

Coordinates: the scanner's x (patient's left) and y (down), mm. Shells of plastic or carbon fibre -50..500 HU, foam
-970..-850 HU, tubes 50..200 HU, fingers of skin, muscle and bone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dtvit.phantom.canvas import Canvas
from dtvit.phantom.fields import Array, Noise, Points
from dtvit.phantom.spec import Holder


@dataclass(frozen=True)
class Box:
    """The head seen along the table: its extent in x and y, mm."""

    left: float
    right: float
    front: float
    back: float


@dataclass(frozen=True)
class Bench:
    """The holder of one scan and the things beside the head."""

    holder: Holder
    box: Box
    noise: Noise
    jitter: tuple[float, ...]
    """Eight numbers 0..1 for what needs no name."""

    def _outline(self, p: Points, extra_mm: float) -> Array:
        """Distance to the middle of the shell, `extra_mm` outside the innermost one; before its sides are cut."""
        holder, box, j = self.holder, self.box, self.jitter
        half = (box.right - box.left) / 2 + holder.side_mm + extra_mm
        cx = (box.left + box.right) / 2 + (j[0] - 0.5) * 8
        bottom = box.back + holder.gap_mm + holder.shell_mm / 2 + extra_mm
        x = p.x - np.float32(cx)
        if holder.shape == "U":
            corner = 0.35 * half + 0.5 * half * j[1]
            high = bottom - box.front + 60.0
            qx, qy = np.abs(x) - (half - corner), np.abs(p.y - (bottom - high)) - (high - corner)
            outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
            return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0.0) - corner, np.float32)
        tall = (bottom - box.front + 8.0 + 20 * j[1]) / 2 if holder.shape == "ring" else half * (0.85 + 0.5 * j[1])
        y = p.y - np.float32(bottom - tall)
        k = np.sqrt((x / half) ** 2 + (y / tall) ** 2) + np.float32(1e-4)
        slope = np.sqrt((x / half**2) ** 2 + (y / tall**2) ** 2) + np.float32(1e-6)
        return np.asarray(k * (k - 1.0) / slope, np.float32)

    def paint(self, canvas: Canvas, p: Points) -> Array:
        """Paint all of it; the distance to it (coarse grid), negative inside."""
        holder, j = self.holder, self.jitter
        nothing = np.full(p.x.shape, 1e3, np.float32)
        solid: Array = nothing
        middle = (self.box.front + self.box.back) / 2
        cut = middle - holder.rise * (self.box.back - self.box.front) / 2 - p.y
        half_shell = holder.shell_mm / 2
        if holder.shape in ("thin cup", "thick cup", "U", "double cup", "pillow"):
            line = self._outline(p, 12.0 + 25 * j[2] if holder.shape == "pillow" else 0.0)
            shell = np.maximum(np.abs(line) - half_shell, cut)
            if holder.shape == "thick cup" and j[3] > 0.5:  # two skins with foam between
                canvas.paint(shell, -900.0 + 80 * j[4])
                skins = np.maximum(np.abs(np.abs(line) - (half_shell - 0.8)) - 0.8, cut)
                canvas.paint(skins, holder.shell_hu)
            else:
                canvas.paint(shell, holder.shell_hu)
            solid = shell
            if holder.shape == "double cup":
                second = np.maximum(np.abs(self._outline(p, 9.0 + 14 * j[2])) - half_shell, cut + 10 * j[5])
                struts = np.minimum(np.abs(p.x - 60 * (j[3] - 0.5)), np.abs(np.abs(p.x) - 45 - 25 * j[4])) - 1.5
                strut = np.maximum(np.maximum(struts, -line), np.maximum(self._outline(p, 9.0 + 14 * j[2]), cut))
                canvas.paint(np.minimum(second, strut), holder.shell_hu)
                solid = np.minimum(solid, np.minimum(second, strut))
        elif holder.shape == "ring":
            solid = np.abs(self._outline(p, 0.0)) - half_shell
            canvas.paint(solid, holder.shell_hu)
        if holder.shape == "pillow" or (holder.cushion and holder.shape not in ("none", "ring")):
            solid = np.minimum(solid, self._cushion(canvas, p, cut))
        for index in range(holder.tubes):
            solid = np.minimum(solid, self._tube(canvas, p, index))
        return np.minimum(solid, self._hand(canvas, p)) if holder.hand else solid

    def _cushion(self, canvas: Canvas, p: Points, cut: Array) -> Array:
        """Foam between head and shell in a thin cover with creases."""
        j = self.jitter
        inner = self._outline(p, -4.0 - 14 * j[6]) + 3.0 * self.noise.slow(p, 45.0)
        limit = self._outline(
            p, (12.0 + 25 * j[2] if self.holder.shape == "pillow" else 0.0) - self.holder.shell_mm / 2 - 0.6
        )
        pad = np.maximum(np.maximum(-inner, limit), cut + 4.0 + 20 * j[7])
        canvas.paint(pad, -965.0 + 130 * j[5])
        cover = np.abs(pad) - (0.3 + 0.6 * j[3])
        creases = np.maximum(np.abs(self.noise.slow(p, 60.0)) * 12 - 0.5, pad)
        canvas.paint(np.minimum(cover, creases), -250.0 + 300 * j[4])
        return np.asarray(np.minimum(pad, cover), np.float32)

    def _tube(self, canvas: Canvas, p: Points, index: int) -> Array:
        j = self.jitter[(index * 2) % 8], self.jitter[(index * 3 + 1) % 8], self.jitter[(index * 5 + 2) % 8]
        side = 1.0 if (index + int(8 * j[0])) % 2 else -1.0
        x = (self.box.right if side > 0 else self.box.left) + side * (5.0 + 22 * j[1])
        y = self.box.front + (self.box.back - self.box.front) * (0.15 + 0.75 * j[2])
        radius = 2.0 + 4.5 * j[0]
        bore = np.sqrt((p.x - np.float32(x)) ** 2 + (p.y - np.float32(y)) ** 2)
        canvas.paint(bore - radius, 60.0 + 150 * j[1])
        if j[2] < 0.7:
            canvas.paint(bore - radius * 0.62, -1000.0 if j[1] < 0.6 else 5.0)
        return np.asarray(bore - radius, np.float32)

    def _hand(self, canvas: Canvas, p: Points) -> Array:
        """Four fingers in a row and a thumb."""
        j = self.jitter
        side = 1.0 if j[4] > 0.5 else -1.0
        x0 = (self.box.right if side > 0 else self.box.left) + side * (13.0 + 10 * j[5])
        y0 = self.box.front + (self.box.back - self.box.front) * (0.25 + 0.4 * j[6])
        whole = np.full(p.x.shape, 1e3, np.float32)
        for finger in range(5):
            x = x0 + side * (11.0 if finger == 4 else 3.0 * np.sin(finger + 6 * j[0]))
            y = y0 + (14.0 if finger == 4 else 16.5 * finger)
            radius = 8.0 + np.cos(finger * 2 + 6 * j[1])
            r = np.sqrt(((p.x - np.float32(x)) / np.float32(0.9)) ** 2 + (p.y - np.float32(y)) ** 2)
            canvas.paint(r - radius, 40.0)
            canvas.paint(r - radius + 2.0, -30.0)
            canvas.paint(r - 4.2, 700.0)
            canvas.paint(r - 2.0, 200.0)
            whole = np.minimum(whole, (r - radius).astype(np.float32))
        return whole

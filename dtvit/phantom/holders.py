"""What lies around a head in the scanner: holders of several shapes, cushions, tubes, a hand. The same in every slice.

Coordinates: the scanner's x (patient's left) and y (down), mm. Shells of plastic or carbon fibre -50..500 HU, foam
-970..-850 HU, tubes 50..200 HU, fingers of skin, muscle and bone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    widened_mm: float = 0.0
    """By how much the shell was widened to keep the gap asked for."""

    def fitted(self, near: Points, skin: Array) -> Bench:
        """Round the head: `near` are places close to its surface, `skin` their distances to it."""
        covered = self._cut(near) < 0 if self.holder.shape != "ring" else np.ones(near.x.shape, np.bool_)
        if not covered.any():
            return self
        reach = (self._outline(near, self._room_mm()) - skin)[covered].max()
        return replace(self, widened_mm=float(reach) + self.holder.gap_mm + self.holder.shell_mm / 2)

    def _cut(self, p: Points) -> Array:
        """Negative below the upper ends of the sides."""
        middle, half = (self.box.front + self.box.back) / 2, (self.box.back - self.box.front) / 2
        return np.asarray(middle - self.holder.rise * half - p.y, np.float32)

    def _outline(self, p: Points, extra_mm: float) -> Array:
        """Distance to the middle of the shell, `extra_mm` outside the innermost one; before its sides are cut."""
        holder, box, j = self.holder, self.box, self.jitter
        half = (box.right - box.left) / 2 + holder.side_mm + extra_mm
        cx = (box.left + box.right) / 2 + (j[0] - 0.5) * 8
        bottom = box.back + extra_mm
        x = p.x - np.float32(cx)
        if holder.shape == "U":
            corner = 0.35 * half + 0.5 * half * j[1]
            high = bottom - box.front + 60.0
            qx, qy = np.abs(x) - (half - corner), np.abs(p.y - (bottom - high)) - (high - corner)
            outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
            return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0.0) - corner - self.widened_mm, np.float32)
        tall = (bottom - box.front + 8.0 + 20 * j[1]) / 2 if holder.shape == "ring" else half * (0.85 + 0.5 * j[1])
        y = p.y - np.float32(bottom - tall)
        k = np.sqrt((x / half) ** 2 + (y / tall) ** 2) + np.float32(1e-4)
        slope = np.sqrt((x / half**2) ** 2 + (y / tall**2) ** 2) + np.float32(1e-6)
        return np.asarray(k * (k - 1.0) / slope - self.widened_mm, np.float32)

    def paint(self, canvas: Canvas, presence: Canvas, p: Points) -> None:
        """Paint all of it into `canvas` (HU) and into `presence` (1 where something is)."""
        holder, j = self.holder, self.jitter
        cut = self._cut(p)
        half_mm = holder.shell_mm / 2
        if holder.shape == "ring":
            self._shell(canvas, presence, self._outline(p, 0.0), half_mm, holder.shell_hu)
        elif holder.shape != "none":
            line = self._outline(p, self._room_mm())
            if holder.shape == "thick cup" and j[3] > 0.5:  # two skins with foam between
                self._shell(canvas, presence, line, half_mm, -900.0 + 80 * j[4], cut)
                for skin in (line - (half_mm - 0.8), line + (half_mm - 0.8)):
                    self._shell(canvas, presence, skin, 0.8, holder.shell_hu, cut)
            else:
                self._shell(canvas, presence, line, half_mm, holder.shell_hu, cut)
            if holder.shape == "double cup":
                second = self._outline(p, 9.0 + 14 * j[2])
                self._shell(canvas, presence, second, half_mm, holder.shell_hu, cut + 10 * j[5])
                between = np.maximum(np.maximum(-line, second), cut + 10 * j[5])
                for strut in (p.x - 60 * (j[3] - 0.5), np.abs(p.x) - 45 - 25 * j[4]):
                    self._shell(canvas, presence, strut, 1.5, holder.shell_hu, between)
            if holder.shape == "pillow" or holder.cushion:
                self._cushion(canvas, presence, p, cut)
        for index in range(holder.tubes):
            self._tube(canvas, presence, p, index)
        if holder.hand:
            self._hand(canvas, presence, p)

    def _room_mm(self) -> float:
        """Between head and shell, for the pillow."""
        return 12.0 + 25 * self.jitter[2] if self.holder.shape == "pillow" else 0.0

    @staticmethod
    def _shell(
        canvas: Canvas, presence: Canvas, line: Array, half_mm: float, hu: float, limit: Array | None = None
    ) -> None:
        canvas.shell(line, half_mm, hu, limit)
        presence.shell(line, half_mm, 1.0, limit)

    def _cushion(self, canvas: Canvas, presence: Canvas, p: Points, cut: Array) -> None:
        """Foam between head and shell in a thin cover with creases."""
        j = self.jitter
        inner = self._outline(p, -4.0 - 14 * j[6]) + 3.0 * self.noise.slow(p, 45.0)
        limit = self._outline(p, self._room_mm() - self.holder.shell_mm / 2 - 0.6)
        pad = np.maximum(np.maximum(-inner, limit), cut + 4.0 + 20 * j[7])
        canvas.paint(pad, -965.0 + 130 * j[5])
        presence.paint(pad, 1.0)
        cover_hu = -250.0 + 300 * j[4]
        self._shell(canvas, presence, pad, 0.3 + 0.6 * j[3], cover_hu)
        canvas.shell(self.noise.slow(p, 60.0) * 12, 0.5, cover_hu, pad)

    def _tube(self, canvas: Canvas, presence: Canvas, p: Points, index: int) -> None:
        j = self.jitter[(index * 2) % 8], self.jitter[(index * 3 + 1) % 8], self.jitter[(index * 5 + 2) % 8]
        side = 1.0 if (index + int(8 * j[0])) % 2 else -1.0
        x = (self.box.right if side > 0 else self.box.left) + side * (5.0 + 22 * j[1])
        y = self.box.front + (self.box.back - self.box.front) * (0.15 + 0.75 * j[2])
        radius = 2.0 + 4.5 * j[0]
        bore = np.sqrt((p.x - np.float32(x)) ** 2 + (p.y - np.float32(y)) ** 2)
        presence.paint(bore - radius, 1.0)
        canvas.paint(bore - radius, 60.0 + 150 * j[1])
        if j[2] < 0.7:
            canvas.paint(bore - radius * 0.62, -1000.0 if j[1] < 0.6 else 5.0)

    def _hand(self, canvas: Canvas, presence: Canvas, p: Points) -> None:
        """Four fingers in a row and a thumb."""
        j = self.jitter
        side = 1.0 if j[4] > 0.5 else -1.0
        x0 = (self.box.right if side > 0 else self.box.left) + side * (13.0 + 10 * j[5])
        y0 = self.box.front + (self.box.back - self.box.front) * (0.25 + 0.4 * j[6])
        for finger in range(5):
            x = x0 + side * (11.0 if finger == 4 else 3.0 * np.sin(finger + 6 * j[0]))
            y = y0 + (14.0 if finger == 4 else 16.5 * finger)
            radius = 8.0 + np.cos(finger * 2 + 6 * j[1])
            r = np.sqrt(((p.x - np.float32(x)) / np.float32(0.9)) ** 2 + (p.y - np.float32(y)) ** 2)
            presence.paint(r - radius, 1.0)
            canvas.paint(r - radius, 40.0)
            canvas.paint(r - radius + 2.0, -30.0)
            canvas.paint(r - 4.2, 700.0)
            canvas.paint(r - 2.0, 200.0)

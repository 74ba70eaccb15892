"""Header values made safe: finite numbers, possible sizes, sound geometry (PS3.3 C.7.6.2, C.7.6.3).

Absent, empty and nonsensical values all become None, or a refusal in words where a slice cannot do without them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

HU_TYPES = frozenset({"", "HU", "US"})
"""Rescale Types of Hounsfield units: absent means HU for CT (C.11.1.1.2); US, unspecified, is common. HU_MOD is what is
left of them where a material was taken out."""


class UnreadableSlice(Exception):
    """This slice cannot be used; the message tells a person why and names no patient.

    `frame` is the 1-based frame concerned in a multi-frame object, None if it is the whole object.
    """

    def __init__(self, reason: str, frame: int | None = None) -> None:
        super().__init__(reason)
        self.frame = frame


def integer(header: Any, keyword: str, default: int | None = None) -> int:
    value = optional_integer(header.get(keyword))
    if value is None:
        if default is None:
            raise UnreadableSlice(f"{keyword} is missing")
        return default
    return value


def optional_integer(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def number(value: Any) -> float | None:
    """A finite number, or None for what is absent, empty, several values or not a number."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, or None."""
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        return None
    found = [number(v) for v in values]
    return None if None in found else tuple(n for n in found if n is not None)


def pixel_mm(value: Any, rows: int, columns: int) -> tuple[float, float]:
    spacing = numbers(value, 2)
    if spacing is None:
        raise UnreadableSlice("Pixel Spacing is missing: sizes are unknown")
    if not all(0.05 <= s <= 5.0 for s in spacing) or not 60 <= min(rows * spacing[0], columns * spacing[1]) <= 1000:
        raise UnreadableSlice(f"Pixel Spacing {spacing[0]:g} x {spacing[1]:g} mm cannot be right")
    return spacing[0], spacing[1]


def position(value: Any) -> tuple[float, float, float] | None:
    found = numbers(value, 3)
    return None if found is None else (found[0], found[1], found[2])


def orientation(value: Any) -> tuple[float, float, float, float, float, float] | None:
    cosines = numbers(value, 6)
    if cosines is None:
        return None
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    # 0.01: headers are rounded to three or four digits, never worse
    unit = abs(np.linalg.norm(row) - 1) < 0.01 and abs(np.linalg.norm(column) - 1) < 0.01
    if not unit or abs(float(row @ column)) > 0.01:
        return None
    a, b, c, d, e, f = cosines
    return a, b, c, d, e, f


def normal(orientation: Sequence[float]) -> npt.NDArray[np.float64]:
    """Of unit length, whatever the cosines were rounded to: a position along it may be metres from the origin."""
    found = np.asarray(np.cross(orientation[:3], orientation[3:]), dtype=np.float64)
    return found / np.linalg.norm(found)


def headward(orientation: Sequence[float]) -> npt.NDArray[np.float64]:
    """The slice normal, turned towards the head (+z of the patient, C.7.6.2.1.1)."""
    found = normal(orientation)
    return -found if found[2] < 0 else found


def tilt(told: Any, orientation: Sequence[float] | None) -> float | None:
    angle = number(told)
    if angle is not None:
        return angle
    return None if orientation is None else math.degrees(math.asin(max(-1.0, min(1.0, -float(orientation[5])))))

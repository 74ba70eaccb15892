"""Upright and back: however a slice lies in its object, the model sees the nose up, the right side on the left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dtvit.ct import CTSlice  # not at run time: training has no pydicom

Orientation = tuple[float, float, float, float, float, float]
"""Image Orientation (Patient): direction cosines of a row, then of a column."""
Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True)
class Turn:
    """What turns a slice upright; nothing if it is."""

    exchanged: bool = False
    """Rows and columns change places, before anything is flipped."""
    upside_down: bool = False
    left_right: bool = False


def turn_of(orientation: Orientation | None) -> Turn:
    """The one of eight ways to lay a picture that brings its rows nearest to running from the patient's right to the
    left (+x), and its columns from front to back (+y, PS3.3 C.7.6.2.1.1)."""
    if orientation is None:
        return Turn()
    row, column = orientation[:3], orientation[3:]
    exchanged = abs(row[1]) + abs(column[0]) > abs(row[0]) + abs(column[1])
    if exchanged:
        row, column = column, row
    return Turn(exchanged, upside_down=column[1] < 0, left_right=row[0] < 0)


def upright(picture: npt.NDArray[Pixel], orientation: Orientation | None) -> npt.NDArray[Pixel]:
    """Nose up and the patient's right on the left, as the model was trained, however the patient lay, and whatever
    quarter turn or mirror image the object holds."""
    turn = turn_of(orientation)
    return _flipped(picture.T if turn.exchanged else picture, turn)


def as_it_came(seen: npt.NDArray[Pixel], orientation: Orientation | None) -> npt.NDArray[Pixel]:
    """The way back from `upright`."""
    turn = turn_of(orientation)
    flipped = _flipped(seen, turn)
    return np.ascontiguousarray(flipped.T) if turn.exchanged else flipped


def stood_up(ct_slice: CTSlice) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """HU (row, column) of the upright slice, and the distance between its rows and between its columns."""
    down, across = ct_slice.pixel_mm
    pixel_mm = (across, down) if turn_of(ct_slice.orientation).exchanged else (down, across)
    return upright(ct_slice.hu, ct_slice.orientation), pixel_mm


def _flipped(picture: npt.NDArray[Pixel], turn: Turn) -> npt.NDArray[Pixel]:
    down, right = (slice(None, None, -1 if flip else 1) for flip in (turn.upside_down, turn.left_right))
    return np.ascontiguousarray(picture[down, right])

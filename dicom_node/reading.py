"""From a file in the spool to slices ready for the model: what is done with one object, in whatever process.

A fault costs the slice, or the one frame, in which it lies, and is named. Imports neither torch nor the database, so
that a process that only reads starts soon and stays small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dicom_node.logs import trace
from dicom_node.store.spool import Spool
from dtvit import ct, preprocess
from dtvit.brace import HeadMask
from dtvit.headervalues import UnreadableSlice
from dtvit.selection import SliceContent


@dataclass(frozen=True)
class Way:
    """How a slice is prepared for the model."""

    brace_removal: str
    geometry: str

    @property
    def version(self) -> str:
        return preprocess.preprocessing(self.brace_removal, self.geometry)

    def prepare(self, one: ct.CTSlice, parts: frozenset[int] | None = None) -> preprocess.Prepared:
        return preprocess.prepare(one, self.brace_removal, parts, geometry=self.geometry)


@dataclass(frozen=True, eq=False)
class Ready:
    """A slice that was read and waits for the model; some 70 KiB, so that it may pass from process to process."""

    frame: int
    """1-based frame of a multi-frame image, 0 for a single-frame one."""
    instance_number: int | None
    position_mm: float | None
    thickness_mm: float | None
    normal: tuple[float, float, float] | None
    input: npt.NDArray[np.uint8]
    """(224, 224), see `preprocess.Prepared`."""
    content: SliceContent
    head: HeadMask
    """Without the mask itself, which is large and not asked for again."""
    parts: frozenset[int] | None = None
    """Of the head mask, as the neighbouring slices decided; None where the slice decided by itself."""


@dataclass(frozen=True)
class LeftOut:
    frame: int
    reason: str


def look_at(spool: Spool, file: str, way: Way) -> Iterator[Ready | LeftOut]:
    """Each frame of one object; a fault costs no more than it must. Raises StoreUnavailable."""
    try:
        image = ct.CTObject(spool.read(file))
    except FileNotFoundError:
        yield LeftOut(0, "its file is missing from the spool")
        return
    except UnreadableSlice as exc:
        yield LeftOut(0, str(exc))
        return
    for index in range(len(image)):
        try:
            one = image.slice(index)
            if one.axial is False:  # a frame of a multi-frame image; of a single one the header told it before
                raise UnreadableSlice("it is not axial", one.frame)
            yield ready(one, way)
        except UnreadableSlice as exc:
            yield LeftOut(exc.frame or 0, str(exc))
        except Exception as exc:  # noqa: BLE001 - outermost line of one slice: the others are looked at
            frame = index + 1 if len(image) > 1 else 0
            yield LeftOut(frame, f"it could not be prepared for the model ({trace(exc)})")


def ready(one: ct.CTSlice, way: Way, parts: frozenset[int] | None = None) -> Ready:
    prepared = way.prepare(one, parts)
    position = one.position_mm
    return Ready(
        frame=one.frame or 0,
        instance_number=one.instance_number,
        position_mm=position if position is not None and math.isfinite(position) else None,
        thickness_mm=one.thickness_mm,
        normal=one.normal,
        input=prepared.input,
        content=prepared.content,
        head=without_mask(prepared.head),
        parts=parts,
    )


def slice_of(spool: Spool, file: str, frame: int) -> ct.CTSlice:
    """One slice by itself; `frame` as in `Ready`. Raises FileNotFoundError, UnreadableSlice, StoreUnavailable."""
    return ct.CTObject(spool.read(file)).slice(max(0, frame - 1))


def without_mask(head: HeadMask) -> HeadMask:
    return replace(head, mask=np.zeros((0, 0), np.bool_))

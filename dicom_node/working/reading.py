"""From a file in the spool to slices ready for the model: what is done with one object, in whatever process.

A fault in a slice, or in one frame, costs only that one, and is named; a decoder that asks for endless memory gets
none, so that the kernel need not choose a process to kill. Imports neither torch nor the database, so that a process
that only reads starts quickly and stays small.
"""

from __future__ import annotations

import errno
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_node.logs import trace
from dicom_node.store.spool import Spool
from dtvit import ct, preprocess
from dtvit.brace import HeadMask
from dtvit.brain.selection import SliceContent
from dtvit.reading.headervalues import UnreadableSlice
from dtvit.slabs import Slab

MOST_MEMORY = 1 << 30  # bytes for one frame; one of 2048 x 2048 pixels takes a tenth of that
COPIES = 4  # of the object itself on top: as read, as parsed, its pixels, and one for safety
MISSING = "its file is missing from the spool"


@dataclass(frozen=True)
class Way:
    """How a slice is prepared for the model."""

    brace_removal: str
    geometry: str

    @property
    def version(self) -> str:
        return preprocess.preprocessing(self.brace_removal, self.geometry)

    def prepare(
        self, one: ct.CTSlice, parts: frozenset[int] | None = None, slab: Slab | None = None
    ) -> preprocess.Prepared:
        hu = None if slab is None else slab.hu
        return preprocess.prepare(one, self.brace_removal, parts, geometry=self.geometry, slab=hu)


@dataclass(frozen=True, eq=False)
class Ready:
    """A slice that has been read and waits for the model; some 70 KiB, so that it can pass between processes."""

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
    """Without the mask itself, which is large and not needed again."""
    parts: frozenset[int] | None = None
    """Parts of the head mask, where the neighbouring slices decided them; None where the slice alone did."""
    averaged: int = 1
    """Of how many slices `input` is the mean."""


@dataclass(frozen=True)
class LeftOut:
    frame: int
    reason: str


def look_at(
    spool: Spool, file: str, way: Way, bounded: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[Ready | LeftOut]:
    """Each frame of one object; a fault costs no more than it must. Raises StoreUnavailable.

    The object's bytes are processed within `bounded` but fetched outside it: a slow disk is not their fault.
    """
    try:
        data = spool.read(file)
    except FileNotFoundError as exc:
        yield LeftOut(0, "the disk cannot read its file" if exc.errno == errno.EIO else MISSING)
        return
    with bounded():
        yield from _frames(data, way)


def _frames(data: bytes, way: Way) -> Iterator[Ready | LeftOut]:
    room = MOST_MEMORY + COPIES * len(data)
    try:
        with _memory_bounded(room):
            image = ct.CTObject(data)
    except UnreadableSlice as exc:
        yield LeftOut(0, str(exc))
        return
    for index in range(len(image)):
        with _memory_bounded(room):
            found = _frame(image, index, way)
        yield found


def _frame(image: ct.CTObject, index: int, way: Way) -> Ready | LeftOut:
    try:
        one = image.slice(index)
        if one.axial is False:  # a frame of a multi-frame image; for a single-frame one the header said so before
            raise UnreadableSlice("not axial", one.frame)
        return ready(one, way)
    except UnreadableSlice as exc:
        return LeftOut(exc.frame or 0, str(exc))
    except Exception as exc:  # noqa: BLE001 - outermost line of one slice: the others are looked at
        frame = index + 1 if len(image) > 1 else 0
        return LeftOut(frame, f"could not be prepared for the model ({trace(exc)})")


@contextmanager
def _memory_bounded(more: int) -> Iterator[None]:
    """Allow at most so many bytes more than the process has now; only where the kernel tells (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack, proc(5)
    except OSError:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limits = (pages * resource.getpagesize() + more, *before)
    least = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (least, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def ready(one: ct.CTSlice, way: Way, parts: frozenset[int] | None = None, slab: Slab | None = None) -> Ready:
    prepared = way.prepare(one, parts, slab)
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
        averaged=1 if slab is None else slab.averaged,
    )


def slice_of(spool: Spool, file: str, frame: int) -> ct.CTSlice:
    """One slice by itself; `frame` as in `Ready`. Raises FileNotFoundError, UnreadableSlice, StoreUnavailable."""
    return ct.CTObject(spool.read(file)).slice(max(0, frame - 1))


def without_mask(head: HeadMask) -> HeadMask:
    return replace(head, mask=np.zeros((0, 0), np.bool_))

"""From a file in the spool to slices ready for the model: what is done with one object, in whatever process.

A fault in a slice, or in one frame, costs only that one, and is named; a decoder that asks for endless memory gets
none, so that the kernel need not choose a process to kill. Imports neither torch nor the database, so that a process
that only reads starts quickly and stays small.
"""

from __future__ import annotations

import errno
import json
import math
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
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
from dtvit.slabs import Slab, slab

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
        self, one: ct.CTSlice, parts: frozenset[int] | None = None, seen: Slab | None = None
    ) -> preprocess.Prepared:
        hu = None if seen is None else seen.hu
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


def ready(one: ct.CTSlice, way: Way, parts: frozenset[int] | None = None, seen: Slab | None = None) -> Ready:
    prepared = way.prepare(one, parts, seen)
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
        averaged=1 if seen is None else seen.averaged,
    )


@dataclass(frozen=True)
class Wanted:
    """One slice to be made ready once more, of those that an `Again` names, by their index."""

    one: int
    members: tuple[tuple[int, float], ...] = ()
    """The slices whose mean the model is to see in its place, with their weights; none where it is seen alone."""
    parts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Again:
    """Slices of a complete series to be made ready once more, and which others that needs, each read once."""

    slices: tuple[tuple[str, int], ...]
    """File and frame, as in `Ready`."""
    wanted: tuple[Wanted, ...]

    def line(self) -> str:
        """As text on one line, for another process."""
        return json.dumps([self.slices, [[each.one, each.members, each.parts] for each in self.wanted]])

    @classmethod
    def of(cls, line: str) -> Again:
        slices, wanted = json.loads(line)
        return cls(
            tuple((file, frame) for file, frame in slices),
            tuple(
                Wanted(one, tuple((at, weight) for at, weight in members), None if parts is None else tuple(parts))
                for one, members, parts in wanted
            ),
        )


def look_again(
    spool: Spool, again: Again, way: Way, bounded: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[Ready | LeftOut]:
    """For each slice that is wanted; a neighbour that cannot be read again is missing from the mean, and no more. Holds
    no more slices than one mean needs. Raises StoreUnavailable.
    """
    read: OrderedDict[int, ct.CTSlice | LeftOut] = OrderedDict()
    objects: dict[str, ct.CTObject] = {}
    for want in again.wanted:
        needed = sorted({want.one, *(at for at, _ in want.members)})
        for at in needed:
            if at not in read:
                read[at] = _read_again(spool, *again.slices[at], objects, bounded)
        one = read[want.one]
        yield one if isinstance(one, LeftOut) else _ready_again(one, want, read, way, bounded)
        while len(read) > len(needed):
            read.popitem(last=False)


def _read_again(
    spool: Spool,
    file: str,
    frame: int,
    objects: dict[str, ct.CTObject],
    bounded: Callable[[], AbstractContextManager[None]],
) -> ct.CTSlice | LeftOut:
    """`objects`: the last one read, which may hold many slices."""
    try:
        data = b"" if file in objects else spool.read(file)
    except FileNotFoundError:
        return LeftOut(frame, MISSING)
    try:
        with bounded(), _memory_bounded(MOST_MEMORY + COPIES * len(data)):
            if file not in objects:
                objects.clear()
                objects[file] = ct.CTObject(data)
            return objects[file].slice(max(0, frame - 1))
    except UnreadableSlice as exc:
        return LeftOut(frame, str(exc))
    except Exception as exc:  # noqa: BLE001 - outermost line of one slice: it was read before, and its result stands
        return LeftOut(frame, f"could not be read again ({trace(exc)})")


def _ready_again(
    one: ct.CTSlice,
    want: Wanted,
    read: Mapping[int, ct.CTSlice | LeftOut],
    way: Way,
    bounded: Callable[[], AbstractContextManager[None]],
) -> Ready | LeftOut:
    members = [(each, weight) for at, weight in want.members if not isinstance(each := read[at], LeftOut)]
    parts = None if want.parts is None else frozenset(want.parts)
    try:
        with bounded(), _memory_bounded(MOST_MEMORY):
            return ready(one, way, parts, slab(one, members) if members else None)
    except Exception as exc:  # noqa: BLE001 - as above
        return LeftOut(one.frame or 0, f"could not be prepared again ({trace(exc)})")


def slice_of(spool: Spool, file: str, frame: int) -> ct.CTSlice:
    """One slice by itself; `frame` as in `Ready`. Raises FileNotFoundError, UnreadableSlice, StoreUnavailable."""
    return ct.CTObject(spool.read(file)).slice(max(0, frame - 1))


def without_mask(head: HeadMask) -> HeadMask:
    return replace(head, mask=np.zeros((0, 0), np.bool_))

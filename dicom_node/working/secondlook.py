"""The second look over a complete series: slices made ready once more, with another head mask or with their neighbours.

Readers are asked for runs of slices, so that neighbours are read once for several. A run on which a reader ends is done
again slice by slice: only those that end it again are lost, and they keep the result of the first look.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dicom_node.logs import fields
from dicom_node.store.results import SliceResult
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dicom_node.working import reading
from dicom_node.working.readers import ReaderEnded, Readers
from dicom_node.working.reading import Again, LeftOut, Ready, Wanted, Way
from dtvit import ct

log = logging.getLogger("dicom_node.worker")

RUN = 8  # slices that a reader looks at again in a row: of 1 mm, it then reads half as many neighbours besides


@dataclass(frozen=True)
class Wish:
    """A slice to be looked at again: with these parts of its head, and together with these, itself among them."""

    result: SliceResult
    parts: tuple[int, ...] | None
    slab: tuple[tuple[SliceResult, float], ...] = ()


@dataclass(frozen=True)
class _Run:
    """Some of them in a row, as they are asked for."""

    wishes: Sequence[Wish]
    again: Again
    is_read_beside: bool

    @classmethod
    def of(cls, wishes: Sequence[Wish], instances: Mapping[int, Instance]) -> _Run:
        at: dict[tuple[int, int], int] = {}
        wanted = []
        for wish in wishes:
            members = [(at.setdefault(key_of(each), len(at)), weight) for each, weight in wish.slab]
            wanted.append(Wanted(at.setdefault(key_of(wish.result), len(at)), tuple(members), wish.parts))
        of_slices = [(instances[instance_id], frame) for instance_id, frame in at]
        again = Again(tuple((one.file, frame) for one, frame in of_slices), tuple(wanted))
        return cls(wishes, again, all(one.sop_class_uid not in ct.MULTI_FRAME for one, _ in of_slices))

    @cached_property
    def line(self) -> str:
        return self.again.line()


class SecondLook:
    """Through `readers`, or in this process where there are none."""

    def __init__(self, spool: Spool, way: Way, readers: Readers | None, *, ahead: int) -> None:
        """`ahead`: how many runs the readers are asked for besides the one that is waited for."""
        self._spool = spool
        self._way = way
        self._readers = readers
        self._ahead = ahead

    def look(
        self, wishes: Sequence[Wish], instances: Mapping[int, Instance], alive: Callable[[], None]
    ) -> Iterator[Ready | LeftOut]:
        """One for each, in order. `alive` is called often. Raises StoreUnavailable.

        Readers are asked for no more runs than they need to be busy: of a long series, most is still to come.
        """
        runs = (_Run.of(wishes[begin : begin + RUN], instances) for begin in range(0, len(wishes), RUN))
        asked: deque[_Run] = deque()
        try:
            while True:
                while len(asked) <= self._ahead and (run := next(runs, None)) is not None:
                    self._ask(run)
                    asked.append(run)
                if not asked:
                    return
                yield from self._answer(asked.popleft(), instances, alive)
        finally:
            if self._readers:
                self._readers.forget()

    def _ask(self, run: _Run) -> None:
        if self._readers and run.is_read_beside:
            self._readers.ask(run.line)

    def _answer(
        self, run: _Run, instances: Mapping[int, Instance], alive: Callable[[], None]
    ) -> Iterator[Ready | LeftOut]:
        if not self._readers or not run.is_read_beside:
            for wish, one in zip(run.wishes, reading.look_again(self._spool, run.again, self._way), strict=True):
                alive()
                yield _told(wish, one)
            return
        try:
            found = self._readers.answer(run.line, alive)
        except ReaderEnded as exc:
            if len(run.wishes) == 1:
                (wish,) = run.wishes
                yield _told(wish, LeftOut(wish.result.frame, str(exc)))
                return
        else:
            yield from map(_told, run.wishes, found)
            return
        for wish in run.wishes:
            alone = _Run.of([wish], instances)
            self._ask(alone)
            yield from self._answer(alone, instances, alive)


def _told(wish: Wish, one: Ready | LeftOut) -> Ready | LeftOut:
    if isinstance(one, LeftOut):
        about = fields(instance=wish.result.instance_id, frame=one.frame or None, reason=one.reason)
        log.warning("not_refined %s", about)
    return one


def key_of(result: SliceResult) -> tuple[int, int]:
    return result.instance_id, result.frame

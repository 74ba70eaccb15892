"""From files in the spool to one result per slice: what is read and judged in which order, and what is looked at again.

A fault in a slice, or in one frame, costs only that one, and is named; a fault of the model costs none (`judging`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from dicom_node import anatomy
from dicom_node.logs import fields
from dicom_node.report.picture import Shown
from dicom_node.store.results import SliceResult
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dicom_node.working import reading
from dicom_node.working.judging import Batch, Classifier, Line, Model, Predictions, in_order
from dicom_node.working.readers import ReaderEnded, Readers
from dicom_node.working.reading import LeftOut, Ready, Way
from dicom_node.working.secondlook import SecondLook, Wish, key_of
from dtvit import brace, ct, preprocess, slabs
from dtvit.brace import HeadMask
from dtvit.findings import Region
from dtvit.reading.headervalues import UnreadableSlice

log = logging.getLogger("dicom_node.worker")

READ_TRIES = 2
WINDOW = 4  # batches: while the model has one, the readers work on the next ones
WINDOW_ASIDE = 8  # for a GPU, beside which each query for further slices takes as long as a batch
REMEMBERED = 4096  # slices, some 16 KiB each
AHEAD_ASIDE = 4  # files per reader at a time beside a GPU: they last while this process is busy with rows


class SliceReader:
    """Reads in processes beside this one if there are `readers`, otherwise in this one."""

    def __init__(
        self, classifier: Classifier, spool: Spool, *, brace_removal: str, batch: int, readers: int = 0
    ) -> None:
        self._classifier = classifier
        self._model = Model(classifier)
        self._spool = spool
        self._way = Way(brace_removal, preprocess.geometry_of(classifier.checkpoint.metadata.preprocessing))
        self._batch = batch
        # Where the model needs the same cores, readers rest while it computes: side by side they would take turns every
        # few milliseconds, each time with cold caches, which costs both a tenth.
        ahead = AHEAD_ASIDE if classifier.aside else 1
        self._readers = Readers(readers, spool, self._way, ahead=ahead) if readers else None
        self._second_look = SecondLook(spool, self._way, self._readers, ahead=2 * readers)
        self.ended: set[int] = set()
        """Instances of the last `read` on which a reader ended."""
        self._traces: OrderedDict[tuple[int, int], HeadMask] = OrderedDict()

    @property
    def preprocessing(self) -> str:
        """The version of the preprocessing of a slice."""
        return self._way.version

    @property
    def window(self) -> int:
        """How many instances to give to `read` at a time so that neither readers nor model wait."""
        if not self._readers:
            return self._batch
        return self._batch * (WINDOW_ASIDE if self._model.aside else WINDOW)

    def close(self) -> None:
        if self._readers is not None:
            self._readers.close()
        self._model.close()

    def read(
        self, windows: Iterator[Sequence[Instance]], alive: Callable[[], None], *, at_once: int | None = None
    ) -> Iterator[list[SliceResult]]:
        """A result for every frame of every instance, `at_once` slices at a time, while the next ones are read; all
        frames of an instance come together. An instance on which its reader ended gets none.

        `windows` of instances: each is asked for before the previous one is finished. `alive` is called often. Raises
        ModelFailed, StoreUnavailable, and what `windows` raises.
        """
        self.ended.clear()
        line = Line(self._ask, min(at_once or self._batch, self._batch))
        for instance, frames in self._looked_at(self._next_of(windows), alive):
            for one in frames:
                if isinstance(one, LeftOut):
                    line.left_out(_left_out(instance, one))
                else:
                    self._remember(instance.id, one.frame, one.head)
                    line.add(instance, one)
            if found := line.whole():
                yield found
                alive()  # where the readers are ahead of the model, nothing else calls it
        if found := line.rest():
            yield found

    def _ask(self, batch: Batch) -> Future[Predictions]:
        answered = self._model.begin(batch)
        if self._readers and not self._model.aside:
            self._readers.go_on()  # while the rows are written
        return answered

    def _next_of(self, windows: Iterator[Sequence[Instance]]) -> Iterator[Instance]:
        """One after another, while the next ones are already being read."""
        begun: deque[Instance] = deque()
        more: Sequence[Instance] | None = ()
        while begun or more is not None:
            if more is not None and len(begun) <= self.window // 2:
                more = next(windows, None)
                for one in more or ():
                    begun.append(one)
                    if self._readers and _is_read_beside(one):
                        self._readers.ask(one.file)
            if begun:
                yield begun.popleft()

    def _looked_at(
        self, instances: Iterable[Instance], alive: Callable[[], None]
    ) -> Iterator[tuple[Instance, Iterable[Ready | LeftOut]]]:
        try:
            for one in instances:
                if one.tries >= READ_TRIES:
                    yield one, [LeftOut(0, "its pixel data made the reading process end")]
                elif self._readers and _is_read_beside(one):
                    try:
                        yield one, self._readers.answer(one.file, alive)
                    except ReaderEnded as exc:
                        self.ended.add(one.id)
                        log.error("reader_ended %s", fields(instance=one.id, reason=exc))
                else:
                    yield one, self._read_here(one, alive)
        finally:
            if self._readers:
                self._readers.forget()

    def _read_here(self, instance: Instance, alive: Callable[[], None]) -> Iterator[Ready | LeftOut]:
        for one in reading.look_at(self._spool, instance.file, self._way):
            alive()
            yield one

    def refine(
        self, ordered: Sequence[SliceResult], instances: Mapping[int, Instance], alive: Callable[[], None]
    ) -> list[SliceResult]:
        """New results for those slices, ordered along their series, whose head mask their neighbours decide otherwise.

        A slice is judged alone while its series arrives; now that the series is complete, `brace.retrace` may know
        better, as at the vertex beside a thick holder.

        Raises ModelFailed, StoreUnavailable; and UnreadableSlice where a slice that another process has read cannot be
        read again.
        """
        read = [r for r in ordered if r.content is not None and r.position_mm is not None]
        if self._way.brace_removal == "paper" or not read:
            return []
        heads = self._heads(read, instances, alive)
        wishes = [
            Wish(result, in_order(parts))
            for result, parts in zip(read, brace.retrace(heads), strict=True)
            if result.parts != in_order(parts)
        ]
        return [new for batch in self._judged(wishes, instances, alive) for _, new in batch if new is not None]

    def in_slabs(
        self, ordered: Sequence[SliceResult], instances: Mapping[int, Instance], alive: Callable[[], None]
    ) -> Iterator[list[SliceResult]]:
        """New results, batch by batch, for those thin slices of a complete series, in order, that show brain or lie
        beside it, from the mean of each and its neighbours (`dtvit.slabs`), by which the region may be another. One
        that cannot be read again keeps the result that it has.

        Raises ModelFailed, StoreUnavailable.
        """
        shown = zip(map(key_of, ordered), anatomy.regions(ordered), strict=True)
        brain = {key for key, region in shown if region is Region.BRAIN}
        wishes = [
            Wish(result, result.parts, tuple(slab))
            for result, slab in zip(ordered, anatomy.slabs(ordered), strict=True)
            if result.left_out is None
            and result.slab != _keys(slab)  # seen alone, or with an image that another has replaced since
            and not brain.isdisjoint(key_of(each) for each, _ in slab)
        ]
        for batch in self._judged(wishes, instances, alive):
            yield [replace(new or wish.result, slab=_keys(wish.slab)) for wish, new in batch]

    def _judged(
        self, wishes: Sequence[Wish], instances: Mapping[int, Instance], alive: Callable[[], None]
    ) -> Iterator[list[tuple[Wish, SliceResult | None]]]:
        """What the model says of them now, batch by batch; None of one that cannot be read again."""
        again = self._second_look.look(wishes, instances, alive)
        for begin in range(0, len(wishes), self._batch):
            looked_at = [(wish, next(again)) for wish in wishes[begin : begin + self._batch]]
            alive()  # where the readers are ahead of the model, nothing else calls it
            ready = [(instances[wish.result.instance_id], one) for wish, one in looked_at if isinstance(one, Ready)]
            found = iter(self._model.judge(ready))
            yield [(wish, next(found) if isinstance(one, Ready) else None) for wish, one in looked_at]

    def show(
        self,
        file: str,
        frame: int | None,
        *,
        with_relevance: bool,
        parts: Sequence[int] | None = None,
        slab: Sequence[tuple[str, int, float]] = (),
    ) -> Shown:
        """One slice for people to see. The map is of what was judged: `parts` as in its result; `slab`: file, frame and
        weight of the slices whose mean the model saw, itself among them; none where it saw the slice alone.

        Raises FileNotFoundError, UnreadableSlice, StoreUnavailable.
        """
        one = reading.slice_of(self._spool, file, frame or 0)
        if not with_relevance:
            return Shown(one.hu, None, one.orientation)
        from dtvit.vit.relevance import NoAttention

        members = [(reading.slice_of(self._spool, member, number), weight) for member, number, weight in slab]
        seen_with = slabs.slab(one, members)
        prepared = self._way.prepare(one, None if parts is None else frozenset(parts), seen_with)
        try:
            seen = self._classifier.relevance(prepared.input[None])[0]
        except NoAttention:
            return Shown(one.hu, None, one.orientation)
        rows, columns = one.hu.shape
        seen = preprocess.in_slice(seen, prepared.view, (rows, columns), one.orientation)
        return Shown(one.hu, seen, one.orientation)

    def _heads(
        self, read: Sequence[SliceResult], instances: Mapping[int, Instance], alive: Callable[[], None]
    ) -> list[HeadMask]:
        """What each slice alone says about its head; read again if another process read it before."""
        heads = {key: head for r in read if (head := self._traces.get(key := key_of(r))) is not None}
        unknown = [instances[i] for i in dict.fromkeys(r.instance_id for r in read if key_of(r) not in heads)]
        windows = (unknown[begin : begin + self.window] for begin in range(0, len(unknown), self.window))
        for instance, frames in self._looked_at(self._next_of(windows), alive):
            for one in frames:
                if isinstance(one, Ready):
                    heads[instance.id, one.frame] = self._remember(instance.id, one.frame, one.head)
        if len(missing := {key_of(r) for r in read} - heads.keys()):
            raise UnreadableSlice(f"{len(missing)} of {len(read)} slices cannot be read again")
        return [heads[key_of(r)] for r in read]

    def _remember(self, instance_id: int, frame: int, head: HeadMask) -> HeadMask:
        self._traces[instance_id, frame] = head
        while len(self._traces) > REMEMBERED:
            self._traces.popitem(last=False)
        return head


def _is_read_beside(instance: Instance) -> bool:
    """Not a multi-frame image, which is read frame by frame: all its frames at once would be too much to hold."""
    return instance.tries < READ_TRIES and instance.sop_class_uid not in ct.MULTI_FRAME


def _keys(slab: Sequence[tuple[SliceResult, float]]) -> tuple[tuple[int, int], ...]:
    """As in its result: none for a slice that is seen alone."""
    return tuple(key_of(each) for each, _ in slab) if len(slab) > 1 else ()


def _left_out(instance: Instance, one: LeftOut) -> SliceResult:
    log.warning("slice_left_out %s", fields(instance=instance.id, frame=one.frame or None, reason=one.reason))
    facts = instance.facts
    where = (facts.instance_number, facts.position_mm, facts.thickness_mm)
    return SliceResult(instance.id, one.frame, *where, content=None, left_out=one.reason)

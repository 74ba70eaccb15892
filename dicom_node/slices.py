"""Reading slices and asking the model: from files in the spool to one result a slice.

A fault costs the slice, or the one frame, in which it lies, and is named; a fault of the model costs none, and ends the
process, because what a GPU says after one error is worth nothing.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dicom_node.errors import ModelFailed
from dicom_node.logs import fields, trace
from dicom_node.store.results import SliceResult
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dtvit import brace, ct, preprocess
from dtvit.brace import HeadMask
from dtvit.checkpoint import Checkpoint
from dtvit.headervalues import UnreadableSlice

log = logging.getLogger("dicom_node.worker")

READ_TRIES = 2
REMEMBERED = 4096  # slices, some 16 KiB each


class Classifier(Protocol):
    """What the worker needs of `dtvit.inference.Classifier`."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def precision(self) -> str: ...

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Any: ...

    def relevance(self, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class Shown:
    """A slice as the summary picture shows it."""

    hu: npt.NDArray[np.float32]
    """(row, column)."""
    relevance: npt.NDArray[np.float32] | None
    """(row, column), 0..1: where the model looked; None where its encoder cannot tell."""


@dataclass(frozen=True)
class _Waiting:
    """A slice that was read and waits for the model."""

    instance_id: int
    slice: ct.CTSlice
    prepared: preprocess.Prepared
    parts: frozenset[int] | None = None


class SliceReader:
    def __init__(self, classifier: Classifier, spool: Spool, *, brace_removal: str, batch: int) -> None:
        self._classifier = classifier
        self._spool = spool
        self._brace_removal = brace_removal
        self._geometry = preprocess.geometry_of(classifier.checkpoint.metadata.preprocessing)
        self._batch = batch
        self._traces: OrderedDict[tuple[int, int], HeadMask] = OrderedDict()

    @property
    def preprocessing(self) -> str:
        """The version of what is done to a slice before the model sees it."""
        return preprocess.preprocessing(self._brace_removal, self._geometry)

    def read(self, batch: Sequence[Instance], alive: Callable[[], None]) -> list[SliceResult]:
        """A result for every frame of every instance; `alive` is called often. Raises ModelFailed, StoreUnavailable."""
        found: list[SliceResult] = []
        waiting: list[_Waiting] = []
        for instance in batch:
            for looked_at in self._look_at(instance):
                alive()
                if isinstance(looked_at, SliceResult):
                    found.append(looked_at)
                    continue
                waiting.append(looked_at)
                if len(waiting) >= self._batch:  # a multi-frame image may have more than fit
                    found += self._predict(waiting)
                    waiting = []
        return found + self._predict(waiting)

    def _look_at(self, instance: Instance) -> Iterator[SliceResult | _Waiting]:
        """Each frame of one instance, prepared for the model, or left out; a fault costs no more than it must."""
        if instance.tries >= READ_TRIES:
            yield _left_out(instance, "its pixel data made the reading process end")
            return
        try:
            image = ct.CTObject(self._spool.read(instance.file))
        except FileNotFoundError:
            yield _left_out(instance, "its file is missing from the spool")
            return
        except UnreadableSlice as exc:
            yield _left_out(instance, str(exc))
            return
        for index in range(len(image)):
            try:
                one = image.slice(index)
                if one.axial is False:  # a frame of a multi-frame image; of a single one the header told it before
                    raise UnreadableSlice("it is not axial", one.frame)
                prepared = self._prepare(one)
            except UnreadableSlice as exc:
                yield _left_out(instance, str(exc), frame=exc.frame or 0)
            except Exception as exc:  # noqa: BLE001 - outermost line of one slice: the others are looked at
                frame = index + 1 if len(image) > 1 else 0
                yield _left_out(instance, f"it could not be prepared for the model ({trace(exc)})", frame=frame)
            else:
                self._remember(instance.id, one, prepared.head)
                yield _Waiting(instance.id, one, prepared)

    def refine(
        self, ordered: Sequence[SliceResult], instances: Mapping[int, Instance], alive: Callable[[], None]
    ) -> list[SliceResult]:
        """New results for the slices, ordered along their series, whose head mask the neighbours tell otherwise.

        A slice is judged by itself while its series arrives; now that it is whole, `brace.retrace` may know better, as
        at the vertex beside a thick holder. Raises ModelFailed, StoreUnavailable, UnreadableSlice.
        """
        read = [r for r in ordered if r.content is not None and r.position_mm is not None]
        if self._brace_removal == "paper" or not read:
            return []
        heads = [self._head_of(r, instances[r.instance_id], alive) for r in read]
        waiting = []
        for result, parts in zip(read, brace.retrace(heads), strict=True):
            if result.parts != _sorted(parts):
                alive()
                one = self._slice_of(result, instances[result.instance_id])
                prepared = self._prepare(one, parts)
                waiting.append(_Waiting(result.instance_id, one, prepared, parts))
        return [r for i in range(0, len(waiting), self._batch) for r in self._predict(waiting[i : i + self._batch])]

    def show(self, file: str, frame: int | None, *, with_relevance: bool, parts: Sequence[int] | None = None) -> Shown:
        """One slice for people; `parts` as its result has them, so that the map is of what was judged.

        Raises FileNotFoundError, UnreadableSlice, StoreUnavailable.
        """
        one = ct.CTObject(self._spool.read(file)).slice((frame or 1) - 1)
        if not with_relevance:
            return Shown(one.hu, None)
        from dtvit.relevance import NoAttention

        prepared = self._prepare(one, None if parts is None else frozenset(parts))
        try:
            seen = self._classifier.relevance(prepared.input[None])[0]
        except NoAttention:
            return Shown(one.hu, None)
        rows, columns = one.hu.shape
        return Shown(one.hu, preprocess.in_slice(seen, prepared.view, (rows, columns), one.orientation))

    def _prepare(self, one: ct.CTSlice, parts: frozenset[int] | None = None) -> preprocess.Prepared:
        return preprocess.prepare(one, self._brace_removal, parts, geometry=self._geometry)

    def _head_of(self, result: SliceResult, instance: Instance, alive: Callable[[], None]) -> HeadMask:
        """What the slice by itself says of its head; read again where another process has read it before."""
        known = self._traces.get((result.instance_id, result.frame))
        if known is not None:
            return known
        alive()
        one = self._slice_of(result, instance)
        head = brace.find_head(*preprocess.stood_up(one), self._brace_removal)
        return self._remember(instance.id, one, head)

    def _slice_of(self, result: SliceResult, instance: Instance) -> ct.CTSlice:
        return ct.CTObject(self._spool.read(instance.file)).slice(max(0, result.frame - 1))

    def _remember(self, instance_id: int, one: ct.CTSlice, head: HeadMask) -> HeadMask:
        """Without the mask itself, which is large and not asked for again."""
        small = replace(head, mask=np.zeros((0, 0), np.bool_))
        self._traces[instance_id, one.frame or 0] = small
        while len(self._traces) > REMEMBERED:
            self._traces.popitem(last=False)
        return small

    def _predict(self, waiting: Sequence[_Waiting]) -> list[SliceResult]:
        if not waiting:
            return []
        inputs = np.stack([w.prepared.input for w in waiting])
        try:
            predictions = self._classifier.predict(inputs)
        except Exception as exc:  # whatever a GPU, its driver or the model has to say
            raise ModelFailed(f"the model failed on {len(inputs)} slices ({trace(exc)})") from exc
        if not (np.isfinite(predictions.presence).all() and np.isfinite(predictions.location).all()):
            raise ModelFailed("the model gave a probability that is not a finite number")
        return [
            SliceResult(
                instance_id=w.instance_id,
                frame=w.slice.frame or 0,
                instance_number=w.slice.instance_number,
                position_mm=_finite(w.slice.position_mm),
                thickness_mm=w.slice.thickness_mm,
                content=asdict(w.prepared.content),
                presence=float(presence),
                location=(float(location[0]), float(location[1]), float(location[2])),
                parts=_sorted(w.parts),
                normal=w.slice.normal,
                doubts=w.prepared.flags,
            )
            for w, presence, location in zip(waiting, predictions.presence, predictions.location, strict=True)
        ]


def _sorted(parts: frozenset[int] | None) -> tuple[int, ...] | None:
    return None if parts is None else tuple(sorted(parts))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _left_out(instance: Instance, reason: str, *, frame: int = 0) -> SliceResult:
    log.warning("slice_left_out %s", fields(instance=instance.id, frame=frame or None, reason=reason))
    facts = instance.facts
    return SliceResult(
        instance.id, frame, facts.instance_number, facts.position_mm, facts.thickness_mm, content=None, left_out=reason
    )

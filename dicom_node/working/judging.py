"""Asking the model: slices that are ready go in, batches at a time, and one result for each comes out.

A fault of the model costs no slice, and ends the process, because nothing a GPU says after an error can be trusted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dicom_node.errors import ModelFailed
from dicom_node.logs import trace
from dicom_node.store.results import SliceResult
from dicom_node.store.series import Instance
from dicom_node.working.reading import Ready
from dtvit.checkpoint import Checkpoint

UNDER_WAY = 2  # batches, while a third is gathered: with only one, a GPU waits from its end to the next one's start

Batch = Sequence[tuple[Instance, Ready]]


class Predictions(Protocol):
    """What the worker needs from `dtvit.inference.Predictions`."""

    @property
    def presence(self) -> npt.NDArray[np.float64]: ...

    @property
    def location(self) -> npt.NDArray[np.float64]: ...


class Classifier(Protocol):
    """What the worker needs from `dtvit.inference.Classifier`."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def precision(self) -> str: ...

    @property
    def aside(self) -> bool: ...

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions: ...

    def relevance(self, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]: ...


class Model:
    """The classifier as the worker asks it. All that judges raises ModelFailed."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        # A GPU gets its next batch before it has finished the last.
        self._aside = ThreadPoolExecutor(UNDER_WAY, "model") if classifier.aside else None

    def close(self) -> None:
        if self._aside is not None:
            self._aside.shutdown()

    @property
    def aside(self) -> bool:
        """Whether it computes elsewhere than on this processor."""
        return self._aside is not None

    def judge(self, batch: Batch) -> list[SliceResult]:
        return _results(batch, self._predict(_inputs(batch))) if batch else []

    def begin(self, batch: Batch) -> Future[Predictions]:
        """Begin to ask; on a CPU the answer is already there."""
        if self._aside is not None:
            return self._aside.submit(self._predict, _inputs(batch))
        answered: Future[Predictions] = Future()
        answered.set_result(self._predict(_inputs(batch)))
        return answered

    def _predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        try:
            predictions = self._classifier.predict(inputs)
        except Exception as exc:  # whatever a GPU, its driver or the model raises
            raise ModelFailed(f"the model failed on {len(inputs)} slices ({trace(exc)})") from exc
        if not (np.isfinite(predictions.presence).all() and np.isfinite(predictions.location).all()):
            raise ModelFailed("the model gave a probability that is not a finite number")
        return predictions


class Line:
    """Slices on their way through the model: a batch is gathered while another is computed. Results come out for whole
    instances: a row for one frame implies that all frames have theirs, and a kill may come between any two.
    """

    def __init__(self, ask: Callable[[Batch], Future[Predictions]], at_once: int) -> None:
        self._ask, self._at_once = ask, at_once
        self._waiting: list[tuple[Instance, Ready]] = []
        self._asked: deque[tuple[Batch, Future[Predictions]]] = deque()
        self._found: list[SliceResult] = []

    def add(self, instance: Instance, one: Ready) -> None:
        """Raises ModelFailed."""
        self._waiting.append((instance, one))
        if len(self._waiting) == self._at_once:  # a multi-frame image may have more than fit
            self._send()
            if len(self._asked) > UNDER_WAY:
                self._collect()

    def left_out(self, result: SliceResult) -> None:
        self._found.append(result)

    def whole(self) -> list[SliceResult]:
        """Results of the instances with no frame still on its way; to be called between two instances."""
        while self._asked and self._asked[0][1].done():
            self._collect()
        if not self._found:
            return []
        under_way = {i.id for batch in (self._waiting, *(asked for asked, _ in self._asked)) for i, _ in batch}
        found, self._found = self._found, [r for r in self._found if r.instance_id in under_way]
        return [r for r in found if r.instance_id not in under_way]

    def rest(self) -> list[SliceResult]:
        """The rest, when no more slices come."""
        if self._waiting:
            self._send()
        while self._asked:
            self._collect()
        return self.whole()

    def _send(self) -> None:
        self._asked.append((self._waiting, self._ask(self._waiting)))
        self._waiting = []

    def _collect(self) -> None:
        batch, predictions = self._asked.popleft()
        self._found += _results(batch, predictions.result())


def _inputs(batch: Batch) -> npt.NDArray[np.uint8]:
    """(slice, 224, 224)."""
    return np.stack([one.input for _, one in batch])


def _results(batch: Batch, predictions: Predictions) -> list[SliceResult]:
    return [
        SliceResult(
            instance_id=instance.id,
            frame=one.frame,
            instance_number=one.instance_number,
            position_mm=one.position_mm,
            thickness_mm=one.thickness_mm,
            content=dict(vars(one.content)),  # flat; asdict makes a deep copy, which takes ten times as long
            presence=presence,
            location=(deep, lobar, subtentorial),
            parts=in_order(one.parts),
            normal=one.normal,
            doubts=one.head.flags,
            averaged=one.averaged,
        )
        for (instance, one), presence, (deep, lobar, subtentorial) in zip(
            batch, predictions.presence.tolist(), predictions.location.tolist(), strict=True
        )
    ]


def in_order(parts: frozenset[int] | None) -> tuple[int, ...] | None:
    """As in a result."""
    return None if parts is None else tuple(sorted(parts))

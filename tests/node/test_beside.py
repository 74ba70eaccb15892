"""A model that computes beside the processor, as on a GPU, has its next batch while rows of the last are written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made import FakeClassifier, Made, Predictions, changed, grey_series
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.errors import ModelFailed
from dicom_node.store import series
from dicom_node.store.results import SliceResult
from dicom_node.working import reading, slices
from dicom_node.working.slices import SliceReader


class Beside(FakeClassifier):
    """Says of each slice its Instance Number; the batch with the one that is `held` is not answered until it may be."""

    def __init__(self, held: int = -1) -> None:
        super().__init__()
        self.aside = True
        self.held, self.may = held, threading.Event()

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        found = super().predict(inputs)
        numbers = inputs[:, 0, 0]
        if self.held in numbers:
            assert self.may.wait(20.0), "nobody went on while this batch was computed"
        found.presence = numbers / 1000
        return found


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Instance Numbers of what was read; the model sees of each slice this number, in each pixel."""
    ready, numbers = reading.ready, []

    def numbered(*given: Any) -> reading.Ready:
        one = ready(*given)
        numbers.append(one.instance_number)
        return replace(one, input=np.full_like(one.input, one.instance_number))

    monkeypatch.setattr(reading, "ready", numbered)
    return numbers


def frames_of(ds: Dataset, count: int) -> Dataset:
    shared, values, measures = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    measures.PixelSpacing, measures.SliceThickness = ds.PixelSpacing, ds.SliceThickness
    shared.PixelValueTransformationSequence, shared.PixelMeasuresSequence = [values], [measures]
    return changed(
        ds,
        SOPClassUID=uid.EnhancedCTImageStorage,
        NumberOfFrames=count,
        PixelData=ds.PixelData * count,
        SharedFunctionalGroupsSequence=[shared],
    )


def reader_of(node: Made, model: FakeClassifier) -> tuple[SliceReader, list[series.Instance]]:
    with node.database.read() as connection:
        instances = series.instances_of(connection, 1)
    return SliceReader(model, node.spool, brace_removal="paper", batch=4), instances


def frames(found: list[SliceResult]) -> list[tuple[int, int]]:
    return [(r.instance_id, r.frame) for r in found]


def test_the_first_batch_can_be_kept_while_the_second_is_computed(node: Made) -> None:
    node.accept(*grey_series(14))
    model = Beside(held=5)
    reader, instances = reader_of(node, model)
    batches = reader.read(iter([instances]), lambda: None)

    first = next(batches)  # the second batch is not answered before `may` is set
    model.may.set()
    rest = [r for found in batches for r in found]

    assert len(first) == 4
    assert sorted(model.asked) == [2, 4, 4, 4]
    assert frames(first + rest) == [(i.id, 0) for i in instances]
    assert [r.presence for r in first + rest] == [n / 1000 for n in range(1, 15)]  # each slice has its own answer
    reader.close()


def test_a_gpu_has_its_next_batch_before_it_is_through_with_the_last(node: Made) -> None:
    node.accept(*grey_series(8))
    both = threading.Barrier(2)
    reader, instances = reader_of(node, model := Beside())
    model.fails = lambda _: both.wait(20.0) and None

    assert len([r for found in reader.read(iter([instances]), lambda: None) for r in found]) == 8
    reader.close()


def test_further_slices_are_begun_before_the_last_of_those_before_are_read(node: Made, read: list[int]) -> None:
    node.accept(*grey_series(10))
    reader, instances = reader_of(node, Beside())
    asked_after: list[int] = []

    def windows() -> Iterator[list[series.Instance]]:
        for begin in (0, 4, 8):
            asked_after.append(len(read))
            yield instances[begin : begin + 4]

    found = [r for rows in reader.read(windows(), lambda: None) for r in rows]

    assert frames(found) == [(i.id, 0) for i in instances]
    assert asked_after == [0, 2, 6]
    reader.close()


@pytest.mark.parametrize("aside", [False, True])
def test_frames_of_an_image_come_together_though_batches_divide_them(node: Made, aside: bool) -> None:
    node.accept(*(frames_of(ds, 6) for ds in grey_series(3)))
    model = Beside()
    model.aside = aside
    reader, instances = reader_of(node, model)

    parts = list(reader.read(iter([instances]), lambda: None))

    assert len(model.asked) == 5  # of four, and two of the last
    assert sorted(frames([r for part in parts for r in part])) == [(i.id, f) for i in instances for f in range(1, 7)]
    for part in parts:
        assert {len([r for r in part if r.instance_id == one]) for one in {r.instance_id for r in part}} == {6}
    reader.close()


def test_of_slices_without_end_so_many_are_remembered(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "REMEMBERED", 3)
    node.accept(*grey_series(14))
    reader, instances = reader_of(node, FakeClassifier())
    assert sum(map(len, reader.read(iter([instances]), lambda: None))) == 14
    assert [*reader._traces] == [(i.id, 0) for i in instances[-3:]]


def test_what_fails_beside_fails_here(node: Made) -> None:
    node.accept(*grey_series(10))

    def fails(_: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    model = Beside()
    model.fails = fails
    reader, instances = reader_of(node, model)

    with pytest.raises(ModelFailed, match=r"failed on 4 slices \(RuntimeError"):
        list(reader.read(iter([instances]), lambda: None))
    reader.close()

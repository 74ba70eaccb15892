"""A model that computes beside the processor, as on a GPU, has its next batch while rows of the last are written."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made import FakeClassifier, Made, Predictions, changed, grey_series, made_node
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.errors import ModelFailed
from dicom_node.slices import SliceReader
from dicom_node.store import series
from dicom_node.store.results import SliceResult


class Beside(FakeClassifier):
    """Says how many it was asked before; its `held` batch is not answered until it may be."""

    def __init__(self, held: int = -1) -> None:
        super().__init__()
        self.aside = True
        self.held, self.may = held, threading.Event()

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        before = sum(self.asked)
        found = super().predict(inputs)
        if len(self.asked) - 1 == self.held:
            assert self.may.wait(20.0), "nobody went on while this batch was computed"
        found.presence = (before + np.arange(len(inputs))) / 1000
        return found


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


@pytest.fixture
def node(tmp_path: Path) -> Made:
    return made_node(tmp_path)


def test_the_first_batch_can_be_kept_while_the_second_is_computed(node: Made) -> None:
    node.accept(*grey_series(10))
    model = Beside(held=1)
    reader, instances = reader_of(node, model)
    batches = reader.read(iter([instances]), lambda: None)

    first = next(batches)  # the second batch is not answered before `may` is set
    model.may.set()
    rest = [r for found in batches for r in found]

    assert len(first) == 4
    assert model.asked == [4, 4, 2]
    assert frames(first + rest) == [(i.id, 0) for i in instances]
    assert [r.presence for r in first + rest] == [n / 1000 for n in range(10)]  # each slice has its own answer
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

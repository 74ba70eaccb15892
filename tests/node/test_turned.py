"""However a picture lies in its object, mirrored, upside down or a quarter turned, the head is judged as if upright."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from made import FakeClassifier, Made, Predictions, changed, head_series, made_node, peer
from pydicom.dataset import Dataset
from ways import LEANS, PIXEL_MM, WAYS, Way, laid

from dicom_node.store import results, series
from dicom_node.store.tables import jobs
from dicom_node.working.slices import SliceReader
from dtvit import brace, ct, preprocess, turning


class Looking(FakeClassifier):
    """Its answer and its map depend on every pixel and its place."""

    weights = np.random.default_rng(8).random((224, 224)) / (224 * 224 * 255)

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        presence = (inputs * self.weights).sum((1, 2))
        return Predictions(presence, np.stack([presence, 1 - presence, presence / 2], 1))

    def relevance(self, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(inputs / 255.0 * np.linspace(0, 1, 224), np.float32)


def turned(ds: Dataset, way: Way, number: int) -> Dataset:
    """The image of `head_series`, off-centre and from a leaning gantry, as an object of its series `number`."""
    pixels = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)[:, 3:]
    (row_x, row_y), (column_x, column_y) = way
    across, down = np.array([1.0, 0.0, 0.0]), np.array([0.0, math.cos(LEANS), -math.sin(LEANS)])
    corner = np.array([float(v) for v in ds.ImagePositionPatient])
    if row_x + column_x < 0:
        corner = corner + across * PIXEL_MM[1] * (pixels.shape[1] - 1)
    if row_y + column_y < 0:
        corner = corner + down * PIXEL_MM[0] * (pixels.shape[0] - 1)
    lying = laid(pixels, way)
    orientation = [*(row_x * across + row_y * down), *(column_x * across + column_y * down)]
    return changed(
        ds,
        SOPInstanceUID=f"{ds.SOPInstanceUID}.{number}",
        SeriesInstanceUID=f"{ds.SeriesInstanceUID}.{number}",
        StudyInstanceUID=f"{ds.StudyInstanceUID}.{number}",
        Rows=lying.shape[0],
        Columns=lying.shape[1],
        PixelData=np.ascontiguousarray(lying).tobytes(),
        PixelSpacing=list(PIXEL_MM if column_y else PIXEL_MM[::-1]),
        ImageOrientationPatient=[round(v, 6) for v in orientation],
        ImagePositionPatient=[round(float(v), 4) for v in corner],
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One node that was sent the same head, every second slice of it, in all eight ways."""
    node = made_node(tmp_path_factory.mktemp("turned"), peers=[peer(104)])
    for number, way in enumerate(WAYS):
        assert set(node.accept(*(turned(ds, way, number) for ds in head_series()[::2]))) == {0}
    node.tick_after(31)
    node.work(node.worker(Looking()))
    return node


@pytest.mark.parametrize("number", range(1, len(WAYS)))
def test_the_node_says_the_same_of_every_slice_and_of_the_series(node: Made, number: int) -> None:
    first, other = (node.rows(jobs)[at] for at in (0, number))
    assert other.state == "reported"
    assert other.outcome == first.outcome
    said, expected = other.findings["slices"], first.findings["slices"]
    for name in ("presence", "location", "region", "doubts", "left_out"):
        assert [s.get(name) for s in said] == [s.get(name) for s in expected]
    assert sum(s["region"] == "brain" for s in said) > 5
    version = results.Version("f" * 64, preprocess.preprocessing("robust"))
    with node.database.read() as connection:
        kept, wanted = (results.of_series(connection, at + 1, version) for at in (number, 0))
    assert [(r.content, r.parts) for r in kept] == [(r.content, r.parts) for r in wanted]


@pytest.mark.parametrize("number", range(len(WAYS)))
def test_slice_mask_and_map_lie_as_the_object_has_them(node: Made, number: int) -> None:
    """What people are shown is the picture that their viewer shows them, and the map lies on it."""
    reader = SliceReader(Looking(), node.spool, brace_removal="robust", batch=4)
    with node.database.read() as connection:
        upright, lying = (series.instances_of(connection, at + 1)[5].file for at in (0, number))
    expected, found = (reader.show(file, None, with_relevance=True) for file in (upright, lying))
    assert (found.hu == laid(expected.hu, WAYS[number])).all()
    assert expected.relevance is not None
    assert found.relevance is not None
    assert expected.relevance.max() > 0.3
    assert (found.relevance == laid(expected.relevance, WAYS[number])).all()
    masks = [preprocess.prepare(ct.read(node.spool.path(file))[0]).mask for file in (upright, lying)]
    assert (masks[1] == laid(masks[0], WAYS[number])).all()


def test_another_process_finds_the_same_parts_in_a_turned_slice(node: Made) -> None:
    """What the neighbours are asked for is told of the upright slice, whoever reads it again."""
    with node.database.read() as connection:
        files = [series.instances_of(connection, at + 1)[-3].file for at in (0, len(WAYS) - 1)]
    traces = []
    for file in files:
        one = ct.read(node.spool.path(file))[0]
        traces.append(brace.find_head(*turning.stood_up(one)).trace)
        assert (preprocess.prepare(one).head.trace.labels == traces[-1].labels).all()  # type: ignore[union-attr]
    assert (traces[0].labels == traces[1].labels).all()  # type: ignore[union-attr]
    assert traces[0].cell_mm == traces[1].cell_mm  # type: ignore[union-attr]


@pytest.mark.parametrize("way", WAYS)
def test_a_head_that_lies_askew_is_brought_to_the_nearest_upright(way: Way) -> None:
    """The patient's head was turned in the scanner, or the headrest leaned; the picture is not resampled for that."""
    askew = math.radians(30.0)
    turn = np.array([[math.cos(askew), -math.sin(askew)], [math.sin(askew), math.cos(askew)]])
    (row_x, row_y), (column_x, column_y) = (turn @ vector for vector in way)
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    orientation = (row_x, row_y, 0.0, column_x, column_y, 0.0)
    assert (turning.upright(laid(picture, way), orientation) == picture).all()
    assert (turning.as_it_came(picture, orientation) == laid(picture, way)).all()

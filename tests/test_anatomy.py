"""Absent must be earned: whole series in which some of the brain is not seen, judged as the node judges them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from made import FakeClassifier, Made, changed, head_series, made_node, peer
from pydicom.dataset import Dataset

from dicom_node.tables import jobs

HEALTHY = FakeClassifier(0.01)


@pytest.fixture
def node(tmp_path: Path) -> Made:
    return made_node(tmp_path, peers=[peer(104)])


def concluded(node: Made, datasets: list[Dataset]) -> tuple[str, str]:
    """Outcome and reasons that the node gives where the model sees nothing in any slice."""
    assert set(node.accept(*datasets)) == {0}
    node.tick_after(31)
    worker = node.worker(HEALTHY)
    while worker.step():
        node.clock.advance(1.0)
    job = node.rows(jobs)[-1]
    return job.outcome, "; ".join(job.findings["reasons"])


def repictured(ds: Dataset, pixels: np.ndarray) -> Dataset:
    """The image with other pixels, at its place and with its spacing."""
    rows, columns = pixels.shape
    return changed(ds, PixelData=pixels.astype("<i2").tobytes(), Rows=rows, Columns=columns)


def pixels_of(ds: Dataset) -> np.ndarray:
    return np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)


def tilted(ds: Dataset, degrees: float) -> Dataset:
    """The image as if the gantry had leaned; its place along its own normal stays."""
    angle = math.radians(degrees)
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    at = (z - y * math.sin(angle)) / math.cos(angle)
    orientation = [1, 0, 0, 0, round(math.cos(angle), 6), round(-math.sin(angle), 6)]
    return changed(ds, ImageOrientationPatient=orientation, ImagePositionPatient=[x, y, round(at, 4)])


def test_a_whole_head_in_which_nothing_is_found_is_absent(node: Made) -> None:
    assert concluded(node, head_series()) == ("absent", "")


def test_a_field_of_view_that_cuts_the_brain_is_not_absent(node: Made) -> None:
    middle = slice(32, 96)
    outcome, reasons = concluded(node, [repictured(ds, pixels_of(ds)[middle, middle]) for ds in head_series()])
    assert outcome == "undetermined"
    assert "beyond what the network is shown" in reasons


def test_slices_that_are_not_parallel_are_not_absent(node: Made) -> None:
    datasets = head_series()
    outcome, reasons = concluded(node, [tilted(ds, 25.0) for ds in datasets[:10]] + datasets[10:])
    assert outcome == "undetermined"
    assert "not parallel" in reasons


def test_a_blank_slice_is_no_end_of_the_brain(node: Made) -> None:
    datasets = head_series()
    blank = repictured(datasets[16], np.full((128, 128), -1000))
    outcome, reasons = concluded(node, [*datasets[:16], blank])
    assert (outcome, reasons) == ("undetermined", "the brain does not taper off towards its upper end")


def test_half_a_picture_within_the_brain_is_not_absent(node: Made) -> None:
    datasets = head_series()
    half = pixels_of(datasets[12]).copy()
    half[64:] = -1000
    outcome, reasons = concluded(node, [*datasets[:12], repictured(datasets[12], half), *datasets[13:]])
    assert outcome == "undetermined"
    assert "less of the head than both neighbours" in reasons

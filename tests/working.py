"""A worker in a test: a series made whole, worked on until nothing is left to do, and the report that came of it."""

from __future__ import annotations

from typing import Any

import pydicom
from made import Made, grey_series, head_series
from pydicom.dataset import Dataset

from dicom_node.store import outbox
from dicom_node.store.tables import objects


def complete(node: Made, datasets: list[Dataset] | None = None) -> list[Dataset]:
    datasets = head_series() if datasets is None else datasets
    assert set(node.accept(*datasets)) == {0}
    node.tick_after(31)
    return datasets


def work(node: Made, classifier: Any = None, *, limit: int = 200) -> None:
    worker = node.worker(classifier)
    for _ in range(limit):
        if not worker.step():
            return
        node.clock.advance(1.0)
    raise AssertionError(f"still at work after {limit} steps")


def report(node: Made, number: int = -1) -> pydicom.Dataset:
    return pydicom.dcmread(node.spool.path(node.rows(objects)[number].file))


def no_head() -> list[Dataset]:
    return grey_series(10, PatientID="SYN-0001")


def delivered(node: Made) -> None:
    """The stand-in for a sender: PACS1 takes all that it is owed."""
    with node.database.write() as connection:
        for delivery in outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600.0):
            outbox.delivered(connection, delivery, 0, now=node.clock())

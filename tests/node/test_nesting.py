"""Sequences within sequences: Python parses them by recursion, so depth is a weapon. It may cost one object."""

from __future__ import annotations

import struct

import pytest
from made import Made, encoded, head_series, received
from pydicom.dataset import Dataset

from dicom_node.status import StoreStatus
from dicom_node.store.tables import JobState, jobs
from dicom_node.store.tables import series as series_table

ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
PLACES = {
    "PrivateAttribute": 0x00091010,
    "ReferencedStudySequence": 0x00081110,
    "RequestAttributesSequence": 0x00400275,
}


def nested(tag: int, depth: int, *, delimited: bool) -> bytes:
    """An element of sequences within sequences, ended by delimiters or by lengths (Explicit VR Little Endian)."""
    begin = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0"
    if delimited:
        return (begin + b"\xff" * 4 + ITEM + b"\xff" * 4) * depth + (ITEM_END + SEQUENCE_END) * depth
    body = b""
    for _ in range(depth):
        item = ITEM + struct.pack("<I", len(body)) + body
        body = begin + struct.pack("<I", len(item)) + item
    return body


def with_nested(ds: Dataset, tag: int, depth: int, *, delimited: bool) -> bytes:
    before, after = Dataset(), Dataset()
    for element in ds:
        if int(element.tag) != tag:
            (before if int(element.tag) < tag else after).add(element)
    return encoded(before) + nested(tag, depth, delimited=delimited) + encoded(after)


@pytest.mark.parametrize("depth", [249, 5000])
def test_an_object_nested_too_deeply_to_be_read_is_refused_and_no_other(node: Made, depth: int) -> None:
    good, bad = head_series()[:2]
    broken = with_nested(bad, PLACES["PrivateAttribute"], depth, delimited=True)
    assert node.accept(bad, data_set=broken) == [StoreStatus.CANNOT_UNDERSTAND]
    assert node.accept(good) == [StoreStatus.SUCCESS]


@pytest.mark.parametrize("place", PLACES)
def test_a_depth_that_lengths_hide_from_the_receiver_costs_no_report(node: Made, place: str) -> None:
    """Every slice carries one of 5,000: nobody between receiver and report may walk down."""
    for ds in head_series():
        data_set = with_nested(ds, PLACES[place], 5000, delimited=False)
        assert node.acceptor.accept(received(ds, data_set=data_set)) == StoreStatus.SUCCESS
    worker = node.worker()
    for _ in range(40):
        if not worker.step():
            node.tick_after(31.0)
        if [job for job in node.rows(jobs) if job.state in (JobState.REPORTED, JobState.FAILED)]:
            break
    assert [(job.state, job.outcome) for job in node.rows(jobs)] == [(JobState.REPORTED, "present")]
    assert node.rows(series_table)[0].reason is None

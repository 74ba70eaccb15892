"""What an object of a run is called, and what it tells of how it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import head_series, made_node
from report_cases import SERIES, STUDY, findings, headers
from untrained import metadata

from dicom_node.config import Results
from dicom_node.delivering import reporting, spooled
from dicom_node.delivering.built import Built
from dicom_node.delivering.reporting import Maker, Run
from dicom_node.report.context import Reference
from dicom_node.report.keyobjects import Rejection
from dicom_node.store import series
from dicom_node.store.results import Version
from dicom_node.store.tables import ObjectKind

MAKER = Maker("2.25.1", "NODE", metadata(), Version("ab" * 32, "hu-1"), Results(), precision="bfloat16")
RUN = Run(STUDY, SERIES, number=1, rule="covered", whole=True, at=1010.0)
REPORT = Reference(STUDY, "2.25.3", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.4")
WITHDRAWN: dict[str, Any] = {"why": "wrong patient", "title": Rejection.QUALITY, "to": "PACS1"}


def withdrawal(maker: Maker = MAKER, run: Run = RUN, **changed: Any) -> Built:
    return reporting.withdrawal(maker, run, headers()[0], findings("deep"), [REPORT], **{**WITHDRAWN, **changed})


@pytest.mark.parametrize(
    "other",
    [
        {"maker": replace(MAKER, device_uid="2.25.2")},
        {"maker": replace(MAKER, version=Version("cd" * 32, "hu-1"))},
        {"maker": replace(MAKER, version=Version("ab" * 32, "hu-2"))},
        {"run": replace(RUN, series_uid=f"{SERIES}1")},
        {"run": replace(RUN, number=2)},
        {"run": replace(RUN, at=1010.5)},
        {"title": Rejection.PATIENT_SAFETY},
        {"to": "PACS2"},
        {"why": "wrong side"},
    ],
)
def test_objects_that_may_differ_never_share_a_uid(other: dict[str, Any]) -> None:
    first, second = withdrawal(), withdrawal(**other)
    assert len({first.sop_instance_uid, first.series_uid, second.sop_instance_uid, second.series_uid}) == 4


def test_a_key_object_selection_of_images_shares_no_uid_with_a_withdrawal() -> None:
    chosen = reporting.key_objects(MAKER, RUN, headers(), findings("deep"))
    assert chosen is not None
    assert chosen.kind is ObjectKind.KEY_OBJECTS
    assert chosen.sop_instance_uid != withdrawal().sop_instance_uid


def test_a_report_tells_what_it_takes_to_repeat_it() -> None:
    assert MAKER.algorithm.parameter_lines() == (
        "checkpoint = untrained",
        f"weights sha256 = {'ab' * 32}",
        "encoder = test_vit",
        "precision = bfloat16",
        "window = 0..80 HU",
        "preprocessing = hu-1",
        "slice thresholds = absent below 0.3, present at 0.6",
        "series thresholds = absent below 0.2, present at 0.7",
    )
    assert not any("precision" in line for line in replace(MAKER, precision=None).algorithm.parameter_lines())


def test_an_image_whose_file_holds_another_is_told_by_its_row(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    node.accept(*head_series()[:3])
    with node.database.read() as connection:
        members = series.instances_of(connection, 1)
    files = [node.spool.path(one.file) for one in members]
    files[1].write_bytes(files[0].read_bytes())
    found = spooled.headers(members, node.spool)
    assert [ds.SOPInstanceUID for ds in found] == [one.sop_instance_uid for one in members]

"""CT headers and findings from which the report tests build: one small series for every outcome."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset

from dicom_node.report.context import Algorithm, ReportContext
from dtvit.findings import (
    LOCATIONS,
    Coverage,
    Outcome,
    Region,
    SeriesFindings,
    SliceFinding,
    Thresholds,
    conclude,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
STUDY, SERIES = "1.2.826.0.1.3680043.10.99.1", "1.2.826.0.1.3680043.10.99.2"
THRESHOLDS = Thresholds(absent_below=0.3, present_at=0.6)
NOTICE = "NOT FOR CLINICAL USE. Research software."
DOUBT = "the head is in several parts"
"""Of image 5."""
OUTCOMES = ("deep", "lobar", "subtentorial", "mixed", "absent", "undetermined", "gap", "not evaluated")


def headers(count: int = 12, **changed: Any) -> list[Dataset]:
    """Headers of an axial head CT without pixels; `changed` sets or, with None, removes attributes in all of them."""
    made = []
    for i in range(count):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.SOPClassUID, ds.SOPInstanceUID = CT, f"{SERIES}.{i + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
        ds.PatientName, ds.PatientID = "M\u00fcller^J\u00f6rg", "P-1"
        ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19500101", "M", "075Y"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20251103", "091500", "77", "ACC1"
        ds.StudyDescription, ds.ReferringPhysicianName = "CT Sch\u00e4del", "Who^Doctor"
        ds.Modality, ds.InstanceNumber = "CT", i + 1
        for keyword, value in changed.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        made.append(ds)
    return made


def findings(kind: str, count: int = 12) -> SeriesFindings:
    """One of `OUTCOMES`, for the first `count` headers: two slices below the brain, one above, the bleed in 6 to 8."""
    slices = []
    for i in range(count):
        region = Region.BELOW_BRAIN if i < 2 else Region.ABOVE_BRAIN if i == count - 1 else Region.BRAIN
        left_out = None if region is Region.BRAIN else region.value
        if kind == "not evaluated" or (kind == "gap" and i == 6):
            region, left_out = Region.UNKNOWN, "the pixel data could not be decoded"
        presence, location = None, None
        if left_out is None:
            presence = (
                0.45 if kind == "undetermined" else 0.93 if kind in (*LOCATIONS, "mixed") and 5 <= i <= 7 else 0.02
            )
            likeliest = LOCATIONS[i % 3] if kind == "mixed" else kind
            location = (
                tuple(0.8 if name == likeliest else 0.1 for name in LOCATIONS)
                if likeliest in LOCATIONS
                else (0.2, 0.3, 0.5)
            )
        slices.append(
            SliceFinding(
                sop_class_uid=CT,
                sop_instance_uid=f"{SERIES}.{i + 1}",
                instance_number=i + 1,
                position_mm=5.0 * i,
                region=region,
                outcome=Outcome.NOT_EVALUATED if presence is None else THRESHOLDS.judge(presence),
                presence=presence,
                location=location,
                left_out=left_out,
                doubts=(DOUBT,) if i == 4 else (),
            )
        )
    gaps = ("image 7 inside the brain was not evaluated",) if kind == "gap" else ()
    return conclude(slices, Coverage(not gaps, 55.0, True, True, gaps), THRESHOLDS)


def context(**changed: Any) -> ReportContext:
    given: dict[str, Any] = {
        "device_uid": "2.25.100",
        "device_name": "DICOMNODE",
        "sop_instance_uid": "2.25.200",
        "series_instance_uid": "2.25.201",
        "content_datetime": datetime(2026, 3, 1, 23, 30, tzinfo=UTC),
        "algorithm": Algorithm(
            "dtvit", "0.1.0", "dicom-node project", {"weights": "sha256:" + "ab" * 32, "window": "0..80 HU"}
        ),
        "completion_rule": "no image for 30 s",
        "series_number": 9001,
        "notice": NOTICE,
    }
    return ReportContext(**{**given, **changed})

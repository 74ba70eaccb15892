"""The manifest that `train` reads, a line for each slice, and the key: whose line that is (docs/data.md)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.preparing.finding import Instance
from dicom_node.preparing.labelling import Label
from dicom_node.preparing.records import FOR_ITS_OWNER, IMAGES, Kept, Records
from dtvit.wholefile import write_whole

Line = Mapping[str, str]
"""Value by column."""
MANIFEST = "manifest.csv"
COLUMNS = ("path", "patient_id", "ich", "location", "study", "series", "slice", "site", "scanner",
           "brace_removal")  # fmt: skip
KEY_COLUMNS = ("path", "patient_id", "study", "series", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
               "SOPInstanceUID", "frame")  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """A slice with a picture."""

    kept: Kept
    number: int
    instance: Instance
    label: Label | None
    alone: bool
    """Whether the label is for this slice alone."""


def ids(records: Records, one: Instance) -> tuple[str, str]:
    """Opaque ids of patient and series."""
    return records.opaque("P", one.person), records.opaque("S", one.header.series_uid)


def line(records: Records, one: Slice, brace_removal: str) -> Line:
    patient, series = ids(records, one.instance)
    label, instance = one.label, one.instance
    return {
        "path": f"{IMAGES}/{patient}/{series}/{one.kept.file}",
        "patient_id": patient,
        "ich": "" if label is None else str(label.ich),
        "location": (label.location or "") if label is not None else "",
        "study": records.opaque("T", instance.header.study_uid),
        "series": series,
        "slice": str(one.number),
        "site": records.opaque("H", instance.site) if instance.site else "",
        "scanner": instance.scanner,
        "brace_removal": brace_removal,
    }


def write(path: Path, lines: Sequence[Line]) -> None:
    write_whole(path, _csv(COLUMNS, lines))


def write_key(path: Path, listed: Sequence[Slice], lines: Sequence[Line]) -> None:
    """Which id belongs to whom: for the one person who must be able to trace it."""
    known = []
    for one, its in zip(listed, lines, strict=True):
        header = one.instance.header
        known.append(
            {name: its[name] for name in KEY_COLUMNS[:4]}
            | {
                "PatientID": one.instance.patient_id,
                "StudyInstanceUID": header.study_uid,
                "SeriesInstanceUID": header.series_uid,
                "SOPInstanceUID": header.sop_instance_uid,
                "frame": str(one.kept.frame or ""),
            }
        )
    write_whole(path, _csv(KEY_COLUMNS, known), mode=FOR_ITS_OWNER)


def _csv(columns: tuple[str, ...], lines: Sequence[Line]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()

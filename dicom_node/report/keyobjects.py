"""Key Object Selection documents (PS3.3 A.35.4, TID 2010): the slices to look at, or a result that no longer holds.

A result is withdrawn as IHE Image Object Change Management does it: a document titled "Rejected ..." names the
objects, and the PACS hides them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
)

from dicom_node.headers.texts import read_text
from dicom_node.report import carried, codes, order, wording
from dicom_node.report.codes import Concept
from dicom_node.report.context import Reference, ReportContext, check_findings
from dicom_node.report.provenance import file_meta, sign
from dtvit.findings import SeriesFindings

IMAGE_CLASSES = frozenset(
    {
        CTImageStorage,
        EnhancedCTImageStorage,
        LegacyConvertedEnhancedCTImageStorage,
        SecondaryCaptureImageStorage,
    }
)


class Rejection(StrEnum):
    """The titles that a PACS may act on."""

    QUALITY = "113001"
    PATIENT_SAFETY = "113037"


def positive(headers: Sequence[Dataset], findings: SeriesFindings, context: ReportContext) -> Dataset | None:
    """The images in which hemorrhage was found, highest output first; None where there are none."""
    check_findings(findings)
    chosen = list(
        dict.fromkeys(s.sop_instance_uid for s in sorted(findings.positive, key=lambda s: -(s.presence or 0)))
    )
    if not chosen:
        return None
    with disable_value_validation():  # its warnings quote values, which may be names
        carried.check_one_series(headers)
        known = {read_text(ds, "SOPInstanceUID"): ds for ds in headers}
        objects = carried.evidence([known[uid] for uid in chosen])
        told = wording.conclusion(findings, series_number=carried.series_number(headers[0]))
        said = " ".join([*told, *filter(None, [context.notice and f"{context.notice}."]), wording.NOT_ASSESSED])
        description = f"{wording.series_description(findings, context.run)} images"
        ds = _document(codes.OF_INTEREST, objects, headers[0], said, context, description)
    for item in ds.ContentSequence:
        for image in item.get("ReferencedSOPSequence") or []:
            frames = [s.frame for s in findings.positive if s.sop_instance_uid == image.ReferencedSOPInstanceUID]
            if None not in frames:  # a multi-frame image, which would otherwise be flagged from neck to vertex
                image.ReferencedFrameNumber = sorted(frame for frame in frames if frame is not None)
    return ds


def rejection(
    withdrawn: Sequence[Reference],
    source: Dataset,
    context: ReportContext,
    why: str,
    title: Rejection,
    *,
    superseded: bool = False,
) -> Dataset:
    """Says that the objects `withdrawn`, sent earlier by this node, are no longer valid. `source`: an image's header.

    `superseded`: they belong to an earlier version than that of `context`, which remains valid.
    """
    objects = []
    for earlier in withdrawn:
        stub = Dataset()
        stub.StudyInstanceUID, stub.SeriesInstanceUID = earlier.study_instance_uid, earlier.series_instance_uid
        stub.SOPClassUID, stub.SOPInstanceUID = earlier.sop_class_uid, earlier.sop_instance_uid
        objects.append(stub)
    concept = codes.REJECTED_FOR_QUALITY if title is Rejection.QUALITY else codes.REJECTED_FOR_SAFETY
    what = "AI: WITHDRAWN older version" if superseded else f"{wording.version(context.run)}: WITHDRAWN"
    with disable_value_validation():
        return _document(concept, objects, source, why, context, what)


def _document(
    title: Concept, objects: Sequence[Dataset], source: Dataset, text: str, context: ReportContext, description: str
) -> Dataset:
    from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument

    from dicom_node.report.tree import observer

    for stub in objects:
        for keyword in carried.TYPE_2:
            stub.setdefault(keyword, "")
        if stub.SOPClassUID in IMAGE_CLASSES:
            stub.Rows = stub.Columns = 1  # how highdicom tells an image from other objects; not written
    content: Any = KeyObjectSelection(
        Code(title.value, title.scheme, title.meaning), objects, description=wording.plain(text)
    )
    content[0].ContinuityOfContent = "SEPARATE"
    items = content[0].ContentSequence
    content[0].ContentSequence = [*observer(context), *items]
    made = KeyObjectSelectionDocument(
        evidence=objects,
        content=content,
        series_instance_uid=context.series_instance_uid,
        series_number=context.series_number,
        sop_instance_uid=context.sop_instance_uid,
        instance_number=1,
        series_description=wording.plain(description),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    ds = Dataset()
    ds.update(made)
    ds.file_meta = file_meta(made.SOPClassUID, context.sop_instance_uid)
    filed = carried.patient_and_study(source)
    ds.update(filed)
    ds.update(order.of_document(source, filed))
    sign(ds, context)
    return ds

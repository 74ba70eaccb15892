"""The Structured Report as a DICOM object: Comprehensive 3D SR, TID 1500, IHE AI Results (AIR).

`build` makes it, `as_sop_class` makes the same report for a PACS that takes no Comprehensive 3D SR. The tree is in
`tree`, patient and study in `carried`, the sentences in `wording`; `provenance` writes it, `readback` reads it back.
highdicom is only imported inside `build`, so importing this module is quick.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from copy import deepcopy

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
)

from dicom_node.headers.texts import read_text
from dicom_node.report import carried, order, wording
from dicom_node.report.carried import InconsistentSeries
from dicom_node.report.context import Reference, ReportContext, check_findings
from dicom_node.report.provenance import coding_scheme, file_meta, references, sign
from dtvit.findings import SeriesFindings

SR_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
"""In the order in which a destination is offered them; the tree is legal in all three."""


def build(headers: Sequence[Dataset], findings: SeriesFindings, context: ReportContext) -> Dataset:
    """The report on `findings`, filed under the patient and study of `headers` (one per received instance, no pixels).

    Raises `InconsistentSeries` where the headers disagree about patient, study or series or lack an image of the
    findings, and `UnusableFindings` where an output is not a number. Odd or missing attributes never stop it.
    """
    check_findings(findings)
    with disable_value_validation():  # its warnings quote values, which may be names
        return _build(headers, findings, context)


def _build(headers: Sequence[Dataset], findings: SeriesFindings, context: ReportContext) -> Dataset:
    headers = list({read_text(ds, "SOPInstanceUID"): ds for ds in headers}.values())
    carried.check_one_series(headers)
    known = {read_text(ds, "SOPInstanceUID") for ds in headers}
    if any(s.sop_instance_uid not in known for s in findings.slices):
        raise InconsistentSeries("the findings name an image whose header was not given")

    from highdicom.sr import Comprehensive3DSR

    from dicom_node.report import tree

    root = tree.content(findings, context, headers[0])
    items = list(root.ContentSequence)
    del root.ContentSequence[1:]  # highdicom would copy and search the whole tree: seconds for a few hundred slices
    ds: Dataset = Comprehensive3DSR(
        evidence=carried.evidence(headers),
        content=root,
        series_instance_uid=context.series_instance_uid,
        series_number=context.series_number,
        sop_instance_uid=context.sop_instance_uid,
        instance_number=1,
        series_description=wording.series_description(findings, context.run),
        is_complete=context.whole,
        is_final=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    report = Dataset()
    report.file_meta = file_meta(ds.SOPClassUID, context.sop_instance_uid)
    report.update(ds)
    report.ContentSequence = items
    filed = carried.patient_and_study(headers[0])
    report.update(filed)
    report.update(order.of_document(headers[0], filed))
    sign(report, context)
    report.CodingSchemeIdentificationSequence = [coding_scheme()]
    if not context.whole:
        # LO: one line of 64 characters, where a backslash would begin a second value; the tree has the full text
        why = wording.plain(context.partial_because or "").replace("\\", "/")
        report.CompletionFlagDescription = textwrap.shorten(why, 64, placeholder=" ...")
    if context.predecessors:
        report.PredecessorDocumentsSequence = references(context.predecessors)
    return report


def as_sop_class(
    ds: Dataset,
    sop_class_uid: str,
    sop_instance_uid: str,
    series_instance_uid: str,
    replaced: Sequence[Reference] = (),
) -> Dataset:
    """The same report in another SR class (one of `SR_CLASSES`): a separate object in a separate series.

    `replaced`: the reports that it replaces, if any.
    """
    if sop_class_uid not in SR_CLASSES:
        raise ValueError(
            f"{sop_class_uid} is not one of the SR classes a report can be written in: {', '.join(SR_CLASSES)}"
        )
    other = deepcopy(ds)
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = sop_class_uid
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    other.SeriesInstanceUID = series_instance_uid
    if replaced:
        other.PredecessorDocumentsSequence = references(replaced)
    return other

"""What our objects carry over from the images that they are about: patient, study, evidence; and when they must not.

Sources are odd in every way (missing Type 2 attributes, values too long, undeclared character sets, wrong VRs). What
identifies the patient and the study is carried exactly as received; any other attribute that cannot be carried legally
is left out and logged by keyword, never by value. Our objects themselves are always in UTF-8.
PS3.3 C.7.1.1 Patient, C.7.2.1 General Study, C.7.2.2 Patient Study, C.17.2 SR Document General.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Sequence
from datetime import timedelta, timezone
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from dicom_node import uids
from dicom_node.headers.elements import LONGEST
from dicom_node.headers.identity import IDENTITY, comparable
from dicom_node.headers.texts import UNREADABLE, read_text

logger = logging.getLogger(__name__)

EXACT = ("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID")
"""Carried even where longer than their VR allows, or with the line end that a bar code reader appended: a shortened
Patient ID is another patient, and an empty one is nobody."""
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
TYPE_3 = (
    "IssuerOfPatientID", "PatientBirthTime", "EthnicGroup", "StudyDescription",
    "PatientAge", "PatientSize", "PatientWeight",
)  # fmt: skip

LOOKED_AT = (
    *IDENTITY, *TYPE_2, *TYPE_3, "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "SeriesNumber",
    "TimezoneOffsetFromUTC", "LossyImageCompression", "LossyImageCompressionRatio", "IssuerOfAccessionNumberSequence",
    "IssuerOfPatientIDQualifiersSequence", "ProcedureCodeSequence", "RequestAttributesSequence",
    "ReferencedStudySequence", "RequestedProcedureID", "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence", "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
)  # fmt: skip
"""All that our objects are made from. Parsed, a header takes up to forty times its size, a long value two hundred
times; and those of a whole series are in memory at once."""
_LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
_MOSTLY_LOSSY = frozenset({JPEG2000, HTJ2K})  # the lossless forms have a syntax of their own

_DATE = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_AGE = re.compile(r"\d{3}[DWMY]")
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffd]")
_NOT_DECODED = re.compile(r"[\x1b\ufffd]")

_LONGEST = {"SH": 16, "LO": 64, "DS": 16}
_LEGAL: dict[str, Callable[[str], object]] = {
    "DA": _DATE.fullmatch,
    "TM": _TIME.fullmatch,
    "AS": _AGE.fullmatch,
    "DS": _DECIMAL.fullmatch,
}


class InconsistentSeries(Exception):
    """The instances do not belong to one patient, study and series: no report may be made of them."""


def without_long_values(ds: Dataset) -> Dataset:
    """The same without unparsed values that are longer than any real one."""
    for tag, element in list(ds.items()):
        if isinstance(element, RawDataElement) and len(element.value or b"") > LONGEST:
            del ds[tag]
    return ds


def check_one_series(headers: Sequence[Dataset]) -> None:
    """Raises `InconsistentSeries` (quoting no value) unless all headers name the same patient, study and series."""
    if not headers:
        raise InconsistentSeries("a report needs the header of at least one image")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if any(not uids.is_valid(read_text(ds, keyword) or "") for ds in headers):
            raise InconsistentSeries(f"an image has no valid {keyword}")
    for keyword in (*IDENTITY, "SeriesInstanceUID"):
        values = {comparable(keyword, read_text(ds, keyword)) for ds in headers}
        if len(values) > 1:
            raise InconsistentSeries(
                f"the images of this series disagree about {keyword} ({len(values)} different values); "
                "no report is made, as it could be filed under the wrong patient or study"
            )


def patient_and_study(source: Dataset) -> Dataset:
    """Attributes to merge into the report: every Type 2 one is present, empty where the source has no legal value."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.StudyInstanceUID = read_text(source, "StudyInstanceUID")
    for keyword in TYPE_2 + TYPE_3:
        text = read_text(source, keyword)
        if text and not is_carriable(keyword, text):
            logger.warning("source attribute %s has no legal value and is left out of the report", keyword)
            text = None
        if text or keyword in TYPE_2:
            put(header, keyword, text or "")
    for keyword in ("IssuerOfAccessionNumberSequence", "IssuerOfPatientIDQualifiersSequence"):
        if found := issuers(source, keyword):
            setattr(header, keyword, found)
    offset = read_text(source, "TimezoneOffsetFromUTC")
    if offset and zone(offset) is not None:
        header.TimezoneOffsetFromUTC = offset  # without it the copied times would mean something else
    return header


def zone(offset: str | None) -> timezone | None:
    """The time zone that `+0100` stands for (PS3.3 C.12.1.1.8); None where it is missing or invalid."""
    match = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", offset or "")
    if not match:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if not -12 * 60 <= (minutes if match[1] == "+" else -minutes) <= 14 * 60:
        return None
    return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes))


def evidence(headers: Sequence[Dataset]) -> list[Dataset]:
    """The least that identifies each image; highdicom builds the evidence sequence from it and copies nothing else."""
    stubs = []
    for source in headers:
        stub = Dataset()
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            setattr(stub, keyword, read_text(source, keyword))
        for keyword in TYPE_2:
            put(stub, keyword, "")
        stubs.append(stub)
    return stubs


def series_number(source: Dataset) -> str | None:
    """Series Number of the images, as a viewer shows it; None where missing or not a number. PS3.3 C.7.3.1."""
    text = read_text(source, "SeriesNumber") or ""
    return str(int(text)) if _INTEGER.fullmatch(text) else None


def lossy_ratios(headers: Sequence[Dataset]) -> dict[str, float | None]:
    """By SOP Instance UID, for each image that was ever lossily compressed (PS3.3 C.7.6.1.1.5): the ratio, if stated;
    the highest if it was compressed more than once."""
    return {read_text(ds, "SOPInstanceUID") or "": _ratio(ds) for ds in headers if _is_lossy(ds)}


def _is_lossy(ds: Dataset) -> bool:
    """Once lossy, always lossy; some compress without recording it."""
    told = read_text(ds, "LossyImageCompression")
    syntax = getattr(ds, "file_meta", {}).get("TransferSyntaxUID")
    return told == "01" or syntax in _LOSSY or (syntax in _MOSTLY_LOSSY and told != "00")


def _ratio(ds: Dataset) -> float | None:
    ratios = []
    for text in (read_text(ds, "LossyImageCompressionRatio") or "").split("\\"):
        with contextlib.suppress(ValueError):
            ratios.append(float(text))
    return max((ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0.0), default=None)


def procedure_codes(source: Dataset, keyword: str = "ProcedureCodeSequence") -> list[tuple[str, str, str]]:
    """(value, scheme, meaning) of the imaging procedure, or of another sequence `keyword`; only legal codes."""
    found = []
    for item in items(source, keyword):
        triple = tuple(read_text(item, k) or "" for k in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
        value, scheme, meaning = triple
        fits = all(triple) and len(value) <= 16 and len(scheme) <= 16 and len(meaning) <= 64
        if fits and not any(_CONTROL.search(t) or "\\" in t for t in triple):
            found.append((value, scheme, meaning))
    return found


def is_carriable(keyword: str, text: str) -> bool:
    """Whether the report may carry the value: it is legal by its VR, or needed exactly as it is."""
    if keyword in EXACT:
        return not _NOT_DECODED.search(text)
    if _CONTROL.search(text):
        return False
    if keyword == "PatientSex":
        return text in {"M", "F", "O"}
    vr = dictionary_VR(keyword)
    if vr == "PN":
        return all(len(group) <= 64 for group in text.split("=")) and text.count("=") <= 2 and "\\" not in text
    if "\\" in text or len(text) > _LONGEST.get(vr, 1024):
        return False
    return bool(_LEGAL[vr](text)) if vr in _LEGAL else True


def put(ds: Dataset, keyword: str, text: str) -> None:
    """Set an element from text without pydicom's checks of length, which would stop an exact copy."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    ds.add(DataElement(tag, dictionary_VR(tag), text, validation_mode=0))


def items(source: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is missing or cannot be read."""
    try:
        value: Any = source.get(keyword) or []
        return [item for item in value if isinstance(item, Dataset)]
    except UNREADABLE:
        logger.warning("source attribute %s cannot be read and is left out of the report", keyword)
        return []


def issuers(source: Dataset, keyword: str) -> list[Dataset]:
    """The first item of this sequence that says who gave out a number; none if there is none."""
    return [item for item in map(_issuer, items(source, keyword)) if item is not None][:1]


def _issuer(item: Dataset) -> Dataset | None:
    """HL7v2 Hierarchic Designator (PS3.3 table 10-17); None where it says nothing usable."""
    issuer = Dataset()
    local, universal, kind = (
        read_text(item, k) for k in ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
    )
    if local and not _CONTROL.search(local):
        put(issuer, "LocalNamespaceEntityID", local)
    if universal and kind in {"DNS", "EUI64", "ISO", "URI", "UUID", "X400", "X500"}:
        put(issuer, "UniversalEntityID", universal)
        put(issuer, "UniversalEntityIDType", kind)
    return issuer if len(issuer) else None

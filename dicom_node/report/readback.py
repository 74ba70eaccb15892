"""Reads a report back from its own content, whoever made it: what it says is what was sent.

Needs only pydicom. Codes decide, meanings do not (PS3.16 section 8.3).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicom_node.headers.texts import UNREADABLE
from dicom_node.report import codes
from dicom_node.report.codes import Concept
from dicom_node.report.context import Reference
from dtvit.findings import LOCATIONS, Outcome

UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5 7.1.1
OUTCOMES = {concept.key: outcome for outcome, concept in codes.PRESENCE_ANSWERS.items()}
LOCATION_NAMES = {concept.key: name for name, concept in codes.LOCATION_CLASSES.items()}
LEFT_OUT = {concept.key: region.value for region, concept in codes.EVALUABILITIES.items()}


class NotAReport(ValueError):
    """The object is not a Structured Report of this project, or its statements cannot be read."""


@dataclass(frozen=True)
class ParsedSlice:
    """One slice as the report gives it: evaluated (`output` is set), or left out (`left_out` says why)."""

    name: str
    """As in the report, such as `Image 14`."""
    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None
    outcome: Outcome
    output: float | None
    location: str | None
    location_outputs: Mapping[str, float]
    left_out: str | None
    doubts: tuple[str, ...]
    """What was doubtful about finding the head in this slice."""


@dataclass(frozen=True)
class ParsedReport:
    """What a report says. Outputs are 0..1 as in `dtvit.findings`."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    series_description: str
    complete: bool
    outcome: Outcome
    conclusion: tuple[str, ...]
    """One sentence per line; the first is the answer."""
    output: float | None
    highest_output: float | None
    location: str | None
    location_outputs: Mapping[str, float]
    images_received: int
    images_evaluated: int
    images_positive: int
    reasons: tuple[str, ...]
    notices: tuple[str, ...]
    not_assessed: str
    completion_rule: str
    partial_because: str | None
    algorithm: Mapping[str, str]
    """`name`, `version`, `manufacturer` and the parameters."""
    best: tuple[str, ...]
    """SOP Instance UIDs of the images to look at first."""
    slices: tuple[ParsedSlice, ...]
    predecessor: str | None
    """SOP Instance UID of the report that this one replaces."""

    @property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """Reason -> names of the slices that were not evaluated for that reason."""
        reasons = dict.fromkeys(s.left_out for s in self.slices if s.left_out is not None)
        return {reason: tuple(s.name for s in self.slices if s.left_out == reason) for reason in reasons}


def parse(source: bytes | Path | str | Dataset) -> ParsedReport:
    """Raises `NotAReport` where `source` is not DICOM, not an SR, not ours, or contradicts itself (cut short, say)."""
    ds = load(source)
    try:
        report = _report(ds)
    except NotAReport:
        raise
    except UNREADABLE as exc:
        raise NotAReport(f"the Structured Report lacks something that a report of this node has: {exc}") from exc
    counted = (
        len(report.slices),
        sum(s.left_out is None for s in report.slices),
        sum(s.outcome is Outcome.PRESENT for s in report.slices),
    )
    if counted != (report.images_received, report.images_evaluated, report.images_positive):
        raise NotAReport("the Structured Report does not contain as many images as it states")
    return report


def load(source: bytes | Path | str | Dataset) -> Dataset:
    """The dataset of a report; raises `NotAReport` for anything but an SR."""
    if isinstance(source, Dataset):
        ds = source
    else:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        try:
            ds = dcmread(io.BytesIO(content))
        except UNREADABLE as exc:
            raise NotAReport(f"not a DICOM file: {exc}") from exc
        last = ds.get_item(max(ds.keys(), default=0))
        if isinstance(last, RawDataElement) and len(last.value or b"") < last.length < UNDEFINED_LENGTH:
            raise NotAReport("the file was cut short")  # pydicom accepts it silently
    if ds.get("Modality") != "SR" or "ContentSequence" not in ds:
        raise NotAReport("not a Structured Report")
    return ds


def _report(ds: Dataset) -> ParsedReport:
    measurements = next(children(ds, codes.IMAGING_MEASUREMENTS), None)
    if measurements is None:
        raise NotAReport("the Structured Report has no Imaging Measurements")
    whole, *slices = children(measurements, codes.MEASUREMENT_GROUP)
    algorithm = {
        "name": _text(whole, codes.ALGORITHM_NAME) or "",
        "version": _text(whole, codes.ALGORITHM_VERSION) or "",
        "manufacturer": _text(whole, codes.ALGORITHM_MANUFACTURER) or "",
    }
    for line in _texts(whole, codes.ALGORITHM_PARAMETERS):
        key, _, value = line.partition(" = ")
        algorithm[key] = value
    return ParsedReport(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        series_description=str(ds.get("SeriesDescription", "")),
        complete=ds.CompletionFlag == "COMPLETE",
        outcome=_outcome(whole),
        conclusion=tuple((_text(whole, codes.CONCLUSION) or "").splitlines()),
        output=_share(whole, codes.SERIES_OUTPUT),
        highest_output=_share(whole, codes.HIGHEST_OUTPUT),
        location=_location(whole),
        location_outputs=_location_outputs(whole),
        images_received=_count(whole, codes.IMAGES_RECEIVED),
        images_evaluated=_count(whole, codes.IMAGES_EVALUATED),
        images_positive=_count(whole, codes.IMAGES_POSITIVE),
        reasons=_texts(whole, codes.REASON),
        notices=_texts(whole, codes.NOTICE),
        not_assessed=_text(whole, codes.NOT_ASSESSED) or "",
        completion_rule=_text(whole, codes.COMPLETION_RULE) or "",
        partial_because=_text(whole, codes.PARTIAL_BECAUSE),
        algorithm=algorithm,
        best=tuple(_reference(item)[1] for item in children(whole, codes.BEST_ILLUSTRATION)),
        slices=tuple(map(_slice, slices)),
        predecessor=next((each.sop_instance_uid for each in predecessors(ds)), None),
    )


def predecessors(ds: Dataset) -> list[Reference]:
    """The reports that this one replaces, in the order in which it names them."""
    return [
        Reference(
            str(study.StudyInstanceUID),
            str(series.SeriesInstanceUID),
            str(earlier.ReferencedSOPClassUID),
            str(earlier.ReferencedSOPInstanceUID),
        )
        for study in ds.get("PredecessorDocumentsSequence") or []
        for series in study.ReferencedSeriesSequence
        for earlier in series.ReferencedSOPSequence
    ]


def _slice(group: Dataset) -> ParsedSlice:
    sop_class_uid, sop_instance_uid, frame = _reference(next(source_images(group)))
    out = _code_key(group, codes.EVALUABILITY)
    return ParsedSlice(
        name=_text(group, codes.TRACKING_IDENTIFIER) or "",
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        frame=frame,
        outcome=Outcome.NOT_EVALUATED if out is not None else _outcome(group),
        output=_share(group, codes.IMAGE_OUTPUT),
        location=_location(group),
        location_outputs=_location_outputs(group),
        left_out=None if out is None else _text(group, codes.EVALUABILITY_REASON) or LEFT_OUT[out],
        doubts=_texts(group, codes.BRACE_REMOVAL),
    )


def source_images(group: Dataset) -> Iterator[Dataset]:
    """The items that name a group's image; older reports use the purpose of reference of a document."""
    yield from children(group, codes.SOURCE_IMAGE)
    yield from children(group, codes.SOURCE_OF_DOCUMENT)


def children(item: Dataset, name: Concept) -> Iterator[Dataset]:
    """The content items of this name right below `item`."""
    return (child for child in item.get("ContentSequence") or [] if is_named(child, name))


def is_named(item: Dataset, name: Concept) -> bool:
    code = (item.get("ConceptNameCodeSequence") or [Dataset()])[0]
    return (code.get("CodeValue"), code.get("CodingSchemeDesignator")) == name.key


def _texts(item: Dataset, name: Concept) -> tuple[str, ...]:
    return tuple(str(child.TextValue) for child in children(item, name))


def _text(item: Dataset, name: Concept) -> str | None:
    return next(iter(_texts(item, name)), None)


def _code_key(item: Dataset, name: Concept) -> tuple[str, str] | None:
    for child in children(item, name):
        code = child.ConceptCodeSequence[0]
        return str(code.CodeValue), str(code.CodingSchemeDesignator)
    return None


def _outcome(item: Dataset) -> Outcome:
    key = _code_key(item, codes.PRESENCE)
    if key is None or key not in OUTCOMES:
        raise NotAReport("the Structured Report does not say whether there is hemorrhage")
    return OUTCOMES[key]


def _location(item: Dataset) -> str | None:
    key = _code_key(item, codes.LOCATION)
    return None if key is None else LOCATION_NAMES[key]


def _number(item: Dataset, name: Concept) -> float | None:
    for child in children(item, name):
        return float(child.MeasuredValueSequence[0].NumericValue)
    return None


def _share(item: Dataset, name: Concept) -> float | None:
    number = _number(item, name)
    return None if number is None else number / 100.0


def _count(item: Dataset, name: Concept) -> int:
    return int(_number(item, name) or 0)


def _location_outputs(item: Dataset) -> dict[str, float]:
    shares = {name: _share(item, codes.LOCATION_OUTPUTS[name]) for name in LOCATIONS}
    return {name: share for name, share in shares.items() if share is not None}


def _reference(item: Dataset) -> tuple[str, str, int | None]:
    reference = item.ReferencedSOPSequence[0]
    frame = reference.get("ReferencedFrameNumber")
    return (
        str(reference.ReferencedSOPClassUID),
        str(reference.ReferencedSOPInstanceUID),
        None if frame is None else int(frame),
    )

"""The content tree of a report: TID 1500 with one TID 1501 group for the series and one for every received slice.

Departures from highdicom's own `MeasurementReport`, each because of what real viewers do: every container is SEPARATE
(with CONTINUOUS the item names vanish), every IMAGE item has a concept name (one without crashes a viewer), there is no
Image Library (fifteen lines per slice before the first finding; the evidence sequence lists every image anyway).

TID 1501 is extensible and the order of its rows is not significant (says DCMTK, dcmsr/libcmr/tid1501.cc), so what a
hurried reader needs may come first in a group; the rows of TID 1500 are in the template's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_node import uids
from dicom_node.report import codes, wording
from dicom_node.report.carried import procedure_codes, series_number
from dicom_node.report.codes import Concept
from dicom_node.report.context import ReportContext, Title
from dtvit.findings import LOCATIONS, Outcome, SeriesFindings, SliceFinding

CONTAINS = sr.RelationshipTypeValues.CONTAINS
MODIFIES = sr.RelationshipTypeValues.HAS_CONCEPT_MOD
OBSERVED = sr.RelationshipTypeValues.HAS_OBS_CONTEXT


def content(findings: SeriesFindings, context: ReportContext, source: Dataset) -> Dataset:
    """The root container. `source` is the header of one image, read for the imaging procedure."""
    title = codes.TITLE_VIEWER if context.title == Title.VIEWER else codes.TITLE_MEASUREMENT_REPORT
    measurements = _container(codes.IMAGING_MEASUREMENTS, None, [_conclusion(findings, context, source)])
    for s in findings.slices:
        measurements.ContentSequence.append(_slice(s, context))
    root = sr.ContainerContentItem(name=_code(title), is_content_continuous=False, template_id="1500")
    items = [_coded(codes.LANGUAGE, codes.ENGLISH, MODIFIES), *observer(context)]
    items += [_coded(codes.PROCEDURE_REPORTED, c, MODIFIES) for c in _procedures(source)]
    root.ContentSequence = sr.ContentSequence([*items, measurements], is_root=False)
    return root


def observer(context: ReportContext) -> list[Dataset]:
    """TID 1001/1004: the observer is the node, not a person."""
    return [
        _coded(codes.OBSERVER_TYPE, codes.DEVICE, OBSERVED),
        _uid(codes.DEVICE_UID, context.device_uid, OBSERVED),
        _text(codes.DEVICE_NAME, context.device_name, OBSERVED),
        _text(codes.DEVICE_MANUFACTURER, context.algorithm.manufacturer, OBSERVED),
        _text(codes.DEVICE_MODEL, context.algorithm.name, OBSERVED),
    ]


def _procedures(source: Dataset) -> list[Concept]:
    given = [Concept(*triple, source="the images") for triple in procedure_codes(source)]
    return given or [codes.CT_HEAD]


def _conclusion(findings: SeriesFindings, context: ReportContext, source: Dataset) -> Dataset:
    """The group for the series; what a hurried reader needs comes first."""
    replaces = bool(context.predecessors)
    standing = wording.standing(findings, run=context.run, replaces=replaces, partial_because=context.partial_because)
    number = series_number(source)
    items = [
        *_tracking("Whole series", context.device_uid, str(source.SeriesInstanceUID)),
        _text(codes.CONCLUSION, "\r\n".join(wording.conclusion(findings, *standing, series_number=number))),
        *([_text(codes.NOTICE, context.notice)] if context.notice else []),
        _text(codes.NOT_ASSESSED, wording.NOT_ASSESSED),
        _coded(codes.PRESENCE, codes.PRESENCE_ANSWERS[findings.outcome]),
    ]
    if findings.outcome is Outcome.PRESENT:
        items.append(_coded(codes.FINDING, codes.CEREBRAL_HEMORRHAGE))
        items += _location(findings.location, findings.location_probabilities)
    top = wording.highest(findings)
    if findings.presence is not None and top is not None:
        items.append(_percent(codes.SERIES_OUTPUT, findings.presence))
        items.append(_percent(codes.HIGHEST_OUTPUT, top.presence or 0.0))
    items += [_text(codes.REASON, reason) for reason in dict.fromkeys((*findings.reasons, *findings.limits))]
    items += [
        _count(codes.IMAGES_RECEIVED, len(findings.slices)),
        _count(codes.IMAGES_EVALUATED, len(findings.evaluated)),
    ]
    if findings.evaluated:  # of images that nobody looked at, "0 with hemorrhage" would read as a result
        items.append(_count(codes.IMAGES_POSITIVE, len(findings.positive)))
    if context.partial_because:
        items.append(_text(codes.PARTIAL_BECAUSE, context.partial_because))
    items.append(_text(codes.COMPLETION_RULE, context.completion_rule))
    if replaces:
        items.append(_text(codes.SUPERSEDES, f"Run {context.run}; replaces an earlier report of this series."))
    items += [_coded(codes.CAD_SUMMARY, summary) for summary in _summaries(findings)]
    items += [_image(codes.BEST_ILLUSTRATION, s) for s in wording.best(findings)]
    algorithm = context.algorithm
    items += [
        _text(codes.ALGORITHM_NAME, algorithm.name, MODIFIES),
        _text(codes.ALGORITHM_VERSION, algorithm.version, MODIFIES),
        _text(codes.ALGORITHM_MANUFACTURER, algorithm.manufacturer, MODIFIES),
        *(_text(codes.ALGORITHM_PARAMETERS, line, MODIFIES) for line in algorithm.parameter_lines()),
    ]
    return _container(codes.MEASUREMENT_GROUP, "1501", items)


def _summaries(findings: SeriesFindings) -> list[Concept]:
    """The true statement from CID 6047; none for undetermined, where the algorithm ran but says neither."""
    failed = any(not s.evaluated and s.region not in wording.OUTSIDE for s in findings.slices)
    if findings.outcome is Outcome.PRESENT:
        return [codes.CAD_PARTLY_WITH_FINDINGS if failed else codes.CAD_WITH_FINDINGS]
    if findings.outcome is Outcome.ABSENT:  # then every image of the brain was evaluated
        return [codes.CAD_WITHOUT_FINDINGS]
    return [codes.CAD_NOTHING_SUCCEEDED] if findings.outcome is Outcome.NOT_EVALUATED else []


def _slice(s: SliceFinding, context: ReportContext) -> Dataset:
    """The group for one slice. For one that was left out it says why, and nothing about hemorrhage."""
    name = f"Image {wording.label(s)}"
    items = _tracking(name, context.device_uid, s.sop_instance_uid, str(s.frame or 0))
    if s.left_out is not None:
        items.append(_coded(codes.EVALUABILITY, codes.EVALUABILITIES[s.region]))
        if s.left_out != s.region.value:
            items.append(_text(codes.EVALUABILITY_REASON, s.left_out))
    elif s.presence is not None:
        items.append(_percent(codes.IMAGE_OUTPUT, s.presence))
        items.append(_coded(codes.PRESENCE, codes.PRESENCE_ANSWERS[s.outcome]))
        if s.outcome is Outcome.PRESENT and s.location is not None:
            items += _location(wording.likeliest(s.location), s.location)
    items += [_text(codes.BRACE_REMOVAL, doubt) for doubt in s.doubts]
    items.append(_image(codes.SOURCE_IMAGE, s))
    return _container(codes.MEASUREMENT_GROUP, "1501", items)


def _tracking(name: str, *what: str) -> list[Dataset]:
    """Name and UID of what is tracked; the UID is the same in every report of this node about the same thing."""
    uid = uids.derived("tracking", *what)
    return [_text(codes.TRACKING_IDENTIFIER, name, OBSERVED), _uid(codes.TRACKING_UID, uid, OBSERVED)]


def _location(location: str | None, outputs: Sequence[float] | None) -> list[Dataset]:
    items = [_coded(codes.LOCATION, codes.LOCATION_CLASSES[location])] if location else []
    for name, output in zip(LOCATIONS, outputs or (), strict=bool(outputs)):
        items.append(_percent(codes.LOCATION_OUTPUTS[name], output))
    return items


# --- Content items --------------------------------------------------------------------------------------------------


def _code(concept: Concept) -> Code:
    return Code(concept.value, concept.scheme, concept.meaning)


def _container(name: Concept, template: str | None, items: Sequence[Dataset]) -> Any:
    container = sr.ContainerContentItem(
        name=_code(name), is_content_continuous=False, template_id=template, relationship_type=CONTAINS
    )
    container.ContentSequence = sr.ContentSequence(items, is_root=False)
    return container


def _coded(name: Concept, value: Concept, relationship: Any = CONTAINS) -> Dataset:
    return sr.CodeContentItem(name=_code(name), value=_code(value), relationship_type=relationship)


def _text(name: Concept, value: str, relationship: Any = CONTAINS) -> Dataset:
    return sr.TextContentItem(name=_code(name), value=wording.plain(value), relationship_type=relationship)


def _uid(name: Concept, value: str, relationship: Any) -> Dataset:
    return sr.UIDRefContentItem(name=_code(name), value=highdicom.UID(value), relationship_type=relationship)


def _percent(name: Concept, probability: float) -> Dataset:
    """In % because viewers print a bare unit "1" after the number."""
    return _number(name, round(100.0 * probability, 2), codes.PERCENT)


def _count(name: Concept, value: int) -> Dataset:
    return _number(name, value, codes.IMAGES)


def _number(name: Concept, value: float, unit: Concept) -> Dataset:
    item = sr.NumContentItem(name=_code(name), value=value, unit=_code(unit), relationship_type=CONTAINS)
    item.MeasuredValueSequence[0].NumericValue = f"{value:g}"  # highdicom writes 28 as 28.0
    return item


def _image(name: Concept, s: SliceFinding) -> Dataset:
    return sr.ImageContentItem(
        name=_code(name),
        referenced_sop_class_uid=s.sop_class_uid,
        referenced_sop_instance_uid=s.sop_instance_uid,
        referenced_frame_numbers=None if s.frame is None else [s.frame],
        relationship_type=CONTAINS,
    )

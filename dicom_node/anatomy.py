"""What the slices of a series show together: their order, regions and coverage, and from these the findings.

Slices are judged one by one as they arrive (`store.results`); everything that needs the whole series is here, as
functions of values, and `dtvit` does the judging.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dicom_node.store.results import SliceResult
from dicom_node.store.series import Instance
from dtvit import findings
from dtvit.brain import judging, selection
from dtvit.brain.coverage import assess
from dtvit.brain.regions import assign_regions
from dtvit.findings import SAME_MM, Coverage, Outcome, Region, SeriesFindings, SliceFinding, Thresholds
from dtvit.slabs import weights

PARALLEL = 0.02  # between unit normals: one degree, which moves the rim of a head by 2 mm


@dataclass(frozen=True)
class Cuts:
    """The checkpoint's thresholds for one slice and for the series."""

    slice: Thresholds
    series: Thresholds


def in_order(found: Sequence[SliceResult]) -> list[SliceResult]:
    """From feet to head; slices without a position come last, by number. None is dropped."""

    def key(r: SliceResult) -> tuple[bool, float, int, int, int]:
        number = 2**31 if r.instance_number is None else r.instance_number
        return r.position_mm is None, r.position_mm or 0.0, number, r.instance_id, r.frame

    return sorted(found, key=key)


def regions(ordered: Sequence[SliceResult]) -> list[Region]:
    """What each slice shows. Where one without a position belongs is unknown: it says nothing about its neighbours."""
    known = _with_position(ordered)
    groups = ordered[:known], ordered[known:]
    return [region for group in groups for region in assign_regions([_content(r) for r in group])]


def slabs(ordered: Sequence[SliceResult]) -> list[list[tuple[SliceResult, float]]]:
    """For each slice, those whose mean the model is to see in its place, itself among them, with their weights
    (`dtvit.slabs`)."""
    placed = [r for r in ordered if r.position_mm is not None and r.content is not None]
    around = weights([r.position_mm or 0.0 for r in placed], [r.thickness_mm for r in placed])
    found = {
        (r.instance_id, r.frame): [(placed[j], weight) for j, weight in those.items()]
        for r, those in zip(placed, around, strict=True)
    }
    return [found.get((r.instance_id, r.frame), [(r, 1.0)]) for r in ordered]


def _with_position(ordered: Sequence[SliceResult]) -> int:
    """How many have a position; these come first."""
    return sum(r.position_mm is not None for r in ordered)


def why_no_head(found: Sequence[SliceResult]) -> str | None:
    """Why this is not a head to look at, in words; None if it is one, or if what could not be read may hide one."""
    read = [r for r in in_order(found) if r.content is not None]
    hidden = len(found) - len(read)
    if hidden >= min(judging.HEAD_SLICES, len(found)):
        return None
    return judging.why_no_head([_content(r) for r in read])


def coverage(found: Sequence[SliceResult], instances: Sequence[Instance]) -> Coverage:
    """How much of the brain these slices show, assuming that they are all there is."""
    ordered = in_order(found)
    names = [_name(r) for r in _numbered_apart(ordered)]
    shown = regions(ordered)
    known = _with_position(ordered) or len(ordered)
    evaluated = [region is Region.BRAIN and r.left_out is None for r, region in zip(ordered, shown, strict=True)]
    doubts = [
        *judging.doubts(
            [_content(r) for r in ordered[:known]],
            shown[:known],
            positions_mm=[r.position_mm for r in ordered[:known]],
            named=names[:known],
        ),
        *_repeated(ordered, shown, names),
        *_fanned(found, instances),
        *_apart(found, instances),
    ]
    places = [r.position_mm for r in ordered], [r.thickness_mm for r in ordered]
    return assess(*places, shown, evaluated, doubts, named=names)


def conclude(
    found: Sequence[SliceResult],
    instances: Sequence[Instance],
    *,
    ruled_out: Mapping[int, str],
    cuts: Cuts,
    whole: bool,
) -> SeriesFindings:
    """The findings for a series; `ruled_out`: instances (by id) that are not slices of it, and why."""
    of_id = {i.id: i for i in instances}
    ordered = in_order([r for r in found if r.instance_id not in ruled_out])
    slices = [
        _finding(result, of_id[result.instance_id], region, cuts.slice)
        for result, region in zip(_numbered_apart(ordered), regions(ordered), strict=True)
    ]
    slices += [_left_out(of_id[i], why) for i, why in ruled_out.items()]
    return findings.conclude(slices, coverage(ordered, instances), cuts.series, whole=whole)


def _numbered_apart(found: Sequence[SliceResult]) -> list[SliceResult]:
    """Without the numbers that several share, which identify none. Some senders give all images the same one, and the
    parts of a concatenation (PS3.3 7.5.1) may share one while each counts its own frames."""
    often = Counter((r.instance_number, r.frame) for r in found)
    return [r if often[r.instance_number, r.frame] == 1 else replace(r, instance_number=None) for r in found]


def _name(result: SliceResult) -> str | None:
    """What the report calls the image, so that a reader can find it."""
    if result.instance_number is None:
        return None
    return f"{result.instance_number}/{result.frame}" if result.frame else str(result.instance_number)


def _fanned(found: Sequence[SliceResult], instances: Sequence[Instance]) -> list[str]:
    """Slices that are not parallel leave wedges between them, which positions along a normal do not show.

    A slice that could not be read has none of its own but its header's: of a multi-frame image, that of most frames.
    """
    of_header = {i.id: i.facts.normal for i in instances}
    normals = [n for r in found if (n := r.normal or of_header.get(r.instance_id)) is not None]
    if not normals or all(math.dist(normals[0], n) < PARALLEL for n in normals):
        return []
    return ["the slices are not parallel, so brain between them may not be shown"]


def _apart(found: Sequence[SliceResult], instances: Sequence[Instance]) -> list[str]:
    """A series has one frame of reference (PS3.3 C.7.4.1.1.1). Between two, as when the patient was repositioned, equal
    positions are not the same place, and what lies between neighbours is not known."""
    of_header = {i.id: i.facts.frame_of_reference for i in instances}
    named = {of_header.get(r.instance_id) for r in found} - {None}
    if len(named) < 2:
        return []
    return [f"the slices have {len(named)} frames of reference: their positions cannot be compared"]


def _repeated(ordered: Sequence[SliceResult], shown: Sequence[Region], names: Sequence[str | None]) -> list[str]:
    """Brain that measures the same to the last digit at two places is one picture, and one of the places is not shown:
    no two slices have the same noise."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for i, (result, region) in enumerate(zip(ordered, shown, strict=True)):
        if region is Region.BRAIN and result.content is not None and result.position_mm is not None:
            alike.setdefault(tuple(sorted(result.content.items())), []).append(i)
    places = [[ordered[i].position_mm or 0.0 for i in same] for same in alike.values()]
    found = [same for same, mm in zip(alike.values(), places, strict=True) if max(mm) - min(mm) > SAME_MM]
    if not found:
        return []
    at = sorted(i for same in found for i in same)
    return [f"{len(at)} slices hold the same picture as a slice at another position{judging.images(at, names)}"]


def nothing_evaluated(instances: Sequence[Instance], reason: str) -> SeriesFindings:
    """Findings for a series that could not be processed: every slice is left out for the same reason."""
    none = Coverage(complete=False, extent_mm=0.0, lower_end_seen=False, upper_end_seen=False)
    slices = tuple(_left_out(i, reason) for i in instances)
    return SeriesFindings(Outcome.NOT_EVALUATED, None, None, None, slices, none, (reason,))


def _finding(result: SliceResult, instance: Instance, region: Region, cuts: Thresholds) -> SliceFinding:
    left_out = result.left_out
    if left_out is None and region is not Region.BRAIN:
        left_out = region.value
    evaluated = left_out is None and result.presence is not None
    return SliceFinding(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        instance_number=result.instance_number,
        position_mm=result.position_mm,
        region=region,
        outcome=cuts.judge(result.presence or 0.0) if evaluated else Outcome.NOT_EVALUATED,
        presence=result.presence if evaluated else None,
        location=result.location if evaluated else None,
        left_out=left_out,
        frame=result.frame or None,
        doubts=result.doubts,
        averaged=result.averaged if evaluated else 1,
    )


def _left_out(instance: Instance, reason: str) -> SliceFinding:
    return SliceFinding(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        instance_number=instance.facts.instance_number,
        position_mm=instance.facts.position_mm,
        region=Region.UNKNOWN,
        outcome=Outcome.NOT_EVALUATED,
        left_out=reason,
    )


def _content(result: SliceResult) -> selection.SliceContent | None:
    return None if result.content is None else selection.SliceContent(**result.content)

"""The slices of one series that show brain, as pictures: what the node would give the model, before scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from dicom_node import anatomy
from dicom_node.logs import trace
from dicom_node.preparing.finding import Instance
from dicom_node.store.results import SliceResult
from dtvit import ct, preprocess, slabs, turning
from dtvit.findings import Region
from dtvit.reading.headervalues import UnreadableSlice


@dataclass(frozen=True)
class Picture:
    """One slice."""

    instance: Instance
    frame: int
    """1-based frame of a multi-frame image, 0 for a single-frame one."""
    pixels: npt.NDArray[np.uint8]
    """(row, column): 0..255 for 0..80 HU, 0 outside the head, nose up."""


@dataclass(frozen=True)
class Drawn:
    pictures: tuple[Picture, ...]
    """From feet to head; none where the series is not a head."""
    unreadable: tuple[tuple[Instance, str], ...]


@dataclass(frozen=True)
class _Read:
    slice: ct.CTSlice
    prepared: preprocess.Prepared


def draw(instances: Sequence[Instance], mode: str) -> Drawn:
    """Read, clean, sort and choose the slices of a series; a fault costs only the slice it is in."""
    read: dict[tuple[int, int], _Read] = {}
    results: list[SliceResult] = []
    unreadable: list[tuple[Instance, str]] = []
    for number, instance in enumerate(instances):
        found, faults = _frames(instance, mode)
        unreadable += [(instance, fault) for fault in faults]
        facts = instance.header.facts
        gap = SliceResult(number, 0, facts.instance_number, facts.position_mm, facts.thickness_mm, None, "unreadable")
        results += [gap] * len(faults)  # they keep their place in the series
        for one in found:
            read[number, one.slice.frame or 0] = one
            results.append(_result(number, one))
    if not read or anatomy.why_no_head(results) is not None:
        return Drawn((), tuple(unreadable))
    ordered = _refined(anatomy.in_order(results), read, mode)
    pictures = tuple(
        Picture(
            *(instances[r.instance_id], r.frame),
            _pixels(read[r.instance_id, r.frame], [(read[each.instance_id, each.frame], w) for each, w in slab]),
        )
        for r, region, slab in zip(ordered, anatomy.regions(ordered), anatomy.slabs(ordered), strict=True)
        if region is Region.BRAIN and r.content is not None
    )
    return Drawn(pictures, tuple(unreadable))


def faults(instances: Sequence[Instance], mode: str) -> list[tuple[Instance, str]]:
    """What keeps images, or frames of them, from being read as things are now; nothing where all can be."""
    return [(instance, fault) for instance in instances for fault in _frames(instance, mode)[1]]


def _frames(instance: Instance, mode: str) -> tuple[list[_Read], list[str]]:
    """Every frame that could be prepared, and the reasons for those that could not."""
    try:
        image = ct.CTObject(instance.path)
    except UnreadableSlice as exc:
        return [], [str(exc)]
    found, faults = [], []
    for index in range(len(image)):
        try:
            one = image.slice(index)
            found.append(_Read(one, preprocess.prepare(one, mode)))
        except UnreadableSlice as exc:
            faults.append(str(exc))
        except Exception as exc:  # noqa: BLE001 - outermost line of one slice: the others are looked at
            faults.append(f"could not be prepared ({trace(exc)})")
    return found, faults


def _refined(ordered: Sequence[SliceResult], read: dict[tuple[int, int], _Read], mode: str) -> list[SliceResult]:
    """Look over the complete series once more (`preprocess.refine`); `read` gets what that changes."""
    keys = [(r.instance_id, r.frame) for r in ordered if r.content is not None and r.position_mm is not None]
    if mode == "paper":
        return list(ordered)
    before = [read[key] for key in keys]
    after = preprocess.refine([one.slice for one in before], [one.prepared for one in before], mode)
    for key, one, prepared in zip(keys, before, after, strict=True):
        read[key] = _Read(one.slice, prepared)
    return [
        r if r.content is None else replace(r, content=asdict(read[r.instance_id, r.frame].prepared.content))
        for r in ordered
    ]


def _result(number: int, one: _Read) -> SliceResult:
    position = one.slice.position_mm
    return SliceResult(
        instance_id=number,
        frame=one.slice.frame or 0,
        instance_number=one.slice.instance_number,
        position_mm=position if position is not None and math.isfinite(position) else None,
        thickness_mm=one.slice.thickness_mm,
        content=asdict(one.prepared.content),
    )


def _pixels(one: _Read, members: Sequence[tuple[_Read, float]]) -> npt.NDArray[np.uint8]:
    """`members`: of its slab, with their weights."""
    hu = slabs.slab(one.slice, [(each.slice, weight) for each, weight in members]).hu
    return turning.upright(preprocess.picture(hu, one.prepared.mask), one.slice.orientation)

"""Which series is a head CT to look at? First by headers (here), then by content (the worker, `dtvit.brain.selection`).

Every refusal is worded for a PACS administrator. Image Type alone decides nothing: lossy compression makes an image
DERIVED\\SECONDARY, and many sites send their 5 mm brain series as an axial reformat.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from statistics import median
from typing import Protocol

from dicom_node.config import Eligibility
from dicom_node.headers.facts import Facts
from dicom_node.headers.header import CT_IMAGE_STORAGE
from dtvit.reading.headervalues import HU_TYPES

AGAIN_AND_AGAIN = 5  # images per place; perfusion has 20 or more, several reconstructions in one series two or three
# A head takes a minute, and one repeated for motion, or with contrast, follows soon
ANOTHER_SCAN = timedelta(minutes=30)


class Member(Protocol):
    """What matters here about one instance of the series."""

    @property
    def facts(self) -> Facts: ...

    @property
    def ruled_out(self) -> str | None:
        """What the function `ruled_out` said when the instance arrived."""


@dataclass(frozen=True)
class ByHeader:
    """A member of which nothing but the header is known."""

    facts: Facts
    ruled_out: str | None


@dataclass(frozen=True)
class Candidate:
    """An eligible series of a study: what the choice among several needs."""

    series_id: int
    thickness_mm: float | None
    slices: int
    kernel_known: bool
    series_number: int | None


def ruled_out(sop_class_uid: str, facts: Facts, rules: Eligibility) -> str | None:
    """Why this instance, by its own header, is not a slice to look at; None if it may be one."""
    if sop_class_uid not in CT_IMAGE_STORAGE:
        return "not a CT image (by its SOP class)"
    if facts.modality is not None and facts.modality.upper() != "CT":
        return f"modality is {_term(facts.modality)}, not CT"
    for where, said in (("Image Type", facts.image_type), ("Series Description", facts.described)):
        if refused := _words(rules.refused_image_types).search("\\".join(said)):
            return f"{where} says {refused.group()}"
    if facts.coloured:
        return "the pixels are coloured"
    if facts.unit is not None and facts.unit.upper() not in HU_TYPES:
        return f"Rescale Type says {_term(facts.unit)}: not Hounsfield units"
    tilt = facts.tilt_deg
    if tilt is not None and tilt > rules.max_tilt_deg:
        return f"not axial: {tilt:.0f} degrees from the axial plane"
    if facts.contrast and not rules.contrast:
        return "contrast agent given"
    if facts.age_years is not None and facts.age_years < rules.min_age_years:
        return f"the patient is under {rules.min_age_years} years old"
    if facts.kernel and _matches(facts.kernel, rules.refused_kernels):
        return f"not a soft-tissue kernel: {facts.kernel}"
    if facts.body_part and _matches(facts.body_part, rules.refused_body_parts):
        return f"body part is {facts.body_part}"
    return None


def _term(told: str) -> str:
    """Reasons are logged, and what is too long for a term, or has the ^ of a name (PS3.5 6.2), may be a name."""
    return told if len(told) <= 16 and "^" not in told else "?"


def judge(members: Sequence[Member], rules: Eligibility) -> str | None:
    """Why the series is not eligible by its headers, or None if it is."""
    reasons = Counter(m.ruled_out for m in members if m.ruled_out)
    usable = [m for m in members if m.ruled_out is None]
    if not usable:
        return reasons.most_common(1)[0][0] if reasons else "no instance was received"
    slices = sum(m.facts.frames for m in usable)
    if slices < rules.min_slices:
        said = "1 slice" if slices == 1 else f"{slices} slices"
        return f"only {said}; eligibility.min_slices requires {rules.min_slices}"
    thickness = typical_thickness(usable)
    if thickness is not None and not rules.min_thickness_mm <= thickness <= rules.max_thickness_mm:
        return (
            f"slices are {thickness:g} mm thick; eligibility allows "
            f"{rules.min_thickness_mm:g} to {rules.max_thickness_mm:g} mm"
        )
    return _not_moving_on(usable)


def _not_moving_on(usable: Sequence[Member]) -> str | None:
    """Why this is not a volume but a few places over time, as contrast passes through; few headers say so."""
    places = Counter(round(mm, 1) for m in usable if m.facts.frames == 1 and (mm := m.facts.position_mm) is not None)
    each = median(places.values()) if places else 0
    if each < AGAIN_AND_AGAIN:
        return None
    if len(places) == 1:
        return f"all {each:g} images are at one position: bolus tracking, or their positions are wrong"
    return f"{each:g} images at each of {len(places)} positions: perfusion, not a volume"


def typical_thickness(members: Sequence[Member]) -> float | None:
    known = [m.facts.thickness_mm for m in members if m.facts.thickness_mm is not None]
    return median(known) if known else None


def candidate(series_id: int, members: Sequence[Member]) -> Candidate:
    usable = [m for m in members if m.ruled_out is None]
    numbers = [m.facts.series_number for m in usable if m.facts.series_number is not None]
    return Candidate(
        series_id,
        typical_thickness(usable),
        slices=sum(m.facts.frames for m in usable),
        kernel_known=any(m.facts.kernel for m in usable),
        series_number=min(numbers, default=None),
    )


def is_another_scan(members: Sequence[Member], others: Sequence[Member]) -> bool:
    """Whether these two series of one study come from scans at different times, as before and after an operation, and
    are not reconstructions of one scan; where the headers do not say, they are taken for the latter."""
    here, there = (
        min((datetime.fromisoformat(m.facts.acquired) for m in of if m.facts.acquired), default=None)
        for of in (members, others)
    )
    return here is not None and there is not None and abs(here - there) > ANOTHER_SCAN


def choose(candidates: Sequence[Candidate], rules: Eligibility) -> Candidate:
    """Of several eligible series of one scan, the one that gives its result.

    In this order: a known (and so not refused) kernel, a thickness near the preferred one, more slices, the lower
    series number, the one that came first.
    """

    def rank(c: Candidate) -> tuple[bool, float, int, int, int]:
        off = float("inf") if c.thickness_mm is None else abs(c.thickness_mm - rules.preferred_thickness_mm)
        number = 2**31 if c.series_number is None else c.series_number
        return not c.kernel_known, round(off, 1), -c.slices, number, c.series_id

    return min(candidates, key=rank)


@lru_cache(maxsize=4)
def _words(said: tuple[str, ...]) -> re.Pattern[str]:
    """Each word alone or among others (a projection is MIP, CSA MIP THIN, MIP_TRA), in any spelling (MIN IP, MIN_IP,
    MINIP). Matches nothing where there are none."""
    parts = [re.split(r"[ _-]+", one.strip().upper()) for one in said if one.strip()]
    alternatives = "|".join("[ _-]*".join(map(re.escape, each)) for each in parts) or r"(?!)"
    return re.compile(rf"(?<![A-Z0-9])(?:{alternatives})(?![A-Z0-9])")


@lru_cache(maxsize=256)  # the images of a series all say the same
def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    """Matches the whole value, ignoring case; a multi-valued attribute matches by its first value."""
    first = value.split("\\")[0].strip()
    return any(re.fullmatch(pattern, first, re.IGNORECASE) for pattern in patterns)

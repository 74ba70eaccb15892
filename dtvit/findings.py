"""What was found: values for a slice and for a series, and the rule that leads from one to the other.

Plain data and pure functions; no DICOM, no torch. A slice that was not looked at is never "absent": it is left out,
with the reason, and one such slice inside the brain keeps the whole series from being "absent" (see `conclude`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

LOCATIONS = ("deep", "lobar", "subtentorial")
"""Classes of the location head, in its output order (Fan et al. 2024, section 2.1)."""
RUN_LENGTH = 2  # one slice alone is often a calcification or noise; 5 mm slices show a bleed of 5 ml at least twice
RUN_MM = 7.0  # from the first to the last slice of a run: two of 5 mm, or as many thinner ones as lie within
SAME_MM = 0.05  # closer than any two slices at different positions
REASONS_TOLD = 4  # in the conclusion; each image has its own


class Outcome(StrEnum):
    """Answer to "is there intracerebral hemorrhage?"; the last two are answers of their own, not kinds of absent."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"
    NOT_EVALUATED = "not evaluated"


class Region(StrEnum):
    """What a slice shows, from feet to head. Only `BRAIN` slices are put to the model."""

    BELOW_BRAIN = "below the brain"  # neck, face, skull base without brain
    BRAIN = "brain"
    ABOVE_BRAIN = "above the brain"  # vertex: scalp and bone, no brain
    NO_HEAD = "no head"  # air, or the holder alone
    UNKNOWN = "unknown"  # could not be read


@dataclass(frozen=True)
class Thresholds:
    """Two cuts in a probability: below `absent_below` absent, at or above `present_at` present, else undetermined."""

    absent_below: float
    present_at: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.absent_below <= self.present_at <= 1.0:
            raise ValueError(
                "thresholds must satisfy 0 <= absent_below <= present_at <= 1, "
                f"got {self.absent_below} and {self.present_at}"
            )

    def judge(self, probability: float) -> Outcome:
        if not math.isfinite(probability):
            raise ValueError(f"a probability must be a finite number, got {probability}")
        if probability >= self.present_at:
            return Outcome.PRESENT
        return Outcome.ABSENT if probability < self.absent_below else Outcome.UNDETERMINED


@dataclass(frozen=True)
class SliceFinding:
    """One slice of the series: looked at (`presence` and `location` are set) or left out (`left_out` says why)."""

    sop_class_uid: str
    sop_instance_uid: str
    instance_number: int | None
    position_mm: float | None
    """Along the slice normal, growing from feet to head; None if the slice has no usable geometry."""
    region: Region
    outcome: Outcome
    presence: float | None = None
    """Probability of intracerebral hemorrhage, 0..1."""
    location: tuple[float, float, float] | None = None
    """Probabilities in the order of `LOCATIONS`, summing to 1; meaningful only where hemorrhage is present."""
    left_out: str | None = None
    frame: int | None = None
    """1-based frame of a multi-frame image, None for a single-frame one."""
    doubts: tuple[str, ...] = ()
    """What was doubtful about finding the head in this slice, in words; it may be evaluated all the same."""
    averaged: int = 1
    """Of how many slices the model saw the mean: more than this one where slices are thin (`dtvit.slabs`)."""

    @property
    def evaluated(self) -> bool:
        return self.left_out is None


@dataclass(frozen=True)
class Coverage:
    """How much of the brain the slices show. `complete` is what Absent needs; `gaps` says in words what is missing."""

    complete: bool
    extent_mm: float
    lower_end_seen: bool
    upper_end_seen: bool
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeriesFindings:
    """The conclusion for a series and all that it rests on; what a report says, and no more."""

    outcome: Outcome
    presence: float | None
    """The series output, 0..1: see `conclude`; None when nothing was evaluated."""
    location: str | None
    """One of `LOCATIONS` when the outcome is present, else None."""
    location_probabilities: tuple[float, float, float] | None
    slices: tuple[SliceFinding, ...]
    """Every received slice, from feet to head."""
    coverage: Coverage
    reasons: tuple[str, ...] = ()
    """Why the outcome is not a plain present or absent, or what limits it, one sentence each."""
    limits: tuple[str, ...] = ()
    """What a reader must know about the images whatever the outcome, which it does not change; one sentence each."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SeriesFindings:
        """The findings whose `dataclasses.asdict` went through JSON."""
        slices = (
            SliceFinding(
                **{
                    **one,
                    "region": Region(one["region"]),
                    "outcome": Outcome(one["outcome"]),
                    "location": _three(one["location"]),
                    "doubts": tuple(one.get("doubts", ())),
                }
            )
            for one in values["slices"]
        )
        coverage = values["coverage"]
        return cls(
            outcome=Outcome(values["outcome"]),
            presence=values["presence"],
            location=values["location"],
            location_probabilities=_three(values["location_probabilities"]),
            slices=tuple(slices),
            coverage=Coverage(**{**coverage, "gaps": tuple(coverage["gaps"])}),
            reasons=tuple(values["reasons"]),
            limits=tuple(values.get("limits", ())),
        )

    @property
    def evaluated(self) -> tuple[SliceFinding, ...]:
        return tuple(s for s in self.slices if s.evaluated)

    @property
    def positive(self) -> tuple[SliceFinding, ...]:
        return tuple(s for s in self.slices if s.outcome is Outcome.PRESENT)


def _three(values: Sequence[float] | None) -> tuple[float, float, float] | None:
    return None if values is None else (values[0], values[1], values[2])


def series_output(slices: Sequence[SliceFinding]) -> float | None:
    """The highest mean probability over a run of neighbouring evaluated slices, ordered feet to head.

    A run has at least `RUN_LENGTH` slices (all, if there are fewer) and goes on as far as `RUN_MM`: what shows in two
    slices of 1 mm may be as little as what shows in one of 5 mm. Slices at one position count as one.
    """
    places = _places(slices)
    return max((sum(run) / len(run) for run in _runs(places)), default=None)


def _places(slices: Sequence[SliceFinding]) -> list[tuple[float | None, float]]:
    """Position and mean probability of the evaluated slices that share it; one without a position is by itself."""
    found: list[tuple[float | None, list[float]]] = []
    for one in slices:
        if one.presence is None:
            continue
        before = found[-1][0] if found else None
        if one.position_mm is not None and before is not None and one.position_mm - before <= SAME_MM:
            found[-1][1].append(one.presence)
        else:
            found.append((one.position_mm, [one.presence]))
    return [(position, sum(presences) / len(presences)) for position, presences in found]


def _runs(places: Sequence[tuple[float | None, float]]) -> Iterator[list[float]]:
    """Each run that is no part of a longer one."""
    end = 0
    for begin, (first, _) in enumerate(places):
        before, end = end, max(end, min(begin + RUN_LENGTH, len(places)))
        while end < len(places) and _within(first, places[end][0]):
            end += 1
        if end > before:
            yield [presence for _, presence in places[begin:end]]


def _within(first: float | None, last: float | None) -> bool:
    return first is not None and last is not None and last - first <= RUN_MM


def _location(slices: Sequence[SliceFinding]) -> tuple[float, float, float] | None:
    """Location probabilities over the positive slices, or, if none is positive by itself, over those that come nearest;
    each weighted by how sure the model is that it shows blood."""
    votes = [(s.presence, s.location, s.outcome is Outcome.PRESENT) for s in slices if s.presence and s.location]
    voters = [vote for vote in votes if vote[2]] or sorted(votes, key=lambda vote: -vote[0])[:RUN_LENGTH]
    if not voters:
        return None
    total = sum(weight for weight, _, _ in voters)
    deep, lobar, subtentorial = (
        sum(weight * places[i] for weight, places, _ in voters) / total for i in range(len(LOCATIONS))
    )
    return deep, lobar, subtentorial


def conclude(
    slices: Sequence[SliceFinding], coverage: Coverage, thresholds: Thresholds, *, whole: bool = True
) -> SeriesFindings:
    """From slices, ordered feet to head, to the series.

    Nothing evaluated: not evaluated. Otherwise the series output is compared with the two series thresholds; "absent"
    is given only if the brain was covered without a gap and the series is known to be `whole`, else it becomes
    undetermined.
    """
    output = series_output(slices)
    ordered = tuple(slices)
    if output is None:
        why = list(dict.fromkeys(s.left_out for s in ordered if s.left_out)) or ["no slice was received"]
        if len(why) > REASONS_TOLD:  # as when each states a different number of bytes
            why[REASONS_TOLD - 1 :] = [f"{len(why) - REASONS_TOLD + 1} further reasons, given with each image"]
        return SeriesFindings(Outcome.NOT_EVALUATED, None, None, None, ordered, coverage, tuple(why))
    outcome = thresholds.judge(output)
    reasons: list[str] = []
    if outcome is Outcome.UNDETERMINED:
        reasons.append("the output lies between the two thresholds")
    limits = list(coverage.gaps)
    if not coverage.complete and not limits:
        limits.append("the brain was not covered from skull base to vertex")
    if not whole:
        limits.append("the series is not known to be complete")
    if outcome is Outcome.ABSENT and limits:
        outcome = Outcome.UNDETERMINED
    if outcome is Outcome.ABSENT and any(s.outcome is Outcome.PRESENT for s in ordered):
        outcome = Outcome.UNDETERMINED
        reasons.append("one image alone reaches the threshold for present, but its neighbours do not")
    reasons += limits
    if outcome is not Outcome.PRESENT:
        return SeriesFindings(outcome, output, None, None, ordered, coverage, tuple(reasons))
    probabilities = _location(ordered)
    location = LOCATIONS[max(range(len(LOCATIONS)), key=probabilities.__getitem__)] if probabilities else None
    return SeriesFindings(outcome, output, location, probabilities, ordered, coverage, tuple(reasons))

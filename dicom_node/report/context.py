"""What a report says besides the findings: who made it, when, with what, and which series it is in. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from dtvit.findings import Outcome, SeriesFindings


class Title(StrEnum):
    """The root title. A viewer's text pane needs `VIEWER`; IHE AIR, strictly, asks for `MEASUREMENT_REPORT`."""

    VIEWER = "viewer"
    MEASUREMENT_REPORT = "imaging-measurement-report"


class UnusableFindings(ValueError):
    """A value in the findings is not a number, or they contradict themselves: the job failed, nothing to report."""


@dataclass(frozen=True)
class Algorithm:
    """Strings for both TID 4019 and Contributing Equipment: what it takes to repeat the result."""

    name: str
    version: str
    manufacturer: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Weights digest, thresholds, window, preprocessing and the like, in reporting order."""

    def parameter_lines(self) -> tuple[str, ...]:
        return tuple(f"{key} = {value}" for key, value in self.parameters.items())


@dataclass(frozen=True)
class Reference:
    """How an object names one that the node made earlier: a report that it replaces, or whatever is withdrawn."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class ReportContext:
    """All that `build` needs besides headers and findings; the same context gives the same bytes."""

    device_uid: str
    """UID of this node, made at its first start."""
    device_name: str
    """AE title of this node."""
    sop_instance_uid: str
    series_instance_uid: str
    """One report, one series: viewers show only one object of a series."""
    content_datetime: datetime
    """When the result was made; with a time zone."""
    algorithm: Algorithm
    completion_rule: str
    """Why the node considered the series complete, in words."""
    series_number: int
    whole: bool = True
    partial_because: str | None = None
    """Why the series is not known to be whole; set where `whole` is false."""
    run: int = 1
    predecessors: tuple[Reference, ...] = ()
    """What it supersedes, the newest first."""
    notice: str | None = None
    """Placed right after the conclusion, such as NOT FOR CLINICAL USE and why."""
    title: Title | str = Title.VIEWER

    def __post_init__(self) -> None:
        if self.content_datetime.utcoffset() is None:
            raise ValueError("content_datetime needs a time zone")
        if not self.whole and not self.partial_because:
            raise ValueError("a partial report must say why it is partial")
        Title(self.title)


def check_findings(findings: SeriesFindings) -> None:
    """Raises `UnusableFindings` where a number is not finite or a statement contradicts another."""
    numbers = [findings.presence, *(findings.location_probabilities or ())]
    for s in findings.slices:
        numbers += [s.presence, *(s.location or ())]
        if s.evaluated != (s.presence is not None):
            raise UnusableFindings("a slice must have an output if it was evaluated, and only then")
        if s.evaluated == (s.outcome is Outcome.NOT_EVALUATED):
            raise UnusableFindings("the outcome of a slice contradicts whether it was evaluated")
    if any(n is not None and not 0.0 <= n <= 1.0 for n in numbers):  # nor is NaN
        raise UnusableFindings("an output is not a number between 0 and 1; nothing may be reported from it")
    if (findings.presence is None) != (findings.outcome is Outcome.NOT_EVALUATED):
        raise UnusableFindings("a series must have an output if anything was evaluated, and only then")
    if findings.outcome is not Outcome.PRESENT and findings.location is not None:
        raise UnusableFindings("a location may be given only where hemorrhage is present")

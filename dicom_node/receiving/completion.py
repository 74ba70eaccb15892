"""When is a series complete? No prefix of it proves its end, so the first of three rules to fire decides:

    count     as many instances as a PACS said there are
    covered   quiet for a short while, no association open, and contiguous slices show the brain from end to end
    silence   quiet for long

Pure functions of values; the clock comes in as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.config import Completion
from dicom_node.store.tables import CompletionRule
from dtvit.findings import Coverage


@dataclass(frozen=True)
class Decision:
    rule: CompletionRule
    whole: bool
    """False where fewer instances arrived than announced; what the geometry says is judged with the slices."""


def decide(
    *,
    now: float,
    last_at: float,
    received: int,
    expected: int | None,
    association_open: bool,
    coverage: Coverage | None,
    waits: Completion,
) -> Decision | None:
    """The rule that fires now, or None. `coverage` is None while a received slice has not been looked at."""
    quiet_s = now - last_at
    if expected is not None and received >= expected:
        return Decision(CompletionRule.COUNT, whole=True)
    none_missing = expected is None
    covered = coverage is not None and coverage.complete and coverage.extent_mm >= waits.min_cover_mm
    if covered and quiet_s >= waits.settle_s and not association_open and none_missing:
        return Decision(CompletionRule.COVERED, whole=True)
    if quiet_s >= waits.silence_s:
        return Decision(CompletionRule.SILENCE, whole=none_missing)
    return None

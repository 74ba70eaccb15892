"""When a series is complete: the rule that fires, and what it can vouch for."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.config import Completion
from dicom_node.receiving.completion import Decision, decide
from dicom_node.store.tables import CompletionRule
from dtvit.findings import Coverage

WAITS = Completion(settle_s=2, silence_s=30, min_cover_mm=100)
WHOLE = Coverage(complete=True, extent_mm=130.0, lower_end_seen=True, upper_end_seen=True)
GAP = Coverage(complete=False, extent_mm=130.0, lower_end_seen=True, upper_end_seen=True, gaps=("a gap",))
SHORT = Coverage(complete=True, extent_mm=90.0, lower_end_seen=True, upper_end_seen=True)


def decision(quiet_s: float, **given: Any) -> Decision | None:
    values: dict[str, Any] = {"received": 30, "expected": None, "association_open": False, "coverage": None}
    return decide(now=1000.0 + quiet_s, last_at=1000.0, **{"waits": WAITS} | values | given)


def test_a_count_that_is_reached_completes_at_once() -> None:
    assert decision(0.0, expected=30) == Decision(CompletionRule.COUNT, whole=True)
    assert decision(0.0, expected=30, received=31) == Decision(CompletionRule.COUNT, whole=True)
    assert decision(0.0, expected=31) is None


@pytest.mark.parametrize(
    ("quiet_s", "given", "rule"),
    [
        (1.9, {"coverage": WHOLE}, None),
        (2.0, {"coverage": WHOLE}, CompletionRule.COVERED),
        (2.0, {"coverage": WHOLE, "association_open": True}, None),
        (2.0, {"coverage": GAP}, None),
        (2.0, {"coverage": SHORT}, None),
        (2.0, {"coverage": None}, None),
        (2.0, {"coverage": WHOLE, "expected": 31}, None),
    ],
)
def test_covered_and_settled_completes_only_when_nothing_speaks_against_it(
    quiet_s: float, given: dict[str, Any], rule: CompletionRule | None
) -> None:
    found = decision(quiet_s, **given)
    assert (found and found.rule) == rule


@pytest.mark.parametrize("coverage", [None, GAP, WHOLE])
@pytest.mark.parametrize("association_open", [True, False])
def test_long_silence_completes_whatever_else_there_is(coverage: Coverage | None, association_open: bool) -> None:
    assert decision(30.0, coverage=coverage, association_open=association_open) is not None


def test_fewer_than_announced_are_never_vouched_for() -> None:
    assert decision(30.0, expected=31) == Decision(CompletionRule.SILENCE, whole=False)
    assert decision(30.0) == Decision(CompletionRule.SILENCE, whole=True)


@pytest.mark.parametrize(("least_mm", "found"), [(90.0, Decision(CompletionRule.COVERED, whole=True)), (90.1, None)])
def test_coverage_counts_from_the_configured_extent(least_mm: float, found: Decision | None) -> None:
    waits = Completion(settle_s=2, silence_s=30, min_cover_mm=least_mm)
    assert decision(2.0, coverage=SHORT, waits=waits) == found

"""A short run of the specification in `lifecycle`; `make life` runs thousands of sequences. And that it speaks of
something: that a plain day in it ends as plain days end."""

from __future__ import annotations

from lifecycle import live


def test_whatever_happens_each_scan_ends_with_one_current_result() -> None:
    done = live(examples=60, steps=30, shrinks=False, derandomize=True)
    assert done["sequences"] >= 60
    assert min(done[what] for what in ("absent", "objects stored", "plain studies", "retried", "withdrawn")) > 0
    assert done["died between transactions"] > 0

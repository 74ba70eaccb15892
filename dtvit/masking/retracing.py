"""Second look of the `robust` mode of brace removal, over a finished series: where the neighbours say otherwise.

A slice by itself cannot tell the vertex from a thick cup beside it, a hand at the jaw, or the holder alone. What is
head in the thickest slice leads from there to both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dtvit.masking.morphology import Fast, Mask, sizes

VAULT_MM = 25.0  # depth of a slice in which the head is one solid piece, even in a small child
FOLLOWS = 0.5  # share of a part that lies within the neighbouring slice's head
SHELL_MM = 6.0  # half the thickness of a shell, after erosion, that no part of the head follows
DRIFT_MM = 6.0  # how far outlines move from slice to slice, tilt and growing face included
SOLID_MM = 12.0  # half the thickness of what is not a shell: a head, if it lies within that of the thickest slice
DEEPEST_MM = 100.0  # no head is 20 cm thick in every direction; a slice of one grey is


@dataclass(frozen=True, eq=False)
class Trace:
    """What the neighbours need to know of a slice."""

    labels: npt.NDArray[np.uint8]
    """(row, column) of the parts, on cells of about 2 mm; 0 is background."""
    cell_mm: tuple[float, float]
    depths_mm: tuple[float, ...]
    """Of part 1, 2, ...: half its greatest thickness."""
    accepted: frozenset[int]


def retrace(traces: Sequence[Trace]) -> list[frozenset[int]]:
    """The parts to accept in each slice of a series, ordered along it: what follows from its thickest slice outwards.

    Nothing changes if no slice is a solid vault, or where matrix or pixels change from slice to slice. A slice that is
    spoiled, as by a transfer that broke off, does not affect those beyond it.
    """
    chosen = [trace.accepted for trace in traces]
    depth = [0.0 if (mm := _depth(trace)) > DEEPEST_MM else mm for trace in traces]
    if not depth or max(depth) < VAULT_MM:
        return chosen
    start = depth.index(max(depth))
    outwards = range(start + 1, len(traces)), range(start - 1, -1, -1)
    inwards = range(len(traces) - 2, start, -1), range(1, start)  # for what only the slice beyond shows: a nose
    for way in filter(None, outwards):
        _follow(traces, chosen, way, anew=True)
    for way in filter(None, inwards):
        _follow(traces, chosen, way, anew=False)
    return chosen


def _follow(traces: Sequence[Trace], chosen: list[frozenset[int]], way: range, *, anew: bool) -> None:
    """Choose along `way` what follows from the slice before it: `anew`, or in addition to what was already chosen."""
    start = way.start - way.step
    before, seen = traces[start], _within(traces[start], chosen[start])
    thickest = seen
    for i in way:
        trace = traces[i]
        if trace.labels.shape != before.labels.shape or trace.cell_mm != before.cell_mm:
            return
        following = _following(trace, seen)
        if anew and _depth(trace) >= SOLID_MM and not following & trace.accepted:  # the slice before may be spoiled
            following = _following(trace, thickest) & trace.accepted
        if _depth(trace) >= VAULT_MM and following & trace.accepted:  # a vault needs no additions
            following &= trace.accepted
        chosen[i] = following | (frozenset() if anew else chosen[i])
        if chosen[i]:
            before, seen = trace, _within(trace, chosen[i])


def _depth(trace: Trace) -> float:
    return max((trace.depths_mm[i - 1] for i in trace.accepted), default=0.0)


def _within(trace: Trace, chosen: frozenset[int]) -> Mask:
    """Where the next slice's head may be: this one's without shells, and with room for its outline to move."""
    by = Fast()
    head = np.isin(trace.labels, list(chosen))
    thick = by.erode(by.fill(head), SHELL_MM, trace.cell_mm)
    if thick.any():
        head = by.dilate(thick, SHELL_MM, trace.cell_mm)
    return by.dilate(by.fill(head), DRIFT_MM, trace.cell_mm)


def _following(trace: Trace, seen: Mask) -> frozenset[int]:
    count = len(trace.depths_mm)
    every, within = sizes(trace.labels, count), sizes(trace.labels, count, seen)
    return frozenset(i for i in range(1, count + 1) if every[i] and within[i] >= FOLLOWS * every[i])

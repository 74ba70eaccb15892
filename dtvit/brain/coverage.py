"""How much of the brain a series shows: the condition for saying "absent" at all.

Positions are millimetres along the slice normal, ordered from feet to head; nothing is assumed about equal spacing
(a head is often scanned 4 mm at the base and 7 mm above) nor about the gantry.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from dtvit.findings import SAME_MM, Coverage, Region

HOLE = 1.5  # times the usual step or the thickness
NEIGHBOURS = 3  # steps to each side that tell what is usual there
UNSTATED_MM = 5.0  # no thickness stated: slices further apart may be thinner than that, with every second one missing
HOLES_TOLD = 3  # one by one; a series without every second slice has dozens, and a reader needs no list of them
LEAST_EXTENT_MM = 80.0  # of brain from base to vertex; an adult has 110 to 140, an infant 85 or more


def holes(positions_mm: Sequence[float], thicknesses_mm: Sequence[float | None]) -> tuple[tuple[float, float], ...]:
    """Each (from, to) in mm where a slice is missing between neighbours; `positions_mm` ascending.

    A step is a hole when it exceeds 1.5 times the thickness of the slices beside it, or 1.5 times what is usual
    there: the larger of the medians of up to three steps below and three above, so that a change of spacing is not one.
    """
    places = [
        (position, thickness)
        for i, (position, thickness) in enumerate(zip(positions_mm, thicknesses_mm, strict=True))
        if i == 0 or position - positions_mm[i - 1] > SAME_MM
    ]
    steps = [after[0] - before[0] for before, after in itertools.pairwise(places)]
    found = []
    for i, step in enumerate(steps):
        below, above = steps[max(0, i - NEIGHBOURS) : i], steps[i + 1 : i + 1 + NEIGHBOURS]
        usual = max((median(s) for s in (below, above) if s), default=step)
        thick = [t for t in (places[i][1], places[i + 1][1]) if t]
        if step > HOLE * usual + SAME_MM or (thick and step > HOLE * max(thick) + SAME_MM):
            found.append((places[i][0], places[i + 1][0]))
    return tuple(found)


@dataclass(frozen=True)
class _Slice:
    """A slice that has a position."""

    mm: float
    thickness_mm: float | None
    region: Region
    evaluated: bool
    name: str | None


def assess(
    positions_mm: Sequence[float | None],
    thicknesses_mm: Sequence[float | None],
    regions: Sequence[Region],
    evaluated: Sequence[bool],
    doubts: Sequence[str] = (),
    *,
    named: Sequence[str | None] = (),
) -> Coverage:
    """Coverage of the brain by the evaluated slices.

    The first four sequences are in the same order, feet to head, slices without a position last. `named`: in the same
    order, what a reader calls the images; a hole is then described by those beside it.

    Complete means: slices just beyond the brain at both ends, no hole from one end to the other, every brain slice
    evaluated, none of unknown content or position, enough of it for a whole brain, and no `doubts` (in words) besides.
    """
    given = zip(positions_mm, thicknesses_mm, regions, evaluated, named or [None] * len(regions), strict=True)
    placed = [_Slice(mm, thick, region, done, name) for mm, thick, region, done, name in given if mm is not None]
    gaps: list[str] = []
    among = "in the series"
    if nowhere := len(positions_mm) - len(placed):
        gaps.append(f"{_slices(nowhere)} {'has' if nowhere == 1 else 'have'} no usable position")
        among = "among the slices with a position"
    brain = [i for i, one in enumerate(placed) if one.region is Region.BRAIN]
    if not brain:
        gaps += [] if Region.BRAIN in regions else ["no slice shows brain"]
        return Coverage(False, 0.0, False, False, tuple(gaps))
    first, last = brain[0], brain[-1]
    below, within, above = placed[:first], placed[first : last + 1], placed[last + 1 :]
    # Never a blank slice, which may have been brain: a head sits on a neck, and above a brain there are bone and scalp,
    # 11 cm2 or more of them in 56 phantoms with slices of 3 to 10 mm.
    lower_end = bool(below) and below[-1].region is Region.BELOW_BRAIN
    upper_end = bool(above) and above[0].region is Region.ABOVE_BRAIN
    if not lower_end:
        gaps.append(f"the lower end of the brain (skull base) is not {among}")
    if not upper_end:
        gaps.append(f"the upper end of the brain (vertex) is not {among}")
    if left_out := sum(not one.evaluated for one in within):
        gaps.append(f"{_slices(left_out)} inside the brain left out")
    if outside := regions.count(Region.UNKNOWN) - sum(one.region is Region.UNKNOWN for one in within):
        gaps.append(f"{_slices(outside)} of unknown content")
    # one slice beyond the brain on each side belongs to the run: what lies between it and the brain must be seen too
    run = [*below[-1:], *within, *above[:1]]
    gaps += _missing(run)
    gaps += _too_far_apart(run)
    seen = [one.mm for one in within if one.evaluated]
    extent = max(seen) - min(seen) if seen else 0.0
    if extent < LEAST_EXTENT_MM:
        gaps.append(f"the evaluated slices span {extent:.0f} mm, but a brain spans at least {LEAST_EXTENT_MM:.0f}")
    gaps += doubts
    return Coverage(not gaps, extent, lower_end, upper_end, tuple(gaps))


def _slices(count: int) -> str:
    return f"{count} {'slice' if count == 1 else 'slices'}"


def _missing(run: Sequence[_Slice]) -> list[str]:
    names = {one.mm: one.name for one in run}
    where = [
        f"between {_beside(names[low], names[high])}{low:.1f} and {high:.1f} mm"
        for low, high in holes([one.mm for one in run], [one.thickness_mm for one in run])
    ]
    if len(where) > HOLES_TOLD:
        where = [f"in {len(where)} places, the lowest {where[0]}, the highest {where[-1]}"]
    return [f"slices are missing {place}" for place in where]


def _too_far_apart(run: Sequence[_Slice]) -> Iterator[str]:
    """Without a thickness, no header shows that every second slice is missing."""
    steps = (
        after.mm - before.mm
        for before, after in itertools.pairwise(run)
        if not before.thickness_mm and not after.thickness_mm
    )
    apart = max(steps, default=0.0)
    if apart > UNSTATED_MM + SAME_MM:
        yield f"the slice thickness is not stated, and slices lie up to {apart:.1f} mm apart"


def _beside(below: str | None, above: str | None) -> str:
    return "" if below is None or above is None else f"images {below} and {above}, at "

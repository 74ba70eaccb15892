"""How much of the brain a series shows: the condition under which "absent" may be said at all.

Positions are millimetres along the slice normal, ordered from feet to head; nothing is assumed about equal spacing
(a head is often scanned 4 mm at the base and 7 mm above) nor about the gantry.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from dtvit.findings import Coverage, Region

HOLE = 1.5  # times the usual step or the thickness
NEIGHBOURS = 3  # steps to each side that tell what is usual there
UNSTATED_MM = 5.0  # no thickness stated: slices further apart may be thinner than that, and every second one missing
SAME_MM = 0.05  # closer than any two slices that are not one position twice
LEAST_EXTENT_MM = 80.0  # of brain from base to vertex; an adult has 110 to 140, an infant 85 or more


def holes(positions_mm: Sequence[float], thicknesses_mm: Sequence[float | None]) -> tuple[tuple[float, float], ...]:
    """Each (from, to) in mm where a slice is missing between neighbours; `positions_mm` ascending.

    A step is a hole when it exceeds 1.5 times the thickness of the slices beside it, or 1.5 times what is usual
    there: the larger of the medians of up to three steps below and three above, so that a change of spacing is none.
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
        usual = max((_median(s) for s in (below, above) if s), default=step)
        thick = [t for t in (places[i][1], places[i + 1][1]) if t]
        if step > HOLE * usual + SAME_MM or (thick and step > HOLE * max(thick) + SAME_MM):
            found.append((places[i][0], places[i + 1][0]))
    return tuple(found)


def assess(
    positions_mm: Sequence[float | None],
    thicknesses_mm: Sequence[float | None],
    regions: Sequence[Region],
    evaluated: Sequence[bool],
    doubts: Sequence[str] = (),
    *,
    named: Sequence[str | None] = (),
) -> Coverage:
    """Coverage of the brain by the evaluated slices; the first four sequences in the same order, feet to head.

    `named`: in that order too, what a reader calls the images; a hole is then told by those beside it.

    Complete means: slices beyond the brain right at both ends, no hole from the one end to the other, every brain slice
    evaluated, none of unknown content or position, enough of it for a whole brain, and no `doubts` (in words) besides.
    """
    gaps: list[str] = []
    placed = [i for i, position in enumerate(positions_mm) if position is not None]
    if len(placed) < len(positions_mm):
        gaps.append(f"{len(positions_mm) - len(placed)} slices have no usable position")
    brain = [i for i in placed if regions[i] is Region.BRAIN]
    if not brain:
        return Coverage(False, 0.0, False, False, (*gaps, "no slice shows brain"))
    lowest, highest = brain[0], brain[-1]
    unknown = [i for i, region in enumerate(regions) if region is Region.UNKNOWN]
    below, above = ([regions[i] for i in placed if step * i > step * end] for step, end in ((-1, lowest), (1, highest)))
    lower_end = bool(below) and below[-1] is Region.BELOW_BRAIN  # never a blank slice: every head stands on a neck
    upper_end = bool(above) and above[0] in (Region.ABOVE_BRAIN, Region.NO_HEAD)
    if not lower_end:
        gaps.append("the lower end of the brain (skull base) is not in the series")
    if not upper_end:
        gaps.append("the upper end of the brain (vertex) is not in the series")
    left_out = sum(not evaluated[i] for i in range(lowest, highest + 1))
    if left_out:
        gaps.append(f"{left_out} {'slice' if left_out == 1 else 'slices'} inside the brain left out")
    outside = [i for i in unknown if not lowest <= i <= highest]
    if outside:
        gaps.append(f"{len(outside)} {'slice' if len(outside) == 1 else 'slices'} of unknown content")
    # one slice beyond the brain on each side belongs to the run: what lies between it and the brain must be seen too
    run = placed[max(0, placed.index(lowest) - 1) : placed.index(highest) + 2]
    names = dict(zip((positions_mm[i] for i in run), (named[i] if named else None for i in run), strict=True))
    gaps += [
        f"slices are missing between {_beside(names[low], names[high])}{low:.1f} and {high:.1f} mm"
        for low, high in holes([positions_mm[i] or 0.0 for i in run], [thicknesses_mm[i] for i in run])
    ]
    apart = max(
        (
            (positions_mm[j] or 0.0) - (positions_mm[i] or 0.0)
            for i, j in itertools.pairwise(run)
            if not thicknesses_mm[i] and not thicknesses_mm[j]
        ),
        default=0.0,
    )
    if apart > UNSTATED_MM + SAME_MM:
        gaps.append(f"the slice thickness is not stated, and slices lie up to {apart:.1f} mm apart")
    extent = _extent([positions_mm[i] or 0.0 for i in brain if evaluated[i]])
    if extent < LEAST_EXTENT_MM:
        gaps.append(f"the evaluated slices span {extent:.0f} mm, a brain at least {LEAST_EXTENT_MM:.0f}")
    gaps += doubts
    return Coverage(not gaps, extent, lower_end, upper_end, tuple(gaps))


def _beside(below: str | None, above: str | None) -> str:
    return "" if below is None or above is None else f"images {below} and {above}, at "


def _extent(positions: Sequence[float]) -> float:
    return max(positions) - min(positions) if positions else 0.0


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

"""Which slices of a series show brain, from what each of them shows (`selection`) beside its neighbours.

In doubt for brain: a slice wrongly called brain costs a millisecond, one wrongly left out is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from dtvit.brain.selection import HEAD_CM2, LARGEST_HEAD_CM2, LOWER_CM2, SURELY_CM2, UPPER_CM2, SliceContent
from dtvit.findings import Region

OPEN_CM2 = 60.0  # soft tissue above the last brain slice: no scalp has so much, a brain under an open skull does


def assign_regions(contents: Sequence[SliceContent | None]) -> list[Region]:
    """Regions of slices ordered from feet to head; None stands for a slice that could not be read.

    From the slice with most brain, the brain extends to both sides until a slice shows too little of it, but never ends
    before the outermost slice that is surely brain: a streaked or open slice between two such is brain. Upwards an open
    skull does not end it either, as long as there is more soft tissue than a scalp has.
    """
    areas = [0.0 if c is None or c.head_cm2 > LARGEST_HEAD_CM2 else c.brain_cm2 for c in contents]
    sure = [i for i, c in enumerate(contents) if c is not None and c.surely_brain]
    if sure:
        lowest, highest = sure[0], sure[-1]
    elif areas and max(areas) >= LOWER_CM2:
        lowest = highest = areas.index(max(areas))
    else:
        return [_region(c, Region.BELOW_BRAIN) for c in contents]
    while lowest > 0 and (areas[lowest - 1] >= LOWER_CM2 or _unread_within(areas, contents, lowest - 1, -1)):
        lowest -= 1
    # A brain tapers towards the foramen magnum; where it ends abruptly the bone is open, so look further.
    if lowest > 0 and areas[lowest] >= SURELY_CM2:
        lowest -= 1
    while highest + 1 < len(areas) and (
        areas[highest + 1] >= UPPER_CM2
        or _open_skull(contents[highest + 1])
        or _unread_within(areas, contents, highest + 1, 1)
    ):
        highest += 1
    parts = [Region.BELOW_BRAIN] * lowest + [Region.BRAIN] * (highest + 1 - lowest)
    parts += [Region.ABOVE_BRAIN] * (len(contents) - len(parts))
    return [_region(content, part) for content, part in zip(contents, parts, strict=True)]


def _region(content: SliceContent | None, part: Region) -> Region:
    """What a slice of this part of the series shows."""
    if content is None:
        return Region.UNKNOWN
    return part if content.head_cm2 >= HEAD_CM2 else Region.NO_HEAD


def _open_skull(content: SliceContent | None) -> bool:
    """Whether this is brain after a craniectomy: too open for bone to be met, too much tissue for a vertex."""
    return content is not None and content.soft_cm2 >= OPEN_CM2 and content.head_cm2 <= LARGEST_HEAD_CM2


def _unread_within(areas: Sequence[float], contents: Sequence[SliceContent | None], at: int, step: int) -> bool:
    """Whether slice `at` could not be read and brain continues beyond it."""
    least = LOWER_CM2 if step < 0 else UPPER_CM2
    while 0 <= at < len(contents) and contents[at] is None:
        at += step
        if 0 <= at < len(contents) and contents[at] is not None:
            return areas[at] >= least
    return False

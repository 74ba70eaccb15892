"""What the slices of a series together do not show: why this is not a head, or not all of a brain, in words.

Everything here is judged by what single slices show (`selection`) beside their neighbours. When in doubt, against
"absent": a doubt costs an answer, and a part of the brain that nobody looked at may cost a life.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from dtvit.brain.selection import CLOSED_SHARE, INTERCEPT_HU, LOWER_CM2, SURELY_CM2, UPPER_CM2, SliceContent
from dtvit.findings import Region

HEAD_SLICES = 3
TAPERED = 0.5  # of the largest area: less at both ends of a brain; at most 0.32 in 10 mm slices, 0.9 where one is cut
# How fast a brain widens from its ends, in cm2 per mm of the step to the slice beyond: by 4.2 and 7.6 at most in 57
# phantoms, children and tilted ones among them, by 1.1 in a patient. In steps smaller than the least one, noise counts.
WIDENS = {LOWER_CM2: 6.0, UPPER_CM2: 9.0}
LEAST_STEP_MM = 4.0
NO_WIDER = 1.1  # of the slice below: 0.45 to 1.0 in 4 of some 120 phantoms whose throat passes for their lowest brain
DIP = 0.75  # of the widest on either side: whole slices of a head keep 0.93 and more
NAMED = 5  # images listed one by one; a reader would not go through more
SPOILED = 3  # slices looked at beside the outermost of the brain, also beyond it
BRAIN_DIP = 0.5  # likewise, if both have SURELY_CM2: phantoms and a patient keep 0.73; what is cut off meets no bone
STEP = 0.65  # of a wide slice in the next: whole phantoms keep 0.72 in steps of up to 20 mm, and 0.82 up to 12
WIDE = 0.8  # of the widest slice: below that, head and neck may narrow as they like
UNSEEN_CM2 = 1.0  # of brain in one slice: room for a bleed of a centimetre
# A bleed is some 30 HU above brain. Of 15 in phantoms that were seen without it, 6 were not in noise of 10 to 18, up to
# 20 ml. At most 8.6 in a real head (GE, at the skull base) and 12.8 in phantoms as noisy as they are drawn; 8.5 in
# 99.9 % of 2,500 slices of the papers' data, taken at 0.9 mm a pixel. Streaks that hide nothing: up to 12.7.
NOISY_HU = 13.0
# Median of a brain over its slices: 26 to 38 in 64 phantoms, newborn to 90 years old, 33 in a patient. A bleed passes
# for brain where values are halved, or too low by 24, as where an intercept of -1024 stands for one of -1000.
USUAL_HU = (18.0, 50.0)
REMOVED_CM2 = 3.0  # neck muscle between a ring and the spine may pass for brain up to this


def doubts(
    contents: Sequence[SliceContent | None],
    regions: Sequence[Region],
    *,
    positions_mm: Sequence[float | None] = (),
    named: Sequence[str | None] = (),
) -> tuple[str, ...]:
    """Why the slices assigned to the brain may not show all of it, in words; all ordered from feet to head.

    `positions_mm` along the slice normal, if known; `named`: what a reader calls the images, so that those to look at
    can be named.
    """
    at = [i for i, region in enumerate(regions) if region is Region.BRAIN]
    areas = [0.0 if content is None else content.brain_cm2 for content in contents]
    if not at:
        return ()
    widest = max(areas[i] for i in at)
    base = next((i for i in at if areas[i] >= LOWER_CM2), at[0])  # one below may have been included to be safe
    found = [
        f"the brain does not taper off towards its {name} end"
        for name, i, beyond, least in (("lower", base, base - 1, LOWER_CM2), ("upper", at[-1], at[-1] + 1, UPPER_CM2))
        if areas[i] > TAPERED * widest
        or _brain_at_end(contents, i, 2 * i - beyond) > least + WIDENS[least] * _step_mm(positions_mm, i, beyond)
    ]
    cut = [i for i in at if _dips(contents, i, at[0], at[-1])]
    found += _told(cut, named, "{} much less head or brain than those on both sides", "slice shows", "slices show")
    if not cut and (step := _abrupt(contents, at)) is not None:
        which = [name for i in step if named and (name := named[i])]
        where = f" (between images {which[0]} and {which[1]})" if len(which) == 2 else ""
        found.append(f"much of the head disappears from one slice to the next{where}")
    hidden = [i for i in at if (content := contents[i]) is not None and content.unseen_cm2 > UNSEEN_CM2]
    found += _told(hidden, named, "{} brain outside the area shown to the network", "slice has", "slices have")
    cut_off = [i for i in at if i >= base and i not in hidden and (content := contents[i]) and content.cut_mm]
    found += _told(cut_off, named, "{} inside the head, as if part of it were cut off", "slice ends", "slices end")
    shifted = {i: content for i in at if (content := contents[i]) and content.shifted_hu}
    found += _told(list(shifted), named, "in {} the values are " + _shift_in_words(shifted.values()))
    found += _unusual([content for i in at if (content := contents[i]) and content.surely_brain])
    noisy = [i for i in at if (content := contents[i]) and content.noise_hu > NOISY_HU]
    found += _told(noisy, named, "noise or streaks in {} may hide a bleed")
    lost = [i for i, content in enumerate(contents) if content is not None and content.removed_cm2 > REMOVED_CM2]
    found += _told(lost, named, "in {} tissue that may be brain was removed with the head holder")
    return tuple(found)


def _brain_at_end(contents: Sequence[SliceContent | None], at: int, within: int) -> float:
    """Its area in the outermost slice; only the part that bone closes in if most is open and the slice `within` has no
    more: that is mostly muscle."""
    here, further = contents[at], contents[within] if 0 <= within < len(contents) else None
    if here is None:
        return 0.0
    if here.closed >= CLOSED_SHARE or further is None or further.brain_cm2 > NO_WIDER * here.brain_cm2:
        return here.brain_cm2
    return here.closed * here.brain_cm2


def _step_mm(positions_mm: Sequence[float | None], at: int, beyond: int) -> float:
    """Between the two; infinite if it is not known, or if there is none beyond."""
    if not 0 <= beyond < len(positions_mm):
        return math.inf
    here, there = positions_mm[at], positions_mm[beyond]
    return math.inf if here is None or there is None else max(LEAST_STEP_MM, abs(here - there))


def images(at: Sequence[int], named: Sequence[str | None]) -> str:
    """In brackets, what a reader calls these, if each has a name and there are not too many to go through."""
    which = [name for i in at if named and (name := named[i])]
    if len(which) < len(at) or len(which) > NAMED:
        return ""
    return f" ({'image' if len(which) == 1 else 'images'} {', '.join(which)})"


def _told(
    at: Sequence[int], named: Sequence[str | None], sentence: str, one: str = "slice", several: str = "slices"
) -> list[str]:
    """The sentence, with the number of these slices in place of `{}`, and which they are; nothing if there are none."""
    counted = f"{len(at)} {one if len(at) == 1 else several}"
    return [sentence.format(counted) + images(at, named)] if at else []


def _unusual(brain: Sequence[SliceContent]) -> list[str]:
    """Whether Hounsfield units may be wrong by less than a lost intercept, or by a factor."""
    if len(brain) < HEAD_SLICES or USUAL_HU[0] <= (hu := median(content.brain_hu for content in brain)) <= USUAL_HU[1]:
        return []
    return [
        f"brain measures {hu:.1f} HU, not {USUAL_HU[0]:.0f} to {USUAL_HU[1]:.0f}: the values may be wrong throughout"
    ]


def _shift_in_words(contents: Iterable[SliceContent]) -> str:
    if sum(content.shifted_hu for content in contents) > 0:
        return f"about {INTERCEPT_HU:.0f} HU too high, as if Rescale Intercept had been lost"
    return f"about {INTERCEPT_HU:.0f} HU too low, as if Rescale Intercept had been added twice"


def why_no_head(contents: Sequence[SliceContent | None]) -> str | None:
    """Why this is not a head to look at, in words for whoever sent it; None if it is one."""
    read = [content for content in contents if content is not None]
    shifted = [content for content in read if content.shifted_hu]
    right = sum(content.surely_brain for content in read if not content.shifted_hu)
    if len(shifted) >= _enough(contents) and len(shifted) > right:
        return f"its values are {_shift_in_words(shifted)}; correct this at the sender and send it again"
    if is_head(contents):
        return None
    cut = sum(content.cut_mm > 0.0 for content in read)
    hint = f"; {cut} of {len(contents)} slices end inside a head, as if part of it were cut off" if cut else ""
    return f"not a head by content: no brain was found inside a closed skull{hint}"


def is_head(contents: Sequence[SliceContent | None]) -> bool:
    """Whether this is a head by content: brain in a closed skull on enough slices (all, if there are fewer)."""
    return sum(c is not None and c.surely_brain for c in contents) >= _enough(contents)


def _enough(contents: Sequence[SliceContent | None]) -> int:
    return max(1, min(HEAD_SLICES, len(contents)))


def _dips(contents: Sequence[SliceContent | None], at: int, lowest: int, highest: int) -> bool:
    """Whether part of this slice is lost, because a transfer or a decoder broke off, or in noise.

    A head widens from the lowest slice of brain to one of the others, and narrows from there to the highest: a slice
    with wider ones on both sides is cut, however many beside it are cut too. Bone removed by a surgeon is missing over
    several slices, each of which has a neighbour like it.
    """
    here = contents[at]
    sides = contents[min(lowest, max(0, at - SPOILED)) : at][::-1], contents[at + 1 : max(highest, at + SPOILED) + 1]
    beside = [[c for c in side if c is not None] for side in sides]
    if here is None or not all(beside):
        return False
    head = min(max(c.head_cm2 for c in side) for side in beside)
    brain = min(side[0].brain_cm2 for side in beside)
    return here.head_cm2 < DIP * head or (brain >= SURELY_CM2 and here.brain_cm2 < BRAIN_DIP * brain)


def _abrupt(contents: Sequence[SliceContent | None], at: Sequence[int]) -> tuple[int, int] | None:
    """Two neighbours among the brain slices `at`, one of which shows far less of the head: from there to the end of the
    series, part of every slice is lost."""
    heads = [0.0 if (content := contents[i]) is None else content.head_cm2 for i in at]
    wide = WIDE * max(heads)
    for pair, (a, b) in zip(pairwise(at), pairwise(heads), strict=True):
        if max(a, b) >= wide and 0 < min(a, b) < STEP * max(a, b):
            return pair
    return None

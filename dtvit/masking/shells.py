"""Shells that are fused to the head: finding the arms of a holder that touches it, and cutting them off.

A holder is thin where it leaves the head, and of one density; nothing long and thin in a head is, once fat counts as
body. Used by `robust`; masks are bool (row, column).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dtvit.masking.morphology import Mask, Morphology, Pixel, coarse, finer, marked, sizes

BODY_HU = -250.0  # fat and all that is denser
OPENING_MM = 9.0  # removes shells of up to 18 mm, and of a head only ears and the tip of the nose
MARGIN_MM = 2.0  # what the opening rounds off
ARM_MM = 15.0  # a longer protrusion is a shell, or an ear, which is no loss
UNIFORM_HU = 40.0  # plastic and carbon are; ears, mastoids and skulls are not
SOFT_HU = (-10.0, 80.0)  # an arm of this density may be an ear: it is cut, but not followed into the scalp
CONTACT_MM = 50.0  # how far a shell is followed along the head from where it leaves it
EDGE_MM = 1.5  # the border of an arm is mixed with air
CELL_MM = 2.0  # the outline is smooth, and nothing smaller matters
INSIDE = 0.8  # share of a hole that lies in the convex hull of the body


def outline(hu: npt.NDArray[np.float32], pixel_mm: Pixel, by: Morphology) -> Mask:
    """Where a body is, fat included, without its shells: what the opening leaves, and a little more; on cells."""
    step, coarse_mm = coarse(pixel_mm, CELL_MM)
    body = hu[::step, ::step] > BODY_HU
    thick = by.deeper(body, OPENING_MM, coarse_mm)
    if not thick.any():
        return thick
    holes = by.fill(body) & ~body
    if holes.any():
        body |= _within_hull(holes, by.hull(_near(thick, 0.0, coarse_mm, by)), by)
        thick = by.deeper(body, OPENING_MM, coarse_mm)
    return _near(thick, MARGIN_MM, coarse_mm, by)


def protruding(hu: npt.NDArray[np.float32], mask: Mask, body: Mask, pixel_mm: Pixel, by: Morphology) -> Mask:
    """The part of `mask` that is a shell fused to the head. Fat counts as `body` (the outline), so only what stands out
    into air is outside: ears, the nose, and the arms of a holder; only the last are long and of one density."""
    shells = np.zeros(mask.shape, np.bool_)
    step, coarse_mm = coarse(pixel_mm, CELL_MM)
    labels, count = by.parts(mask[::step, ::step] & ~body)
    for i in range(1, count + 1):
        rows, columns = np.nonzero(labels == i)
        if np.hypot(np.ptp(rows) * coarse_mm[0], np.ptp(columns) * coarse_mm[1]) >= ARM_MM:
            arm = finer(labels == i, step, mask.shape) & mask
            sample = hu[by.erode(arm, EDGE_MM, pixel_mm)]
            if sample.size and _spread(sample) <= UNIFORM_HU:
                soft = SOFT_HU[0] <= float(np.median(sample)) <= SOFT_HU[1]
                shells |= arm if soft else _with_contact(hu, mask, arm, sample, pixel_mm, by)
    return shells


def _spread(values: npt.NDArray[np.float32]) -> float:
    """A standard deviation from the middle two thirds: half the distance between the 16th and 84th percentile."""
    low, high = np.percentile(values, (16, 84))
    return float(high - low) / 2


def _near(thick: Mask, margin_mm: float, pixel_mm: Pixel, by: Morphology) -> Mask:
    """What the opening by OPENING_MM leaves of a body, whose deep part is `thick`, grown by the margin."""
    return ~by.deeper(~thick, OPENING_MM + margin_mm, pixel_mm)


def _within_hull(holes: Mask, hull: Mask, by: Morphology) -> Mask:
    """Those of the holes that lie in the hull: air of sinuses, not the gap between head and holder."""
    labels, count = by.parts(holes)
    return marked(labels, sizes(labels, count, hull) >= INSIDE * sizes(labels, count))


def _with_contact(
    hu: npt.NDArray[np.float32],
    mask: Mask,
    arm: Mask,
    sample: npt.NDArray[np.float32],
    pixel_mm: Pixel,
    by: Morphology,
) -> Mask:
    """The arm, and the layer of the mask that continues it, as dense as its `sample` and no thicker."""
    tolerance = min(60.0, max(40.0, 2.5 * _spread(sample)))
    itself = _around(arm, 0.0, pixel_mm)
    thickness = 2.0 * float(by.depth(arm[itself], pixel_mm).max()) + EDGE_MM
    near = _around(arm, CONTACT_MM + thickness, pixel_mm)  # what lies beyond is neither contact nor the edge of one
    hu, mask, within = hu[near], mask[near], arm[near]
    layer = mask & (np.abs(hu - np.float32(np.median(sample))) <= tolerance)
    layer &= (by.depth(~within, pixel_mm) <= CONTACT_MM) & (by.depth(mask, pixel_mm) <= thickness)
    labels, count = by.parts(layer | within)
    found = np.zeros(arm.shape, np.bool_)
    found[near] = marked(labels, sizes(labels, count, within) > 0)
    return found


def _around(mask: Mask, reach_mm: float, pixel_mm: Pixel) -> tuple[slice, slice]:
    """Rows and columns of the mask, which is not empty, and of all within `reach_mm` of it, and a pixel more."""
    at = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    reach = (int(reach_mm / mm) + 2 for mm in pixel_mm)
    rows, columns = (slice(max(0, int(i[0]) - r), int(i[-1]) + r + 1) for i, r in zip(at, reach, strict=True))
    return rows, columns

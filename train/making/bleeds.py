"""Where the blood is in a picture that is known to show some: a trace for training and for the audit, not a diagnosis.

A bleed is denser than the brain about it, holds together, lies inside the skull, and is neither bone, calcification,
falx nor sinus. All rules work on the head at one size (`head-box-224`: a pixel is then close to 0.9 mm in an adult), so
lengths below are pixels of that picture. Tuned by eye on pictures of the papers' data set; of its slices labelled as
bleeding nine in ten get a trace, of its normal ones one in ten (mostly bone at the skull base), so a trace is believed
only where the label says that there is blood.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dtvit.preprocess import HEAD_BOX, WINDOW_HU, View, through, view_of

HU = (WINDOW_HU[1] - WINDOW_HU[0]) / 255  # of one grey level
BONE = 242  # grey level from which a large part is bone
BONE_AREA, BONE_EXTENT = 250, 45  # less is a calcification, a clip, or a very dense bleed
BRAIN_HU = (16.0, 50.0)  # median of a part that can be brain; muscle and fat lie outside
LEAST_BRAIN = 1200
SATURATED_HU = 79.0
CONTRAST_HU = 12.0  # between a bleed and the brain about it
NOISE = 2.8  # times the spread of the smoothed brain
LEAST_AREA, LEAST_THICKNESS = 40, 3.0
WIDE = 10.0  # pixels of standard deviation

Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]
Values = NDArray[np.float32]


def segment(picture: Picture) -> Mask:
    """`picture`: (row, column) of any size, 0..80 HU as 0..255, holder removed. Its likely bleed; nothing if none."""
    view = view_of(picture, HEAD_BOX)
    return _back(traced(through(picture, view)), view, picture.shape)


def inside_skull(picture: Picture) -> Mask:
    """(row, column): brain and what lies between its parts, without bone; nothing where no brain is found."""
    view = view_of(picture, HEAD_BOX)
    return _back(brain(through(picture, view)), view, picture.shape)


def traced(picture: Picture) -> Mask:
    """`segment` of a picture that is in the head-box geometry already."""
    inside = brain(picture)
    if inside.sum() < LEAST_BRAIN:
        return np.zeros_like(inside)
    head = _look_at(picture, inside)
    if head is None:
        return np.zeros_like(inside)
    dense = cv2.morphologyEx((head.core & (head.rise > head.cut)).astype(np.uint8), cv2.MORPH_OPEN, disk(2))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(dense, connectivity=8)
    found = np.zeros_like(inside)
    for number in range(1, count):
        part = labels == number
        if _is_bleed(part, int(stats[number, cv2.CC_STAT_AREA]), head):
            found |= _dilated(part, 3) & inside & (head.rise > 0.55 * head.cut)
    return np.asarray(ndimage.binary_fill_holes(found), np.bool_)


def brain(picture: Picture) -> Mask:
    """`inside_skull` of a picture that is in the head-box geometry already."""
    bone = _bone(picture)
    soft = cv2.morphologyEx(((picture > 5) & ~bone).astype(np.uint8), cv2.MORPH_CLOSE, disk(2)) & ~bone
    thick = cv2.morphologyEx(soft.astype(np.uint8), cv2.MORPH_OPEN, disk(4))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(thick, connectivity=4)
    found = np.zeros(picture.shape, np.bool_)
    if count < 2:
        return found
    areas = stats[:, cv2.CC_STAT_AREA]
    beside_bone = _dilated(bone, 5)
    for number in range(1, count):
        part = labels == number
        if areas[number] < max(600, 0.12 * areas[1:].max()):
            continue
        rim = part & ~_eroded(part, 1)
        if BRAIN_HU[0] <= np.median(picture[part]) * HU <= BRAIN_HU[1] and beside_bone[rim].mean() >= 0.55:
            found |= part
    closed = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, disk(6)).astype(np.bool_)
    return np.asarray(ndimage.binary_fill_holes(closed & ~bone), np.bool_) & ~bone


def disk(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius + 0.5, np.uint8)


@dataclass(frozen=True, eq=False)
class _Head:
    """What a part is judged by; arrays are (224, 224), lengths in pixels."""

    hu: Values
    smooth: Values
    rise: Values
    """HU above the brain about it."""
    cut: float
    core: Mask
    """Inside, away from bone and rim, where partial volume looks like blood."""
    bone: Mask
    from_bone: Values
    from_rim: Values
    from_air: Values
    """To the air outside of the head, orbits and sinuses included where open."""
    from_hull: Values
    small: bool
    """Little brain, much bone: near the vertex."""


def _look_at(picture: Picture, inside: Mask) -> _Head | None:
    hu = picture.astype(np.float32) * np.float32(HU)
    bone = _bone(picture)
    from_bone, from_rim = _distance(~bone, border=True), _distance(inside)
    core = inside & (from_bone > 3.5) & (from_rim > 2.5)
    tissue = core & (hu > BRAIN_HU[0]) & (hu < 55)
    if tissue.sum() < 600:
        return None
    smooth = blurred(hu * inside, 1.4) / blurred(inside, 1.4).clip(1e-3)
    median = float(np.median(hu[tissue]))
    typical = tissue & (np.abs(smooth - median) < 10)
    # cupping and tilt: the mean of typical brain within some 35 pixels, at most 6 HU from the slice's median
    slow = (blurred(hu * typical, 18) + median * 0.05) / (blurred(typical, 18) + 0.05)
    rise = smooth - np.clip(slow, median - 6, median + 6)
    spread = 1.48 * float(np.median(np.abs(rise[tissue] - np.median(rise[tissue]))))
    hull = np.zeros(picture.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.argwhere(picture > 40)[:, ::-1].astype(np.int32)), 1)
    return _Head(
        hu=hu,
        smooth=smooth,
        rise=rise,
        cut=max(CONTRAST_HU, NOISE * spread),
        core=core,
        bone=bone,
        from_bone=from_bone,
        from_rim=from_rim,
        from_air=_distance(~_outer_air(picture)),
        from_hull=_distance(hull.astype(np.bool_)),
        small=bool(inside.sum() < 0.5 * hull.sum()),
    )


def _is_bleed(part: Mask, area: int, head: _Head) -> bool:
    """Whether a dense part is blood: thick enough, and neither calcification, bone, falx nor sinus."""
    if area < LEAST_AREA or _distance(part).max() < LEAST_THICKNESS:
        return False
    solid = area / max(cv2.contourArea(cv2.convexHull(np.argwhere(part)[:, ::-1].astype(np.int32))), 1.0)
    if solid < 0.45 or _looks_like_bone(part, area, solid, head):
        return False
    if head.small and area < 260 and head.from_rim[part].max() < 10:
        return False  # the sagittal sinus near the vertex
    return not (head.from_bone[part].max() < 14 and (area < 260 or head.rise[part].mean() < head.cut + 5))  # sinuses


def _looks_like_bone(part: Mask, area: int, solid: float, head: _Head) -> bool:
    """Saturated as blood seldom is, and small, ragged, or beside air or other bone."""
    saturated = float((head.hu[part] > SATURATED_HU).mean())
    if saturated > 0.5 and area < 300:  # calcification of plexus or pineal gland
        return True
    ring = _dilated(part, 4) & ~part
    beside = float(((head.smooth[ring] < 6) | head.bone[ring] | (head.hu[ring] > SATURATED_HU)).mean())
    if saturated > 0.25 and beside > 0.2:
        return True
    if saturated > 0.3 and (solid < 0.78 or _distance(part).max() < 6):
        return True
    if saturated > 0.2 and head.from_air[part].min() < 9 and (saturated > 0.45 or head.from_air[part].mean() < 16):
        return True
    touching = bool((head.from_bone[part] < 5).any())
    if saturated > 0.45 and area < 700 and (beside > 0.1 or touching):
        return True
    return saturated > 0.12 and float(head.from_hull[part].max()) < 14


def _bone(picture: Picture) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats((picture >= BONE).astype(np.uint8), connectivity=8)
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    large = (stats[:, cv2.CC_STAT_AREA] >= BONE_AREA) & (extent >= BONE_EXTENT)
    large[0] = False
    return np.asarray(large[labels], np.bool_)


def _outer_air(picture: Picture) -> Mask:
    dark = np.pad((picture <= 5).astype(np.uint8), 1, constant_values=1)
    _, labels = cv2.connectedComponents(dark, connectivity=4)
    outer = (labels == labels[0, 0])[1:-1, 1:-1].astype(np.uint8)
    return np.asarray(cv2.morphologyEx(outer, cv2.MORPH_OPEN, disk(2)), np.bool_)


def _distance(part: Mask, *, border: bool = False) -> Values:
    """To the nearest pixel outside `part`; beyond the picture counts as outside unless `border`."""
    padded = np.pad(part.astype(np.uint8), 1, constant_values=int(border))
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)


def blurred(values: NDArray[np.floating] | Mask, sigma: float) -> Values:
    """By a Gaussian; a wide one at a quarter of the size, where it differs by less than noise and costs a twentieth."""
    fine = values.astype(np.float32)
    if sigma < WIDE:
        return np.asarray(cv2.GaussianBlur(fine, (0, 0), sigma), np.float32)
    rows, columns = fine.shape
    small = cv2.resize(fine, (columns // 4, rows // 4), interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), sigma / 4)
    return np.asarray(cv2.resize(wide, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def _dilated(part: Mask, radius: int) -> Mask:
    return np.asarray(cv2.dilate(part.astype(np.uint8), disk(radius)), np.bool_)


def _eroded(part: Mask, radius: int) -> Mask:
    return np.asarray(cv2.erode(part.astype(np.uint8), disk(radius)), np.bool_)


def _back(mask: Mask, view: View, shape: tuple[int, ...]) -> Mask:
    """A mask over the view in the picture it was taken from: the nearest pixel, nothing beyond the view."""
    side = len(mask)
    row = np.floor((np.arange(shape[0]) + 0.5 - view.top) * side / view.height).astype(int)
    column = np.floor((np.arange(shape[1]) + 0.5 - view.left) * side / view.width).astype(int)
    within = np.logical_and.outer((row >= 0) & (row < side), (column >= 0) & (column < side))
    return np.asarray(within & mask[np.ix_(row.clip(0, side - 1), column.clip(0, side - 1))], np.bool_)

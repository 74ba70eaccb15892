"""Which segmented bleeds may enter the counterfactuals: those that nobody would doubt, whose removal leaves no blood.

A healed slice that still shows blood must be called hemorrhage, and a "bleed" that is a calcification need not be; both
would be held against a model that is right. So a doubtful slice is left out, and counted.
"""

from __future__ import annotations

import cv2
import numpy as np

from train.audit.healing import hole_of
from train.audit.tissue import BONE, GREY_PER_HU, Anatomy, Mask, blurred, blurred_within, dilated, eroded, head_of

BRAIN_SHARE = 0.25  # of the head, inside the skull; less is skull base or vertex
SMALLEST_PX = 25  # in a slice of 256 pixels: a disk of 5 to 6 pixels across, 3 to 5 mm
LARGEST = 0.2  # of the inside; more leaves too little brain to heal with
CONTRAST_HU = 10.0  # of the bleed over what surrounds it
SATURATED = 0.35  # of the bleed at 80 HU or more: calcification, or bone
AT_BONE = 0.3  # of the bleed's border in bone or air: its edge is the skull's, and the segmentation a guess
AIR = 8  # grey level, 2.5 HU: darker than any fluid of the brain, noise aside
LEFT_HU = 12.0  # above the brain around: what stands out this much after healing may be blood
LEFT_PX = 12  # in one piece
BESIDE_PX, DEEP_PX = 4, 12  # what begins this near the skull and reaches no deeper may be a sinus, or bone

GOOD = "trusted"
LACKS_BRAIN = (
    "shows brain inside a skull; an audit needs 8-bit pictures of heads, 0..255 for 0..80 HU, as dicom-node prepare "
    "makes them"
)
"""Continues "none of the slices", for whoever supplied the pictures."""


def verdict(anatomy: Anatomy) -> str:
    """GOOD, or the reason for leaving this slice out."""
    blood, inside = anatomy.blood, anatomy.inside
    size = int(blood.sum())
    if not shows_brain(anatomy):
        return "too little brain in the slice"
    if size < SMALLEST_PX:
        return "no bleed segmented, or one too small"
    if size > LARGEST * inside.sum():
        return "bleed too large"
    count, labels = cv2.connectedComponents(blood.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        doubt = _doubt(anatomy, labels == number)
        if doubt:
            return doubt
    if left_over(anatomy, hole_of(anatomy, blood)) > LEFT_PX:
        return "other dense places, perhaps blood"
    return GOOD


def _doubt(anatomy: Anatomy, part: Mask) -> str:
    """Why this piece of the segmentation may be something other than blood; empty if nothing says so."""
    picture, inside = anatomy.picture, anatomy.inside
    around = dilated(part, 8) & ~dilated(anatomy.blood, 3) & eroded(inside, 2)
    if around.sum() < SMALLEST_PX:
        return "no tissue around the bleed"
    if float(picture[part].mean()) - float(np.median(picture[around])) < CONTRAST_HU * GREY_PER_HU:
        return "little contrast"
    if (picture[part] >= BONE).mean() > SATURATED:
        return "as dense as bone"
    if (part & ~eroded(inside, BESIDE_PX)).any() and not (part & eroded(inside, DEEP_PX)).any():
        return "at the skull"
    border = dilated(part, 2) & ~part
    if (~inside[border] | (picture[border] >= BONE) | (picture[border] <= AIR)).mean() > AT_BONE:
        return "at the skull"
    return ""


def shows_brain(anatomy: Anatomy) -> bool:
    return bool(anatomy.inside.sum() >= BRAIN_SHARE * max(1, head_of(anatomy.picture).sum()))


def left_over(anatomy: Anatomy, hole: Mask) -> int:
    """Pixels of the largest dense piece of brain outside of `hole`, away from bone."""
    brain = eroded(anatomy.inside, 5) & ~hole
    grey = anatomy.picture.astype(np.float32)
    level = blurred_within(grey, anatomy.inside & ~hole, 12.0)
    dense = brain & (blurred(grey, 1.2) - level > LEFT_HU * GREY_PER_HU)
    count, _, found, _ = cv2.connectedComponentsWithStats(dense.astype(np.uint8), connectivity=8)
    return int(found[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0

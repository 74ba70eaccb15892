"""Putting a bleed into a slice, in two ways that are THE AUDIT'S OWN AND MUST NEVER BE USED IN TRAINING.

Training adds what blood adds, with feathered edges (`train.making.counterfactual`). Here:

- `poisson`: the bleed's gradients are kept and its surroundings pulled to those of the recipient (Perez, Gangnet and
  Blake, "Poisson image editing", SIGGRAPH 2003), with the donor's noise;
- `opaque`: the smoothed bleed covers the tissue up to an edge one pixel wide, with noise made to match the recipient.

A sham does the same with tissue of the donor that shows no blood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from train.audit.healing import elsewhere, solve
from train.audit.tissue import (
    BONE,
    GREY_PER_HU,
    Anatomy,
    Floats,
    Mask,
    Picture,
    blurred,
    blurred_within,
    dilated,
    eroded,
    finished,
    grain,
)

RIM = 4  # pixels of tissue around a bleed that go with it in `poisson`
SIZES = (0.6, 1.6)  # a head may be this much smaller or larger in its picture than the donor's
FLUID_HU = 18.0  # less is ventricle or sulcus
PLACES = 8  # in the donor's tissue, of which a sham takes the one with least fluid
FROM_BONE = 3  # pixels that a graft keeps from the skull


@dataclass(frozen=True, eq=False)
class Graft:
    """A piece of a donor's slice, moved and scaled to where it belongs in the recipient's."""

    picture: Floats
    """The donor's whole slice in the recipient's frame."""
    mask: Mask
    """The part of it to be seen."""
    plain: Mask
    """Tissue of the donor without blood, in the same frame."""


def graft(donor: Anatomy, mask: Mask, recipient: Anatomy, at: Mask | None = None) -> Graft | None:
    """`mask` of the donor at the same place in the recipient's brain, or at `at`; None: there is no room."""
    size = float(np.sqrt(recipient.inside.sum() / max(1, donor.inside.sum())))
    if not SIZES[0] <= size <= SIZES[1]:
        return None
    goal = _centre(at) if at is not None else _same_place(donor, mask, recipient)
    shift = goal - size * _centre(mask)
    matrix = np.array([[size, 0, shift[1]], [0, size, shift[0]]])
    shape = recipient.picture.shape[::-1]

    def moved(values: Floats, how: int) -> Floats:
        return np.asarray(cv2.warpAffine(values, matrix, shape, flags=how), np.float32)

    placed = moved(mask.astype(np.float32), cv2.INTER_LINEAR) > 0.5
    plain = moved((donor.inside & ~dilated(donor.blood, 4)).astype(np.float32), cv2.INTER_NEAREST) > 0.5
    if not placed.any() or (placed & ~eroded(recipient.inside, FROM_BONE)).any():
        return None
    return Graft(moved(donor.picture.astype(np.float32), cv2.INTER_LINEAR), placed, plain)


def _centre(mask: Mask) -> np.ndarray:
    return np.asarray(np.argwhere(mask).mean(0))


def _same_place(donor: Anatomy, mask: Mask, recipient: Anatomy) -> np.ndarray:
    """(row, column) with the same share of the inside's box above it and to its left."""
    boxes = []
    for each in (donor, recipient):
        used = np.argwhere(each.inside)
        boxes.append((used.min(0), used.max(0) - used.min(0) + 1))
    (start, extent), (other_start, other_extent) = boxes
    return np.asarray(other_start + (_centre(mask) - start) / extent * other_extent)


def poisson(given: Graft, recipient: Anatomy, _rng: np.random.Generator) -> Picture | None:
    """The donor's piece with its rim, plus the film that its border needs to meet the recipient without a step."""
    soft = recipient.inside & (recipient.picture < BONE)
    region = dilated(given.mask, RIM) & soft & ((given.picture < BONE) & (given.picture > 0) | given.mask)
    border = soft & ~region
    if not border.any():
        return None
    grey = recipient.picture.astype(np.float32)
    step = blurred_within(grey, border, 1.5) - blurred_within(given.picture, ~dilated(given.mask, 2), 1.5)
    film = solve(region, border, step)
    return finished(np.where(region & np.isfinite(film), given.picture + np.nan_to_num(film), grey))


def opaque(given: Graft, recipient: Anatomy, rng: np.random.Generator) -> Picture | None:
    """Covered rather than added to: what was there is gone, as under a clot."""
    grey = recipient.picture.astype(np.float32)
    tissue = recipient.tissue
    if not tissue.any() or not given.plain.any():
        return None
    level = float(np.median(grey[tissue]) - np.median(given.picture[given.plain]))
    body = blurred_within(given.picture, given.mask, 1.5) + level + grain(recipient, rng)
    share = blurred(given.mask.astype(np.float32), 0.7)
    share = np.where(recipient.inside, share, np.float32(0))
    return finished(grey * (1 - share) + body * share)


Blender = Callable[[Graft, Anatomy, np.random.Generator], Picture | None]
BLENDERS: dict[str, Blender] = {"poisson": poisson, "opaque": opaque}


def sham(donor: Anatomy, mask: Mask, recipient: Anatomy, at: Mask, rng: np.random.Generator) -> Graft | None:
    """The same amount of the donor's tissue, without blood and with little fluid, for the place the bleed went to."""
    fluid = blurred(donor.picture.astype(np.float32), 1.0) < FLUID_HU * GREY_PER_HU
    allowed = donor.brain & ~dilated(donor.blood, 4)
    tried = [elsewhere(mask, allowed, rng) for _ in range(PLACES)]
    places = [place for place in tried if place is not None]
    if not places:
        return None
    return graft(donor, min(places, key=lambda place: int((place & fluid).sum())), recipient, at)

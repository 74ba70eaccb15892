"""What a slice would look like without its bleed, or with another's: every scanner with blood and without.

Where patients who bleed were scanned otherwise than the healthy, a model can tell them apart without looking at blood.
Here each bleeding slice is *healed* (the bleed replaced by what surrounds it, with this slice's own noise), its bleed
is *transplanted* into a like slice of a healthy patient, and some slices get a *sham*: the same healing where there is
no blood. The audit (`train.audit`) heals and blends in other ways, so that a model cannot know its traces from here.
All pictures here are in the head-box geometry, (224, 224) uint8, 0..80 HU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from train.making.bleeds import Mask, Picture, Values, blurred, disk

GREY_PER_HU = 255 / 80
TISSUE = (50, 170)  # grey levels between which brain lies: 16 to 53 HU
LEAST_AREA = 35  # pixels; less blood than that is not called
LEAST_RISE = 30.0  # grey levels, mean: 9 HU
SHIFT = 9.0  # pixels that a bleed may move from where it was: it keeps its location class
TURN_DEG = 40.0
SCALE = (0.6, 1.3)
STRENGTH = (0.65, 1.15)
FITS = 0.93  # of a transplanted bleed must lie inside the skull


@dataclass(frozen=True, eq=False)
class Bleed:
    """A bleed taken out of its slice."""

    rise: Values
    """Grey levels that it adds, smooth at its edge."""
    mask: Mask


def heal(picture: Picture, mask: Mask, inside: Mask, rng: np.random.Generator) -> Picture:
    """`mask`: what to replace, `inside`: the inside of the skull. Elsewhere the picture stays as it is."""
    where = _dilated(mask, 2) & inside
    if not where.any():
        return picture.copy()
    values = picture.astype(np.float32)
    good = _tissue(values, mask, inside)
    smooth = _surroundings(values, good)
    patched = smooth + _texture(values, where, good, rng)
    weight = np.where(where, np.maximum(blurred(where, 1.0), mask), 0)
    return _as_picture(values * (1 - weight) + patched * weight)


def lift(picture: Picture, mask: Mask, inside: Mask) -> Bleed:
    """The bleed under `mask`, as what it adds to the tissue about it."""
    values = picture.astype(np.float32)
    smooth = _surroundings(values, _tissue(values, mask, inside))
    edge = blurred(_dilated(mask, 1), 0.9)
    return Bleed(np.clip(blurred(values, 0.8) - smooth, -20, None) * edge, mask)


def varied(bleed: Bleed, rng: np.random.Generator) -> Bleed:
    """Larger or smaller, turned, moved a little, and half of the time on the other side."""
    rows, columns = np.nonzero(bleed.mask)
    scale = math.exp(rng.uniform(math.log(SCALE[0]), math.log(SCALE[1])))
    centre = (float(columns.mean()), float(rows.mean()))
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-TURN_DEG, TURN_DEG), scale)
    matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2)
    size = bleed.mask.shape[::-1]
    rise = np.asarray(cv2.warpAffine(bleed.rise.astype(np.float32), matrix, size), np.float32)
    mask = np.asarray(cv2.warpAffine(bleed.mask.astype(np.float32), matrix, size) > 0.5, np.bool_)
    return Bleed(rise[:, ::-1], mask[:, ::-1]) if rng.random() < 0.5 else Bleed(rise, mask)


def transplant(
    picture: Picture, bleed: Bleed, inside: Mask, rng: np.random.Generator
) -> tuple[Picture, Mask, bool] | None:
    """`picture` with the bleed, its mask there, and whether it is enough to be called; None where it does not fit."""
    area = int(bleed.mask.sum())
    if not area or (bleed.mask & inside).sum() < FITS * area:
        return None
    values = picture.astype(np.float32)
    strength = np.float32(rng.uniform(*STRENGTH))
    # Blood takes the place of what was there: CSF under it is raised to tissue first.
    tissue = np.float32(np.median(values[inside]))
    filled = blurred(bleed.mask, 1.0).clip(0, 1) * (tissue - blurred(values, 1.5)).clip(0) * np.float32(0.8)
    room = blurred(inside, 1.0) * inside
    shown = bleed.mask & inside
    clear = int(shown.sum()) >= LEAST_AREA and float(bleed.rise[shown].mean() * strength) >= LEAST_RISE
    return _as_picture(values + (bleed.rise * strength + filled) * room), shown, clear


def elsewhere(mask: Mask, inside: Mask, rng: np.random.Generator) -> Mask:
    """The same shape at another place inside the skull, away from `mask`: where a sham is done. Often nothing."""
    middle = (mask.shape[1] / 2, mask.shape[0] / 2)
    matrix = cv2.getRotationMatrix2D(middle, rng.uniform(0, 360), 1.0)
    turned = cv2.warpAffine(mask.astype(np.uint8), matrix, mask.shape[::-1]).astype(bool)
    return np.asarray(turned & inside & ~_dilated(mask, 4), np.bool_)


def _tissue(values: Values, mask: Mask, inside: Mask) -> Mask:
    """Brain away from the bleed, near this slice's usual brightness."""
    apart = inside & ~_dilated(mask, 4)
    known = apart & (values > TISSUE[0]) & (values < TISSUE[1])
    usual = float(np.median(values[known])) if known.any() else 100.0
    return np.asarray(apart & (np.abs(values - usual) < 60), np.bool_)


def _surroundings(values: Values, good: Mask) -> Values:
    """The brightness of the tissue about each pixel: far away where nothing is near, from near where something is."""
    found = np.full(values.shape, float(values[good].mean()) if good.any() else 100.0, np.float32)
    for sigma in (40, 20, 10, 5):
        weight = blurred(good, sigma)
        near = blurred(values * good, sigma) / weight.clip(1e-3)
        share = (weight / np.float32(0.12)).clip(0, 1)
        found = np.where(weight > 1e-3, (1 - share) * found + share * near, found).astype(np.float32)
    return found


def _texture(values: Values, where: Mask, good: Mask, rng: np.random.Generator) -> Values:
    """Noise and grain for `where`, taken from a place of the same slice that is nearly all tissue."""
    grain = values - blurred(values, 2.5)
    rows, columns = np.nonzero(where)
    height, width = values.shape
    best, chosen = -1.0, (rows, columns)
    for _ in range(40):
        down, right = rng.integers(-70, 71, 2)
        there = (rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)
        share = float(good[there].mean())
        if share > best:
            best, chosen = share, there
        if share > 0.97:
            break
    taken = np.where(good[chosen], grain[chosen], 0)
    missing = ~good[chosen]
    if missing.any() and good.any():
        taken[missing] = rng.choice(grain[good], int(missing.sum()))
    found = np.zeros_like(values)
    found[rows, columns] = taken
    return found


def _as_picture(values: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _dilated(part: Mask, radius: int) -> Mask:
    return np.asarray(cv2.dilate(part.astype(np.uint8), disk(radius)), np.bool_)

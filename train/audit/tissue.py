"""One slice taken apart: inside of the skull, blood, plain tissue, and its noise, of which more can be made.

Pictures are (row, column) with 255 for 80 HU. Noise is made from its spectrum (amplitude by frequency, random phases),
so that what is filled in has the grain of its surroundings and none of their shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from train.making.bleeds import inside_skull, segment

GREY_PER_HU = 255 / 80
BONE = 250  # nearly saturated
TISSUE = (12 * GREY_PER_HU, 55 * GREY_PER_HU)  # 12..55 HU: neither fluid nor dense blood
SMOOTH = 2.5  # pixels; wider than the grain of a slice of 256 pixels, narrower than a ventricle
SPREADS = 3.0  # more than this many standard deviations out is not noise but an edge

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What the manipulations need to know of one picture."""

    picture: Picture
    inside: Mask
    """Everything within the skull."""
    blood: Mask
    """The segmented bleed; empty if there is none."""

    @cached_property
    def brain(self) -> Mask:
        """Inside, two pixels away from bone, where its glow ends."""
        return eroded(self.inside, 2)

    @cached_property
    def tissue(self) -> Mask:
        """Brain that is neither blood, nor beside it, nor fluid."""
        smooth = blurred(self.picture.astype(np.float32), 1.0)
        return self.brain & ~dilated(self.blood, 3) & (smooth > TISSUE[0]) & (smooth < TISSUE[1])


def look(picture: Picture) -> Anatomy:
    # What brain encloses is inside too: a clot brighter than the window looks like bone.
    return Anatomy(picture, filled(inside_skull(picture)), segment(picture))


def dilated(mask: Mask, pixels: int) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disk(pixels))).astype(bool)


def eroded(mask: Mask, pixels: int) -> Mask:
    return np.asarray(cv2.erode(mask.astype(np.uint8), _disk(pixels))).astype(bool)


def _disk(pixels: int) -> Picture:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1,) * 2), np.uint8)


def head_of(picture: Picture) -> Mask:
    """The head with all that it encloses."""
    return filled(picture > 0)


def filled(mask: Mask) -> Mask:
    """With all that it encloses."""
    framed = np.pad(mask.astype(np.uint8), 1)
    cv2.floodFill(framed, None, (0, 0), 2)
    return np.asarray(framed[1:-1, 1:-1] != 2)


def blurred(picture: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


def blurred_within(picture: Floats, where: Mask, sigma: float) -> Floats:
    """Smoothed using only the pixels of `where`; elsewhere the nearest of these, as far as the filter reaches."""
    weight = blurred(where.astype(np.float32), sigma)
    return np.asarray(blurred(np.where(where, picture, np.float32(0)), sigma) / np.maximum(weight, 1e-4), np.float32)


def residual(picture: Picture, where: Mask) -> tuple[Floats, float]:
    """The picture less its smoothed self within `where`, edges clipped, 0 elsewhere; and the noise's spread."""
    grey = picture.astype(np.float32)
    rest = np.where(where, grey - blurred_within(grey, where, SMOOTH), np.float32(0))
    found = rest[where]
    spread = float(1.4826 * np.median(np.abs(found - np.median(found)))) if len(found) else 0.0
    return np.asarray(np.clip(rest, -SPREADS * spread, SPREADS * spread), np.float32), spread


def grain(anatomy: Anatomy, rng: np.random.Generator) -> Floats:
    """Noise over the whole frame, like that of this slice's tissue in spread and in spectrum, without any shape."""
    rest, spread = residual(anatomy.picture, anatomy.tissue)
    power = np.abs(np.fft.rfft2(rest)) ** 2
    rows, columns = rest.shape
    radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    ring = np.minimum((radius * 64).astype(int), 45)  # 0.5 cycles a pixel is ring 32; the corners lie beyond
    profile = np.bincount(ring.ravel(), power.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    white = np.fft.rfft2(rng.standard_normal(rest.shape))
    made = np.fft.irfft2(white * np.sqrt(profile)[ring], s=rest.shape)
    scale = float(made.std())
    return np.asarray(made * (spread / scale) if scale > 0 else np.zeros(rest.shape), np.float32)


def finished(picture: Floats) -> Picture:
    return np.asarray(np.rint(np.clip(picture, 0, 255)), np.uint8)

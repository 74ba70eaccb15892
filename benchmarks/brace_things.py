"""What a hospital brings beside and into a head, painted into phantom slices whose masks stay known.

`draw` takes a slice that `dtvit.phantom` rendered without a holder and gives it with the thing in it. Places are mm
from the middle of the picture, x to the right, y down, and `z` up from the middle of the head. What lies outside the
skin is holder (goes), what lies under it is head (stays). Sizes and densities are those of the things: beads of
polystyrene, PVC, nylon, silicone gel, titanium, carbon fibre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from dtvit.phantom import PhantomSlice

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float32]

THINGS = (
    "vacuum cushion",
    "wedge and strap",
    "gel crescent",
    "frame with pins",
    "cochlear implant",
    "clip",
    "fillings",
)
METAL_HU = 3071.0
BONE_HU = 300.0


@dataclass(frozen=True)
class Place:
    """A slice's grid, and what is near in it."""

    x: Array
    y: Array
    from_head: Array
    """mm outside the skin; 0 inside; far where the slice shows no head."""
    z: float
    pixel_mm: float


def draw(truth: PhantomSlice, thing: str, z: float, pixel_mm: float, seed: int) -> PhantomSlice:
    """The slice with the thing; `z` mm above the middle of the head."""
    rows, columns = truth.hu.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    outside = np.ones(truth.hu.shape, np.uint8) if not truth.head.any() else (~truth.head).astype(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * pixel_mm
    far = np.full_like(distance, 1e3)
    place = Place(
        (x + 0.5 - columns / 2) * pixel_mm,
        (y + 0.5 - rows / 2) * pixel_mm,
        distance if truth.head.any() else far,
        z,
        pixel_mm,
    )
    random = np.random.default_rng([seed, 77])
    match thing:
        case "vacuum cushion":
            return _cushion(truth, place, random)
        case "wedge and strap":
            return _strapped(truth, place)
        case "gel crescent":
            under = (place.from_head > 0) & (place.from_head < 25) & (place.y > 30)
            noise = cv2.GaussianBlur(random.standard_normal(truth.hu.shape).astype(np.float32), (0, 0), 1.0)
            return _laid(truth, place, under, 35.0 + 4.0 * noise / noise.std())
        case "frame with pins":
            return _framed(truth, place)
        case "cochlear implant":
            return _implanted(truth, place)
        case "clip":
            return _streaked(truth, place, (18.0, -12.0), 3.0, 350.0 * np.exp(-abs(z - 8.0) / 5.0), 25.0)
        case "fillings":
            strength = 600.0 * np.exp(-abs(z + 70.0) / 8.0)
            left = _streaked(truth, place, (-24.0, -48.0), 4.0, strength, 60.0)
            return _streaked(left, place, (24.0, -48.0), 4.0, strength, 60.0)
    raise ValueError(f"a thing is one of {', '.join(THINGS)}, not {thing!r}")


def _laid(truth: PhantomSlice, place: Place, where: Mask, hu: float | Array) -> PhantomSlice:
    """Something of this density laid beside the head, its edges as soft as the scanner's."""
    share = cv2.GaussianBlur(where.astype(np.float32), (0, 0), 0.5 / place.pixel_mm)
    return replace(
        truth,
        hu=np.asarray(truth.hu + share * (hu - truth.hu) * (place.from_head > 0), np.float32),
        holder=truth.holder | (where & ~truth.head),
    )


def _cushion(truth: PhantomSlice, place: Place, random: np.random.Generator) -> PhantomSlice:
    """A bag of beads, moulded to the head up to the ears, in a cover with creases."""
    slow = cv2.GaussianBlur(random.standard_normal(truth.hu.shape).astype(np.float32), (0, 0), 9.0 / place.pixel_mm)
    slow /= slow.std()
    bag = (np.hypot(place.x / 112, (place.y - 10) / 112) < 1) & (place.y > -5 + 6 * slow) & (place.from_head > 0.4)
    beads = cv2.GaussianBlur(random.standard_normal(truth.hu.shape).astype(np.float32), (0, 0), 1.5 / place.pixel_mm)
    filled = _laid(truth, place, bag, -930.0 + 40.0 * beads / beads.std())
    depth = cv2.distanceTransform(bag.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * place.pixel_mm
    cover = (bag & (depth < 2.2)) | (bag & (np.abs(slow) < 0.06) & (depth < 12))
    return _laid(filled, place, cover, 150.0)


def _strapped(truth: PhantomSlice, place: Place) -> PhantomSlice:
    """A wedge of foam under the head, and a strap over the forehead down to the table's edges."""
    wedge = (place.y > 45 + 0.3 * place.z) & (np.abs(place.x) < 95) & (place.y < 108) & (place.from_head > 0)
    foam = _laid(truth, place, wedge, -960.0)
    if not (-5.0 < place.z < 45.0) or not truth.head.any():
        return foam
    rows, columns = np.nonzero(truth.head)
    middle = np.array(truth.hu.shape[::-1]) / 2
    anchors = middle + np.array([[-112.0, 100.0], [112.0, 100.0]]) / place.pixel_mm
    points = np.concatenate([np.stack([columns, rows], 1), anchors]).astype(np.int32)
    hull = np.zeros(truth.hu.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    beyond = cv2.distanceTransform(1 - hull, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * place.pixel_mm
    strap = (beyond > 0) & (beyond < 3.5) & (place.y < 98)
    return _laid(foam, place, strap, 110.0)


def _framed(truth: PhantomSlice, place: Place) -> PhantomSlice:
    """A head frame of carbon fibre: four posts, and at one level a ring with four pins that reach the bone."""
    across, along = (place.x + place.y) / np.sqrt(2), (place.x - place.y) / np.sqrt(2)
    r = np.hypot(place.x, place.y)
    posts = ((np.abs(across) < 5) | (np.abs(along) < 5)) & (r > 106) & (r < 116)
    if not 15.0 < place.z < 27.0:
        return _laid(truth, place, posts, 400.0)
    ring = _laid(truth, place, posts | ((r > 108) & (r < 114)), 400.0)
    pins = ((np.abs(across) < 2.5) | (np.abs(along) < 2.5)) & (r < 110) & (place.from_head > 0)
    framed = _laid(ring, place, pins, METAL_HU)
    under = ((np.abs(across) < 2.5) | (np.abs(along) < 2.5)) & truth.head & (truth.hu < BONE_HU) & ~_skull(truth)
    hu = np.where(under, np.float32(METAL_HU), framed.hu)  # through the scalp
    return replace(framed, hu=hu)


def _skull(truth: PhantomSlice) -> Mask:
    """Bone and all that it encloses."""
    filled = np.zeros(truth.hu.shape, np.uint8)
    bone = ((truth.hu > BONE_HU) & truth.head).astype(np.uint8)
    outer, _ = cv2.findContours(bone, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(filled, outer, -1, 1, cv2.FILLED)
    return np.asarray(filled.view(np.bool_) | truth.brain)


def _implanted(truth: PhantomSlice, place: Place) -> PhantomSlice:
    """A receiver of titanium on the bone behind the ear under a bulging scalp, and the coil on the skin over it."""
    half_mm, coil_mm = (np.sqrt(max(0.0, r**2 - (place.z + 2.0) ** 2)) for r in (13.0, 17.0))
    skull = _skull(truth)
    if half_mm < 2.0 or not skull.any():
        return truth
    angle = np.radians(28.0)
    out, aside = (
        place.x * np.cos(angle) + place.y * np.sin(angle),
        place.y * np.cos(angle) - place.x * np.sin(angle),
    )
    above = cv2.distanceTransform((~skull).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * place.pixel_mm
    behind_ear = (out > 0) & (above > 0)
    there = behind_ear & (np.abs(aside) < half_mm)
    scalp_mm = float(above[there & truth.head].max()) if (there & truth.head).any() else 3.0
    receiver, skin = there & (above < 4.5), there & (above < 4.5 + scalp_mm)
    coil = behind_ear & (np.abs(aside) < coil_mm) & (above >= 4.5 + scalp_mm) & (above < 12.5 + scalp_mm)
    hu = np.where(skin & ~truth.head, np.float32(40.0), truth.hu)
    hu = np.where(coil, np.float32(900.0), np.where(receiver, np.float32(METAL_HU), hu))
    made = replace(truth, hu=hu, head=truth.head | skin, holder=(truth.holder | coil) & ~skin)
    at = float(place.x[receiver].mean()), float(place.y[receiver].mean())
    return _streaked(made, place, at, 0.0, 300.0, 30.0)


def _streaked(
    truth: PhantomSlice, place: Place, at: tuple[float, float], radius_mm: float, strength_hu: float, reach_mm: float
) -> PhantomSlice:
    """Metal of this radius in the head, and its star of dark and bright streaks where there is anything to streak."""
    x, y = place.x - at[0], place.y - at[1]
    r, turn = np.hypot(x, y), np.arctan2(y, x)
    star = np.cos(2 * turn + 0.4) + 0.8 * np.cos(5 * turn + 1.1) + 0.6 * np.cos(11 * turn)
    streaks = strength_hu * star * np.exp(-r / reach_mm) * (truth.hu > -500)
    hu = np.clip(truth.hu + streaks, -1024.0, METAL_HU).astype(np.float32)
    if strength_hu > 60.0 and radius_mm:
        hu[(r < radius_mm) & truth.head] = METAL_HU
    return replace(truth, hu=hu)

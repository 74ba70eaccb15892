"""Operations on masks in millimetres: by scikit-image and SciPy, which define them, and by OpenCV, which is fast.

Masks are bool (row, column), radii millimetres on pixels of `pixel_mm` (row, column spacing). Outside the picture is
background for `dilate` and `fill`, and foreground for `erode`: a head cut by the field of view is not eaten from there.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]
Pixel = tuple[float, float]


class Morphology(Protocol):
    """What brace removal is made of."""

    def erode(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask: ...

    def dilate(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask: ...

    def parts(self, mask: Mask) -> tuple[Labels, int]:
        """Labels 1..count of the 8-connected parts, in any order."""

    def depth(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        """Distance (mm) of each mask pixel to the nearest one outside; 0 outside."""

    def fill(self, mask: Mask) -> Mask:
        """The mask and whatever it encloses (background is 4-connected)."""

    def smooth(self, values: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
        """Mean over `width` x `width` pixels, mirrored at the borders."""

    def hull(self, mask: Mask) -> Mask:
        """Convex hull of the pixels."""


@functools.lru_cache(maxsize=32)
def ellipse(radius_mm: float, pixel_mm: Pixel) -> npt.NDArray[np.uint8]:
    """Footprint of a disk of `radius_mm`; disk(3) for 1.5 mm on pixels of 0.43 to 0.5 mm."""
    down, across = (int(radius_mm / mm + 1e-6) for mm in pixel_mm)
    y, x = np.ogrid[-down : down + 1, -across : across + 1]
    return np.asarray((y * pixel_mm[0]) ** 2 + (x * pixel_mm[1]) ** 2 <= radius_mm**2 + 1e-6, np.uint8)


def coarse(pixel_mm: Pixel, cell_mm: float = 1.0) -> tuple[int, Pixel]:
    """Every how many pixels are about `cell_mm`, and how far apart these are."""
    step = max(1, round(cell_mm / min(pixel_mm)))
    return step, (pixel_mm[0] * step, pixel_mm[1] * step)


def finer(mask: Mask, step: int, shape: tuple[int, ...]) -> Mask:
    """Back to (row, column) of `shape` from every `step`-th pixel."""
    return np.repeat(np.repeat(mask, step, 0), step, 1)[: shape[0], : shape[1]]


class Reference:
    """By scikit-image and SciPy."""

    def erode(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask:
        from skimage.morphology import erosion

        return np.asarray(erosion(mask, ellipse(radius_mm, pixel_mm)), np.bool_)

    def dilate(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask:
        from skimage.morphology import dilation

        return np.asarray(dilation(mask, ellipse(radius_mm, pixel_mm)), np.bool_)

    def parts(self, mask: Mask) -> tuple[Labels, int]:
        from skimage.measure import label

        labels, count = label(mask, connectivity=2, return_num=True)
        return labels.astype(np.int32), int(count)

    def depth(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        from scipy.ndimage import distance_transform_edt

        return np.asarray(distance_transform_edt(mask, sampling=pixel_mm), np.float32)

    def fill(self, mask: Mask) -> Mask:
        from scipy.ndimage import binary_fill_holes

        return np.asarray(binary_fill_holes(mask), np.bool_)

    def smooth(self, values: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
        from scipy.ndimage import uniform_filter

        return np.asarray(uniform_filter(values, width, mode="mirror"), np.float32)

    def hull(self, mask: Mask) -> Mask:
        from skimage.morphology import convex_hull_image

        return np.asarray(convex_hull_image(mask, offset_coordinates=False), np.bool_)


class Fast:
    """By OpenCV; distances take pixels as square, which they are in every head CT."""

    def erode(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask:
        import cv2

        return _bool(cv2.erode(mask.view(np.uint8), ellipse(radius_mm, pixel_mm)))

    def dilate(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask:
        import cv2

        return _bool(cv2.dilate(mask.view(np.uint8), ellipse(radius_mm, pixel_mm)))

    def parts(self, mask: Mask) -> tuple[Labels, int]:
        import cv2

        count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        return labels, count - 1

    def depth(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        import cv2

        if mask.all():  # no background to measure to
            return np.full(mask.shape, max(mask.shape) * pixel_mm[0], np.float32)
        distance = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.asarray(distance * np.float32(np.sqrt(pixel_mm[0] * pixel_mm[1])), np.float32)

    def fill(self, mask: Mask) -> Mask:
        import cv2

        framed = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8)
        framed[1:-1, 1:-1] = mask
        cv2.floodFill(framed, None, (0, 0), 2)
        return np.asarray(framed[1:-1, 1:-1] != 2)

    def smooth(self, values: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
        import cv2

        return np.asarray(cv2.blur(values, (width, width)), np.float32)

    def hull(self, mask: Mask) -> Mask:
        import cv2

        filled = np.zeros(mask.shape, np.uint8)
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size:  # the outermost pixels of each row have the same hull as all of them
            left = mask[rows].argmax(axis=1)
            right = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
            ends = np.concatenate([np.stack([left, rows], 1), np.stack([right, rows], 1)]).astype(np.int32)
            cv2.fillConvexPoly(filled, cv2.convexHull(ends), 1)
        return _bool(filled)


def _bool(mask: Any) -> Mask:
    return np.asarray(mask).view(np.bool_)

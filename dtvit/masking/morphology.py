"""Operations on masks in millimetres: by scikit-image and SciPy, which define them, and by OpenCV, which is fast.

Masks are bool (row, column), radii millimetres on pixels of `pixel_mm` (row, column spacing). Outside the picture is
background for `dilate` and `fill`, foreground for `erode`: a head cut by the field of view is not eroded from there.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer[Any]]
Pixel = tuple[float, float]
Cell = TypeVar("Cell", bound=np.generic)

FEW = 8  # this many labels are faster counted one by one


class Morphology(Protocol):
    """What brace removal is made of."""

    def erode(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask: ...

    def dilate(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask: ...

    def parts(self, mask: Mask) -> tuple[Labels, int]:
        """Labels 1..count of the 8-connected parts, in any order, in the smallest type that holds them."""

    def deeper(self, mask: Mask, least_mm: float, pixel_mm: Pixel) -> Mask:
        """Where `depth` is more than `least_mm`."""

    def depth(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        """Distance (mm) of each mask pixel to the nearest one outside; 0 outside."""

    def thickness(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        """`depth` to within 2 %: enough to tell a head from a shell."""

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
    """How many pixels make about `cell_mm`, and how far apart every such pixel is."""
    step = max(1, round(cell_mm / min(pixel_mm)))
    return step, (pixel_mm[0] * step, pixel_mm[1] * step)


def finer(values: npt.NDArray[Cell], step: int, shape: tuple[int, ...]) -> npt.NDArray[Cell]:
    """Back to (row, column) of `shape` from every `step`-th pixel."""
    rows, columns = values.shape
    wide = np.empty((rows, columns, step), values.dtype)
    for i in range(step):  # faster than np.repeat, which copies one by one
        wide[..., i] = values
    return np.repeat(wide.reshape(rows, columns * step)[:, : shape[1]], step, 0)[: shape[0]]


def sizes(labels: Labels, count: int, within: Mask | None = None) -> npt.NDArray[np.float64]:
    """Pixels of the labels 0..count, in all or `within`; exact."""
    import cv2

    if count <= FEW and labels.dtype == np.uint8:  # nearly always, and five times faster than any histogram
        seen = labels if within is None else np.where(within, labels, np.uint8(255))
        return np.array([np.count_nonzero(seen == label) for label in range(count + 1)], np.float64)
    if labels.dtype.itemsize > 2:  # OpenCV's histogram is ten times faster than bincount, but does not take 32 bits
        return np.bincount((labels if within is None else labels[within]).ravel(), minlength=count + 1).astype(float)
    mask = None if within is None else np.ascontiguousarray(within).view(np.uint8)
    found = cv2.calcHist([np.ascontiguousarray(labels)], [0], mask, [count + 1], [0, count + 1])
    return np.asarray(found.ravel(), np.float64)


def renamed(labels: Labels, names: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`names[labels]`; label 0 keeps the name 0."""
    import cv2

    named = np.flatnonzero(names)
    if len(named) == 1:  # nearly always; comparing is faster than any table
        label, name = int(named[0]), names[named[0]]  # an int: numpy would widen all labels to the array's type
        only = (labels == label).view(np.uint8)
        return only if name == 1 else np.asarray(only * name)
    if labels.dtype != np.uint8:
        return names[labels]
    table = np.zeros(256, np.uint8)
    table[: len(names)] = names
    return np.asarray(cv2.LUT(labels, table))


def marked(labels: Labels, which: Mask) -> Mask:
    """Where a label lies that `which` marks, by label; never the background, label 0."""
    names = which.astype(np.uint8)
    names[0] = 0
    return renamed(labels, names).view(np.bool_)


def _smallest(labels: npt.NDArray[np.integer[Any]], count: int) -> Labels:
    kind: type[np.integer[Any]] = np.uint8 if count < 2**8 else np.uint16 if count < 2**16 else np.int32
    return labels.astype(kind, copy=False)


@functools.lru_cache(maxsize=32)
def _nearer(most_mm: float, pixel_mm: float) -> npt.NDArray[np.uint8]:
    """Footprint of everything at most `most_mm` away, by the arithmetic of `Fast.depth`."""
    reach = int(most_mm / pixel_mm) + 1
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.sqrt((y * y + x * x).astype(np.float32)) * np.float32(pixel_mm)
    return np.asarray(distance <= np.float32(most_mm), np.uint8)


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
        return _smallest(labels, count), int(count)

    def deeper(self, mask: Mask, least_mm: float, pixel_mm: Pixel) -> Mask:
        return np.asarray(self.depth(mask, pixel_mm) > least_mm)

    def depth(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        from scipy.ndimage import distance_transform_edt

        return np.asarray(distance_transform_edt(mask, sampling=pixel_mm), np.float32)

    thickness = depth

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
    """By OpenCV; distances assume square pixels, as every head CT has."""

    def erode(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask:
        import cv2

        return _bool(cv2.erode(mask.view(np.uint8), ellipse(radius_mm, pixel_mm)))

    def dilate(self, mask: Mask, radius_mm: float, pixel_mm: Pixel) -> Mask:
        import cv2

        return _bool(cv2.dilate(mask.view(np.uint8), ellipse(radius_mm, pixel_mm)))

    def parts(self, mask: Mask) -> tuple[Labels, int]:
        import cv2

        # 8-connected regions are at most a quarter as many as pixels
        width = cv2.CV_16U if mask.size <= 4 * 65535 else cv2.CV_32S
        count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=width)
        return _smallest(labels, count - 1), count - 1

    def deeper(self, mask: Mask, least_mm: float, pixel_mm: Pixel) -> Mask:
        import cv2

        return _bool(cv2.erode(mask.view(np.uint8), _nearer(least_mm, float(np.sqrt(pixel_mm[0] * pixel_mm[1])))))

    def depth(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        import cv2

        return self._distance(mask, pixel_mm, cv2.DIST_MASK_PRECISE)

    def thickness(self, mask: Mask, pixel_mm: Pixel) -> npt.NDArray[np.float32]:
        import cv2

        return self._distance(mask, pixel_mm, cv2.DIST_MASK_5)  # by steps of a knight and a king: a third of the time

    @staticmethod
    def _distance(mask: Mask, pixel_mm: Pixel, how: int) -> npt.NDArray[np.float32]:
        import cv2

        if mask.all():  # no background to measure to
            return np.full(mask.shape, max(mask.shape) * pixel_mm[0], np.float32)
        distance = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, how)
        return np.asarray(distance * np.float32(math.sqrt(pixel_mm[0] * pixel_mm[1])), np.float32)

    def fill(self, mask: Mask) -> Mask:
        import cv2

        filled = np.zeros(mask.shape, np.uint8)
        outer, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(filled, outer, -1, 1, cv2.FILLED)
        return _bool(filled)

    def smooth(self, values: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
        import cv2

        return np.asarray(cv2.blur(values, (width, width)), np.float32)

    def hull(self, mask: Mask) -> Mask:
        import cv2

        filled = np.zeros(mask.shape, np.uint8)
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size:  # the outermost pixels of each row have the same hull as all of them
            left = mask.argmax(axis=1)[rows]
            right = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)[rows]
            ends = np.concatenate([np.stack([left, rows], 1), np.stack([right, rows], 1)]).astype(np.int32)
            cv2.fillConvexPoly(filled, cv2.convexHull(ends), 1)
        return _bool(filled)


def _bool(mask: Any) -> Mask:
    return np.asarray(mask).view(np.bool_)

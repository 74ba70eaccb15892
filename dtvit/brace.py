"""Removing the head holder (the "brace") and everything else that is not head from a CT slice.

`paper` is the morphological treatment of Fan et al. 2024 and its later version, section 2.2.1 of both, in the order in
which it was really done: brain window, scaling, threshold, erosion, the largest region (a step that the texts leave
out; without it most holders stay), dilation, edge columns, flood fill, inversion. scikit-image gives the reference
(`paper_reference`), OpenCV the same mask some twenty times faster (`paper`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dtvit.masking import retracing, robust
from dtvit.masking.morphology import Fast, Mask, sizes

MODES = ("paper", "robust")
VERSIONS = {"paper": "paper-1", "robust": "robust-1"}
"""Changes with every change of a mask; recorded with the checkpoint and in the report."""

WINDOW_HU = (0.0, 80.0)
PAPER_RADIUS = 3  # pixels, whatever their size: disk(3)
PIXELS = (1.0, 1.0)  # radii in pixels, where `morphology` has millimetres
PAPER_LEVEL = 3  # of 255, after scaling the window's contents per slice


@dataclass(frozen=True, eq=False)
class HeadMask:
    """Where the head is in one slice, and what was doubtful about finding it."""

    mask: Mask
    """(row, column); True is head with everything it encloses."""
    flags: tuple[str, ...] = ()
    """What was unusual, in words; empty if nothing was."""
    trace: retracing.Trace | None = None
    """What `retrace` needs of this slice; None in paper mode."""


def find_head(
    hu: npt.NDArray[np.float32],
    pixel_mm: tuple[float, float],
    mode: str = "robust",
    parts: frozenset[int] | None = None,
) -> HeadMask:
    """The head in `hu` (row, column; HU), pixels `pixel_mm` apart (between rows, between columns).

    `parts` is what `retrace` gave for this slice. Raises ValueError on an unknown mode.
    """
    if mode == "robust":
        decision = robust.decide(hu, pixel_mm, parts)
        return HeadMask(decision.mask, decision.flags, decision.trace)
    if mode == "paper":
        mask = paper(hu)
        return HeadMask(mask, () if mask.any() else (robust.NO_HEAD,))
    raise ValueError(f"brace removal has the modes {', '.join(MODES)}, not {mode!r}")


def retrace(heads: Sequence[HeadMask]) -> list[frozenset[int] | None]:
    """For each slice, ordered along the series: the parts to find its head with again, or None if nothing changes."""
    traces = [head.trace for head in heads]
    known = [trace for trace in traces if trace is not None]
    if len(known) < len(traces):
        return [None] * len(heads)
    return [
        None if parts == trace.accepted else parts for trace, parts in zip(known, retracing.retrace(known), strict=True)
    ]


def _binarised(hu: npt.NDArray[np.float32]) -> Mask:
    """Where the slice, windowed and scaled by its own extremes to whole numbers 0..255, is above PAPER_LEVEL."""
    import cv2

    low, high = (min(max(v, WINDOW_HU[0]), WINDOW_HU[1]) for v in cv2.minMaxLoc(hu)[:2])
    if high <= low:  # an empty slice has nothing to scale (the papers would divide by zero)
        return np.zeros(hu.shape, np.bool_)
    return hu >= np.float32(low + (PAPER_LEVEL + 1) * (high - low) / 255.0)


def paper(hu: npt.NDArray[np.float32]) -> Mask:
    """The papers' mask (row, column), by OpenCV; the same as `paper_reference`, pixel for pixel."""
    import cv2

    by = Fast()
    labels, count = by.parts(by.erode(_binarised(hu), PAPER_RADIUS, PIXELS))
    if not count:
        return np.zeros(hu.shape, np.bool_)
    largest = labels == 1 + int(sizes(labels, count)[1:].argmax())  # the first of equals
    body = by.dilate(largest, PAPER_RADIUS, PIXELS).view(np.uint8)
    body[:, 0] = body[:, -1] = 0
    cv2.floodFill(body, None, (0, 0), 2)  # 4-connected
    return np.asarray(body != 2)


def paper_reference(hu: npt.NDArray[np.float32]) -> Mask:
    """The papers' mask (row, column), by scikit-image: slow, and the definition. Shares no step with `paper`."""
    from skimage import measure, segmentation
    from skimage.morphology import dilation, disk, erosion

    window = hu.astype(np.float64).clip(0, 80)
    low, high = window.min(), window.max()
    if high <= low:
        return np.zeros(hu.shape, np.bool_)
    scaled = (255 * (window - low) / (high - low)).astype(np.uint8)
    thin = erosion(scaled > 3, disk(3))
    labels = measure.label(thin, connectivity=2)
    if not labels.any():
        return np.zeros(hu.shape, np.bool_)
    body = dilation(labels == 1 + int(np.bincount(labels.ravel())[1:].argmax()), disk(3))
    body[:, 0] = body[:, -1] = False
    return np.asarray(~segmentation.flood(body, (0, 0), connectivity=1))

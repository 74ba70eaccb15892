"""Removing the head holder (the "brace") and all else that is no head from a CT slice.

`paper` is the morphological treatment of Fan et al. 2024 and its later version, section 2.2.1 of both, in the order in
which it was really done: brain window, scaling, threshold, erosion, the largest region (a step that the texts leave
out; without it most holders stay), dilation, edge columns, flood fill, inversion. scikit-image gives the reference
(`paper_reference`), OpenCV the same mask some forty times faster (`paper`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dtvit import robust

Mask = npt.NDArray[np.bool_]

MODES = ("paper", "robust")
VERSIONS = {"paper": "paper-1", "robust": "robust-1"}
"""Changes with every change of a mask; recorded with the checkpoint and in the report."""

WINDOW_HU = (0.0, 80.0)
PAPER_RADIUS = 3  # pixels, whatever their size: disk(3)
PAPER_LEVEL = 3  # of 255, after scaling the window's contents per slice


@dataclass(frozen=True, eq=False)
class HeadMask:
    """Where the head is in one slice, and what was doubtful about finding it."""

    mask: Mask
    """(row, column); True is head with everything it encloses."""
    flags: tuple[str, ...] = ()
    """Words for what went another way than usual; empty where nothing did."""
    trace: robust.Trace | None = None
    """What `retrace` needs of this slice; None in paper mode."""


def head_mask(hu: npt.NDArray[np.float32], pixel_mm: tuple[float, float], mode: str = "robust") -> Mask:
    """`find_head(...).mask`."""
    return find_head(hu, pixel_mm, mode).mask


def find_head(
    hu: npt.NDArray[np.float32],
    pixel_mm: tuple[float, float],
    mode: str = "robust",
    parts: frozenset[int] | None = None,
) -> HeadMask:
    """The head in `hu` (row, column; HU), pixels `pixel_mm` apart (between rows, between columns).

    `parts` is what `retrace` told of this slice. Raises ValueError on an unknown mode.
    """
    if mode == "robust":
        decision = robust.decide(hu, pixel_mm, parts)
        return HeadMask(decision.mask, decision.flags, decision.trace)
    if mode == "paper":
        mask = paper(hu)
        return HeadMask(mask, () if mask.any() else (robust.NO_HEAD,))
    raise ValueError(f"brace removal knows the modes {', '.join(MODES)}, not {mode!r}")


def retrace(heads: Sequence[HeadMask]) -> list[frozenset[int] | None]:
    """For each slice, ordered along the series: the parts to find its head with anew, or None where nothing changes."""
    traces = [head.trace for head in heads]
    known = [trace for trace in traces if trace is not None]
    if len(known) < len(traces):
        return [None] * len(heads)
    return [
        None if parts == trace.accepted else parts for trace, parts in zip(known, robust.retrace(known), strict=True)
    ]


def _binarised(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """1 where the slice, windowed and scaled by its own extremes to 0..255, is brighter than PAPER_LEVEL."""
    window = np.clip(hu, *WINDOW_HU)
    low, high = float(window.min()), float(window.max())
    if high <= low:  # an empty slice has nothing to scale (the papers would divide by zero)
        return np.zeros(hu.shape, np.uint8)
    scaled = ((window - low) * (255.0 / (high - low))).astype(np.uint8)
    return (scaled > PAPER_LEVEL).astype(np.uint8)


def paper(hu: npt.NDArray[np.float32]) -> Mask:
    """The papers' mask (row, column), by OpenCV; the same as `paper_reference`, pixel for pixel."""
    import cv2

    disk = _disk(PAPER_RADIUS)
    thin = cv2.erode(_binarised(hu), disk)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(thin, connectivity=8)
    if len(stats) == 1:
        return np.zeros(hu.shape, np.bool_)
    body = cv2.dilate((labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8), disk)
    body[:, 0] = body[:, -1] = 0
    cv2.floodFill(body, None, (0, 0), 2)  # 4-connected
    return np.asarray(body != 2)


def paper_reference(hu: npt.NDArray[np.float32]) -> Mask:
    """The papers' mask (row, column), by scikit-image: slow, and the definition."""
    from skimage import measure, segmentation
    from skimage.morphology import dilation, disk, erosion

    thin = erosion(_binarised(hu).astype(bool), disk(PAPER_RADIUS))
    labels = measure.label(thin, connectivity=2)
    if not labels.any():
        return np.zeros(hu.shape, np.bool_)
    body = dilation(labels == 1 + int(np.bincount(labels.ravel())[1:].argmax()), disk(PAPER_RADIUS))
    body[:, 0] = body[:, -1] = False
    return np.asarray(~segmentation.flood(body, (0, 0), connectivity=1))


def _disk(radius: int) -> npt.NDArray[np.uint8]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)

"""Which slices show brain: the papers' manual filtering (Fan et al. 2024, section 2.2.2) done by machine.

Brain is soft tissue that meets bone in nearly every direction, in pieces too wide to be canal or muscle. That needs no
atlas and no orientation, and holds for thin and thick slices, tilted gantries, children and open skulls. Only the two
ends are doubtful, so they are decided over the series (`regions`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dtvit.brain.cells import means
from dtvit.brain.enclosure import (
    DIRECTIONS,
    GRID_MM,
    directions_with_bone,
    wide_pieces,
    with_cropped_border,
    with_cropped_circle,
    within_circle,
)
from dtvit.brain.truncation import cut_mm

AIR_HU = -1024.0  # and padding: what `ct` makes of everything below
CLIP_HU = (-200.0, 400.0)  # air and dense bone count no more than these in a mean
BONE_HU = 200.0  # above clotted blood (at most 100) and contrast in vessels, below a child's skull
BONE_SHARE = 0.3  # of a grid cell: keeps the skull of thick slices closed where it runs obliquely
BONE_MEAN_HU = 150.0
TISSUE_HU = (0.0, 130.0)  # cell means: CSF to dense clot
MET_BONE = 14  # of 16: sutures, foramina, a burr hole; tongue and neck meet bone in fewer
LOWER_CM2 = 8.0  # a foramen magnum measures 6 to 9
UPPER_CM2 = 3.0  # the top of the brain in a thick slice; nothing there resembles it
SURELY_CM2 = 40.0  # no tongue, orbit or canal reaches this
HEAD_CM2 = 8.0  # less is a nose, an ear, a fold of the holder's cover
LARGEST_HEAD_CM2 = 420.0  # 25 x 21 cm; a thorax has more
BRAIN_HU = (5.0, 70.0)  # median over a slice's brain: above water, below the acrylic of a test object
CLOSED_SHARE = 0.5  # of the brain that meets bone in all directions; ribs leave gaps, a skull does not
DROPPED_HU = 100.0  # half a cell of water, against air as clipped
INTERCEPT_HU = 1024.0  # the usual Rescale Intercept, less its sign; some have 1000, which is near enough for BRAIN_HU
RIM = 2  # cells: brain this near the edge of the field of view has its skull, and perhaps more brain, outside
TISSUE_ABOVE_HU = -150.0  # fat and all that is denser, in the mean of a cell
NOISE_CM2 = 8.0  # of tissue with tissue all around it; less, as at the vertex, is too little to measure noise
# Standard deviation over the lower quartile of how far cells are from the mean of their four neighbours, for noise that
# no cell shares with the next (sums of normal distributions). The lower quartile: edges make up the upper ones.
NOISE_OF_QUARTILE = 1.0 / (0.3186 * math.sqrt(1.0 + 1.0 / 4.0))
AGAINST_NEIGHBOURS = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], np.float32) / 4
FILLED = 0.7  # of the picture: less than air in a circle of reconstruction (0.79), more than any head


@dataclass(frozen=True)
class SliceContent:
    """What one slice shows, in numbers that the decision over the series needs."""

    head_cm2: float
    """Area of the head mask that is not air."""
    brain_cm2: float
    """Soft tissue within bone, in pieces wide enough to be brain."""
    closed: float
    """Share of that tissue which meets bone in every direction, 0..1."""
    brain_hu: float
    """Its median; 0 if there is none."""
    soft_cm2: float = 0.0
    """All soft tissue, enclosed or not."""
    unseen_cm2: float = 0.0
    """Brain outside the part of the picture that the model is shown."""
    removed_cm2: float = 0.0
    """What looks like brain but was not taken for head: brace removal may have gone wrong."""
    cut_mm: float = 0.0
    """Of brain where the picture's content ends within the head (`truncation.cut_mm`)."""
    shifted_hu: float = 0.0
    """By how much all values are too high, if without that the slice is surely brain; 0 for any other."""
    noise_hu: float = 0.0
    """Standard deviation of means over GRID_MM, roughly what the model sees, in tissue away from bone and air; streaks
    count as noise. 0 if there is little such tissue."""

    @property
    def may_show_brain(self) -> bool:
        """Whether the slice should be classified before the rest of its series is known."""
        return self.brain_cm2 >= UPPER_CM2 and self.head_cm2 <= LARGEST_HEAD_CM2

    @property
    def surely_brain(self) -> bool:
        """Brain that nothing outside a skull resembles: large, enclosed by bone, neither water nor acrylic."""
        return (
            self.brain_cm2 >= SURELY_CM2
            and self.brain_cm2 >= 0.25 * self.head_cm2
            and self.head_cm2 <= LARGEST_HEAD_CM2
            and self.closed >= CLOSED_SHARE
            and BRAIN_HU[0] <= self.brain_hu <= BRAIN_HU[1]
        )


def classify_content(
    hu: npt.NDArray[np.float32],
    head_mask: npt.NDArray[np.bool_],
    pixel_mm: tuple[float, float],
    shown: tuple[slice, slice] = (slice(None), slice(None)),
) -> SliceContent:
    """Measure one slice: `hu` and `head_mask` (row, column), `pixel_mm` between rows and between columns.

    `shown`: the rows and columns that the model is shown.
    """
    content = _measured(hu, head_mask, pixel_mm, shown)
    return replace(content, cut_mm=cut_mm(hu, head_mask, pixel_mm), shifted_hu=_shifted(hu, pixel_mm, content.soft_cm2))


def _measured(
    hu: npt.NDArray[np.float32],
    head_mask: npt.NDArray[np.bool_],
    pixel_mm: tuple[float, float],
    shown: tuple[slice, slice] = (slice(None), slice(None)),
) -> SliceContent:
    mean, share, whole = _cells_of(hu, head_mask, pixel_mm)
    bone = (share > BONE_SHARE) | (mean > BONE_MEAN_HU)
    cell_cm2 = hu.size * pixel_mm[0] * pixel_mm[1] / (100.0 * mean.size)
    circle = within_circle(whole)
    tissue = _soft(mean) & ~bone
    met = _met(bone, tissue, mean, circle)
    brain = wide_pieces(tissue & (met >= MET_BONE))
    area = np.count_nonzero(brain)
    return SliceContent(
        head_cm2=float(np.count_nonzero(mean > TISSUE_ABOVE_HU) * cell_cm2),
        brain_cm2=area * cell_cm2,
        closed=float((met[brain] >= DIRECTIONS).mean()) if area else 0.0,
        brain_hu=float(np.median(mean[brain])) if area else 0.0,
        soft_cm2=float(np.count_nonzero(tissue) * cell_cm2),
        unseen_cm2=float(np.count_nonzero(brain & ~_seen(shown, hu.shape, circle, brain.shape)) * cell_cm2),
        removed_cm2=float(_removed(hu, mean, whole) * cell_cm2),
        noise_hu=_noise(mean, ~bone & (mean > TISSUE_ABOVE_HU), round(NOISE_CM2 / cell_cm2)),
    )


def _noise(mean: npt.NDArray[np.float32], tissue: npt.NDArray[np.bool_], least: int) -> float:
    """See `SliceContent`; `least` cells."""
    import cv2

    within = cv2.erode(tissue.view(np.uint8), np.ones((3, 3), np.uint8)).view(np.bool_)
    off = cv2.filter2D(mean, -1, AGAINST_NEIGHBOURS)[within]
    if len(off) < least:
        return 0.0
    quarter = len(off) // 4
    return NOISE_OF_QUARTILE * float(np.partition(np.abs(off), quarter)[quarter])


def _shifted(hu: npt.NDArray[np.float32], pixel_mm: tuple[float, float], soft_cm2: float) -> float:
    """See `SliceContent`. For stored values whose intercept was lost, and those to which it was added twice; they are
    not corrected, since nobody knows what else is wrong with them."""
    some = hu[::8, ::8]
    least = FILLED * some.size
    some = some[some > AIR_HU]
    if not some.size or some.min() > CLIP_HU[0]:  # no air but what may be padding
        too_high = INTERCEPT_HU
    elif soft_cm2 < HEAD_CM2 and some.size < least:  # nothing of a head but bone, with clipped air around it
        too_high = -INTERCEPT_HU
    else:
        return 0.0
    mended = np.where(hu > AIR_HU, hu - np.float32(too_high), np.float32(AIR_HU))
    return too_high if _measured(mended, np.ones(hu.shape, np.bool_), pixel_mm).surely_brain else 0.0


def _met(
    bone: npt.NDArray[np.bool_],
    tissue: npt.NDArray[np.bool_],
    mean: npt.NDArray[np.float32],
    circle: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.uint8]:
    """Directions with bone. Where the field of view cuts, bone is assumed outside, if most of the tissue that it then
    encloses already has bone in half of the directions: around a head, and not around the muscles of a back."""
    met = directions_with_bone(bone)
    closed = with_cropped_circle(with_cropped_border(bone, mean), mean, circle)
    if np.array_equal(closed, bone):  # nearly always
        return met
    assumed = directions_with_bone(closed)
    enclosed = met[tissue & (assumed >= MET_BONE)]
    return assumed if enclosed.size and np.median(enclosed) >= DIRECTIONS // 2 else met


def _cells_of(
    hu: npt.NDArray[np.float32], head_mask: npt.NDArray[np.bool_], pixel_mm: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """(3, row, column) on a grid of about GRID_MM: mean HU of the head, its share of dense bone, mean HU of all."""
    import cv2

    rows, columns = hu.shape
    side_by_side = np.empty((rows, 3 * columns), np.float32)
    head, dense, everything = (side_by_side[:, i * columns : (i + 1) * columns] for i in range(3))
    np.clip(hu, *CLIP_HU, out=everything)
    head[:] = CLIP_HU[0]
    cv2.copyTo(everything, head_mask.view(np.uint8), head)
    cv2.threshold(head, BONE_HU, 1.0, cv2.THRESH_BINARY, dense)
    return means(side_by_side, 3, _grid(hu.shape, pixel_mm))


def _grid(shape: tuple[int, ...], pixel_mm: tuple[float, float]) -> tuple[int, int]:
    rows, columns = (max(8, round(n * mm / GRID_MM)) for n, mm in zip(shape, pixel_mm, strict=True))
    return rows, columns


def _soft(mean: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return (mean > TISSUE_HU[0]) & (mean < TISSUE_HU[1])


def _removed(hu: npt.NDArray[np.float32], kept: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]) -> int:
    """Cells (means of all that is in them, and of what the mask left) that the mask drops and that are soft tissue
    within bone, wide enough for brain."""
    tissue = wide_pieces((mean - kept > DROPPED_HU) & _soft(mean))
    if not tissue.any():  # nearly always
        return 0
    (share,) = means((hu > BONE_HU).astype(np.float32), 1, (mean.shape[0], mean.shape[1]))
    met = _met((share > BONE_SHARE) | (mean > BONE_MEAN_HU), tissue, mean, within_circle(mean))
    return int(np.count_nonzero(wide_pieces(tissue & (met >= MET_BONE))))


def _seen(
    shown: tuple[slice, slice],
    shape: tuple[int, ...],
    circle: npt.NDArray[np.float32] | None,
    grid: tuple[int, ...],
) -> npt.NDArray[np.bool_]:
    """The cells of the coarse grid whose centres lie in the rows and columns `shown` of a slice of this shape, and away
    from the edge of the picture, or the `circle` in it (see `within_circle`), where the field of view cuts.
    """
    inside = []
    for part, pixels, cells in zip(shown, shape, grid, strict=True):
        begin, end, _ = part.indices(pixels)
        centres = (np.arange(cells) + 0.5) * pixels / cells
        inside.append((centres >= begin) & (centres <= end))
    seen = np.asarray(np.logical_and.outer(*inside))
    seen[:RIM] = seen[-RIM:] = False
    seen[:, :RIM] = seen[:, -RIM:] = False
    return seen if circle is None else seen & (circle >= RIM + 1)  # the cells on the circle are halved

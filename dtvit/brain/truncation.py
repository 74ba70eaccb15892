"""Where a slice is cut off: by a reconstruction smaller than the head, a reformat that reaches beyond its volume, or a
transfer or a decoder that broke off.

What lies beyond has a single value up to the border of the picture, be it padding, air or zero. A head that ends by
itself shows skin there; one that is cut shows skull, brain, and skull again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BONE_HU, TISSUE_HU = 200.0, (0.0, 130.0)  # as `selection` has them for cells, here of pixels
AIR_HU = -1000.0
SAMPLED_MM = 3.0  # between the lines that are followed from the border inwards
BLURRED, BLURRED_MM = 4, 3.0  # resampling softens the edge over this many pixels, but no further in
BEYOND = 3  # pixels of one value in a row; fewer may be alike by chance
SCALP_MM = 12.0  # none is thicker: below it lies bone
CUT_MM = 30.0  # a chord a millimetre or two within the skull; whole heads stay below, even if all air has one value


def cut_mm(hu: npt.NDArray[np.float32], head_mask: npt.NDArray[np.bool_], pixel_mm: tuple[float, float]) -> float:
    """How much brain between skull and skull lies where the picture's content ends, seen from one of its four sides; 0
    if that is less than CUT_MM, as where the head ends by itself, or if it ends at the border of the picture.
    `hu` and `head_mask` (row, column), `pixel_mm` between rows and between columns.
    """
    rows_mm, columns_mm = pixel_mm
    down, across = (max(1, round(SAMPLED_MM / mm)) for mm in pixel_mm)
    columns = np.ascontiguousarray(hu[:, ::across]).T  # thinned out first, which takes half the time
    return max(
        _from_both_ends(hu[::down], head_mask[::down], columns_mm, down * rows_mm),
        _from_both_ends(columns, head_mask[:, ::across].T, rows_mm, across * columns_mm),
    )


def _from_both_ends(
    hu: npt.NDArray[np.float32], head: npt.NDArray[np.bool_], along_mm: float, apart_mm: float
) -> float:
    """For a picture (line, pixel), following its lines inwards."""
    ways = [turn for turn in (1, -1) if (hu[:, ::turn][:, :1] == hu[:, ::turn][:, 1:BEYOND]).all(1).any()]
    if not ways:  # mostly: air has noise
        return 0.0
    lines = np.ascontiguousarray(hu)
    return max(_brain_at_the_edge(lines[:, ::turn], head[:, ::turn], along_mm, apart_mm) for turn in ways)


def _brain_at_the_edge(
    hu: npt.NDArray[np.float32], head: npt.NDArray[np.bool_], along_mm: float, apart_mm: float
) -> float:
    begin = (hu == hu[:, :1]).argmin(1)  # where the content of each line begins; 0 where there is none
    found = 0.0
    deep = np.arange(1 + min(BLURRED, round(BLURRED_MM / along_mm)))
    first = _followed(hu, head, begin, deep)
    soft = (first > TISSUE_HU[0]) & (first < TISSUE_HU[1])
    for at in np.flatnonzero(np.count_nonzero(soft, 1) * apart_mm >= CUT_MM):  # mostly none
        brain = soft[at] & _between_bone(first[at])
        if np.count_nonzero(brain) * apart_mm >= CUT_MM:
            deeper = at + np.rint(np.arange(1.0, SCALP_MM) / along_mm).astype(np.intp)
            brain &= (_followed(hu, head, begin, deeper) < BONE_HU).all(0)
            found = max(found, np.count_nonzero(brain) * apart_mm)
    return found if found >= CUT_MM else 0.0


def _followed(
    hu: npt.NDArray[np.float32], head: npt.NDArray[np.bool_], begin: npt.NDArray[np.intp], deep: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """(depth, line): the pixels `deep` in the content of each line; air outside the head."""
    place = np.arange(len(hu)), np.minimum(begin + deep[:, None], hu.shape[1] - 1)
    return np.where(head[place] & (begin >= BEYOND), hu[place], np.float32(AIR_HU))


def _between_bone(along: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    bone = along > BONE_HU
    return np.asarray(np.logical_or.accumulate(bone) & np.logical_or.accumulate(bone[::-1])[::-1])

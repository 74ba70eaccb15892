"""Where a slice is cut off: by a reconstruction smaller than the head, a reformat that reaches beyond its volume, or a
transfer or a decoder that broke off.

What lies beyond holds one value as far as the border of the picture, be it padding, air or zero. A head that ends by
itself shows skin there; one that is cut shows skull, brain, and skull again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BONE_HU, TISSUE_HU = 200.0, (0.0, 130.0)  # as `selection` has them for cells, here of pixels
AIR_HU = -1000.0
SAMPLED_MM = 2.0  # between the lines that are followed from the border inwards
BLURRED, BLURRED_MM = 4, 3.0  # over so many pixels resampling softens the edge, but no further in
BEYOND = 3  # pixels of one value in a row; fewer may be alike by chance
SCALP_MM = 12.0  # thicker is none: below it lies bone
CUT_MM = 30.0  # a chord a millimetre or two within the skull; whole heads keep below, be all air of one value


def cut_mm(hu: npt.NDArray[np.float32], head_mask: npt.NDArray[np.bool_], pixel_mm: tuple[float, float]) -> float:
    """How much brain between skull and skull lies where the picture's content ends, seen from one of its four sides; 0
    where that is less than CUT_MM, as where the head ends by itself, and where it ends at the border of the picture.
    `hu` and `head_mask` (row, column), `pixel_mm` between rows and between columns.
    """
    rows_mm, columns_mm = pixel_mm
    ways = (hu, head_mask, columns_mm, rows_mm), (hu.T, head_mask.T, rows_mm, columns_mm)
    return max(_from_both_ends(*way) for way in ways)


def _from_both_ends(
    hu: npt.NDArray[np.float32], head: npt.NDArray[np.bool_], along_mm: float, apart_mm: float
) -> float:
    """Of a picture (line, pixel) whose lines are followed inwards."""
    step = max(1, round(SAMPLED_MM / apart_mm))
    hu, head = hu[::step], head[::step]
    ways = [turn for turn in (1, -1) if (hu[:, ::turn][:, :1] == hu[:, ::turn][:, 1:BEYOND]).all(1).any()]
    if not ways:  # mostly: air has noise
        return 0.0
    lines = np.ascontiguousarray(hu)
    return max(_brain_at_the_edge(lines[:, ::turn], head[:, ::turn], along_mm, step * apart_mm) for turn in ways)


def _brain_at_the_edge(
    hu: npt.NDArray[np.float32], head: npt.NDArray[np.bool_], along_mm: float, apart_mm: float
) -> float:
    begin = (hu == hu[:, :1]).argmin(1)  # where the content of each line begins; 0 where there is none
    found = 0.0
    for deep in range(1 + min(BLURRED, round(BLURRED_MM / along_mm))):
        brain = _between_bone(_followed(hu, head, begin, deep))
        if np.count_nonzero(brain) * apart_mm >= CUT_MM:
            for deeper_mm in np.arange(1.0, SCALP_MM):
                brain &= _followed(hu, head, begin, deep + round(deeper_mm / along_mm)) < BONE_HU
            found = max(found, np.count_nonzero(brain) * apart_mm)
    return found if found >= CUT_MM else 0.0


def _followed(
    hu: npt.NDArray[np.float32], head: npt.NDArray[np.bool_], begin: npt.NDArray[np.intp], deep: int
) -> npt.NDArray[np.float32]:
    """The one pixel of each line that lies so deep in its content; air outside the head."""
    place = np.arange(len(hu)), np.minimum(begin + deep, hu.shape[1] - 1)
    return np.where(head[place] & (begin >= BEYOND), hu[place], np.float32(AIR_HU))


def _between_bone(along: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    soft = (along > TISSUE_HU[0]) & (along < TISSUE_HU[1])
    bone = np.flatnonzero(along > BONE_HU)
    if not len(bone):
        return np.zeros(along.shape, np.bool_)
    soft[: bone[0]] = soft[bone[-1] :] = False
    return soft

"""Where the picture ends before the head does."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from dtvit import brace
from dtvit.brain.truncation import CUT_MM, cut_mm
from dtvit.phantom import draw, render_slice

FILLS = (-1024.0, 0.0, 300.0)


@cache
def head(seed: int) -> tuple[npt.NDArray[np.float32], float]:
    """A slice through the ventricles, without a holder, and its pixel in mm."""
    spec = draw(seed, None, matrix=256, fov_mm=240.0, tilt_deg=0.0, shape="none", thickness_mm=5.0)
    return render_slice(spec, spec.head.centre_mm[2] + 15.0).hu, spec.scan.pixel_mm


def cut(hu: npt.NDArray[np.float32], mm: float) -> float:
    return cut_mm(hu, brace.find_head(hu, (mm, mm)).mask, (mm, mm))


def beyond(hu: npt.NDArray[np.float32], degrees: float, share: float, radius: float | None = None) -> npt.NDArray:
    """Where this `share` of the head lies, seen in this direction: beyond a line, or a circle of so many pixels."""
    rows, columns = np.nonzero(brace.find_head(hu, (1.0, 1.0)).mask)
    middle, way = np.array([rows.mean(), columns.mean()]), np.array([np.sin(a := np.radians(degrees)), np.cos(a)])
    along = np.stack([rows, columns], 1) @ way - middle @ way
    edge = along.max() - share * np.ptp(along)
    y, x = np.mgrid[: hu.shape[0], : hu.shape[1]]
    if radius is None:
        return np.asarray((y - middle[0]) * way[0] + (x - middle[1]) * way[1] > edge)
    centre = middle + way * (edge - radius)
    return np.asarray(np.hypot(y - centre[0], x - centre[1]) > radius)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, 270.0])
def test_a_head_that_lost_rows_or_columns_is_cut(degrees: float, fill: float) -> None:
    hu, mm = head(1)
    assert cut(np.where(beyond(hu, degrees, 0.12), np.float32(fill), hu), mm) >= CUT_MM


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, 270.0])
@pytest.mark.parametrize("aside", [((120, 0), (0, 0)), ((0, 120), (0, 0)), ((0, 0), (120, 0)), ((0, 0), (0, 120))])
def test_a_head_beside_the_middle_of_the_picture_is_cut_on_whichever_side(
    degrees: float, aside: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    hu, mm = head(1)
    torn = np.where(beyond(hu, degrees, 0.12), np.float32(-1024.0), hu)
    assert cut(np.pad(torn, aside, constant_values=-1024.0), mm) >= CUT_MM


@pytest.mark.parametrize("bone_from_mm", [None, 70.0, -80.0])
def test_soft_tissue_that_is_not_between_bone_is_no_brain_that_is_cut(bone_from_mm: float | None) -> None:
    """A neck that is wider than the picture; a cheek beside a jaw."""
    y, x = np.mgrid[:256, :256] - 128.0
    neck = np.where(np.hypot(x, y) < 90.0, 40.0, -1000.0) + np.random.default_rng(1).normal(0.0, 4.0, x.shape)
    if bone_from_mm is not None:
        neck[(y >= bone_from_mm) & (y < bone_from_mm + 10.0) & (np.hypot(x, y) < 90.0)] = 900.0
    torn = np.where(x > 20.0, -1024.0, neck).astype(np.float32)
    assert cut_mm(torn, np.hypot(x, y) < 90.0, (1.0, 1.0)) == 0.0


@pytest.mark.parametrize("open_mm", [0.0, 15.0, 45.0])
def test_scalp_in_a_dip_of_the_skull_is_no_brain_that_is_cut(open_mm: float) -> None:
    """Bone to its sides, but bone below it, too: all that may be brain is what has none there."""
    y, x = np.mgrid[:200, :200] / 2.0  # mm
    hu = np.where(y >= 20.0, 40.0, -1024.0) + np.where(y >= 20.0, np.random.default_rng(1).normal(0.0, 4.0, x.shape), 0)
    hu[(y >= 20.0) & (y < 30.0) & (np.abs(x - 50.0) > 30.0)] = 900.0
    hu[(y >= 28.0) & (y < 34.0) & (np.abs(x - 50.0) > open_mm / 2)] = 900.0
    found = cut_mm(hu.astype(np.float32), y >= 20.0, (0.5, 0.5))
    assert found == (0.0 if open_mm < CUT_MM else pytest.approx(open_mm, abs=3.0))


def test_a_head_that_ends_at_the_border_of_the_picture_is_not_told_here() -> None:
    """The model is shown no more of it: `unseen_cm2` tells."""
    hu, mm = head(1)
    even = np.where(hu < -850.0, np.float32(-1024.0), hu)
    lost = beyond(hu, 0.0, 0.12).any(0).argmax()
    assert cut(even[:, :lost], mm) == 0.0


@pytest.mark.parametrize("degrees", [20.0, 45.0, 110.0, 200.0, 300.0])
@pytest.mark.parametrize("radius_mm", [None, 125.0])
def test_a_head_that_the_field_of_view_cuts_is_cut_whatever_the_edge(degrees: float, radius_mm: float | None) -> None:
    """A reformat that reaches beyond its volume ends at an oblique line, a scan off its centre at an arc."""
    hu, mm = head(2)
    gone = beyond(hu, degrees, 0.16, None if radius_mm is None else radius_mm / mm)
    assert cut(np.where(gone, np.float32(-1024.0), hu), mm) >= CUT_MM


@pytest.mark.parametrize("degrees", [0.0, 90.0])
def test_how_much_is_cut_is_told_in_mm_whatever_the_matrix(degrees: float) -> None:
    hu, mm = head(1)
    half = np.where(beyond(hu, degrees, 0.25), np.float32(-1024.0), hu)
    fine = np.kron(half, np.ones((2, 2), np.float32))
    assert cut(fine, mm / 2) == pytest.approx(cut(half, mm), abs=6.0)


@pytest.mark.parametrize("seed", [1, 2, 4, 6])
@pytest.mark.parametrize("air_below", [-1100.0, -850.0, -300.0])
def test_a_whole_head_is_not_cut_however_even_the_air_around_it(seed: int, air_below: float) -> None:
    hu, mm = head(seed)
    assert cut(np.where(hu < air_below, np.float32(-1024.0), hu), mm) == 0.0


def test_a_cut_through_the_scalp_alone_is_none() -> None:
    hu, mm = head(1)
    assert cut(np.where(beyond(hu, 0.0, 0.015), np.float32(-1024.0), hu), mm) == 0.0


def test_a_picture_of_one_value_is_not_cut() -> None:
    grey = np.full((64, 64), 35.0, np.float32)
    assert cut_mm(grey, np.ones(grey.shape, np.bool_), (1.0, 1.0)) == 0.0


@pytest.mark.parametrize("degrees", [0.0, 20.0, 110.0, 200.0])
def test_an_edge_that_resampling_softened_is_still_one(degrees: float) -> None:
    import cv2

    hu, mm = head(2)
    gone = cv2.GaussianBlur(beyond(hu, degrees, 0.16).astype(np.float32), (3, 3), 0.6)
    assert cut((hu * (1 - gone) - 1024.0 * gone).astype(np.float32), mm) >= CUT_MM

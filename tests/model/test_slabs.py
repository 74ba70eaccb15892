"""Thin slices are seen as slabs, thick ones as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dtvit import preprocess, turning
from dtvit.brain.selection import classify_content
from dtvit.ct import CTSlice
from dtvit.slabs import MOST_BESIDE, slab, weights


def a_slice(value: float, *, side: int = 8, pixel_mm: float = 0.5) -> CTSlice:
    hu = np.full((side, side), value, np.float32)
    return CTSlice("1.2", "1.2.3", 1, None, hu, (pixel_mm, pixel_mm), 1.0, 0.0, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 0.0)


@pytest.mark.parametrize(
    ("thickness_mm", "spacing_mm", "on_each_side"),
    [
        (10.0, 10.0, []),
        (5.0, 5.0, []),
        (5.0, 1.0, []),  # overlapping reconstructions of what is thick
        (4.0, 4.0, []),
        (3.5, 3.5, [0.75 / 5]),
        (3.0, 3.0, [1 / 5]),
        (2.5, 2.5, [1 / 4]),
        (2.0, 2.0, [1.5 / 5]),
        (1.25, 1.25, [1 / 4, 1 / 8]),
        (1.0, 1.0, [1 / 5, 1 / 5]),
        (0.5, 0.5, [1 / 10, 1 / 10, 1 / 10, 1 / 10, 1 / 20]),
        (1.25, 0.625, [1 / 8, 1 / 8, 1 / 8, 1 / 16]),
        (0.8, 0.4, [0.08, 0.08, 0.08, 0.08, 0.08, 0.05, 0.01]),
        (1.0, 5.0, []),  # what lies between them was not scanned
    ],
)
def test_each_slice_counts_by_how_much_of_it_lies_within_the_slab(
    thickness_mm: float, spacing_mm: float, on_each_side: list[float]
) -> None:
    found = weights([i * spacing_mm for i in range(41)], [thickness_mm] * 41)
    reach = len(on_each_side)
    middle = [*reversed(on_each_side), 1 - 2 * sum(on_each_side), *on_each_side]
    assert list(found[20]) == list(range(20 - reach, 21 + reach))
    assert list(found[20].values()) == pytest.approx(middle)
    assert (list(found[0]), list(found[40])) == (list(range(reach + 1)), list(range(40 - reach, 41)))
    assert [sum(each.values()) for each in found] == pytest.approx([1.0] * 41)


def test_where_no_thickness_is_stated_slices_are_taken_to_touch() -> None:
    for spacing_mm in (0.5, 1.0, 2.0, 5.0):
        positions = [i * spacing_mm for i in range(41)]
        touching = weights(positions, [spacing_mm] * 41)
        for unstated in (None, 0.0, -1.0):
            assert weights(positions, [unstated] * 41) == touching
        assert weights([mm - 0.5 * positions[-1] for mm in positions], [None] * 41) == touching, "wherever zero lies"


def test_a_gap_ends_a_slab() -> None:
    found = weights([0.0, 1.0, 2.0, 12.0, 13.0], [1.0] * 5)
    assert [list(each) for each in found] == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [3, 4], [3, 4]]


def test_two_images_of_one_place_do_not_stand_for_each_other() -> None:
    found = weights([0.0, 0.0, 1.0], [1.0] * 3)
    assert [list(each) for each in found] == [[0, 2], [1, 2], [0, 1, 2]]
    assert weights([0.0, 0.0], [None, None]) == [{0: 1.0}, {1: 1.0}]
    assert weights([], []) == []


def test_of_thousands_of_slices_in_one_place_a_few_are_averaged() -> None:
    found = weights([0.0011 * i for i in range(4000)], [1.0] * 4000)
    assert max(len(each) for each in found) == 2 * MOST_BESIDE + 1
    assert sum(found[2000].values()) == pytest.approx(1.0)
    assert list(found[2000])[MOST_BESIDE - 1 : MOST_BESIDE + 2] == [1954, 2000, 2046], (
        "the nearest, and none at its place"
    )


def test_only_pixels_in_the_same_places_are_averaged() -> None:
    one = a_slice(30.0)
    members = [(a_slice(90.0, side=9), 0.3), (one, 0.4), (a_slice(60.0), 0.2), (a_slice(90.0, pixel_mm=0.4), 0.1)]
    seen = slab(one, members)
    assert seen.averaged == 2
    assert seen.hu.dtype == np.float32
    assert seen.hu == pytest.approx(np.full((8, 8), 40.0))
    assert (one.hu == 30.0).all()
    alone = slab(one, [(one, 1.0)])
    assert (alone.averaged, alone.hu is one.hu) == (1, True)


@pytest.mark.parametrize(
    ("changed", "averaged"),
    [
        ({"corner_mm": (-100.0, -80.0, 1.0)}, 2),
        ({"corner_mm": (-100.2, -80.0, 1.0)}, 2),  # rounded, or computed anew from slice to slice
        ({"corner_mm": (-100.0, -82.6, 4.5)}, 2),  # a gantry that leans
        ({"corner_mm": (-80.0, -80.0, 1.0)}, 1),  # another scan, centred otherwise
        ({"corner_mm": (-100.0, -90.0, 1.0)}, 1),
        ({"corner_mm": (-100.0, -83.3, 1.0)}, 1),
        ({"corner_mm": None}, 2),
        ({"orientation": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "corner_mm": (100.0, -80.0, 1.0)}, 1),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "corner_mm": (-100.0, 80.0, 1.0)}, 1),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 0.9999, -0.0141), "corner_mm": (-100.0, -80.0, 1.0)}, 2),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 0.99985, -0.0175), "corner_mm": (-100.0, -80.0, 1.0)}, 2),  # one degree
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 0.99975, -0.0225), "corner_mm": (-100.0, -80.0, 1.0)}, 1),
        ({"orientation": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "corner_mm": None}, 1),  # mirrored, wherever it lies
        ({"orientation": None}, 1),
    ],
)
def test_a_slice_that_lies_otherwise_is_not_averaged(changed: dict[str, Any], averaged: int) -> None:
    one = replace(a_slice(30.0), corner_mm=(-100.0, -80.0, 0.0))
    other = replace(a_slice(90.0), **changed)
    assert slab(one, [(one, 0.5), (other, 0.5)]).averaged == averaged
    assert slab(other, [(one, 0.5), (other, 0.5)]).averaged == averaged


def test_the_model_sees_the_slab_within_the_head_of_the_slice() -> None:
    from dtvit import phantom

    spec = phantom.draw(5, None, matrix=128)
    drawn = phantom.render_slice(spec, 60.0)
    one = replace(a_slice(0.0), hu=drawn.hu, pixel_mm=(spec.scan.pixel_mm, spec.scan.pixel_mm))
    other = np.flipud(drawn.hu).copy()
    alone, seen = preprocess.prepare(one), preprocess.prepare(one, slab=other)
    upright = turning.stood_up(replace(one, hu=other))[0]
    assert (seen.mask == alone.mask).all()
    assert seen.content == classify_content(upright, alone.mask, one.pixel_mm, preprocess.shown(upright.shape))
    assert (seen.input == preprocess.model_input(preprocess.picture(upright, alone.mask))).all()
    assert (seen.input != alone.input).any()

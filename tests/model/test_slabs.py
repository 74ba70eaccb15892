"""Thin slices are seen as slabs, thick ones as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dtvit import preprocess, turning
from dtvit.brain.selection import classify_content
from dtvit.ct import CTSlice
from dtvit.slabs import neighbours, slab


def a_slice(value: float, *, side: int = 8, pixel_mm: float = 0.5) -> CTSlice:
    hu = np.full((side, side), value, np.float32)
    return CTSlice("1.2", "1.2.3", 1, None, hu, (pixel_mm, pixel_mm), 1.0, 0.0, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 0.0)


@pytest.mark.parametrize(
    ("thickness_mm", "spacing_mm", "slices"),
    [
        (10.0, 10.0, 1),
        (5.0, 5.0, 1),
        (5.0, 1.0, 1),  # overlapping reconstructions of what is thick
        (2.5, 2.5, 1),
        (2.0, 2.0, 3),
        (1.5, 1.5, 3),
        (1.25, 1.25, 3),
        (1.25, 0.625, 7),
        (1.0, 1.0, 5),
        (0.625, 0.625, 9),
        (0.5, 0.5, 11),
    ],
)
def test_a_slab_is_about_as_thick_as_what_the_model_learned_from(
    thickness_mm: float, spacing_mm: float, slices: int
) -> None:
    found = neighbours([i * spacing_mm for i in range(41)], [thickness_mm] * 41)
    half = slices // 2
    assert (found[0], found[20], found[40]) == (
        list(range(half + 1)),
        list(range(20 - half, 21 + half)),
        list(range(40 - half, 41)),
    )


def test_where_no_thickness_is_stated_slices_are_taken_to_touch() -> None:
    for spacing_mm in (0.5, 1.0, 2.0, 5.0):
        positions = [i * spacing_mm for i in range(41)]
        assert neighbours(positions, [None] * 41) == neighbours(positions, [spacing_mm] * 41)


def test_a_gap_ends_a_slab() -> None:
    assert neighbours([0.0, 1.0, 2.0, 12.0, 13.0], [1.0] * 5) == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [3, 4], [3, 4]]


def test_two_images_of_one_place_do_not_stand_for_each_other() -> None:
    assert neighbours([0.0, 0.0, 1.0], [1.0] * 3) == [[0, 2], [1, 2], [0, 1, 2]]
    assert neighbours([0.0, 0.0], [None, None]) == [[0], [1]]
    assert neighbours([], []) == []


def test_only_pixels_in_the_same_places_are_averaged() -> None:
    one = a_slice(30.0)
    seen = slab(one, [a_slice(60.0), a_slice(90.0, side=9), a_slice(90.0, pixel_mm=0.4)])
    assert seen.averaged == 2
    assert seen.hu.dtype == np.float32
    assert (seen.hu == 45.0).all()
    assert (one.hu == 30.0).all()
    alone = slab(one, [])
    assert (alone.averaged, alone.hu is one.hu) == (1, True)


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

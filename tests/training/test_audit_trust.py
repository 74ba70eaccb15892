"""Which bleeds an audit trusts, at the bound of each rule: the bleed is a block in even brain."""

import numpy as np
import pytest
from audited import block

from train.audit.tissue import Anatomy, dilated
from train.audit.trust import GOOD, shows_brain, verdict

BRAIN, BLOOD = 100, 200
DENSE = 255
SMALL = "no bleed segmented, or one too small"


INSIDE = block(28, 28, 200, 200)
DEEP = block(100, 100, 10, 10)


def slice_with(blood, *, level=BLOOD, inside=INSIDE):
    picture = np.where(inside, BRAIN, 0).astype(np.uint8)
    picture[blood] = level
    return Anatomy(picture, inside, blood)


def test_a_bleed_of_25_pixels_is_large_enough():
    blood = block(100, 100, 5, 5)
    assert verdict(slice_with(blood)) == GOOD
    blood[100, 100] = False
    assert verdict(slice_with(blood)) == SMALL


def test_a_bleed_of_a_fifth_of_the_inside_is_small_enough():
    assert verdict(slice_with(block(60, 60, 100, 80))) == GOOD
    assert verdict(slice_with(block(60, 60, 101, 80))) == "bleed too large"


def test_a_bleed_is_10_hu_denser_than_what_surrounds_it():
    assert verdict(slice_with(DEEP, level=BRAIN + 32)) == GOOD
    assert verdict(slice_with(DEEP, level=BRAIN + 31)) == "little contrast"


@pytest.mark.parametrize(("dense", "expected"), [(35, GOOD), (36, "as dense as bone")])
def test_at_most_35_percent_of_a_bleed_are_at_the_end_of_the_window(dense, expected):
    anatomy = slice_with(DEEP)
    rows, columns = (places[:dense] for places in np.nonzero(DEEP))
    anatomy.picture[rows, columns] = DENSE
    assert verdict(anatomy) == expected


@pytest.mark.parametrize(
    ("level", "more", "expected"), [(8, 0, GOOD), (8, 1, "at the skull"), (9, 1, GOOD), (DENSE, 1, "at the skull")]
)
def test_at_most_30_percent_of_the_border_are_air_or_bone(level, more, expected):
    anatomy = slice_with(DEEP)
    rows, columns = np.nonzero(dilated(DEEP, 2) & ~DEEP)
    most = int(0.3 * len(rows)) + more
    anatomy.picture[rows[:most], columns[:most]] = level
    assert verdict(anatomy) == expected


@pytest.mark.parametrize(("begins", "reaches", "expected"), [(3, 13, GOOD), (3, 12, "at the skull"), (4, 12, GOOD)])
def test_what_begins_within_4_pixels_of_the_skull_reaches_a_depth_of_12(begins, reaches, expected):
    assert verdict(slice_with(block(28 + begins, 100, reaches - begins, 10))) == expected


def test_a_border_outside_of_the_skull_is_bone_whatever_its_grey():
    anatomy = slice_with(block(28, 100, 13, 30))
    anatomy.picture[~INSIDE] = BRAIN
    assert verdict(anatomy) == "at the skull"


def test_a_bleed_is_compared_with_what_lies_around_it_not_with_the_whole_brain():
    anatomy = slice_with(DEEP, level=BRAIN + 31)
    anatomy.picture[28:80, 28:228] = 60
    anatomy.picture[140:228, 28:228] = 60
    assert verdict(anatomy) == "little contrast"


def test_a_bleed_that_fills_a_chamber_has_nothing_to_be_compared_with():
    inside = block(28, 28, 200, 100) | block(100, 180, 12, 12)
    assert verdict(slice_with(block(101, 181, 10, 10), inside=inside)) == "no tissue around the bleed"


def test_every_piece_of_a_bleed_is_asked():
    for faint, clear in ((DEEP, block(150, 100, 10, 10)), (block(150, 100, 10, 10), DEEP)):
        anatomy = slice_with(faint | clear)
        anatomy.picture[faint] = BRAIN + 20
        assert verdict(anatomy) == "little contrast"


def test_what_is_left_after_healing_is_no_blood():
    anatomy = slice_with(DEEP)
    anatomy.picture[block(170, 170, 8, 8)] = BLOOD
    assert verdict(anatomy) == "other dense places, perhaps blood"


def test_a_quarter_of_the_head_is_brain():
    head = block(28, 28, 200, 200)
    for rows, shows in ((50, True), (49, False)):
        anatomy = Anatomy(np.where(head, BRAIN, 0).astype(np.uint8), block(28, 28, rows, 200), DEEP & False)
        assert shows_brain(anatomy) is shows
        assert verdict(anatomy) == (SMALL if shows else "too little brain in the slice")

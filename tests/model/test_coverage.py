"""What may be called a whole brain, and what is a hole."""

import pytest

from dtvit.brain.coverage import assess, holes
from dtvit.findings import Region

BELOW, BRAIN, ABOVE, NONE, UNKNOWN = (
    Region.BELOW_BRAIN,
    Region.BRAIN,
    Region.ABOVE_BRAIN,
    Region.NO_HEAD,
    Region.UNKNOWN,
)


def series(count: int = 28, step: float = 5.0) -> tuple[list[float | None], list[float | None], list[Region]]:
    """Two slices below the brain, two above, the rest brain."""
    regions = [BELOW] * 2 + [BRAIN] * (count - 4) + [ABOVE, NONE]
    return [step * i for i in range(count)], [step] * count, regions


def test_equal_steps_have_no_hole() -> None:
    assert holes([5.0 * i for i in range(20)], [5.0] * 20) == ()


def test_a_missing_slice_is_a_hole_wherever_it_is_missing() -> None:
    for missing in range(1, 19):
        positions = [5.0 * i for i in range(20) if i != missing]
        for thicknesses in ([5.0] * 19, [None] * 19):
            assert holes(positions, thicknesses) == ((5.0 * (missing - 1), 5.0 * (missing + 1)),)


def test_a_step_of_half_as_much_again_is_the_most_that_is_no_hole() -> None:
    for thicknesses in ([5.0] * 6, [None] * 6):
        assert holes([0.0, 5.0, 10.0, 17.54, 22.5, 27.5], thicknesses) == (), "rounded, too"
        assert holes([0.0, 5.0, 10.0, 17.6, 22.6, 27.6], thicknesses) == ((10.0, 17.6),)


def test_a_missing_slice_is_found_without_thickness() -> None:
    positions = [1.0 * i for i in range(40) if i != 17]
    assert holes(positions, [None] * 39) == ((16.0, 18.0),)


def test_a_change_of_spacing_is_no_hole() -> None:
    """4 mm at the base, an overlap of 1.08 mm, then 7 mm: a scanner's ordinary protocol."""
    positions = [4.0 * i for i in range(14)] + [52.0 + 1.08 + 7.0 * i for i in range(14)]
    assert holes(positions, [4.0] * 14 + [7.0] * 14) == ()


def test_a_missing_slice_beside_a_change_of_spacing_is_a_hole() -> None:
    positions = [4.0 * i for i in range(14)] + [52.0 + 1.08 + 7.0 * i for i in range(14) if i != 1]
    assert holes(positions, [4.0] * 14 + [7.0] * 13) == ((53.08, 67.08),)


def test_a_change_of_spacing_is_none_whichever_side_is_the_wider() -> None:
    for narrow, wide in ((4.0, 7.0), (7.0, 4.0)):
        positions = [narrow * i for i in range(14)] + [13 * narrow + wide * i for i in range(1, 15)]
        assert holes(positions, [narrow] * 14 + [wide] * 14) == ()
        assert holes(positions, [None] * 28) == ()
    assert holes([0.0, 7.0, 14.0, 21.0, 25.0, 29.0], [7.0] * 3 + [4.0] * 3) == (), (
        "the last wide step ends at a thin one"
    )


def test_of_two_slices_the_thickness_alone_tells_whether_one_is_missing() -> None:
    assert holes([0.0, 10.0], [None, None]) == ()
    assert holes([0.0, 10.0], [None, 5.0]) == ((0.0, 10.0),)


def test_every_second_slice_missing_shows_by_the_thickness() -> None:
    assert len(holes([10.0 * i for i in range(10)], [5.0] * 10)) == 9


def test_a_dozen_holes_are_told_in_one_sentence() -> None:
    positions, thicknesses, regions = series()
    half = slice(None, None, 2)
    shown = [region is BRAIN for region in regions][half]
    told = assess(positions[half], thicknesses[half], regions[half], shown).gaps
    assert told == (
        "slices are missing in 13 places, the lowest between 0.0 and 10.0 mm, the highest between 120.0 and 130.0 mm",
    )


def test_three_holes_are_told_one_by_one() -> None:
    positions, thicknesses, regions = series()
    keep = [i for i in range(28) if i not in (5, 10, 15)]
    named = [str(i + 1) for i in keep]
    told = assess(
        [positions[i] for i in keep],
        [thicknesses[i] for i in keep],
        [regions[i] for i in keep],
        [regions[i] is BRAIN for i in keep],
        named=named,
    ).gaps
    assert told == tuple(
        f"slices are missing between images {a} and {a + 2}, at {5.0 * a - 5:.1f} and {5.0 * a + 5:.1f} mm"
        for a in (5, 10, 15)
    )


def test_beside_an_image_without_a_number_a_hole_is_told_by_its_place_alone() -> None:
    positions, thicknesses, regions = series()
    keep = [i for i in range(28) if i != 10]
    for nameless in (9, 11):
        told = assess(
            [positions[i] for i in keep],
            [thicknesses[i] for i in keep],
            [regions[i] for i in keep],
            [regions[i] is BRAIN for i in keep],
            named=[None if i == nameless else str(i) for i in keep],
        ).gaps
        assert told == ("slices are missing between 45.0 and 55.0 mm",)


def test_where_no_image_of_the_brain_was_evaluated_nothing_is_covered() -> None:
    positions, thicknesses, regions = series()
    coverage = assess(positions, thicknesses, regions, [False] * 28)
    assert (coverage.complete, coverage.extent_mm) == (False, 0.0)
    assert coverage.gaps[0] == "24 slices inside the brain left out"


def test_slices_without_positions_are_no_reason_to_say_that_none_shows_brain() -> None:
    _, thicknesses, regions = series()
    nowhere = assess([None] * 28, thicknesses, regions, [r is BRAIN for r in regions])
    assert not any((nowhere.complete, nowhere.extent_mm, nowhere.lower_end_seen, nowhere.upper_end_seen))
    assert nowhere.gaps == ("28 slices have no usable position",)
    assert "no slice shows brain" in assess([None] * 4, [5.0] * 4, [BELOW] * 4, [False] * 4).gaps


def test_a_position_given_twice_makes_no_hole() -> None:
    assert holes([0.0, 5.0, 5.0, 10.0, 15.0, 15.0], [5.0] * 6) == ()


def test_a_whole_head_is_covered() -> None:
    positions, thicknesses, regions = series()
    coverage = assess(positions, thicknesses, regions, [r is BRAIN for r in regions])
    assert coverage.complete
    assert coverage.extent_mm == pytest.approx(115.0)
    assert coverage.lower_end_seen
    assert coverage.upper_end_seen
    assert coverage.gaps == ()


def test_a_brain_slice_left_out_uncovers_the_brain() -> None:
    positions, thicknesses, regions = series()
    evaluated = [r is BRAIN for r in regions]
    evaluated[9] = False
    coverage = assess(positions, thicknesses, regions, evaluated)
    assert not coverage.complete
    assert coverage.gaps == ("1 slice inside the brain left out",)


def test_an_unreadable_slice_inside_the_brain_uncovers_it() -> None:
    positions, thicknesses, regions = series()
    regions[9] = UNKNOWN
    coverage = assess(positions, thicknesses, regions, [r is BRAIN for r in regions])
    assert not coverage.complete
    assert coverage.gaps == ("1 slice inside the brain left out",)


def test_an_unreadable_slice_beyond_the_brain_uncovers_it_too() -> None:
    """What it shows may be brain, as far as anyone knows."""
    positions, thicknesses, regions = series()
    regions[0] = UNKNOWN
    coverage = assess(positions, thicknesses, regions, [r is BRAIN for r in regions])
    assert coverage.gaps == ("1 slice of unknown content",)


def test_the_extent_is_that_of_the_evaluated_slices() -> None:
    positions, thicknesses, regions = series()
    coverage = assess(positions, thicknesses, regions, [r is BRAIN and 5 <= i < 20 for i, r in enumerate(regions)])
    assert coverage.extent_mm == 70.0
    assert coverage.gaps == (
        "9 slices inside the brain left out",
        "the evaluated slices span 70 mm, but a brain spans at least 80",
    )


def test_an_unreadable_slice_without_position_uncovers_the_brain() -> None:
    positions, thicknesses, regions = series()
    coverage = assess(
        [*positions, None], [*thicknesses, None], [*regions, UNKNOWN], [*(r is BRAIN for r in regions), False]
    )
    assert not coverage.complete


def test_an_end_whose_slice_has_no_position_is_not_said_to_be_missing() -> None:
    positions, thicknesses, regions = series()
    told = assess([*positions[:-2], None, None], thicknesses, regions, [r is BRAIN for r in regions])
    assert told.gaps == (
        "2 slices have no usable position",
        "the upper end of the brain (vertex) is not among the slices with a position",
    )


def test_a_series_that_begins_or_ends_within_the_brain_is_not_covered() -> None:
    positions, thicknesses, regions = series()
    evaluated = [r is BRAIN for r in regions]
    base = assess(positions[2:], thicknesses[2:], regions[2:], evaluated[2:])
    vertex = assess(positions[:-2], thicknesses[:-2], regions[:-2], evaluated[:-2])
    assert not base.complete
    assert not base.lower_end_seen
    assert base.upper_end_seen
    assert not vertex.complete
    assert not vertex.upper_end_seen
    assert vertex.lower_end_seen


def test_a_hole_between_the_brain_and_the_slice_beyond_it_counts() -> None:
    positions, thicknesses, regions = series()
    keep = [i for i in range(28) if i not in (2, 3)]
    coverage = assess(
        [positions[i] for i in keep],
        [thicknesses[i] for i in keep],
        [regions[i] for i in keep],
        [regions[i] is BRAIN for i in keep],
    )
    assert not coverage.complete
    assert coverage.gaps == ("slices are missing between 5.0 and 20.0 mm",)


def test_a_hole_in_the_neck_or_over_the_vertex_is_none_of_the_brain() -> None:
    positions, thicknesses, regions = series()
    positions, thicknesses, regions = [-40.0, *positions], [5.0, *thicknesses], [BELOW, *regions]
    positions[1], positions[-1] = -20.0, 200.0
    assert assess(positions, thicknesses, regions, [r is BRAIN for r in regions]).complete


def test_no_brain_is_no_coverage() -> None:
    coverage = assess([0.0, 5.0], [5.0, 5.0], [NONE, NONE], [False, False])
    assert not coverage.complete
    assert coverage.extent_mm == 0.0
    assert coverage.gaps == ("no slice shows brain",)


def test_a_few_centimetres_are_no_whole_brain() -> None:
    positions, thicknesses, regions = series(count=12)
    assert not assess(positions, thicknesses, regions, [r is BRAIN for r in regions]).complete
    positions, thicknesses, regions = series(count=21)
    assert assess(positions, thicknesses, regions, [r is BRAIN for r in regions]).extent_mm == 80.0
    assert assess(positions, thicknesses, regions, [r is BRAIN for r in regions]).complete, "an infant's"


def test_a_blank_slice_below_the_brain_is_not_its_lower_end() -> None:
    """A head stands on a neck: where nothing is seen below it, a slice was lost, and brain may lie there."""
    positions, thicknesses, regions = series()
    for blank in ([NONE, NONE], [BELOW, NONE]):
        coverage = assess(positions, thicknesses, [*blank, *regions[2:]], [r is BRAIN for r in regions])
        assert not coverage.complete
        assert not coverage.lower_end_seen


def test_a_blank_slice_above_the_brain_is_not_its_upper_end() -> None:
    """Over a brain there are bone and scalp: where nothing is seen, brain may have been, however small its last."""
    positions, thicknesses, regions = series()
    coverage = assess(positions, thicknesses, [*regions[:-2], NONE, NONE], [r is BRAIN for r in regions])
    assert not coverage.complete
    assert not coverage.upper_end_seen


def test_a_doubt_uncovers_the_brain() -> None:
    positions, thicknesses, regions = series()
    coverage = assess(positions, thicknesses, regions, [r is BRAIN for r in regions], ["it may have been cut"])
    assert not coverage.complete
    assert coverage.gaps == ("it may have been cut",)


def test_slices_without_a_thickness_must_lie_close_to_one_another() -> None:
    """Every second slice may be missing, and no header shows it."""
    positions, _, regions = series(count=20, step=6.0)
    evaluated = [r is BRAIN for r in regions]
    assert assess(positions, [6.0] * 20, regions, evaluated).complete
    for told in ([6.0, None] * 10, [None, 6.0] * 10):
        assert assess(positions, told, regions, evaluated).complete
    unstated = assess(positions, [None] * 20, regions, evaluated)
    assert unstated.gaps == ("the slice thickness is not stated, and slices lie up to 6.0 mm apart",)
    positions, _, regions = series(step=5.0)
    evaluated = [r is BRAIN for r in regions]
    assert assess(positions, [None] * 28, regions, evaluated).complete
    wider = [mm + (2.0 if i > 12 else 0.0) for i, mm in enumerate(positions) if mm is not None]
    once = assess(wider, [None] * 28, regions, evaluated)
    assert once.gaps == ("the slice thickness is not stated, and slices lie up to 7.0 mm apart",)

"""Which slices are put to the model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dtvit import brace, ct
from dtvit.brain.judging import NOISY_HU, UNSEEN_CM2, doubts, is_head, why_no_head
from dtvit.brain.regions import assign_regions
from dtvit.brain.selection import SliceContent, classify_content
from dtvit.findings import Region

BELOW, BRAIN, ABOVE, NONE, UNKNOWN = (
    Region.BELOW_BRAIN,
    Region.BRAIN,
    Region.ABOVE_BRAIN,
    Region.NO_HEAD,
    Region.UNKNOWN,
)


def content(brain_cm2: float, head_cm2: float = 200.0, closed: float = 1.0, brain_hu: float = 35.0) -> SliceContent:
    return SliceContent(head_cm2, brain_cm2, closed, brain_hu)


WHOLE = [content(b, h) for b, h in ((3, 150), (2, 150), (30, 180), (90, 200), (170, 230), (120, 180), (30, 90))] + [
    content(0, 40),
    content(0, 0),
]


def oval(scale: float = 1.0, gap_deg: float = 0.0, inside: float = 35.0) -> npt.NDArray[np.float32]:
    """A skull of 15 x 18 cm times `scale`, open to the left over `gap_deg`, 0.5 mm pixels."""
    y, x = np.mgrid[:512, :512].astype(np.float32) - 256.0
    distance = np.hypot(x / 150.0, y / 180.0) / scale
    hu = np.where(distance < 1.06, 40.0, -1000.0).astype(np.float32)
    hu[distance < 1.0] = 900.0
    hu[distance < 0.93] = inside
    hu[(np.abs(np.degrees(np.arctan2(y, -x))) < gap_deg / 2) & (distance >= 0.93) & (distance < 1.06)] = 40.0
    return hu


def measured(hu: npt.NDArray[np.float32], pixel_mm: float = 0.5) -> SliceContent:
    return classify_content(hu, brace.find_head(hu, (pixel_mm, pixel_mm)).mask, (pixel_mm, pixel_mm))


def test_the_area_of_a_brain_is_measured_in_square_centimetres() -> None:
    found = measured(oval())
    assert abs(found.brain_cm2 - np.pi * 6.975 * 8.37) < 10
    assert found.surely_brain


def test_the_area_does_not_depend_on_the_matrix() -> None:
    fine = np.kron(oval(), np.ones((2, 2), np.float32))
    assert abs(measured(fine, 0.25).brain_cm2 - measured(oval()).brain_cm2) < 3
    assert abs(measured(oval()[::2, ::2], 1.0).brain_cm2 - measured(oval()).brain_cm2) < 5
    oblong, pixel_mm = np.ascontiguousarray(oval()[::2]), (1.0, 0.5)
    found = classify_content(oblong, brace.find_head(oblong, pixel_mm).mask, pixel_mm)
    assert abs(found.brain_cm2 - measured(oval()).brain_cm2) < 3


def test_a_skull_is_closed_as_far_as_bone_goes_round() -> None:
    assert measured(oval()).closed == 1.0
    assert measured(oval(gap_deg=30)).closed < 0.5
    assert measured(oval(scale=0.3, inside=800.0)).closed == 0.0


def test_an_infant_and_an_open_skull_are_brain() -> None:
    assert measured(oval(scale=0.6)).surely_brain
    assert measured(oval(gap_deg=60)).brain_cm2 > 40


def test_a_head_cut_by_the_field_of_view_is_brain() -> None:
    for cut in (oval()[:, 130:], oval()[100:]):
        found = measured(np.ascontiguousarray(cut))
        assert found.surely_brain
        assert found.unseen_cm2 > UNSEEN_CM2, "the more of it may lie beyond"


def test_bone_without_brain_is_none() -> None:
    assert measured(oval(scale=0.3, inside=800.0)).brain_cm2 == 0


def test_water_and_acrylic_are_no_brain() -> None:
    assert not measured(oval(inside=0.0)).surely_brain
    assert not measured(oval(inside=120.0)).surely_brain


def test_regions_follow_from_feet_to_head() -> None:
    assert assign_regions(WHOLE) == [BELOW, BELOW, BRAIN, BRAIN, BRAIN, BRAIN, BRAIN, ABOVE, NONE]
    assert assign_regions(WHOLE[3:6]) == [BRAIN] * 3


def test_where_no_slice_is_surely_brain_it_goes_out_from_the_one_with_most() -> None:
    """As in a series of which much could not be read."""
    small = [content(2), content(10), content(30), None, content(12), content(2, 40)]
    assert assign_regions(small) == [BELOW, BRAIN, BRAIN, UNKNOWN, BRAIN, ABOVE]
    assert assign_regions([content(2), content(7), content(3)]) == [BELOW] * 3
    assert assign_regions([]) == []


def test_a_tongue_below_the_skull_base_is_no_brain() -> None:
    assert assign_regions([content(22, closed=0.1), content(3), *WHOLE])[:2] == [BELOW, BELOW]


def test_a_spoilt_slice_between_brain_is_brain() -> None:
    spoilt = [*WHOLE[:4], content(0), *WHOLE[4:]]
    assert assign_regions(spoilt)[4] is BRAIN


def test_an_open_skull_does_not_end_the_brain() -> None:
    """A craniectomy of half the circumference over ten slices: no bone is met, and all of it is brain."""
    opened = [measured(oval(gap_deg=200)) for _ in range(3)]
    assert all(c.brain_cm2 < 40 for c in opened)
    regions = assign_regions([content(2, 150), content(20), content(150), content(150), *opened, content(20, 90)])
    assert regions == [BELOW, BRAIN, BRAIN, BRAIN, BRAIN, BRAIN, BRAIN, BRAIN]


def test_a_brain_that_ends_abruptly_below_is_followed_one_slice_further() -> None:
    """A posterior fossa after decompression: open behind, so little of it is enclosed."""
    assert assign_regions([content(2, 150), content(4, 170), *WHOLE[3:]])[:3] == [BELOW, BRAIN, BRAIN]


def test_an_unreadable_slice_stays_unknown_and_brain_goes_on_beyond_it() -> None:
    regions = assign_regions([*WHOLE[:2], WHOLE[2], None, *WHOLE[3:]])
    assert regions == [BELOW, BELOW, BRAIN, UNKNOWN, BRAIN, BRAIN, BRAIN, BRAIN, ABOVE, NONE]


def test_a_blank_slice_inside_the_brain_is_not_called_brain() -> None:
    assert assign_regions([*WHOLE[:4], content(0, 0), *WHOLE[4:]])[4] is NONE


def test_only_brain_in_a_closed_skull_makes_a_head() -> None:
    assert is_head(WHOLE)
    assert not is_head([content(100, head_cm2=700)] * 20)  # a thorax: too large
    assert not is_head([content(100, head_cm2=350, closed=0.05)] * 20)  # ribs: gaps
    assert not is_head([content(100, brain_hu=0.0)] * 20)  # water
    assert not is_head([content(0), content(0)])
    assert not is_head([])


def test_a_head_shows_brain_on_three_slices_or_on_all_there_are() -> None:
    brain = WHOLE[4]
    assert is_head([brain])
    assert is_head([brain, brain])
    assert not is_head([brain, content(0)])
    assert not is_head([brain, brain, content(0)])
    assert is_head([None, brain, brain, content(0), brain])


def test_the_human_head_is_brain_from_the_foramen_magnum_to_the_vertex(shared_data: Path) -> None:
    paths = (shared_data / "head-ct" / "ge_hispeed_human_28").glob("*.dcm")
    slices = ct.order([s for path in paths for s in ct.read(path)])
    contents = [classify_content(s.hu, brace.find_head(s.hu, s.pixel_mm).mask, s.pixel_mm) for s in slices]
    regions = assign_regions(contents)
    assert is_head(contents)
    assert [s.instance_number for s in slices] == list(range(1, 29))
    assert set(regions[:4]) == {BELOW}  # C1, C2 and face
    assert set(regions[5:26]) == {BRAIN}  # cerebellum to the last convolutions
    assert regions[27] is ABOVE  # bone alone


def test_the_dry_skull_is_no_head(shared_data: Path) -> None:
    for folder in ("philips_phantom_5mm_28", "philips_phantom_tilt-18.5_9"):
        slices = [s for path in (shared_data / "head-ct" / folder).glob("*.dcm") for s in ct.read(path)]
        contents = [
            classify_content(s.hu, brace.find_head(s.hu, s.pixel_mm).mask, s.pixel_mm) for s in ct.order(slices)
        ]
        assert len(contents) >= 9
        assert not is_head(contents)


SPOILT = "1 slice shows much less head or brain than those on both sides"


def doubts_of(contents: list[SliceContent]) -> tuple[str, ...]:
    return doubts(contents, assign_regions(contents))


def test_a_whole_brain_is_beyond_doubt() -> None:
    assert doubts_of(WHOLE) == ()


def test_a_slice_that_could_not_be_read_is_no_doubt_about_those_beside_it() -> None:
    """That it is missing is what coverage tells."""
    for i in range(len(WHOLE) + 1):
        unread = [*WHOLE[:i], None, *WHOLE[i:]]
        for positions_mm in ([], [5.0 * n for n in range(len(unread))], [None] * len(unread)):
            assert doubts(unread, assign_regions(unread), positions_mm=positions_mm) == ()


def test_a_brain_that_ends_at_its_full_width_is_doubted() -> None:
    """What lies beyond is a slice that was lost, and no end of a brain, whatever the slice shows instead."""
    lost = content(0, 0)
    assert doubts_of([*WHOLE[:5], lost]) == ("the brain does not taper off towards its upper end",)
    assert doubts_of([lost, *WHOLE[4:]]) == ("the brain does not taper off towards its lower end",)


def test_a_brain_may_end_at_half_its_width() -> None:
    for area, said in ((94.0, ("the brain does not taper off towards its upper end",)), (76.0, ())):
        ends = [*WHOLE[:6], content(area, 150), content(0, 110)]
        assert doubts_of(ends) == said


def test_what_shows_no_brain_and_a_single_image_of_it_are_judged_without_fail() -> None:
    assert doubts([content(0)] * 3, [NONE] * 3) == ()
    assert doubts([content(170)], [BRAIN]) == doubts([content(170)], [BRAIN], positions_mm=[0.0])
    assert doubts([content(170)], [BRAIN]) == (
        "the brain does not taper off towards its lower end",
        "the brain does not taper off towards its upper end",
    )


def test_a_brain_that_ends_wider_than_one_may_in_a_step_is_doubted() -> None:
    """Beyond, brain may not have been known as such: in streaks of metal, or where too little light came through."""
    lower, upper = (
        "the brain does not taper off towards its lower end",
        "the brain does not taper off towards its upper end",
    )

    def at(step_mm: float, contents: list[SliceContent]) -> tuple[str, ...]:
        return doubts(contents, assign_regions(contents), positions_mm=[step_mm * i for i in range(len(contents))])

    spoilt = content(0, 200)
    wide_base = [spoilt, spoilt, content(45), *WHOLE[3:]]
    assert at(5.0, WHOLE) == ()
    assert at(5.0, wide_base) == at(1.0, wide_base) == (lower,)
    assert at(5.0, WHOLE[2:7]) == (), "with nothing beyond, none can be too wide for the step to it"
    assert at(9.0, wide_base) == doubts_of(wide_base) == (), "so steep may it be in such steps"
    assert at(5.0, wide_base[1:]) == (lower,), "with one slice below it, too"
    for nameless in (1, 2):
        positions_mm = [None if i == nameless else 5.0 * i for i in range(len(wide_base))]
        assert doubts(wide_base, assign_regions(wide_base), positions_mm=positions_mm) == (), "of an unknown step"
    wide_top = [*WHOLE[:6], content(60, 120), content(0, 110)]
    assert at(5.0, wide_top) == (upper,)
    assert at(10.0, wide_top) == ()
    beyond_mm = [5.0 * i for i in range(len(wide_top) - 1)]
    for step_mm, said in ((5.0, (upper,)), (10.0, ())):
        uneven = [*beyond_mm, beyond_mm[-1] + step_mm]
        assert doubts(wide_top, assign_regions(wide_top), positions_mm=uneven) == said, "the step beyond it counts"


@pytest.mark.parametrize(("step_mm", "lowest", "highest"), [(5.0, 38.0, 48.0), (4.0, 32.0, 39.0), (2.0, 32.0, 39.0)])
def test_how_wide_a_brain_may_end_grows_with_the_step(step_mm: float, lowest: float, highest: float) -> None:
    """6 cm2 a millimetre at the base and 9 at the vertex, and what 4 mm allow in smaller steps."""
    for more in (-1.0, 1.0):
        contents = [content(0, 200), content(lowest + more), *WHOLE[3:6], content(highest + more, 120), content(0, 110)]
        told = doubts(contents, assign_regions(contents), positions_mm=[step_mm * i for i in range(len(contents))])
        assert len(told) == (2 if more > 0 else 0)


def test_muscles_below_the_skull_that_pass_for_brain_are_no_brain_that_ends_wide() -> None:
    """A throat below the skull base: soft tissue that meets bone nearly all round, and above it is less."""

    def said(*lowest: SliceContent | None) -> tuple[str, ...]:
        contents = [content(6, 180), content(6, 180), *lowest, *WHOLE[3:]]
        return doubts(contents, assign_regions(contents), positions_mm=[5.0 * i for i in range(len(contents))])

    throat = content(48, 190, closed=0.4)
    assert said(throat, content(33, 195)) == said(throat, content(49, 195)) == ()
    lower = ("the brain does not taper off towards its lower end",)
    assert said(content(48, 190, closed=0.7), content(33, 195)) == lower, "closed in as no throat is"
    assert said(content(84, 190, closed=0.48), content(70, 195)) == lower, "and so much of this is closed in, too"
    assert said(throat, None) == lower, "of what could not be read nobody knows that it shows less"
    assert said(throat, content(70, 195)) == lower, "and a brain widens upwards"


def test_a_slice_with_half_a_head_is_doubted() -> None:
    half = content(60, 115)
    assert doubts_of([*WHOLE[:4], half, *WHOLE[5:]]) == (SPOILT,)
    named = [str(n) for n in range(1, 20)]
    spoilt = [*WHOLE[:4], half, *WHOLE[5:]]
    assert doubts(spoilt, assign_regions(spoilt), named=named) == (f"{SPOILT} (image 5)",)
    two = [*WHOLE[:5], half, half, *WHOLE[4:]]
    assert doubts_of(two) == ("2 slices show much less head or brain than those on both sides",)
    many = [*WHOLE[:5], *[half] * 8, *WHOLE[4:]]
    assert doubts_of(many) == ("8 slices show much less head or brain than those on both sides",)
    five = [*WHOLE[:5], *[half] * 5, *WHOLE[4:]]
    assert doubts(five, assign_regions(five), named=named)[0].endswith(" (images 6, 7, 8, 9, 10)")
    assert doubts([*five[:5], half, *five[5:]], assign_regions([*five[:5], half, *five[5:]]), named=named) == (
        "6 slices show much less head or brain than those on both sides",
    ), "no reader goes through more"


@pytest.mark.parametrize(
    ("one", "is_doubted"),
    [
        (content(120, 230 * 0.7), True),
        (content(120, 230 * 0.8), False),
        (content(170 * 0.45, 230), True),
        (content(170 * 0.55, 230), False),
    ],
)
def test_a_slice_with_three_quarters_of_the_head_or_half_of_the_brain_beside_it_is_not_doubted(
    one: SliceContent, is_doubted: bool
) -> None:
    """Whole ones keep nine tenths and more of the head, and three quarters of the brain."""
    assert doubts_of([*WHOLE[:5], one, *WHOLE[4:]]) == ((SPOILT,) if is_doubted else ())


def test_the_outermost_slices_of_brain_are_held_against_what_lies_beyond_them() -> None:
    neck, vertex = content(3, 150), content(0, 90)
    assert doubts_of([neck, neck, content(30, 60), *WHOLE[3:]]) == (SPOILT,)
    assert doubts_of([*WHOLE[:6], content(20, 40), vertex]) == (SPOILT,)


def test_a_head_that_is_half_from_one_slice_to_the_end_is_doubted() -> None:
    """No slice beyond is whole, so that none is less than those on both sides."""
    half = [replace(one, head_cm2=0.5 * one.head_cm2, brain_cm2=0.5 * one.brain_cm2) for one in WHOLE]
    named = [str(n) for n in range(1, 20)]
    gone = "much of the head disappears from one slice to the next"
    for spoilt, where in (([*WHOLE[:5], *half[5:]], "5 and 6"), ([*half[:4], *WHOLE[4:]], "4 and 5")):
        assert doubts_of(spoilt) == (gone,)
        assert doubts(spoilt, assign_regions(spoilt), named=named) == (f"{gone} (between images {where})",)
    for share, is_doubted in ((0.6, True), (0.7, False)):  # whole heads keep 0.72
        narrower = [replace(one, head_cm2=share * one.head_cm2) for one in WHOLE]
        assert doubts_of([*WHOLE[:5], replace(WHOLE[4], head_cm2=share * 230), *narrower[5:]]) == (
            (gone,) if is_doubted else ()
        )


def test_a_slice_whose_brain_stands_open_and_its_neighbours_not_is_doubted() -> None:
    """Of a head that lost its lowest eighth little is enclosed; so too where noise hides the bone."""
    assert doubts_of([*WHOLE[:5], content(57, 195), *WHOLE[4:]]) == (SPOILT,)
    assert doubts_of([*WHOLE[:5], content(0, 228), *WHOLE[4:]]) == (SPOILT,)


def test_a_craniectomy_over_several_slices_is_not_doubted() -> None:
    opened = [content(60, 220)] * 3
    assert doubts_of([*WHOLE[:5], *opened, *WHOLE[4:]]) == ()


def test_brain_that_the_model_is_not_shown_is_doubted() -> None:
    for unseen_cm2, is_doubted in ((3.0, True), (1.1, True), (0.9, False)):  # a bleed of a centimetre
        cut = replace(WHOLE[4], unseen_cm2=unseen_cm2)
        told = ("1 slice has brain outside the area shown to the network",) if is_doubted else ()
        assert doubts_of([*WHOLE[:4], cut, *WHOLE[5:]]) == told


def test_brain_outside_what_is_shown_is_measured() -> None:
    hu = oval()
    mask = brace.find_head(hu, (0.5, 0.5)).mask
    assert classify_content(hu, mask, (0.5, 0.5)).unseen_cm2 == 0.0
    half = classify_content(hu, mask, (0.5, 0.5), (slice(0, 256), slice(0, 512)))
    assert half.unseen_cm2 == pytest.approx(half.brain_cm2 / 2, abs=3)


def test_noise_is_that_of_means_over_two_millimetres_and_edges_are_none() -> None:
    noise = np.random.default_rng(1).normal(0.0, 60.0, (512, 512)).astype(np.float32)
    assert measured(oval()).noise_hu < 0.1
    assert measured(oval() + noise).noise_hu == pytest.approx(60.0 / 4.0, rel=0.1)
    calcified = oval()
    calcified[::24] += np.float32(100.0)
    assert measured(calcified).noise_hu < 0.1
    assert measured(oval(scale=0.1) + noise).noise_hu == 0.0, "too little of it to tell"


@pytest.mark.parametrize(
    ("wrong", "said"), [((0.5, 0.0), "17.4"), ((1.0, -24.0), "10.8"), ((2.0, 0.0), "69.6"), ((1, 24), "58.8")]
)
def test_values_by_which_a_bleed_would_pass_for_brain_are_doubted(wrong: tuple[float, float], said: str) -> None:
    """A slope that is twice or half the right one; -1024 for an intercept of -1000."""
    slope, intercept = wrong
    contents = [replace(one, brain_hu=34.8 * slope + intercept) for one in WHOLE]
    (doubt,) = doubts(contents, assign_regions(contents))
    assert doubt == f"brain measures {said} HU, not 18 to 50: the values may be wrong throughout"


def test_a_slice_of_unusual_values_is_not_doubted_for_them() -> None:
    """A swollen slice, one full of blood."""
    contents = [*WHOLE[:3], replace(WHOLE[3], brain_hu=12.0), replace(WHOLE[4], brain_hu=66.0), *WHOLE[5:]]
    assert doubts(contents, assign_regions(contents)) == ()
    few, enough = (
        [content(30, brain_hu=60.0), *[content(120, brain_hu=60.0)] * count, content(30, brain_hu=60.0)]
        for count in (2, 3)
    )
    assert [any("brain measures" in said for said in doubts_of(each)) for each in (few, enough)] == [False, True]


def test_noise_in_which_a_bleed_is_not_seen_is_doubted() -> None:
    """Too little light between the petrous bones, or the streaks of metal; of no matter in the neck."""
    noisy = replace(WHOLE[2], noise_hu=13.5)
    bearable = replace(WHOLE[3], noise_hu=12.8)  # of streaks that hid nothing
    contents = [*WHOLE[:2], noisy, bearable, *WHOLE[4:]]
    told = doubts(contents, assign_regions(contents), named=[str(n) for n in range(1, 20)])
    assert told == ("noise or streaks in 1 slice may hide a bleed (image 3)",)
    assert doubts_of([replace(WHOLE[0], noise_hu=40.0), *WHOLE[1:]]) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_cm2": 50.0, "brain_cm2": 20.0},
        {"unseen_cm2": UNSEEN_CM2 + 1},
        {"cut_mm": 80.0},
        {"shifted_hu": 1024.0},
        {"noise_hu": NOISY_HU + 1},
        {"removed_cm2": 20.0},
    ],
)
def test_a_doubt_about_one_slice_names_its_image(wrong: dict[str, float]) -> None:
    contents = [*WHOLE[:4], replace(WHOLE[4], **wrong), *WHOLE[5:]]
    (said,) = doubts(contents, assign_regions(contents), named=[str(n) for n in range(1, 20)])
    assert said.endswith("(image 5)")


def cut_by_a_circle(hu: npt.NDArray[np.float32], off_mm: tuple[float, float], radius_mm: float) -> SliceContent:
    """The square round a circle of reconstruction, outside which there is padding; 0.5 mm pixels."""
    n = round(2 * radius_mm / 0.5)
    top, left = (round((256 + mm / 0.5) - n / 2) for mm in off_mm)
    padded = np.pad(hu, n, constant_values=-1000.0)[top + n : top + 2 * n, left + n : left + 2 * n].copy()
    rows, columns = np.ogrid[:n, :n]
    padded[np.hypot(rows - (n - 1) / 2, columns - (n - 1) / 2) > n / 2] = -1024.0
    return measured(padded)


@pytest.mark.parametrize("off_mm", [(0.0, 0.0), (20.0, 20.0), (-25.0, 15.0), (-30.0, 0.0)])
def test_brain_at_the_circle_of_reconstruction_is_brain_and_not_all_seen(off_mm: tuple[float, float]) -> None:
    """A field of view too small for the head, or not over it; there may be more brain outside."""
    found = cut_by_a_circle(oval(), off_mm, 80.0)
    assert found.surely_brain
    assert found.unseen_cm2 > UNSEEN_CM2


def test_a_head_within_the_circle_is_all_seen() -> None:
    found = cut_by_a_circle(oval(), (0.0, 0.0), 98.0)
    assert found.unseen_cm2 == 0.0
    assert abs(found.brain_cm2 - measured(oval()).brain_cm2) < 3


@pytest.mark.parametrize("circle", [True, False])
def test_a_spine_in_a_small_field_of_view_is_no_head(circle: bool) -> None:
    """Muscle to every border of the picture, and bone in the middle."""
    rows, columns = np.mgrid[:360, :360].astype(np.float32) - 180.0
    hu = np.full((360, 360), 45.0, np.float32)
    hu[np.hypot(rows, columns) < 44] = 300.0
    hu[np.abs(np.hypot(rows - 70, columns) - 22) < 6] = 600.0
    if circle:
        hu[np.hypot(rows, columns) > 180] = -1024.0
    assert not measured(hu).surely_brain


def test_brain_that_was_removed_as_if_it_were_holder_is_measured_and_doubted() -> None:
    hu = oval()
    mask = brace.find_head(hu, (0.5, 0.5)).mask
    whole = classify_content(hu, mask, (0.5, 0.5))
    assert whole.removed_cm2 == 0.0
    mask[:, :200] = False
    cut = classify_content(hu, mask, (0.5, 0.5))
    assert cut.removed_cm2 == pytest.approx(((hu == 35.0) & ~mask).sum() * 0.05**2, rel=0.1)
    hu[20:120, 20:120] = 40.0
    mask[:] = True
    mask[:150, :150] = False
    assert classify_content(hu, mask, (0.5, 0.5)).removed_cm2 == 0.0, "a pad, with no bone round it"
    wrong = replace(WHOLE[4], removed_cm2=cut.removed_cm2)
    said = "in 1 slice tissue that may be brain was removed with the head holder"
    assert doubts_of([*WHOLE[:4], wrong, *WHOLE[5:]]) == (said,)
    below = replace(WHOLE[0], removed_cm2=cut.removed_cm2)
    assert doubts_of([below, *WHOLE[1:]]) == (said,), "where brain was removed, none may be left to see"


def test_a_picture_full_of_tissue_without_any_bone_is_no_brain() -> None:
    """That the field of view may cut the skull does not make a skull of its border."""
    grey = np.full((128, 128), 35.0, np.float32)
    found = classify_content(grey, np.ones(grey.shape, np.bool_), (1.0, 1.0))
    assert found.brain_cm2 == 0.0
    assert not found.surely_brain


def test_slices_that_end_within_the_head_are_doubted_and_named() -> None:
    torn = replace(WHOLE[4], cut_mm=60.0)
    two = [*WHOLE[:4], torn, torn, *WHOLE[5:]]
    named = [str(n) for n in range(1, 20)]
    said = "2 slices end inside the head, as if part of it were cut off"
    assert doubts_of(two) == (said,)
    assert doubts(two, assign_regions(two), named=named) == (f"{said} (images 5, 6)",)
    for removed_cm2, is_doubted in ((3.5, True), (2.9, False)):  # muscle between a ring and the spine
        told = doubts_of([*WHOLE[:4], replace(WHOLE[4], removed_cm2=removed_cm2), *WHOLE[5:]])
        assert told == (("in 1 slice tissue that may be brain was removed with the head holder",) if is_doubted else ())
    lowest = [*WHOLE[:2], replace(WHOLE[2], cut_mm=60.0), *WHOLE[3:]]
    assert doubts_of(lowest) == ("1 slice ends inside the head, as if part of it were cut off",)
    below = replace(WHOLE[0], cut_mm=60.0)
    assert doubts_of([below, *WHOLE[1:]]) == (), "of a neck and a face more may be missing than brain"


def test_a_field_of_view_that_cuts_the_brain_is_told_once() -> None:
    cut = replace(WHOLE[4], cut_mm=60.0, unseen_cm2=3.0)
    assert doubts_of([*WHOLE[:4], cut, *WHOLE[5:]]) == ("1 slice has brain outside the area shown to the network",)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("too_high", [1024.0, 1000.0, -1024.0])
def test_values_that_are_shifted_are_known_by_what_they_would_show(too_high: float, padded: bool) -> None:
    hu = oval()
    assert measured(hu).shifted_hu == 0.0
    shifted = np.maximum(hu + np.float32(too_high), np.float32(-1024.0))
    if padded:
        rows, columns = np.ogrid[:512, :512]
        shifted[np.hypot(rows - 255.5, columns - 255.5) > 256] = -1024.0
    assert measured(shifted).shifted_hu == (1024.0 if too_high > 0 else -1024.0)


def test_what_is_no_head_does_not_become_one_by_a_shift() -> None:
    for other in (np.zeros((128, 128)), np.full((128, 128), -1024.0), np.full((128, 128), 1060.0)):
        assert measured(other.astype(np.float32), 2.0).shifted_hu == 0.0
    assert measured(oval(inside=1060.0)).shifted_hu == 0.0


@pytest.mark.parametrize("padded", [True, False])
def test_the_air_over_a_head_is_no_brain_that_is_shifted(padded: bool) -> None:
    """1024 HU higher it would have a brain's value, and what holds the head be a skull round it."""
    rows, columns = np.ogrid[:256, :256]
    distance = np.hypot(rows - 127.5, columns - 127.5)
    hu = np.random.default_rng(1).normal(-1000.0, 8.0, (256, 256)).astype(np.float32)
    hu[(distance > 112) & (distance < 122)] = -100.0
    if padded:
        hu[distance > 128] = -1024.0
    assert measured(hu, 0.78).shifted_hu == 0.0


def test_a_series_of_shifted_values_is_refused_as_what_it_is() -> None:
    stored, twice = (replace(content(0, 300), shifted_hu=hu) for hu in (1024.0, -1024.0))
    assert "Rescale Intercept had been lost" in (why_no_head([*WHOLE[:2], *[stored] * 7]) or "")
    assert "1024 HU too low" in (why_no_head([twice] * 9) or "")
    assert why_no_head(WHOLE) is None
    assert why_no_head([*WHOLE[:4], *[stored] * 3, *WHOLE[4:]]) is None, "as many are right"
    assert "1024 HU too low" in (why_no_head([None, None, *[twice] * 3]) or "")
    said = "in 2 slices the values are about 1024 HU too high, as if Rescale Intercept had been lost"
    assert said in doubts_of([*WHOLE[:4], stored, stored, *WHOLE[4:]])


def test_a_refusal_tells_that_the_slices_are_cut() -> None:
    nothing = "not a head by content: no brain was found inside a closed skull"
    assert why_no_head([content(0)] * 9) == nothing
    cut = replace(content(0), cut_mm=80.0)
    assert (why_no_head([content(0), *[cut] * 8]) or "").startswith(f"{nothing}; 8 of 9 slices end inside a head")
    assert why_no_head([None] * 9) == nothing

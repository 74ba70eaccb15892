"""The rule that leads from slices to a series: absent must be earned."""

import json
from dataclasses import asdict

import pytest

from dtvit.findings import (
    Coverage,
    Outcome,
    Region,
    SeriesFindings,
    SliceFinding,
    Thresholds,
    conclude,
    series_output,
)

WHOLE = Coverage(complete=True, extent_mm=140.0, lower_end_seen=True, upper_end_seen=True)
CUTS = Thresholds(absent_below=0.3, present_at=0.7)


def evaluated(presence: float, location=(0.2, 0.7, 0.1), position_mm: float | None = None) -> SliceFinding:
    return SliceFinding("1.2", "1.2.3", 1, position_mm, Region.BRAIN, CUTS.judge(presence), presence, location)


def left_out(reason: str) -> SliceFinding:
    return SliceFinding("1.2", "1.2.3", 1, None, Region.UNKNOWN, Outcome.NOT_EVALUATED, left_out=reason)


def at(*places: tuple[float, float]) -> list[SliceFinding]:
    return [evaluated(presence, position_mm=position) for position, presence in places]


def test_absent_needs_coverage():
    slices = [evaluated(0.05)] * 5
    gap = Coverage(False, 60.0, True, False, ("the upper end of the brain was not seen",))
    assert conclude(slices, WHOLE, CUTS).outcome is Outcome.ABSENT
    without_top = conclude(slices, gap, CUTS)
    assert without_top.outcome is Outcome.UNDETERMINED
    assert without_top.reasons == gap.gaps
    untold = conclude(slices, Coverage(False, 60.0, True, False), CUTS)
    assert untold.outcome is Outcome.UNDETERMINED
    assert untold.reasons == ("the brain was not covered from skull base to vertex",)


def test_absent_needs_a_series_known_to_be_whole():
    findings = conclude([evaluated(0.05)] * 5, WHOLE, CUTS, whole=False)
    assert findings.outcome is Outcome.UNDETERMINED
    assert "not known to be complete" in findings.reasons[0]


def test_of_many_reasons_the_first_are_told():
    findings = conclude([left_out(f"{n} bytes are missing") for n in range(40)], WHOLE, CUTS)
    assert findings.reasons == (
        *(f"{n} bytes are missing" for n in range(3)),
        "37 further reasons, given with each image",
    )
    few = tuple(f"reason {n}" for n in range(4))
    assert conclude([left_out(each) for each in few], WHOLE, CUTS).reasons == few


def test_nothing_evaluated_is_never_absent():
    findings = conclude([left_out("cannot be decoded")] * 3, WHOLE, CUTS)
    assert findings.outcome is Outcome.NOT_EVALUATED
    assert findings.presence is None
    assert findings.reasons == ("cannot be decoded",)
    nothing = conclude([], WHOLE, CUTS)
    assert (nothing.outcome, nothing.reasons) == (Outcome.NOT_EVALUATED, ("no slice was received",))


def test_one_bright_slice_is_undetermined_and_two_neighbours_are_present():
    quiet = [evaluated(0.05)] * 4
    lonely = conclude([*quiet, evaluated(0.95), *quiet], WHOLE, CUTS)
    assert lonely.outcome is Outcome.UNDETERMINED
    assert lonely.reasons == ("the output lies between the two thresholds",)
    findings = conclude([*quiet, evaluated(0.95), evaluated(0.9), *quiet], WHOLE, CUTS)
    assert (findings.outcome, findings.location) == (Outcome.PRESENT, "lobar")
    assert len(findings.positive) == 2


@pytest.mark.parametrize("spacing_mm", [3.6, 4.0, 5.0, 7.0, 10.0])
def test_two_slices_are_a_run_where_they_are_thick(spacing_mm):
    presences = [0.1, 0.9, 0.8, 0.2, 0.1]
    assert series_output(at(*((i * spacing_mm, p) for i, p in enumerate(presences)))) == pytest.approx(0.85)
    assert series_output([evaluated(p) for p in presences]) == pytest.approx(0.85)  # nothing tells where they lie


@pytest.mark.parametrize(("spacing_mm", "slices"), [(3.0, 3), (2.5, 3), (2.0, 4), (1.25, 6), (1.0, 8), (0.625, 12)])
def test_a_run_of_thin_slices_is_as_long_as_two_thick_ones(spacing_mm, slices):
    quiet, loud = [0.1] * 30, [0.9] * slices
    there = at(*((i * spacing_mm, p) for i, p in enumerate([*quiet, *loud, *quiet])))
    assert series_output(there) == pytest.approx(0.9)
    fewer = at(*((i * spacing_mm, p) for i, p in enumerate([*quiet, *loud[1:], *quiet])))
    assert series_output(fewer) == pytest.approx((0.9 * (slices - 1) + 0.1) / slices)


def test_no_run_is_shorter_because_the_series_ends_there():
    thin = [0.1] * 60 + [0.9, 0.9]
    assert series_output(at(*((float(i), p) for i, p in enumerate(thin)))) == pytest.approx((2 * 0.9 + 6 * 0.1) / 8)
    assert series_output(at(*((float(i), p) for i, p in enumerate(reversed(thin))))) == pytest.approx(0.3)
    assert series_output(at((0.0, 0.5), (1.0, 0.7))) == pytest.approx(0.6)  # all there is


def test_the_spacing_may_change_within_a_series():
    base, above = [(i * 2.5, 0.1) for i in range(10)], [(25.0 + i * 10.0, 0.1) for i in range(8)]
    assert series_output(at(*base, *above[:3], (55.0, 0.9), (65.0, 0.8), *above[5:])) == pytest.approx(0.85)
    assert series_output(at(*base[:4], (10.0, 0.9), (12.5, 0.9), *base[6:], *above)) == pytest.approx(
        (2 * 0.9 + 0.1) / 3
    )


def test_images_of_one_place_are_no_neighbours_of_each_other():
    twice = at((0.0, 0.1), (5.0, 0.95), (5.0, 0.95), (10.0, 0.02), (15.0, 0.1))
    assert series_output(twice) == pytest.approx((0.1 + 0.95) / 2)
    assert series_output(at((5.0, 0.9), (5.0, 0.7))) == pytest.approx(0.8)


def test_a_bright_slice_without_a_position_counts_beside_those_that_have_one():
    assert series_output([*at((0.0, 0.1), (5.0, 0.7)), evaluated(0.9)]) == pytest.approx(0.8)


def test_a_slice_that_was_left_out_does_not_part_its_neighbours():
    findings = conclude([evaluated(0.05), evaluated(0.95), left_out("damaged"), evaluated(0.9)], WHOLE, CUTS)
    assert findings.outcome is Outcome.PRESENT
    assert findings.presence == pytest.approx(0.925)
    assert len(findings.evaluated) == 3


def test_a_lone_slice_is_a_series_of_one():
    assert conclude([evaluated(0.9)], WHOLE, CUTS).presence == 0.9


def test_each_threshold_belongs_to_the_side_above_it():
    assert [CUTS.judge(p) for p in (0.0, 0.29, 0.3, 0.69, 0.7, 1.0)] == [
        *[Outcome.ABSENT] * 2,
        *[Outcome.UNDETERMINED] * 2,
        *[Outcome.PRESENT] * 2,
    ]


def test_positive_slices_alone_tell_the_location_the_surer_the_more():
    deep, lobar = (1.0, 0.0, 0.0), (0.0, 0.8, 0.2)
    slices = [evaluated(0.6, deep)] * 9 + [evaluated(0.7, deep), evaluated(0.9, lobar), evaluated(0.8, lobar)]
    findings = conclude([*slices, left_out("damaged")], WHOLE, CUTS)
    assert findings.location == "lobar"
    assert findings.location_probabilities == pytest.approx((0.7 / 2.4, 0.8 * 1.7 / 2.4, 0.2 * 1.7 / 2.4))


def test_where_no_slice_is_positive_by_itself_the_two_that_come_nearest_tell_the_location():
    """The series has thresholds of its own, which may lie lower than those of a slice."""
    deep, lobar = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    slices = [evaluated(0.5, deep)] * 5 + [evaluated(0.65, lobar), evaluated(0.6, lobar)]
    findings = conclude(slices, WHOLE, Thresholds(0.3, 0.6))
    assert findings.outcome is Outcome.PRESENT
    assert findings.location_probabilities == pytest.approx(lobar)
    assert conclude([evaluated(0.9, None)] * 3, WHOLE, CUTS).location is None


def test_location_is_never_given_without_hemorrhage():
    findings = conclude([evaluated(0.1)] * 4, WHOLE, CUTS)
    assert findings.location is None
    assert findings.location_probabilities is None


def test_a_gap_does_not_hide_blood_but_is_told():
    gap = Coverage(False, 60.0, True, False, ("slices are missing between 20 and 35 mm",))
    findings = conclude([evaluated(0.9)] * 3, gap, CUTS, whole=False)
    assert findings.outcome is Outcome.PRESENT
    assert gap.gaps[0] in findings.reasons


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_output_that_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        CUTS.judge(bad)


@pytest.mark.parametrize("bad", [(0.8, 0.2), (-0.1, 0.5), (0.3, 1.1)])
def test_thresholds_by_which_one_answer_would_never_be_given_are_refused(bad):
    with pytest.raises(ValueError, match="absent_below <= present_at"):
        Thresholds(*bad)


def test_thresholds_may_leave_nothing_undetermined_or_all():
    assert [Thresholds(0.5, 0.5).judge(p) for p in (0.49, 0.5)] == [Outcome.ABSENT, Outcome.PRESENT]
    assert Thresholds(0.0, 1.0).judge(0.0) is Thresholds(0.0, 1.0).judge(0.99) is Outcome.UNDETERMINED


@pytest.mark.parametrize("slices", [[evaluated(0.9)] * 3, [left_out("cannot be decoded")] * 2, [evaluated(0.05)] * 4])
def test_findings_come_back_from_json_as_they_were(slices):
    findings = conclude(slices, WHOLE, CUTS)
    again = SeriesFindings.from_json(json.loads(json.dumps(asdict(findings))))
    assert (again, repr(again)) == (findings, repr(findings)), "a word alone is equal to an outcome, but is none"
    assert again.positive == findings.positive


def test_one_positive_image_amid_negative_ones_is_never_absent():
    cuts = Thresholds(absent_below=0.35, present_at=0.7)
    one = SliceFinding("1.2", "1.2.3", 1, 0.0, Region.BRAIN, Outcome.PRESENT, 0.65, (0.2, 0.7, 0.1))
    findings = conclude([evaluated(0.02), evaluated(0.02), one, evaluated(0.02)], WHOLE, cuts)
    assert findings.outcome is Outcome.UNDETERMINED
    assert any("one image alone" in reason for reason in findings.reasons)

"""Figures of an audit: an interval says how little few patients tell, and none is given where one patient tells all."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from train.audit.figures import Figure, Goal, Row, Section, area, gap, goals_of, mean, patient_area
from train.audit.page import page
from train.evaluation.bootstrap import at_the_limit, draw, interval

FOUR, TWO = np.repeat(np.arange(4), 5), np.repeat([0, 1], 10)  # patients of 20 slices
BLEEDS = FOUR < 2


def test_a_perfect_order_of_few_patients_is_not_certainty():
    """Two bleed and two do not: drawn again they are told apart each time, as two of two would be of most models."""
    figure = area(np.where(BLEEDS, 0.9, 0.1), BLEEDS, FOUR, 0)
    assert [figure.value, figure.low, figure.high] == [1.0, *at_the_limit(1.0, 2)]
    assert figure.low < 0.2


def test_what_rests_on_one_patient_has_no_interval():
    scores = np.random.default_rng(0).random(20)
    one = np.zeros(20)
    alike = mean(np.full(20, True), one, 0)
    for figure in (area(scores, TWO == 0, TWO, 0), gap(scores, TWO == 0, TWO, 0), mean(scores, one, 0), alike):
        assert np.isfinite(figure.value)
        assert np.isnan([figure.low, figure.high]).all()
    for truth in (FOUR == 0, FOUR != 0):
        for figure in (area(scores, truth, FOUR, 0), gap(scores, truth, FOUR, 0)):
            assert np.isfinite(figure.value)
            assert np.isnan([figure.low, figure.high]).all()
    for truth in (one == 0, one == 1):
        assert np.isnan([gap(scores, truth, FOUR, 0).value, area(scores, truth, FOUR, 0).value]).all()


@pytest.mark.parametrize(("flipped", "bounds"), [(True, [0.398, 1.0]), (False, [0.0, 0.602])])
def test_a_share_that_is_alike_everywhere_has_the_exact_interval_over_patients(flipped, bounds):
    figure = mean(np.full(20, flipped), FOUR, 0)
    assert [figure.low, figure.high] == pytest.approx(bounds, abs=1e-3)


def test_an_interval_within_bounds_is_that_of_patients_drawn_again():
    random = np.random.default_rng(1)
    patients, scores = np.repeat(np.arange(60), 4), random.random(240)
    truth = patients % 2 == 0
    figure = area(scores + 0.3 * truth, truth, patients, 0)
    assert figure.low < figure.value < figure.high < 1


def test_each_figure_and_its_interval_are_those_of_rows_that_are_really_drawn_again():
    random = np.random.default_rng(2)
    patients = np.repeat(np.arange(12), random.integers(1, 6, 12))
    truth = patients % 3 == 0
    values = random.random(len(patients)) + 0.4 * truth

    def apart(values, truth):
        return values[truth].mean() - values[~truth].mean() if truth.any() and not truth.all() else np.nan

    drawn = [
        np.repeat(np.arange(len(patients)), times[patients]) for times in draw(patients, seed=3).counts.astype(int)
    ]
    of_gap, of_mean = (gap(values, truth, patients, 3), mean(values, patients, 3))
    assert of_gap.value == pytest.approx(apart(values, truth))
    assert [of_gap.low, of_gap.high] == pytest.approx(interval(np.array([apart(values[r], truth[r]) for r in drawn])))
    of_area = area(values, truth, patients, 3)
    told = [(values[r][truth[r]], values[r][~truth[r]]) for r in drawn if truth[r].any() and not truth[r].all()]
    areas = np.array([np.greater.outer(with_blood, without).mean() for with_blood, without in told])
    assert [of_area.low, of_area.high] == pytest.approx(interval(areas))
    assert of_mean.value == pytest.approx(values.mean())
    assert [of_mean.low, of_mean.high] == pytest.approx(interval(np.array([values[r].mean() for r in drawn])))
    assert {(each.slices, each.patients) for each in (of_gap, of_mean, of_area)} == {(len(patients), 12)}


def test_an_area_of_patients_is_that_of_the_means_over_their_slices():
    random = np.random.default_rng(3)
    patients = np.repeat(np.arange(20), random.integers(1, 6, 20))
    truth = patients % 2 == 0
    scores = random.random(len(patients)) + 0.2 * truth
    means = np.array([scores[patients == each].mean() for each in range(20)])

    found = patient_area(scores, truth, patients, 0)

    assert found.value == pytest.approx(roc_auc_score(np.arange(20) % 2 == 0, means))
    assert found.low < found.value < found.high
    assert (found.slices, found.patients) == (len(patients), 20)


def test_a_figure_is_written_below_its_key_with_its_interval_from_low_to_high_and_its_slices():
    rows = (
        Row("healed.flipped", "", Figure(0.25, 0.125, 0.8765432, 20, 4), Goal(0.5, at_most=True)),
        Row("healed.change", "", Figure(np.nan, np.nan, np.nan, 0, 0)),
    )
    section = Section("part", "", "", rows, counts=(("slices", 20),))
    assert section.to_json() == {
        "counts": {"slices": 20},
        "healed": {
            "flipped": 0.25,
            "flipped_ci": [0.125, 0.876543],
            "flipped_slices": 20,
            "change": None,
            "change_ci": [None, None],
            "change_slices": 0,
        },
    }
    (goal,) = goals_of([section])
    assert goal["ci"] == [0.125, 0.876543]
    assert (goal["value"], goal["goal"], goal["met"]) == (0.25, "at most 0.5", True)


def test_a_bound_belongs_to_what_meets_it():
    values = (0.85, 0.9, 0.95, np.nan)
    figures = [Figure(value, np.nan, np.nan, 20, 4) for value in values]
    assert [Goal(0.9, at_most=False).met(figure) for figure in figures] == [False, True, True, None]
    assert [Goal(0.9, at_most=True).met(figure) for figure in figures] == [True, True, False, None]


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.0, 0.0, 0.03, "met"),
        (0.0, 0.0, 0.7, "met, not beyond doubt"),
        (0.02, np.nan, np.nan, "met, not beyond doubt"),
        (0.1, 0.0, 0.2, "not met"),
        (np.nan, np.nan, np.nan, "not measured"),
    ],
)
def test_a_goal_met_by_a_value_but_not_by_its_interval_says_so(value, low, high, said):
    row = Row("sham", "Sham flips", Figure(value, low, high, 20, 4), Goal(0.05, at_most=True))
    made = page("x", [], ["No verdict."], [Section("part", "Part", "How.", (row,))]).decode()
    assert re.findall(r">at most 0.05</td><td[^>]*>(.*?)</td>", made) == [
        said,
        said,
    ]  # among the goals, and in its part

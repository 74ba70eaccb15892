"""Numbers in a report say what the numbers are: none is rounded to certainty, or to the other side of its goal."""

import pytest

from train.audit import counterfactuals, phantoms, probes
from train.audit.figures import Figure, Row, Section
from train.audit.page import page
from train.audit.words import paragraph
from train.digits import of_hundred, shown
from train.document import Text
from train.evaluation.page import measured
from train.evaluation.words import _of_hundred


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.0, 3, "1.000"),
        (0.0, 3, "0.000"),
        (0.97147, 3, "0.971"),
        (0.9996, 3, "0.9996"),
        (0.0004, 3, "0.0004"),
        (-0.0004, 3, "-0.0004"),
        (0.999997, 3, "1.00000"),
        (-0.0, 3, "0.000"),
        (0.996, 2, "0.996"),
    ],
)
def test_a_number_that_is_not_exact_is_not_shown_as_exact(value, digits, text):
    assert shown(value, digits) == text


def test_a_number_beyond_a_bound_is_not_shown_as_the_bound():
    assert shown(0.6003, side=probes.GOAL.holds) == "0.6003"
    assert shown(0.5996, side=probes.GOAL.holds) == "0.600"
    assert shown(0.6, side=probes.GOAL.holds) == "0.600"


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100"), (0.0, "0"), (0.57, "57"), (0.996, "99.6"), (0.9997, "99.97"), (0.004, "0.4")]
)
def test_a_hundred_of_a_hundred_means_all_of_them(share, text):
    assert of_hundred(share) == text
    assert _of_hundred({"npv": share, "npv_ci": [share, 1.0]}, "npv") == f"{text} ({text} to 100)"


def test_a_table_distinguishes_an_area_of_one_from_nearly_one():
    cells = [measured({"auc": value, "auc_ci": [0.83, 1.0]}, "auc") for value in (1.0, 0.9996)]
    assert cells == [Text("1.000", beside="0.830 to 1.000"), Text("0.9996", beside="0.830 to 1.000")]


def figure(value):
    return Figure(value, value - 0.01, value + 0.01, 100, 30)


def test_an_audit_does_not_round_a_missed_goal_into_a_met_one():
    row = Row("auc_over_5_ml", "Bleeds over 5 ml: AUC", figure(0.9796), phantoms.GOAL)
    section = Section("phantoms", "Phantom pairs", "How.", (row,))
    assert "with an AUC of 0.9796, less than the 0.98 wanted." in " ".join(paragraph([section]))
    assert b"0.9796 <small>(0.970 to 0.990)</small>" in page("x", [], ["No verdict."], [section])


def test_too_few_flips_are_not_rounded_to_enough():
    rows = [
        Row(f"healed.{name}.{key}", "", figure(value))
        for name in counterfactuals.HEALERS
        for key, value in (("flipped", 0.797), ("sham_flipped", 0.053))
    ]
    said = " ".join(paragraph([Section("counterfactuals", "", "", tuple(rows))]))
    assert "takes back 79.7 % of its calls" in said
    assert "5.3 % when another place" in said

"""Ways to conclude on a series: each is what it is called, and what is measured follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from dtvit.findings import Outcome, Region, SliceFinding, series_output
from train.evaluation.bootstrap import draw, interval
from train.evaluation.rules import QUIET, RULES, compared
from train.evaluation.units import Units

SLICES = np.array([0.1, 0.9, 0.3, 0.8, 0.7, 0.2])


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("highest", 0.9),
        ("two_neighbours", 0.75),
        ("both_neighbours", 0.7),
        ("three_neighbours", 2.0 / 3),
        ("three_highest", 0.8),
        ("any", -np.log(0.9 * 0.1 * 0.7 * 0.2 * 0.3 * 0.8)),
    ],
)
def test_each_rule_is_what_it_is_called(name: str, output: float) -> None:
    assert RULES[name][1](SLICES) == pytest.approx(output)
    assert RULES[name][1](SLICES[:1]) == pytest.approx(0.1 if name != "any" else -np.log(0.9))


def test_the_rule_that_is_named_the_nodes_is_the_nodes() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 30):
        presences = rng.random(count)
        found = [
            SliceFinding("", "", None, None, Region.BRAIN, Outcome.ABSENT, float(each), (1.0, 0.0, 0.0))
            for each in presences
        ]
        assert RULES["two_neighbours"][1](presences) == pytest.approx(series_output(found))


def units(bleeding: list[list[float]], healthy: list[list[float]], unknown: int = 0) -> tuple[Units, np.ndarray]:
    groups = [*bleeding, *healthy]
    score = np.concatenate([np.array(each) for each in groups])
    series = np.repeat(np.arange(len(groups)), [len(each) for each in groups]).astype(np.int32)
    presence = (series < len(bleeding)).astype(np.int8)
    presence[series < unknown] = -1
    none = np.full(len(score), np.nan, np.float32)
    places = np.full((len(score), 3), 1 / 3)
    answer = np.full(len(score), "absent")
    return Units(series, presence, presence - 1, score, places, answer, none, none, none), series


def test_one_bright_slice_among_the_healthy_costs_the_highest_but_no_pair() -> None:
    bleeding, healthy = [[0.1, 0.6, 0.6, 0.1]] * 10, [[0.1, 0.9, 0.1, 0.1]] * 2 + [[0.1, 0.1, 0.1, 0.1]] * 8
    found = compared(*units(bleeding, healthy), seed=0, resamples=50)
    assert found["highest"]["auc"] == pytest.approx(0.8)
    assert found["highest"]["sensitivity"] == 0.0  # two of ten healthy series are more than one in twenty
    for name in ("two_neighbours", "both_neighbours", "three_neighbours"):
        assert found[name]["auc"] == 1.0
        assert found[name]["sensitivity"] == 1.0
        low, high = found[name]["sensitivity_ci"]
        assert low < high == 1.0
    assert QUIET < 1


def test_the_doubt_about_the_cut_is_in_the_interval() -> None:
    """Each resample has the cut of the healthy series that it drew, as a hospital that collects anew would have."""
    rng = np.random.default_rng(1)
    bleeding, healthy = rng.random(30) + 0.5, rng.random(40)

    found = compared(*units([[each] for each in bleeding], [[each] for each in healthy]), seed=3, resamples=200)

    drawn = []
    for counts in draw(np.arange(70), resamples=200, seed=3).counts.astype(int):
        quiet = np.sort(np.repeat(healthy, counts[30:]))
        cut = quiet[int(np.ceil(QUIET * len(quiet))) - 1]
        drawn.append((np.repeat(bleeding, counts[:30]) > cut).mean())
    assert found["highest"]["sensitivity_ci"] == pytest.approx(interval(np.array(drawn)))


def test_series_without_a_label_are_left_out_and_one_class_alone_is_reported() -> None:
    found = compared(*units([[0.9], [0.9]], [[0.1], [0.2]], unknown=1), seed=0, resamples=50)
    assert found["highest"]["auc"] == 1.0
    found = compared(*units([[0.9], [0.9]], [], unknown=0), seed=0, resamples=50)
    assert np.isnan(found["highest"]["auc"])
    assert found["highest"]["sensitivity_why"]


def test_a_series_that_may_bleed_in_a_slice_without_a_label_is_not_counted_as_healthy() -> None:
    told, series = units([[0.1, 0.9, 0.9, 0.1]] * 4, [[0.1, 0.2, 0.1, 0.1]] * 4 + [[0.1, 0.95, 0.95, 0.1]])
    told.presence[-2] = -1
    assert compared(told, series, seed=0, resamples=50)["two_neighbours"]["auc"] == 1.0

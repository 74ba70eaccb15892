"""Which one number from many slices tells a bleeding series best: the node's rule beside others, on the same slices.

The node takes the highest mean of two neighbouring slices, more where it knows that they are thin
(`dtvit.findings.series_output`). A rule is chosen by what is
measured here on patients apart, over checkpoints and data sets, not by the best of one table: intervals overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.evaluation.bootstrap import Draws, draw
from train.evaluation.figures import Figures, areas, entry, ratio
from train.evaluation.units import Floats, Units, grouped, presence_of

Rule = Callable[[Floats], float]
"""From the probabilities of a series' slices, feet to head, to its output."""
QUIET = 0.95  # of the series without hemorrhage a cut must leave uncalled


def best_run(length: int, of: Callable[[Floats], Any] = np.mean) -> Rule:
    """The highest of `of` over that many neighbours; over all slices if there are fewer."""

    def rule(slices: Floats) -> float:
        length_here = min(length, len(slices))
        return float(max(of(slices[i : i + length_here]) for i in range(len(slices) - length_here + 1)))

    return rule


def _ranked(count: int) -> Rule:
    return lambda slices: float(np.sort(slices)[-count:].mean())


def _evidence(slices: Floats) -> float:
    """1 - the product of (1 - p), as a logarithm, which no rounding brings to 1."""
    return float(-np.log1p(-slices.clip(0, 1 - 1e-12)).sum())


RULES: dict[str, tuple[str, Rule]] = {
    "highest": ("the highest slice", best_run(1)),
    "two_neighbours": ("the highest mean of two neighbours (the node's rule)", best_run(2)),
    "both_neighbours": ("the highest pair of neighbours, by its lower slice", best_run(2, np.min)),
    "three_neighbours": ("the highest mean of three neighbours", best_run(3)),
    "three_highest": ("the mean of the three highest, wherever they are", _ranked(3)),
    "any": ("as if slices were independent: none of all shows blood", _evidence),
}


def compared(slices: Units, series: NDArray[np.int32], seed: int, resamples: int) -> dict[str, Figures]:
    """By rule: `auc`, and `sensitivity` at the lowest cut that leaves QUIET of the series without hemorrhage uncalled,
    each with its interval over patients. Series whose label is not known are left out.
    """
    groups = [rows for rows in grouped(series) if presence_of(slices.presence[rows]) >= 0]
    truth = np.array([presence_of(slices.presence[rows]) == 1 for rows in groups], np.bool_)
    patients = np.array([slices.patient[rows[0]] for rows in groups], np.int32)
    draws = draw(patients, resamples=resamples, seed=seed)
    found = {}
    for name, (what, rule) in RULES.items():
        output = np.array([rule(slices.score[rows]) for rows in groups], np.float64)
        told = areas(output, truth, draws, of="hemorrhage")
        area = {key: value for key, value in told.items() if key.startswith("auc")}
        found[name] = {"what": what, **area, **_sensitivity(output, truth, draws)}
    return found


def _sensitivity(output: Floats, truth: NDArray[np.bool_], draws: Draws) -> Figures:
    if truth.all() or not truth.any():
        return {"sensitivity": np.nan, "sensitivity_why": "needs series with hemorrhage and without"}
    healthy, bleeding = draws.take(~truth), draws.take(truth)
    itself = np.ones((1, draws.counts.shape[1]))
    value, *drawn = _called(output, truth, Draws(np.concatenate((itself, draws.counts)), draws.of))
    return entry("sensitivity", value, np.array(drawn), min(healthy.patients, bleeding.patients), why="")


def _called(output: Floats, truth: NDArray[np.bool_], draws: Draws) -> Floats:
    """(resamples,): share of the bleeding series above the cut. Each resample has its own cut, from the series without
    hemorrhage that it drew: that of the data is itself a guess from few."""
    healthy, bleeding = draws.take(~truth), draws.take(truth)
    order = np.argsort(output[~truth], kind="stable")
    below = np.cumsum(healthy.counts[:, healthy.of[order]], axis=1)  # (resamples, healthy series)
    cut = output[~truth][order][(below >= QUIET * below[:, -1:]).argmax(1)]
    times = bleeding.counts[:, bleeding.of]  # (resamples, bleeding series)
    called = ((output[truth] > cut[:, None]) * times).sum(1)
    return np.where(below[:, -1] > 0, ratio(called, times.sum(1)), np.nan)

"""Intervals: patients resampled with replacement, all resamples at once.

Slices of a patient are near copies, so patients are drawn, each with all their slices. A resample is a count for each
patient; every figure is then a weighted one, and a thousand of them are a matrix product (sums) or one sort (areas
under curves) instead of a thousand passes over the slices. The figures themselves are scikit-learn's;
tests/training/test_evaluation.py holds that the weighted ones agree with them.

Source: Efron and Tibshirani 1993, chapter 13 (percentile intervals); Field and Welsh 2007 (drawing clusters).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = (2.5, 97.5)  # percentiles: 95 %
FEWEST = 2  # patients; from one there is nothing to draw
AT_ONCE = 64  # resamples computed together: 10,000 slices then take 5 MB, which stays in the cache

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """Resamples of the patients of N units (slices or series)."""

    counts: Floats
    """(resamples, patients): how often each patient was drawn."""
    of: NDArray[np.intp]
    """(N,): column of `counts` that a unit belongs to."""

    def take(self, chosen: NDArray[Any]) -> Draws:
        """The same resamples for some of the units, by mask or index."""
        return Draws(self.counts, self.of[chosen])

    @property
    def patients(self) -> int:
        """How many patients the units come from."""
        return len(np.unique(self.of))

    def count(self, rows: NDArray[np.bool_]) -> int:
        """How many patients some of the units come from."""
        return len(np.unique(self.of[rows]))

    def sums(self, values: Floats) -> Floats:
        """(N, K) values summed over the units of each resample: (resamples, K)."""
        by_patient = np.zeros((self.counts.shape[1], values.shape[1]))
        np.add.at(by_patient, self.of, values)
        return self.counts @ by_patient

    def auc(self, scores: Floats, truth: NDArray[np.bool_]) -> Floats:
        """(resamples,) areas under the ROC curve, ties counting half; NaN where one class is missing."""

        def area(negatives: Floats, positives: Floats) -> Floats:
            below = np.cumsum(negatives, axis=1) - negatives
            return np.asarray(((below + negatives / 2) * positives).sum(1) / (negatives.sum(1) * positives.sum(1)))

        return self._by_score(scores, truth, area)

    def average_precision(self, scores: Floats, truth: NDArray[np.bool_]) -> Floats:
        """(resamples,) mean precision over the positives, from the highest score down, as scikit-learn defines it."""

        def area(negatives: Floats, positives: Floats) -> Floats:
            right = np.cumsum(positives[:, ::-1], axis=1)
            called = right + np.cumsum(negatives[:, ::-1], axis=1)
            precision = np.divide(right, called, out=np.zeros_like(right), where=called > 0)
            return np.asarray((precision * positives[:, ::-1]).sum(1) / positives.sum(1))

        return self._by_score(scores, truth, area)

    def _by_score(self, scores: Floats, truth: NDArray[np.bool_], area: Callable[[Floats, Floats], Floats]) -> Floats:
        """`area` of the weights of negatives and positives at each distinct score, rising: (some resamples, scores)."""
        if not len(scores):
            return np.full(len(self.counts), np.nan)
        order = np.argsort(scores, kind="stable")
        ranked, labels, of = scores[order], truth[order], self.of[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        found = np.empty(len(self.counts))
        for first in range(0, len(self.counts), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            weights = self.counts[some][:, of]
            negatives, positives = (np.add.reduceat(weights * rows, starts, axis=1) for rows in (~labels, labels))
            with np.errstate(divide="ignore", invalid="ignore"):
                found[some] = area(negatives, positives)
        return found


def draw(patients: NDArray[Any], *, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Resamples for units that belong to `patients` (N,), whatever these are called."""
    names, of = np.unique(patients, return_inverse=True)
    if not len(names):
        return Draws(np.zeros((resamples, 0)), of)
    random = np.random.default_rng(seed)
    counts = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return Draws(counts.astype(np.float64), of)


def interval(values: Floats) -> list[float]:
    """Lower and upper bound over the resamples in which the value is known; NaN if there are none."""
    known = values[np.isfinite(values)]
    return [float(x) for x in np.percentile(known, LEVEL)] if len(known) else [np.nan, np.nan]


def at_the_limit(value: float, patients: int) -> list[float]:
    """Bounds of a share that is 0 or 1 in every resample, where resampling shows no doubt at all: those of Clopper and
    Pearson for `patients` of whom none, or all, count."""
    doubt = 1 - (LEVEL[0] / 100) ** (1 / patients)
    return [max(0.0, value - doubt), min(1.0, value + doubt)]

"""Figures with their intervals: how to get a rate, an area or a calibration error, for the data and every resample.

A rate is a ratio of cells of a confusion matrix, defined once for both. Areas are scikit-learn's. Each figure has its
interval beside it (`_ci`) or, if it is not known, the reason in words (`_why`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from train.evaluation.bootstrap import FEWEST, Draws, at_the_limit, interval

BINS = 15  # of equal width: Guo et al. 2017, "On Calibration of Modern Neural Networks"
ONE_PATIENT = "it rests on one patient"
EXACT = 1e-9  # scikit-learn sums recalls up to 0.9999999999999998 where every positive comes first

Figures = dict[str, Any]
Floats = NDArray[np.float64]


def entry(name: str, value: float | Floats, drawn: Floats, patients: int, *, why: str) -> Figures:
    """A figure and its interval, or neither and the reason. `patients`: how many it rests on."""
    if not np.isfinite(value):
        return {name: np.nan, f"{name}_why": why}
    if patients < FEWEST:
        return {name: float(value), f"{name}_ci": [np.nan, np.nan], f"{name}_ci_why": ONE_PATIENT}
    value, bounds = float(value), interval(drawn)
    if round(value) == bounds[0] == bounds[1] and abs(value - round(value)) < EXACT:
        value, bounds = float(round(value)), at_the_limit(round(value), patients)
    return {name: value, f"{name}_ci": bounds}


def mean(name: str, values: Floats, draws: Draws, *, why: str) -> Figures:
    """The mean of (N,) values."""
    drawn = draws.sums(np.stack((values, np.ones_like(values)), 1))
    return entry(name, ratio(values.sum(), len(values)), ratio(drawn[:, 0], drawn[:, 1]), draws.patients, why=why)


def share(part: NDArray[np.bool_], whole: NDArray[np.bool_], draws: Draws) -> tuple[Floats, Floats]:
    """How many of the units in `whole` are in `part`, too, as a share: of the data, and of each resample."""
    pair = np.stack((part & whole, whole), 1).astype(float)
    point, drawn = pair.sum(0), draws.sums(pair)
    return ratio(point[0], point[1]), ratio(drawn[:, 0], drawn[:, 1])


def auc(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half. NaN if one class is missing."""
    return float(roc_auc_score(truth, scores)) if truth.any() and not truth.all() else np.nan


def areas(scores: Floats, truth: NDArray[np.bool_], draws: Draws, *, of: str) -> Figures:
    """Areas under the ROC and the precision-recall curve; `of`: what is told from the rest, in words."""
    missing = lacking(truth, of)
    if missing:
        return {"auc": np.nan, "auc_why": missing, "average_precision": np.nan, "average_precision_why": missing}
    patients = min(draws.count(truth), draws.count(~truth))
    precision = float(average_precision_score(truth, scores))
    return {
        **entry("auc", auc(scores, truth), draws.auc(scores, truth), patients, why=missing),
        **entry("average_precision", precision, draws.average_precision(scores, truth), patients, why=missing),
    }


def confusion(truth: NDArray[Any], guess: NDArray[Any], classes: int, draws: Draws) -> tuple[Floats, Floats]:
    """Confusion matrices (C, C) and (resamples, C, C); rows the truth, columns the answer."""
    cells = np.zeros((len(truth), classes, classes))
    cells[np.arange(len(truth)), truth.astype(int), guess.astype(int)] = 1
    return cells.sum(0), draws.sums(cells.reshape(-1, classes**2)).reshape(-1, classes, classes)


def rates(matrix: Floats) -> dict[str, Floats]:
    """Of confusion matrices (..., C, C): accuracy (...), and of each class (..., C) precision, recall, specificity, F1.

    What has no denominator is NaN.
    """
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, called, total = matrix.sum(-1), matrix.sum(-2), matrix.sum((-1, -2))
    every = total[..., None]
    return {
        "accuracy": ratio(right.sum(-1), total),
        "precision": ratio(right, called),
        "recall": ratio(right, true),
        "specificity": ratio(every - true - called + right, every - true),
        "f1": ratio(2 * right, true + called),
    }


def drawn_rates(drawn: Floats, matrix: Floats) -> dict[str, Floats]:
    """`rates` of resamples (resamples, C, C). One without a class that the data (C, C) have tells nothing of it: its
    precision and F1 there are NaN, as its recall and its AUC are, not 0 for what is called so by mistake."""
    found, lacking = rates(drawn), (drawn.sum(-1) == 0) & (matrix.sum(-1) > 0)
    for name in ("precision", "f1"):
        found[name] = np.where(lacking, np.nan, found[name])
    return found


def calibration(confidence: Floats, right: NDArray[np.bool_], draws: Draws, *, why: str) -> Figures:
    """Expected calibration error: the mean gap between confidence and share of right answers, over BINS bins.

    A gap has no sign, so resampling widens it; the interval is moved back by as much as their mean is too high.
    """
    added = in_bins(confidence, right)
    value, drawn = _gap(added.sum(0)), _gap(draws.sums(added.reshape(-1, BINS * 3)).reshape(-1, BINS, 3))
    centred = np.maximum(drawn - np.nanmean(drawn) + value, 0) if len(added) else drawn
    return entry("ece", value, centred, draws.patients, why=why)


def in_bins(confidence: Floats, right: NDArray[np.bool_]) -> Floats:
    """(N, BINS, 3): what each unit adds to its bin: one, its confidence, and whether it is right."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    added = np.zeros((len(confidence), BINS, 3))
    added[np.arange(len(confidence)), number] = np.stack((np.ones_like(confidence), confidence, right), 1)
    return added


def ratio(part: Any, whole: Any) -> Floats:
    """`part` / `whole`, NaN where `whole` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(part, whole), np.float64)


def lacking(truth: NDArray[np.bool_], of: str) -> str:
    """Which class is missing, in words; empty if none is."""
    if not len(truth):
        return "nothing with a label"
    if truth.all():
        return f"nothing without {of}"
    return "" if truth.any() else f"nothing with {of}"


def _gap(bins: Floats) -> Floats:
    return ratio(np.abs(bins[..., 1] - bins[..., 2]).sum(-1), bins[..., 0].sum(-1))

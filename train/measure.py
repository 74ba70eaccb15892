"""What a trained model is worth, and where its cuts lie: areas under curves, temperatures, thresholds, accuracies.

A series is judged by the rule of `dtvit.findings`, with full coverage. In `metrics.json` "patient" is a series: a
phantom with its bleed and the same one without it are two.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata

from dtvit.findings import LOCATIONS, Coverage, Outcome, Region, SeriesFindings, SliceFinding, Thresholds, conclude
from train.data import Pictures

SENSITIVITY = SPECIFICITY = 0.95  # what each threshold must keep; more would hang on one head among few
EASY = (0.3, 0.7)  # thresholds where the data ask for none: an answer needs odds of more than two to one
RESAMPLES = 500
BINS_ML = (0, 2, 5, 15, math.inf)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Logits:
    presence: Floats
    """(N, 2)"""
    location: Floats
    """(N, 3)"""


@dataclass(frozen=True)
class Calibration:
    presence_temperature: float
    location_temperature: float
    slice_thresholds: Thresholds
    series_thresholds: Thresholds


def auc(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half. Not a number where one class is missing."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def fit_temperature(logits: Floats, labels: NDArray[np.int8]) -> float:
    """The divisor of the logits that makes the labels likeliest; rows labelled -1 do not count."""
    known = labels >= 0
    if not known.any():
        return 1.0
    logits, chosen = logits[known], labels[known].astype(int)

    def cost(log_temperature: float) -> float:
        likely = log_softmax(logits / math.exp(log_temperature), axis=1)
        return float(-likely[np.arange(len(chosen)), chosen].mean())

    return float(math.exp(minimize_scalar(cost, bounds=(math.log(0.2), math.log(10)), method="bounded").x))


def fit_thresholds(scores: Floats, truth: NDArray[np.bool_], *, probabilities: bool = True) -> Thresholds:
    """`absent_below` keeps SENSITIVITY of the positives above it, `present_at` SPECIFICITY of the negatives below it.

    On easy data the first lies above the second, and whatever lies between them keeps both promises: there EASY is
    taken, as far as it fits. Where scores are `probabilities`, 0.5 lies between the two otherwise, so that neither
    answer is given against the odds. A series' output is none: the highest of many slices is high in health, too.
    """
    if truth.all() or not truth.any():
        return Thresholds(*EASY)
    positives, negatives = np.sort(scores[truth]), np.sort(scores[~truth])
    highest_absent = float(positives[math.floor((1 - SENSITIVITY) * len(positives))])
    lowest_present = float(np.nextafter(negatives[math.ceil(SPECIFICITY * len(negatives)) - 1], 2))
    if highest_absent <= lowest_present:
        if probabilities:
            highest_absent, lowest_present = min(highest_absent, 0.5), max(lowest_present, 0.5)
        return Thresholds(highest_absent, min(lowest_present, 1.0))
    absent_below, present_at = np.clip(EASY, lowest_present, highest_absent)
    return Thresholds(float(absent_below), float(present_at))


def calibrate(logits: Logits, truth: Pictures) -> Calibration:
    """Temperatures and thresholds from the validation heads."""
    presence_t = fit_temperature(logits.presence, truth.presence)
    location_t = fit_temperature(logits.location, truth.location)
    presence = softmax(logits.presence / presence_t, axis=1)[:, 1]
    clear = truth.presence >= 0
    slices = fit_thresholds(presence[clear], truth.presence[clear] == 1)
    partly = Calibration(presence_t, location_t, slices, Thresholds(0.5, 0.5))
    series = _conclusions(logits, truth, partly)
    outputs = np.array([each.findings.presence for each in series if each.present is not None], float)
    present = np.array([each.present for each in series if each.present is not None], bool)
    return Calibration(presence_t, location_t, slices, fit_thresholds(outputs, present, probabilities=False))


def measure(logits: Logits, truth: Pictures, calibration: Calibration, seed: int = 0) -> dict[str, Any]:
    """Metrics on heads that trained nothing; intervals are 95 %, from heads drawn again with replacement."""
    presence = softmax(logits.presence / calibration.presence_temperature, axis=1)[:, 1]
    guess = logits.location.argmax(1)
    clear, bleeding = truth.presence >= 0, truth.presence == 1
    series = [each for each in _conclusions(logits, truth, calibration) if each.present is not None]
    outputs = np.array([each.findings.presence for each in series], float)
    present = np.array([each.present for each in series], bool)
    heads = np.array([each.head for each in series])
    right = np.array([each.findings.location == LOCATIONS[each.location] for each in series], bool)
    places = np.array([each.location for each in series])
    hits = guess == truth.location

    def slice_auc(rows: NDArray[Any]) -> float:
        return auc(presence[rows], truth.presence[rows] == 1)

    return {
        "presence": {
            "slice": {
                "auc": slice_auc(np.flatnonzero(clear)),
                "auc_ci": _interval(slice_auc, truth.patient, np.flatnonzero(clear), seed),
                **_rates(presence[clear], bleeding[clear], calibration.slice_thresholds),
                "positives": int(bleeding.sum()),
                "negatives": int((clear & ~bleeding).sum()),
            },
            "patient": {
                "auc": auc(outputs, present),
                "auc_ci": _interval(lambda rows: auc(outputs[rows], present[rows]), heads, np.arange(len(heads)), seed),
                **_rates(outputs, present, calibration.series_thresholds),
                "positives": int(present.sum()),
                "negatives": int((~present).sum()),
            },
            "patient_auc_by_volume_ml": {
                f"{low}-{high}": auc(outputs[rows], present[rows])
                for low, high in itertools.pairwise(BINS_ML)
                if (rows := ~present | np.array([low < each.volume_ml <= high for each in series], bool))[present].any()
            },
        },
        "location": {
            "slice": {
                "accuracy": _mean(hits[bleeding]),
                "accuracy_ci": _interval(lambda rows: _mean(hits[rows]), truth.patient, np.flatnonzero(bleeding), seed),
                "balanced_accuracy": _balanced(hits[bleeding], truth.location[bleeding]),
                "accuracy_by_class": _by_class(hits[bleeding], truth.location[bleeding]),
            },
            "patient": {
                "accuracy": _mean(right[present]),
                "accuracy_ci": _interval(lambda rows: _mean(right[rows]), heads, np.flatnonzero(present), seed),
                "balanced_accuracy": _balanced(right[present], places[present]),
                "accuracy_by_class": _by_class(right[present], places[present]),
            },
        },
    }


@dataclass(frozen=True)
class _Series:
    head: int
    present: bool | None
    """None: the series shows blood nowhere clearly, but somewhere perhaps."""
    location: int
    volume_ml: float
    findings: SeriesFindings


def _conclusions(logits: Logits, truth: Pictures, calibration: Calibration) -> list[_Series]:
    presence = softmax(logits.presence / calibration.presence_temperature, axis=1)[:, 1]
    location = softmax(logits.location / calibration.location_temperature, axis=1)
    covered = Coverage(complete=True, extent_mm=150.0, lower_end_seen=True, upper_end_seen=True)
    made = []
    for number in np.unique(truth.series):
        rows = np.flatnonzero(truth.series == number)
        slices = [
            SliceFinding(
                "",
                "",
                None,
                None,
                Region.BRAIN,
                calibration.slice_thresholds.judge(presence[row]),
                float(presence[row]),
                (float(location[row, 0]), float(location[row, 1]), float(location[row, 2])),
            )
            for row in rows
        ]
        labels = truth.presence[rows]
        present = True if (labels == 1).any() else (None if (labels < 0).any() else False)
        places = truth.location[rows][labels == 1]
        findings = conclude(slices, covered, calibration.series_thresholds)
        place = int(np.bincount(places).argmax()) if len(places) else -1
        made.append(_Series(int(truth.patient[rows[0]]), present, place, float(truth.volume_ml[rows[0]]), findings))
    return made


def _rates(scores: Floats, truth: NDArray[np.bool_], cuts: Thresholds) -> dict[str, float]:
    """Shares of the truly positive and negative that are called present, absent, or neither."""
    called = np.array([cuts.judge(score) for score in scores])
    return {
        "sensitivity": _mean(called[truth] == Outcome.PRESENT),
        "missed": _mean(called[truth] == Outcome.ABSENT),
        "specificity": _mean(called[~truth] == Outcome.ABSENT),
        "false_alarms": _mean(called[~truth] == Outcome.PRESENT),
        "undetermined": _mean(called == Outcome.UNDETERMINED),
    }


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _by_class(hits: NDArray[np.bool_], places: NDArray[Any]) -> dict[str, float]:
    return {name: _mean(hits[places == number]) for number, name in enumerate(LOCATIONS)}


def _balanced(hits: NDArray[np.bool_], places: NDArray[Any]) -> float:
    return float(np.nanmean(list(_by_class(hits, places).values()))) if len(hits) else math.nan


def _interval(value: Any, heads: NDArray[Any], rows: NDArray[Any], seed: int) -> list[float]:
    random = np.random.default_rng(seed)
    groups = [rows[heads[rows] == head] for head in np.unique(heads[rows])]
    if not groups:
        return [math.nan, math.nan]
    drawn = [
        value(np.concatenate([groups[i] for i in random.integers(0, len(groups), len(groups))]))
        for _ in range(RESAMPLES)
    ]
    known = [x for x in drawn if math.isfinite(x)]
    return [float(x) for x in np.percentile(known, (2.5, 97.5))] if known else [math.nan, math.nan]

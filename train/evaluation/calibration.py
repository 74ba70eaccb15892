"""From logits to answers: a temperature for each head, two thresholds for slices, two for series.

They are fitted on validation patients, kept in the checkpoint, and never fitted on what is then measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from dtvit.checkpoint import Metadata
from dtvit.findings import Thresholds

SENSITIVITY = SPECIFICITY = 0.95  # what each threshold must keep; more would depend on one head among few
EASY = (0.3, 0.7)  # thresholds where the data require none: an answer needs odds of more than two to one

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    presence_temperature: float
    location_temperature: float
    slice_thresholds: Thresholds
    series_thresholds: Thresholds


EVEN = Calibration(1.0, 1.0, Thresholds(0.5, 0.5), Thresholds(0.5, 0.5))
"""Of nothing that was measured: logits as they come, even odds."""


def kept_in(metadata: Metadata) -> Calibration:
    """The calibration that a checkpoint carries."""
    return Calibration(
        metadata.presence_temperature,
        metadata.location_temperature,
        metadata.slice_thresholds,
        metadata.series_thresholds,
    )


def kept_with(calibration: Calibration, metadata: Metadata) -> Metadata:
    """What a checkpoint says of itself, with this calibration in place of its own."""
    return replace(
        metadata,
        presence_temperature=round(calibration.presence_temperature, 4),
        location_temperature=round(calibration.location_temperature, 4),
        slice_thresholds=calibration.slice_thresholds,
        series_thresholds=calibration.series_thresholds,
    )


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

    On easy data the first lies above the second, and whatever lies between them keeps both promises: then EASY is
    taken, as far as it fits. Where scores are `probabilities`, 0.5 always lies between the two, so that neither
    answer is given against the odds. A series' output is not one: the highest of many slices is high in health, too.
    """
    if truth.all() or not truth.any():
        return Thresholds(*EASY)
    positives, negatives = np.sort(scores[truth]), np.sort(scores[~truth])
    highest_absent = float(positives[math.floor((1 - SENSITIVITY) * len(positives))])
    lowest_present = float(np.nextafter(negatives[math.ceil(SPECIFICITY * len(negatives)) - 1], 2))
    absent_below, present_at = highest_absent, lowest_present
    if absent_below > present_at:
        absent_below, present_at = np.clip(EASY, lowest_present, highest_absent).tolist()
    if probabilities:
        absent_below, present_at = min(absent_below, 0.5), max(present_at, 0.5)
    return Thresholds(absent_below, min(present_at, 1.0))

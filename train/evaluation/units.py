"""What is scored: each slice by itself, and each series by the rule with which the node concludes.

A series is concluded on as if it covered the brain: a manifest does not tell. In `metrics.json` "patient" is a series:
a synthetic head with its bleed and the same one without it are two, and so are two scans of one person. Intervals are
drawn over persons either way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from dtvit.findings import Coverage, Outcome, Region, SeriesFindings, SliceFinding, Thresholds, conclude
from train.dataset.pictures import UNCLEAR, Pictures
from train.evaluation.calibration import Calibration
from train.evaluation.predicting import Logits

Floats = NDArray[np.float64]

COVERED = Coverage(complete=True, extent_mm=150.0, lower_end_seen=True, upper_end_seen=True)
ALWAYS = Thresholds(0.0, 0.0)
"""Series thresholds with which a location is always given: that head is scored on every bleed, missed or not."""
ODDS = 0.5  # a slice is called where it is likelier than not, as the papers' argmax does


@dataclass(frozen=True)
class Units:
    """N slices, or N series."""

    patient: NDArray[np.int32]
    presence: NDArray[np.int8]
    """(N,): 1 hemorrhage, 0 none, -1 not known."""
    location: NDArray[np.int8]
    """(N,): index into LOCATIONS, -1 not known; of a series, the one that most of its slices have."""
    score: Floats
    """(N,): probability of a slice; output of a series, which is not a probability."""
    places: Floats
    """(N, 3): probabilities of the locations, given hemorrhage."""
    answer: NDArray[np.str_]
    """(N,): what the node would say, by its two thresholds: a value of Outcome."""
    volume_ml: NDArray[np.float32]
    area_mm2: NDArray[np.float32]
    """(N,): of a series, the largest among its slices."""
    share: NDArray[np.float32]
    """(N,): lesion as a share of the head in the picture; NaN without a mask."""

    def take(self, chosen: NDArray[Any]) -> Units:
        return Units(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})


def of_slices(
    logits: Logits, truth: Pictures, calibration: Calibration, share: NDArray[np.float32] | None = None
) -> Units:
    presence = softmax(logits.presence / calibration.presence_temperature, axis=1)[:, 1]
    return Units(
        patient=truth.patient,
        presence=truth.presence,
        location=np.where(truth.presence == 1, truth.location, np.int8(UNCLEAR)),
        score=presence,
        places=softmax(logits.location / calibration.location_temperature, axis=1),
        answer=answers(presence, calibration.slice_thresholds),
        volume_ml=truth.volume_ml,
        area_mm2=truth.area_mm2,
        share=np.full(len(truth), np.nan, np.float32) if share is None else share,
    )


def of_series(slices: Units, series: NDArray[np.int32], calibration: Calibration) -> Units:
    """`slices`: those of `series` (N,) numbers, each from feet to head."""
    groups = grouped(series)
    concluded = [_concluded(slices, rows) for rows in groups]
    score = np.array([each.presence for each in concluded], np.float64)
    return Units(
        patient=np.array([slices.patient[rows[0]] for rows in groups], np.int32),
        presence=np.array([presence_of(slices.presence[rows]) for rows in groups], np.int8),
        location=np.array([_commonest(slices.location[rows]) for rows in groups], np.int8),
        score=score,
        places=np.array([each.location_probabilities for each in concluded], np.float64).reshape(-1, 3),
        answer=answers(score, calibration.series_thresholds),
        volume_ml=np.array([slices.volume_ml[rows[0]] for rows in groups], np.float32),
        area_mm2=np.array([_largest(slices.area_mm2[rows]) for rows in groups], np.float32),
        share=np.array([_largest(slices.share[rows]) for rows in groups], np.float32),
    )


def grouped(numbers: NDArray[Any]) -> list[NDArray[np.intp]]:
    """The rows of each number, numbers rising, rows in their own order."""
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    return [rows for rows in np.split(order, cuts) if len(rows)]


def answers(scores: Floats, thresholds: Thresholds) -> NDArray[np.str_]:
    """`Thresholds.judge`, for many at once."""
    cuts = [scores >= thresholds.present_at, scores < thresholds.absent_below]
    return np.select(cuts, [Outcome.PRESENT.value, Outcome.ABSENT.value], Outcome.UNDETERMINED.value)


def _concluded(slices: Units, rows: NDArray[np.intp]) -> SeriesFindings:
    found = [
        SliceFinding(
            "",
            "",
            None,
            None,
            Region.BRAIN,
            Outcome(slices.answer[row]),
            float(slices.score[row]),
            (float(slices.places[row, 0]), float(slices.places[row, 1]), float(slices.places[row, 2])),
        )
        for row in rows
    ]
    return conclude(found, COVERED, ALWAYS)


def presence_of(labels: NDArray[np.int8]) -> int:
    """One slice with hemorrhage is enough; without one, an unclear slice leaves the series unclear."""
    if (labels == 1).any():
        return 1
    return UNCLEAR if (labels == UNCLEAR).any() else 0


def _commonest(locations: NDArray[np.int8]) -> int:
    known = locations[locations >= 0]
    return int(np.bincount(known).argmax()) if len(known) else UNCLEAR


def _largest(values: NDArray[np.float32]) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else np.nan

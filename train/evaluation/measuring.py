"""A model's worth on labelled pictures, as in `metrics.json`, and the calibration that is fitted before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.dataset.pictures import Pictures
from train.evaluation import scores, strata
from train.evaluation.bootstrap import RESAMPLES, draw
from train.evaluation.calibration import EVEN, Calibration, fit_temperature, fit_thresholds
from train.evaluation.predicting import Logits
from train.evaluation.units import ODDS, grouped, of_series, of_slices

PREVALENCE = 0.1  # of all heads scanned; only a site knows its own


def calibrate(logits: Logits, truth: Pictures) -> Calibration:
    """Temperatures and thresholds from the validation patients."""
    partly = replace(
        EVEN,
        presence_temperature=fit_temperature(logits.presence, truth.presence),
        location_temperature=fit_temperature(logits.location, truth.location),
    )
    slices = of_slices(logits, truth, partly)
    series = of_series(slices, truth.series, partly)
    cuts = []
    for units, probabilities in ((slices, True), (series, False)):
        clear = units.presence >= 0
        cuts.append(fit_thresholds(units.score[clear], units.presence[clear] == 1, probabilities=probabilities))
    return replace(partly, slice_thresholds=cuts[0], series_thresholds=cuts[1])


def measure(
    logits: Logits,
    truth: Pictures,
    calibration: Calibration,
    seed: int = 0,
    *,
    prevalence: float = PREVALENCE,
    resamples: int = RESAMPLES,
    columns: Mapping[str, NDArray[np.str_]] | None = None,
    share: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """{"presence": {"slice": ..., "patient": ...}, "location": the same, "strata": {"slice": ..., "patient": ...}}.

    A value is a number, its 95 % interval beside it under `_ci`; what is not known is NaN, and `_why` gives the reason.
    `columns`: a text for each slice, to be looked at separately (site, scanner); a series is at the site of its first
    slice. `share`: (N,) size of the lesion as a share of the head, where there are masks.
    """
    slices = of_slices(logits, truth, calibration, share)
    series = of_series(slices, truth.series, calibration)
    first = np.array([rows[0] for rows in grouped(truth.series)], np.intp)
    columns = columns or {}
    found: dict[str, Any] = {"presence": {}, "location": {}, "strata": {}}
    for level, units, texts, cut in (
        ("slice", slices, columns, ODDS),
        ("patient", series, {name: values[first] for name, values in columns.items()}, None),
    ):
        draws = draw(units.patient, resamples=resamples, seed=seed)
        found["presence"][level] = scores.presence(
            units,
            draws,
            cut=calibration.series_thresholds.present_at if cut is None else cut,
            prevalence=prevalence,
            probabilities=level == "slice",
        )
        found["location"][level] = scores.location(units, draws)
        found["strata"][level] = strata.scored(units, draws, texts)
    return found


def plain(value: Any) -> Any:
    """Figures with four digits, as JSON has them; NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value

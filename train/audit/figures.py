"""What an audit says in numbers: a figure with its interval, beside the goal it is held to, as rows of a table.

Intervals are 95 %, from patients resampled with replacement: slices of a patient are near copies, and drawing slices
would make every interval too narrow. One row serves the page and audit.json alike, so that the two cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.evaluation import auc
from train.evaluation.bootstrap import FEWEST, Draws, at_the_limit, draw, interval
from train.progress import Tell as Tell  # exported again, beside the figures that a part gives

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Figure:
    """One number; NaN, like its interval, if nothing could be measured. Only the interval is NaN if the value rests on
    one patient, since there is nothing to resample."""

    value: float
    low: float
    high: float
    slices: int
    """How many it was made from; in an AUC of pairs each counts twice."""
    patients: int


@dataclass(frozen=True)
class Goal:
    """A bound, itself included."""

    bound: float
    at_most: bool

    def met(self, figure: Figure) -> bool | None:
        """None if the figure could not be measured."""
        return self.holds(figure.value) if math.isfinite(figure.value) else None

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def sure(self, figure: Figure) -> bool:
        """Whether its interval, too, is within the bound."""
        return self.holds(figure.high if self.at_most else figure.low)

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    key: str
    """Where it stands in audit.json below its part: names separated by dots."""
    what: str
    """For a person."""
    figure: Figure
    goal: Goal | None = None


@dataclass(frozen=True)
class Plate:
    """A picture of the audit, in its folder."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """One part of the audit: what was done, and what came of it."""

    name: str
    title: str
    method: str
    """What was done, in plain words."""
    rows: tuple[Row, ...]
    plates: tuple[Plate, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    """What entered and what was left out, in words, with how many."""

    def to_json(self) -> dict[str, Any]:
        """Figures by key, each with `_ci` and `_slices` beside it; None if it could not be measured."""
        made: dict[str, Any] = {"counts": dict(self.counts)}
        for row in self.rows:
            *folders, last = row.key.split(".")
            place = made
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = _plain(row.figure.value)
            place[f"{last}_ci"] = [_plain(row.figure.low), _plain(row.figure.high)]
            place[f"{last}_slices"] = row.figure.slices
        return made


def goals_of(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Every figure that is held to a goal."""
    return [
        {
            "part": section.name,
            "key": row.key,
            "what": row.what,
            "value": _plain(row.figure.value),
            "ci": [_plain(row.figure.low), _plain(row.figure.high)],
            "goal": str(row.goal),
            "met": row.goal.met(row.figure),
            "beyond_doubt": row.goal.sure(row.figure),
        }
        for section in sections
        for row in section.rows
        if row.goal is not None
    ]


def area(scores: Floats, truth: Bools, patients: NDArray[Any], seed: int) -> Figure:
    """AUC of slices; NaN if one class is missing."""
    draws = draw(patients, seed=seed)
    fewest = min(draws.count(truth), draws.count(~truth))
    return _figure(auc(scores, truth), draws.auc(scores, truth), fewest, draws, share=True)


def patient_area(scores: Floats, truth: Bools, patients: NDArray[Any], seed: int) -> Figure:
    """AUC of patients by the mean over their slices: what all slices share, such as a scanner, counts most this way."""
    names, place = np.unique(patients, return_inverse=True)
    means = np.bincount(place, scores) / np.bincount(place)
    found = area(means, np.bincount(place, truth) > 0, names, seed)
    return replace(found, slices=len(scores))


def mean(values: NDArray[Any], patients: NDArray[Any], seed: int) -> Figure:
    """Mean over slices; for a mask, the share."""
    if not len(values):
        return Figure(math.nan, math.nan, math.nan, 0, 0)
    draws = draw(patients, seed=seed)
    sums = draws.sums(np.stack((values.astype(float), np.ones(len(values))), 1))
    drawn, share = sums[:, 0] / sums[:, 1], values.dtype == bool
    return _figure(float(values.mean()), drawn, draws.patients, draws, share=share)


def gap(values: Floats, truth: Bools, patients: NDArray[Any], seed: int) -> Figure:
    """Mean where `truth` holds, less the mean where it does not."""
    draws = draw(patients, seed=seed)
    columns = np.stack((values * truth, truth, values * ~truth, ~truth), 1).astype(float)
    fewest = min(draws.count(truth), draws.count(~truth))
    with np.errstate(divide="ignore", invalid="ignore"):
        value, drawn = (
            sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3] for sums in (columns.sum(0), draws.sums(columns))
        )
    return _figure(float(value), drawn, fewest, draws, share=False)


def _figure(value: float, drawn: Floats, fewest: int, draws: Draws, *, share: bool) -> Figure:
    """`drawn`: the value in each resample; `fewest`: patients that it rests on; `share`: 0 and 1 are its bounds."""
    low, high = interval(drawn) if fewest >= FEWEST else (math.nan, math.nan)
    if share and low == high == value and value in (0, 1):  # whoever is drawn; that is not certainty
        low, high = at_the_limit(value, fewest)
    return Figure(value, low, high, len(draws.of), draws.patients)


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None

"""Are these pictures like those the model learned from? A few plain numbers of each, and of the labels.

A checkpoint keeps `statistics` of its training pictures, not the pictures; `compare` holds another set against them.
Sets that are alike here may still differ in what was not asked, and a model may fail on them: this finds the coarse
reasons (another window, another reconstruction, other heads, another share of bleeds), which are the most common ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS
from train.dataset.pictures import ORIGINS, Pictures
from train.evaluation.predicting import middle
from train.evaluation.units import grouped

VERSION = 1
TAKEN = [ORIGINS.index(each) for each in ("phantom", "patient")]
SAMPLE = 2000  # slices, evenly spaced: 10,000 would take ten seconds and say the same
POINTS = np.linspace(0, 1, 21)
LOW, HIGH = 1, 19  # of POINTS: 5 and 95 %
ALIKE, SHIFTED = 0.25, 0.6  # share outside the middle nine tenths of the training pictures; a tenth is expected
ALIKE_SHARE, SHIFTED_SHARE = 0.1, 0.3  # between two shares of the labels
UNLIKE = ("shifted", "far off")
TIE = 1e-6  # quantiles are rounded to thousandths; those on the edge are inside
HU = 80 / 255  # of one grey value
SOFT = (32, 240)  # grey values of 10 to 75 HU: brain, blood and muscle; neither air nor bone
PIXELS = 64  # of soft tissue; a slice with fewer says nothing of it

FEATURES = {
    "head": ("share of the picture that shows head", "%"),
    "bone": ("share of the head at 80 HU or more", "%"),
    "tissue": ("soft tissue, median", "HU"),
    "contrast": ("soft tissue, from its 10th to its 90th percentile", "HU"),
    "noise": ("difference of neighbouring pixels in soft tissue", "HU"),
    "centre": ("head's middle off the picture's middle", "pixels"),
    "slices": ("slices in a series", ""),
}


@dataclass(frozen=True)
class Drift:
    """One line of the comparison."""

    name: str
    unit: str
    there: tuple[float, float, float] | None
    """5 %, median and 95 % of the training pictures; None if the checkpoint does not say."""
    here: tuple[float, float, float] | None
    outside: float | None
    """Share of these pictures outside the range of nine tenths of the training pictures."""
    verdict: str
    of_pixels: bool = False
    """Whether it is about what is in the pictures, not how many there are or what their labels say."""


def statistics(pictures: Pictures) -> dict[str, Any]:
    """What a checkpoint keeps of its training data, or of any other: quantiles and shares, as JSON has them.

    Slices that training changed (healed, given another's bleed) are left out: each is a series of its own.
    """
    pictures = pictures.take(np.isin(pictures.origin, TAKEN))
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(SAMPLE, len(pictures))).astype(int))
    shown = middle(pictures.pictures[chosen]) if len(pictures) else np.zeros((0, 1, 1), np.uint8)
    rows = [_features(each) for each in shown]
    values = {name: np.array([row[name] for row in rows], float) for name in FEATURES if name != "slices"}
    values["slices"] = np.array([len(rows) for rows in grouped(pictures.series)], float)
    clear, positive = pictures.presence >= 0, pictures.presence == 1
    placed = positive & (pictures.location >= 0)
    return {
        "version": VERSION,
        "slices": len(pictures),
        "series": len(values["slices"]),
        "patients": len(np.unique(pictures.patient)),
        "quantiles": {name: _quantiles(each) for name, each in values.items()},
        "hemorrhage": _share(positive, clear),
        "location": {name: _share(pictures.location == number, placed) for number, name in enumerate(LOCATIONS)},
    }


def compare(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Drift]:
    """`there`: statistics of the training data, {} if the checkpoint keeps none."""
    lines = []
    for name, (words, unit) in FEATURES.items():
        before = there.get("quantiles", {}).get(name)
        now = here["quantiles"][name]
        outside = None
        if before is not None and now is not None:
            inside = np.interp([before[LOW] - TIE, before[HIGH] + TIE], *_distribution(now))
            outside = float(1 - (inside[1] - inside[0]))
        verdict = _verdict(before, outside, ALIKE, SHIFTED)
        lines.append(Drift(words, unit, _three(before), _three(now), outside, verdict, of_pixels=name != "slices"))
    shares = [("slices with hemorrhage", there.get("hemorrhage"), here["hemorrhage"])]
    shares += [
        (f"{name}, of the located hemorrhages", there.get("location", {}).get(name), here["location"][name])
        for name in LOCATIONS
    ]
    for words, before, now in shares:
        apart = None if before is None or now is None else abs(before - now)
        verdict = _verdict(before, apart, ALIKE_SHARE, SHIFTED_SHARE)
        lines.append(Drift(words, "%", _one(before), _one(now), None, verdict))
    return lines


def _features(picture: NDArray[np.uint8]) -> dict[str, float]:
    """Of one (224, 224) picture; NaN where it shows too little."""
    found = dict.fromkeys(FEATURES, np.nan)
    head = picture > 0
    found["head"] = 100 * float(head.mean())
    if not head.any():
        return found
    found["bone"] = 100 * float((picture == 255).sum() / head.sum())
    rows, columns = (np.flatnonzero(head.any(axis)) for axis in (1, 0))
    off = [(each[0] + each[-1]) / 2 - (side - 1) / 2 for each, side in zip((rows, columns), picture.shape, strict=True)]
    found["centre"] = float(np.hypot(*off))
    soft = (picture >= SOFT[0]) & (picture <= SOFT[1])
    if soft.sum() < PIXELS:
        return found
    low, median, high = np.percentile(picture[soft], (10, 50, 90))
    found["tissue"], found["contrast"] = float(median) * HU, float(high - low) * HU
    beside = soft[:, 1:] & soft[:, :-1]
    if beside.sum() >= PIXELS:
        found["noise"] = float(np.abs(np.diff(picture.astype(np.int16)))[beside].mean()) * HU
    return found


def _quantiles(values: NDArray[np.float64]) -> list[float] | None:
    known = values[np.isfinite(values)]
    return [round(float(x), 3) for x in np.quantile(known, POINTS)] if len(known) else None


def _distribution(quantiles: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values, strictly rising as interpolation needs them, and the share at or below each, from below 0 to above 1."""
    values = np.array(quantiles) + np.arange(len(quantiles)) * 1e-9
    return np.r_[values[0] - 1e-9, values], np.r_[0.0, POINTS]


def _share(rows: NDArray[np.bool_], among: NDArray[np.bool_]) -> float | None:
    return round(float((rows & among).sum() / among.sum()), 4) if among.any() else None


def _three(quantiles: list[float] | None) -> tuple[float, float, float] | None:
    return None if quantiles is None else (quantiles[LOW], quantiles[10], quantiles[HIGH])


def _one(share: float | None) -> tuple[float, float, float] | None:
    return None if share is None else (100 * share, 100 * share, 100 * share)


def _verdict(before: object, apart: float | None, alike: float, shifted: float) -> str:
    """`apart`: None if one of the two is not known."""
    if apart is None:
        return "the checkpoint does not say" if before is None else "not known here"
    return "alike" if apart <= alike else UNLIKE[0] if apart <= shifted else UNLIKE[1]

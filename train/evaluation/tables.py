"""The same results as CSV, for further computing: figures, predictions, series, reliability, confusion, drift.

Every row of every table says under `split` how the patients were divided (`label`): files are copied, and rows too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dtvit.findings import LOCATIONS
from train import csvfile
from train.evaluation.cases import Cases
from train.evaluation.drift import Drift
from train.evaluation.figures import BINS, in_bins
from train.evaluation.measuring import plain
from train.evaluation.units import Units, grouped


def metrics(found: Mapping[str, Any], label: str) -> bytes:
    """A row for each figure of metrics.json: where it stands there, its value and interval, or the reason for none."""
    leaves = _leaves(plain(found), "")
    rows = ((name, value, *(interval or (None, None)), why) for name, value, interval, why in leaves)
    return _csv(("figure", "value", "low", "high", "why_not"), rows, label)


def predictions(cases: Cases, slices: Units, label: str) -> bytes:
    """A row for each slice. `row` is that of the manifest; patients and series are numbered, not named."""
    header = ("row", "path", "patient", "series", "part", "site", "scanner", *_outputs())
    truth = cases.pictures
    rows = (
        (row.line, cases.path(i), truth.patient[i], truth.series[i], cases.part, row.site, row.scanner, *_of(slices, i))
        for i, row in enumerate(cases.rows)
    )
    return _csv(header, rows, label)


def series(cases: Cases, units: Units, label: str) -> bytes:
    """A row for each series, concluded on as the node does."""
    numbers = cases.pictures.series
    rows = (
        (units.patient[i], numbers[members[0]], len(members), *_of(units, i))
        for i, members in enumerate(grouped(numbers))
    )
    return _csv(("patient", "series", "slices", *_outputs("output")), rows, label)


def series_rules(found: Mapping[str, Any], label: str) -> bytes:
    """A row for each way to conclude on a series (`train.evaluation.rules`)."""
    figures = ("auc", "sensitivity")
    rows = (
        (name, each["what"], *(cell for key in figures for cell in (each[key], *each.get(f"{key}_ci", (None, None)))))
        for name, each in found.items()
    )
    bounds = [cell for key in figures for cell in (key, f"{key}_low", f"{key}_high")]
    return _csv(("rule", "what", *bounds), rows, label)


def reliability(slices: Units, label: str) -> bytes:
    known = slices.presence >= 0
    bins = in_bins(slices.score[known], slices.presence[known] == 1).sum(0)
    rows = (
        (number / BINS, (number + 1) / BINS, int(n), *((confidence / n, right / n) if n else (None, None)))
        for number, (n, confidence, right) in enumerate(bins)
    )
    return _csv(("from", "to", "slices", "mean_probability", "share_with_hemorrhage"), rows, label)


def confusion(found: Mapping[str, Any], label: str) -> bytes:
    rows = [
        (head, level, names[truth], names[answer], count)
        for head, names in (("presence", ("none", "hemorrhage")), ("location", LOCATIONS))
        for level in ("slice", "patient")
        for truth, line in enumerate(found[head][level]["confusion"])
        for answer, count in enumerate(line)
    ]
    return _csv(("head", "level", "truth", "answer", "count"), rows, label)


def drift(lines: Sequence[Drift], label: str) -> bytes:
    header = ("what", "unit", "there_5", "there_50", "there_95", "here_5", "here_50", "here_95", "outside", "verdict")
    none = (None, None, None)
    rows = ((x.name, x.unit, *(x.there or none), *(x.here or none), x.outside, x.verdict) for x in lines)
    return _csv(header, rows, label)


def _outputs(score: str = "probability") -> tuple[str, ...]:
    return ("ich", "location", score, "answer", *(f"probability_{name}" for name in LOCATIONS), "place")


def _of(units: Units, i: int) -> tuple[Any, ...]:
    place = units.location[i]
    return (
        units.presence[i] if units.presence[i] >= 0 else None,
        LOCATIONS[place] if place >= 0 else None,
        units.score[i],
        units.answer[i],
        *units.places[i],
        LOCATIONS[int(units.places[i].argmax())],
    )


def _leaves(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, list[float] | None, str | None]]:
    for key, each in value.items():
        name = f"{path}{key}"
        if isinstance(each, Mapping):
            yield from _leaves(each, f"{name}.")
        elif not key.endswith(("_ci", "_why")) and not isinstance(each, list):
            yield name, each, value.get(f"{key}_ci"), value.get(f"{key}_why") or value.get(f"{key}_ci_why")


def _csv(header: Sequence[str], rows: Iterable[Iterable[Any]], label: str) -> bytes:
    return csvfile.encoded([(*header, "split"), *([*map(_cell, row), label] for row in rows)])


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{value:.9g}" if np.isfinite(value) else None
    return value

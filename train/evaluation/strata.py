"""The same figures for parts of the data: by location, by size of the lesion, by site and by scanner.

Hemorrhages of one kind are held against all slices, or series, without any; a site against its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS, Outcome
from train.evaluation.bootstrap import Draws
from train.evaluation.figures import Figures, areas, entry, ratio
from train.evaluation.units import Units

VOLUMES_ML = (0, 2, 5, 15, math.inf)
AREAS_MM2 = (0, 50, 200, 800, math.inf)
SHARES = (0, 0.005, 0.02, 0.06, 1.0)
"""Of the head in the picture, where nothing tells millimetres."""


@dataclass(frozen=True)
class Stratum:
    by: str
    value: str
    rows: NDArray[np.bool_]


def strata(units: Units, columns: Mapping[str, NDArray[np.str_]]) -> Iterator[Stratum]:
    """Parts of `units` that hold some hemorrhage or, by `columns` (site, scanner: a text for each unit), anything."""
    negative = units.presence == 0
    positive = units.presence == 1
    kinds = [("location", name, units.location == number) for number, name in enumerate(LOCATIONS)]
    sizes = (
        ("volume_ml", units.volume_ml, VOLUMES_ML),
        ("area_mm2", units.area_mm2, AREAS_MM2),
        ("share_of_head", units.share, SHARES),
    )
    for by, values, edges in sizes:
        kinds += [
            (by, f"{low:g}-{high:g}", (low < values) & (values <= high)) for low, high in itertools.pairwise(edges)
        ]
    for by, value, chosen in kinds:
        if (positive & chosen).any():
            yield Stratum(by, value, negative | (positive & chosen))
    for by, texts in columns.items():
        for value in sorted(set(texts.tolist()) - {""}):
            yield Stratum(by, value, texts == value)


def scored(units: Units, draws: Draws, columns: Mapping[str, NDArray[np.str_]]) -> dict[str, dict[str, Figures]]:
    """{by: {value: figures}}: what is told apart, and what the node would answer."""
    found: dict[str, dict[str, Figures]] = {}
    for stratum in strata(units, columns):
        rows = stratum.rows & (units.presence >= 0)
        found.setdefault(stratum.by, {})[stratum.value] = _figures(units.take(rows), draws.take(rows))
    return found


def _figures(units: Units, draws: Draws) -> Figures:
    truth = units.presence == 1
    found: Figures = {"positives": int(truth.sum()), "negatives": int((~truth).sum()), "patients": draws.patients}
    found |= areas(units.score, truth, draws, of="hemorrhage")
    for name, rows, answer in (
        ("called_present", truth, Outcome.PRESENT),
        ("called_absent", truth, Outcome.ABSENT),
        ("false_alarms", ~truth, Outcome.PRESENT),
    ):
        pair = np.stack((rows & (units.answer == answer), rows), 1).astype(float)
        point, drawn = pair.sum(0), draws.sums(pair)
        why = "nothing without hemorrhage" if name == "false_alarms" else "nothing with hemorrhage"
        found |= entry(name, ratio(*point), ratio(drawn[:, 0], drawn[:, 1]), draws.count(rows), why=why)
    return found

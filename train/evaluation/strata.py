"""The same figures for parts of the data: by location, by size of the lesion, by site and by scanner.

Hemorrhages of one kind are compared with all slices, or series, without any; a site with its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS, Outcome
from train.evaluation.bootstrap import Draws
from train.evaluation.figures import Figures, areas, entry, share
from train.evaluation.units import Units

Rows = NDArray[np.bool_]

VOLUMES_ML = (0, 2, 5, 15, math.inf)
AREAS_MM2 = (0, 50, 200, 800, math.inf)
SHARES = (0, 0.005, 0.02, 0.06, 1.0)
"""Of the head in the picture, where nothing gives millimetres."""
NOT_KNOWN = "not known"
"""What is in no other stratum while some are: no mask, or an empty one; no location; no site."""


def strata(units: Units, columns: Mapping[str, NDArray[np.str_]]) -> Iterator[tuple[str, str, Rows]]:
    """By what, which, and its rows: parts of `units` that hold some hemorrhage or, by `columns` (site, scanner: a text
    for each unit), anything."""
    negative = units.presence == 0
    positive = units.presence == 1
    kinds = {"location": [(name, units.location == number) for number, name in enumerate(LOCATIONS)]}
    for by, sizes, edges in (
        ("volume_ml", units.volume_ml, VOLUMES_ML),
        ("area_mm2", units.area_mm2, AREAS_MM2),
        ("share_of_head", units.share, SHARES),
    ):
        kinds[by] = [(f"{low:g}-{high:g}", (low < sizes) & (sizes <= high)) for low, high in itertools.pairwise(edges)]
    for by, values in kinds.items():
        for value, chosen in _with_the_rest(values, positive):
            yield by, value, negative | chosen
    for by, texts in columns.items():
        named = [(value, texts == value) for value in sorted(set(texts.tolist()) - {"", NOT_KNOWN})]
        for value, chosen in _with_the_rest(named, np.ones(len(texts), np.bool_)):
            yield by, value, chosen


def _with_the_rest(values: Iterable[tuple[str, Rows]], among: Rows) -> list[tuple[str, Rows]]:
    """Those values that some rows `among` have, and the rest with none of them, so that all rows are covered."""
    found = [(value, chosen & among) for value, chosen in values if (chosen & among).any()]
    rest = among & ~np.any([chosen for _, chosen in found], axis=0)
    return [*found, (NOT_KNOWN, rest)] if found and rest.any() else found


def scored(units: Units, draws: Draws, columns: Mapping[str, NDArray[np.str_]]) -> dict[str, dict[str, Figures]]:
    """{by: {value: figures}}: how well the two are told apart, and what the node would answer."""
    found: dict[str, dict[str, Figures]] = {}
    for by, value, chosen in strata(units, columns):
        rows = chosen & (units.presence >= 0)
        found.setdefault(by, {})[value] = _figures(units.take(rows), draws.take(rows))
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
        why = "nothing without hemorrhage" if name == "false_alarms" else "nothing with hemorrhage"
        found |= entry(name, *share(units.answer == answer, rows, draws), draws.count(rows), why=why)
    return found

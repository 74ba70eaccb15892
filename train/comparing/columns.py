"""What the tables of a comparison show of its trials: which figures, and where they stand in what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from train.completing import Made


@dataclass(frozen=True)
class Column:
    """A figure of a row."""

    title: str
    places: tuple[str, ...]
    """Where it stands in what was measured, `*` for any name; several are averaged."""
    goal: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.goal})" if self.goal else self.title

    def cell(self, trials: Sequence[Made]) -> str:
        return told([self.value(each) for each in trials])

    def value(self, one: Made) -> float:
        """The mean over the places; NaN if none was measured."""
        values = [value for place in self.places for value in _at(one, place.split("."))]
        numbers = [float(each) for each in values if isinstance(each, int | float) and math.isfinite(each)]
        return statistics.fmean(numbers) if numbers else math.nan


COLUMNS: tuple[Column, ...] = (
    Column("slice AUC", ("metrics.presence.slice.auc",)),
    Column("patient AUC", ("metrics.presence.patient.auc",)),
    Column("location, balanced", ("metrics.location.slice.balanced_accuracy",)),
    Column("blanked AUC", ("audit.probes.blanked.slice_auc", "audit.probes.blanked_noise.slice_auc"), "<= 0.6"),
    Column("healed flips", ("audit.counterfactuals.healed.*.flipped",), ">= 0.8"),
    Column("healed against normal AUC", ("audit.counterfactuals.healed.*.vs_normal_auc",), "<= 0.6"),
    Column("transplanted flips", ("audit.counterfactuals.transplanted.*.flipped",), ">= 0.8"),
    Column("sham flips", ("audit.counterfactuals.*.*.sham_flipped",), "<= 0.05"),
    Column("phantoms over 5 ml AUC", ("audit.phantoms.auc_over_5_ml",), ">= 0.98"),
    Column("look-alikes called", ("audit.phantoms.lookalikes.*.false_alarms",)),
)


def _at(tree: object, path: Sequence[str]) -> list[object]:
    if not path:
        return [tree]
    if not isinstance(tree, dict):
        return []
    inner = tree.values() if path[0] == "*" else [tree[path[0]]] if path[0] in tree else []
    return [each for one in inner for each in _at(one, path[1:])]


def told(values: Sequence[float]) -> str:
    """Mean, ± the standard deviation if there are several, and how many there are if some are missing."""
    measured = [each for each in values if math.isfinite(each)]
    if not measured:
        return "-"
    spread = f" ± {statistics.stdev(measured):.3f}" if len(measured) > 1 else ""
    some = f" ({len(measured)} of {len(values)})" if len(measured) < len(values) else ""
    return f"{statistics.fmean(measured):.3f}{spread}{some}"

"""Rows put together as tables: the papers' number, ours with slices mixed, ours with patients apart, over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train import csvfile
from train.dataset.manifest import Manifest
from train.dataset.pictures import APART
from train.dataset.splits import LEAKY, REPLICAS, kind
from train.document import Table
from train.reproduce.papers import DTVIT as DTVIT_LINE
from train.reproduce.papers import WITHOUT, Papers
from train.reproduce.planned import YARDSTICKS, Row

NOT_AT_HAND = "-"
TOLD_NOT_AT_HAND = f"{NOT_AT_HAND}: the paper's number is not at hand."
SHORT_LEAKY = "slices mixed"
WITHOUT_COPIES = "slices mixed, no copies"

Made = Mapping[str, Any]
Of = Callable[[Made], float]


@dataclass(frozen=True)
class _Figure:
    title: str
    of: Of
    paper: str = ""
    """Its name in papers.toml."""


def _slice(head: str, name: str) -> Of:
    return lambda made: _number(made["metrics"][head]["slice"].get(name))


def _patient(head: str, name: str) -> Of:
    return lambda made: _number(made["metrics"][head]["patient"].get(name))


def _both(made: Made) -> float:
    return (_slice("presence", "accuracy")(made) + _slice("location", "accuracy")(made)) / 2


def _recall_of_v1(made: Made) -> float:
    (tn, _), (_, tp) = made["metrics"]["presence"]["slice"]["confusion"]
    return tp / (tp + tn) if tp + tn else math.nan


MODELS = (
    _Figure("accuracy", _slice("presence", "accuracy"), "accuracy"),
    _Figure("precision", _slice("presence", "precision"), "precision"),
    _Figure("recall", _slice("presence", "recall"), "recall"),
    _Figure("recall by v1's formula", _recall_of_v1),
    _Figure("specificity", _slice("presence", "specificity"), "specificity"),
    _Figure("F1", _slice("presence", "f1"), "f1"),
    _Figure("AUC", _slice("presence", "auc")),
    _Figure("location accuracy", _slice("location", "accuracy"), "location_accuracy"),
    _Figure("location, balanced", _slice("location", "balanced_accuracy")),
    _Figure("both heads", _both, "both"),
)
OF_YARDSTICKS = (
    _Figure("accuracy", _slice("presence", "accuracy")),
    _Figure("AUC", _slice("presence", "auc")),
    _Figure("AUC of patients", _patient("presence", "auc")),
    _Figure("location accuracy", _slice("location", "accuracy")),
    _Figure("location, balanced", _slice("location", "balanced_accuracy")),
)


def data(found: Manifest, papers: Papers) -> Table:
    """How many slices and patients of each kind, before and after replication."""
    slices: dict[str, int] = {}
    patients: dict[str, set[str]] = {}
    for row in found.rows:
        slices[kind(row)] = slices.get(kind(row), 0) + 1
        patients.setdefault(kind(row), set()).add(row.patient_id)
    lines = [
        (name, f"{len(patients[name]):,}", f"{slices[name]:,}", f"{slices[name] * REPLICAS[name]:,}", "", "")
        for name in REPLICAS
        if name in slices
    ]
    before, after = papers.counts.get("slices", (None, None))
    lines.append(
        (
            "all",
            f"{len({row.patient_id for row in found.rows}):,}",
            f"{len(found.rows):,}",
            f"{sum(count * REPLICAS[name] for name, count in slices.items()):,}",
            NOT_AT_HAND if before is None else f"{before:,}",
            NOT_AT_HAND if after is None else f"{after:,}",
        )
    )
    header = ("", "patients", "slices", "replicated", "papers' slices", "papers' replicated")
    note = "A patient whose slices show two kinds counts under both. The papers' counts are known as totals."
    return Table("The data", header, lines, note, "data")


def models(
    name: str, title: str, lines: Sequence[tuple[str, str, bool]], rows: Sequence[tuple[Row, Made]], papers: Papers,
    dtvit: str,
) -> Table:  # fmt: skip
    """`lines`: those of `Row.line` that the table has, in order; `dtvit`: the encoder that goes by this name."""
    body: list[tuple[str, ...]] = []
    for chapter, subject, replicate in lines:
        of_line = [(row, made) for row, made in rows if row.line == (chapter, subject, replicate)]
        told = Row(chapter, subject, replicate, "apart", 0).told(dtvit)
        key = subject if subject != dtvit else DTVIT_LINE if replicate else WITHOUT
        known = [papers.number(chapter, key, figure.paper) for figure in MODELS]
        body.append((told, "the paper", *(NOT_AT_HAND if math.isnan(value) else f"{value:.4f}" for value in known), ""))
        for mixed in (True, False):
            some = [made for row, made in of_line if (row.split != "apart") == mixed]
            label = SHORT_LEAKY if mixed else APART
            for start in sorted({_start(made) for made in some}) or [""]:  # a mean over unlike starts says nothing
                alike = [made for made in some if _start(made) == start]
                body.append(("", label, *(_cell(figure.of, alike) for figure in MODELS), start))
    header = ("", "split", *(figure.title for figure in MODELS), "started")
    return Table(title, header, body, f"{LEAKY.capitalize()}. {TOLD_NOT_AT_HAND}", name)


def yardsticks(rows: Sequence[tuple[Row, Made]]) -> Table:
    """What can be reached without learning hemorrhage; the models' own figures are in the tables above."""
    body = []
    for subject in dict.fromkeys(row.subject for row, _ in rows if row.chapter == YARDSTICKS):
        told = Row(YARDSTICKS, subject, False, "apart", 0).told("")
        for split, label in (("slices", WITHOUT_COPIES), ("paper", SHORT_LEAKY), ("apart", APART)):
            some = [made for row, made in rows if (row.chapter, row.subject, row.split) == (YARDSTICKS, subject, split)]
            body.append((told, label, *(_cell(figure.of, some) for figure in OF_YARDSTICKS)))
            told = ""
    header = ("", "split", *(figure.title for figure in OF_YARDSTICKS))
    note = "None of these learns what blood is: boosting sees no grey value of the brain, nearest only 32 x 32 means."
    return Table("Yardsticks: no hemorrhage is learned", header, body, note, "yardsticks")


def per_row(rows: Iterable[tuple[Row, Made]]) -> bytes:
    """Every row by itself, as CSV: what the tables are means of."""
    lines: list[list[Any]] = [["chapter", "subject", "replicate", "split", "seed", "label", "start", "minutes",
                               *(figure.title for figure in MODELS), "AUC of patients"]]  # fmt: skip
    for row, made in rows:
        figures = [*(figure.of(made) for figure in MODELS), _patient("presence", "auc")(made)]
        lines.append(
            [row.chapter, row.subject, int(row.replicate), row.split, row.seed, made["label"], made["start"],
             made.get("minutes"), *("" if math.isnan(value) else f"{value:.5f}" for value in figures)]
        )  # fmt: skip
    return csvfile.encoded(lines)


def _cell(of: Of, made: Sequence[Made]) -> str:
    """Mean over seeds, their standard deviation, and how many there are (left out if only one was made)."""
    values = np.array([of(each) for each in made])
    values = values[np.isfinite(values)]
    if not len(values):
        return "not made" if not made else "none"
    if len(values) == 1:
        return f"{values[0]:.3f}" + (" (1)" if len(made) > 1 else "")
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f} ({len(values)})"


def _start(made: Made) -> str:
    return "from scratch" if made["scratch"] else str(made["start"])


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

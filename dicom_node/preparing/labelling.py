"""A table of labels, joined to slices by the most specific thing a row names: instance, series, study or patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import NotPossible

KEYS = {
    "sopinstanceuid": "SOP Instance UID",
    "seriesinstanceuid": "Series Instance UID",
    "studyinstanceuid": "Study Instance UID",
    "patientid": "Patient ID",
}
"""Columns that name what a label is for, the most specific first; written as in DICOM, or with _ between the words."""


@dataclass(frozen=True)
class Label:
    ich: int
    location: str | None
    row: int
    """Row in the table; the header is row 1."""


@dataclass(frozen=True)
class Labels:
    path: Path
    of: dict[tuple[str, str], Label]
    """By (one of KEYS, its value)."""

    def find(self, names: dict[str, str]) -> Label | None:
        """The label of a slice, given its value for each of KEYS: that of the most specific row."""
        return next((self.of[key, names[key]] for key in KEYS if (key, names[key]) in self.of), None)


def read(path: Path) -> Labels:
    """Raises NotPossible, naming every problem by row and column."""
    from train import csvfile
    from train.csvfile import Problem, UnusableTable
    from train.dataset.manifest import labels
    from train.errors import UnusableData

    try:
        records = csvfile.table(path, csvfile.content(path))
        columns = [name.lower().replace("_", "").replace(" ", "") for name in records[0]]
        if not set(columns) & KEYS.keys() or "ich" not in columns or len(set(columns)) < len(columns):
            names = ", ".join(name.replace(" ", "") for name in KEYS.values())
            raise UnusableTable(path, [Problem(1, None, f"needs ich and one or more of {names}, each once")])
        found: dict[tuple[str, str], Label] = {}
        problems: list[Problem] = []
        for row, record in enumerate(records[1:], start=2):
            if not record:
                continue
            if len(record) != len(columns):
                problems.append(Problem(row, None, f"{len(record)} cells where the header has {len(columns)}"))
                continue
            wrong = csvfile.not_utf8(row, columns, record)
            cells = dict(zip(columns, record, strict=True))
            key = next(((name, cells[name]) for name in KEYS if cells.get(name)), None)
            ich, location, wrong_labels = labels(row, cells, True)
            if key is None:
                wrong.append(Problem(row, None, "names no instance, series, study or patient"))
            problems += wrong + wrong_labels
            if wrong or wrong_labels or ich is None or key is None:
                continue
            before = found.setdefault(key, Label(ich, location, row))
            if (before.ich, before.location) != (ich, location):
                problems.append(
                    Problem(row, "ich", f"differs from row {before.row}, which has the same {KEYS[key[0]]}")
                )
        if problems:
            raise UnusableTable(path, problems)
    except UnusableData as exc:
        raise NotPossible(str(exc)) from exc
    return Labels(path, found)

"""A table of labels, joined to images by the most specific thing that a row names, be it a file or a patient."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dicom_node.errors import NotPossible
from dicom_node.preparing.finding import Instance

FILE = "path"
KEYS = {
    FILE: "path",
    "sopinstanceuid": "SOP Instance UID",
    "seriesinstanceuid": "Series Instance UID",
    "studyinstanceuid": "Study Instance UID",
    "patientid": "Patient ID",
}
"""Columns that name what a label is for, the most specific first; written as in DICOM, or with _ between the words.
A path is that of a file, or of a folder: that names all below it, and is more specific than a patient alone."""


@dataclass(frozen=True)
class Label:
    ich: int
    location: str | None
    row: int
    """Row in the table; the header is row 1."""


@dataclass(frozen=True)
class Labels:
    path: Path
    of: Mapping[tuple[str, str], Label]
    """By (one of KEYS, its value)."""
    folder: Path = Path()
    """What its paths are relative to."""

    def below(self, folder: Path) -> Labels:
        return replace(self, folder=folder)

    def find(self, image: Instance) -> Label | None:
        """The label of an image: that of the most specific row that names it."""
        return next((self.of[key] for key in self._ways(image) if key in self.of), None)

    def of_image(self, image: Instance) -> Label | None:
        """The label of an image that has a row of its own."""
        return next((self.of[key] for key in itertools.islice(self._ways(image), 2) if key in self.of), None)

    def _ways(self, image: Instance) -> Iterator[tuple[str, str]]:
        """All keys by which a row may name an image, the most specific first; the first two name it alone."""
        file = PurePosixPath(_plain(FILE, str(image.path.relative_to(self.folder))))
        yield FILE, str(file)
        yield "sopinstanceuid", image.header.sop_instance_uid
        yield "seriesinstanceuid", image.header.series_uid
        yield "studyinstanceuid", image.header.study_uid
        yield from ((FILE, str(folder)) for folder in file.parents)
        yield "patientid", image.patient_id


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
            key = next(((name, _plain(name, cells[name])) for name in KEYS if cells.get(name)), None)
            ich, location, wrong_labels = labels(row, cells, True)
            if key is None:
                wrong.append(Problem(row, None, "names no file, instance, series, study or patient"))
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


def _plain(key: str, cell: str) -> str:
    """A path as `Path` writes it, an accent as part of its letter, whatever system and program wrote the table."""
    return unicodedata.normalize("NFC", str(PurePosixPath(cell.replace("\\", "/")))) if key == FILE else cell

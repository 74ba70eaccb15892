"""The manifest: a CSV that names pictures and what is known of each. Format: docs/data.md. Knows nothing of torch.

Everything wrong with one is found before anything is trained and reported in one error, by row and column: the header
is row 1, as a spreadsheet counts. No message names a patient.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dtvit.findings import LOCATIONS
from train import csvfile
from train.csvfile import Problem, UnusableTable, printable
from train.dataset.picturefile import UnusablePicture, look_at
from train.dataset.pictures import PARTS, UNCLEAR
from train.errors import UnusableData

COLUMNS = (
    "path",
    "patient_id",
    "ich",
    "location",
    "study",
    "series",
    "slice",
    "site",
    "scanner",
    "split",
    "brace_removal",
)
ALIKE = 0.85  # "patientid", "Location", "ICH " are slips; "age" and "path_length" are columns of somebody's own
READERS = 8


@dataclass(frozen=True)
class Row:
    """One picture, and what is known of it; an empty string or None where the table says nothing."""

    line: int
    """Row of the table, the header being row 1."""
    path: Path
    """Absolute."""
    patient_id: str
    ich: int | None
    location: str | None
    """One of `LOCATIONS`; only where `ich` is 1, and None there too if it is not given."""
    study: str = ""
    series: str = ""
    slice: int | None = None
    """Order within its series, from feet to head."""
    site: str = ""
    scanner: str = ""
    split: str | None = None
    """One of `PARTS`, if the manifest itself says which part each picture is in."""
    brace_removal: str = ""
    """What removed the head holder, as in `dtvit.brace.VERSIONS`."""

    @property
    def presence(self) -> int:
        """`ich`, or UNCLEAR."""
        return UNCLEAR if self.ich is None else self.ich


@dataclass(frozen=True)
class Manifest:
    path: Path
    rows: tuple[Row, ...]
    digest: str
    """SHA-256 of the file's bytes."""
    columns: tuple[str, ...]
    """Those of `COLUMNS` that it has."""

    @property
    def brace_removal(self) -> frozenset[str]:
        """All versions that its pictures went through, as far as it says."""
        return frozenset(row.brace_removal for row in self.rows if row.brace_removal)


def read(path: Path, *, labels_needed: bool = True, both: bool = True) -> Manifest:
    """The manifest at `path`, checked whole: cells, rows against each other, and that each picture is one.

    `labels_needed`: every row says 0 or 1 under `ich`; and, unless `both` is false, both occur.
    Raises UnusableData.
    """
    path = Path(
        os.path.abspath(path)
    )  # without "..", so that pictures have the same names whichever folder the command runs in
    content = csvfile.content(path)
    records = csvfile.table(path, content)
    columns = _header(path, records, labels_needed)
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, record in enumerate(records[1:], start=2):
        if not record:
            continue  # an empty row
        row, wrong = _row(path.parent, number, record, columns, labels_needed)
        problems += wrong
        if row is not None:
            rows.append(row)
    problems += _duplicates(rows) + _doubles(rows) + _strays(rows) + _unusable(path.parent, rows)
    if not problems and labels_needed and both:
        problems += _one_class(rows)
    if problems:
        raise UnusableTable(path, sorted(problems, key=lambda problem: problem.row))
    if not rows:
        raise UnusableData(f"{path} lists no picture; it has a header and nothing below")
    return Manifest(path, tuple(rows), hashlib.sha256(content).hexdigest(), tuple(c for c in columns if c in COLUMNS))


def pictures_digest(manifest: Manifest) -> str:
    """SHA-256 over the files of all pictures, in its order: they may change while the manifest does not.

    What is kept about pictures is kept under it. Reads every file, so that a copied data set is still the same.
    """

    def one(row: Row) -> bytes:
        with row.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    with ThreadPoolExecutor(READERS) as pool:
        return hashlib.sha256(b"".join(pool.map(one, manifest.rows))).hexdigest()


def _header(path: Path, records: Sequence[Sequence[str]], labels_needed: bool) -> list[str]:
    """Names of the columns in their order. Raises UnusableTable."""
    names = list(records[0])
    problems = [
        Problem(1, name, "there are two columns of this name")
        for name in dict.fromkeys(names)
        if name and names.count(name) > 1
    ]
    problems += [
        Problem(1, None, f"column {number} has no name; name it, or delete it")
        for number, name in enumerate(names, start=1)
        if not name
    ]
    missing = [name for name in COLUMNS if name not in names]
    needed = COLUMNS[:3] if labels_needed else COLUMNS[:2]
    mistaken: dict[str, str] = {}
    for name in names:
        if name and name not in COLUMNS:
            alike = difflib.get_close_matches(name.lower().replace(" ", "_"), missing, 1, ALIKE)
            mistaken.update(dict.fromkeys(alike, name))
    problems += [
        Problem(1, mistaken[m], f"no such column; if it is {m!r}, name it so") for m in missing if m in mistaken
    ]
    problems += [
        Problem(1, m, f"this column is missing; the header is {', '.join(map(printable, names))}")
        for m in needed
        if m in missing and m not in mistaken
    ]
    if problems:
        raise UnusableTable(path, problems)
    return names


def _row(
    folder: Path, number: int, record: Sequence[str], columns: Sequence[str], labels_needed: bool
) -> tuple[Row | None, list[Problem]]:
    """One record as a row; None in its place if not even picture and patient are known."""
    if len(record) != len(columns):
        return None, [Problem(number, None, f"{len(record)} cells where the header has {len(columns)}")]
    cells = dict(zip(columns, record, strict=True))
    problems = csvfile.not_utf8(number, columns, record)
    if problems:
        return None, problems
    problems += [Problem(number, column, "empty") for column in ("path", "patient_id") if not cells[column]]
    if problems:
        return None, problems
    ich, location, wrong = labels(number, cells, labels_needed)
    position, wrong_position = _position(number, cells.get("slice", ""))
    part = cells.get("split") or None
    wrong += wrong_position
    if "split" in cells and part not in PARTS:
        told = _unknown(part, PARTS) if part else f"empty; either every row has one of {', '.join(PARTS)}, or none has"
        wrong.append(Problem(number, "split", told))
    row = Row(
        line=number,
        path=filed_as(folder, cells["path"]),
        patient_id=cells["patient_id"],
        ich=ich,
        location=location,
        study=cells.get("study", ""),
        series=cells.get("series", ""),
        slice=position,
        site=cells.get("site", ""),
        scanner=cells.get("scanner", ""),
        split=part if part in PARTS else None,
        brace_removal=cells.get("brace_removal", ""),
    )
    return row, wrong


def filed_as(folder: Path, named: str) -> Path:
    """The file of a cell. A letter with an accent is one character or two: macOS, and archives made there, name files
    by the one where the table has the other."""
    path = folder / named
    if named.isascii() or os.path.exists(path):  # unlike `Path.exists`, no error where the name is too long for a file
        return path
    others = (folder / unicodedata.normalize(form, named) for form in ("NFC", "NFD"))
    return next((other for other in others if os.path.exists(other)), path)


def labels(number: int, cells: Mapping[str, str], needed: bool) -> tuple[int | None, str | None, list[Problem]]:
    """Hemorrhage and location of a row, and what is wrong with them; the location of a hemorrhage may be unknown."""
    said, place = cells.get("ich", ""), cells.get("location", "")
    known = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}  # pandas writes a column with gaps as decimals
    problems = []
    ich = known.get(said)
    if said and ich is None:
        problems.append(Problem(number, "ich", f"{said!r} is neither 0 (no hemorrhage) nor 1"))
    if not said and needed:
        problems.append(Problem(number, "ich", "empty; enter 0 or 1, or leave the row out"))
    if place and place not in LOCATIONS:
        hint = "; without hemorrhage (ich is 0) leave it empty" if ich == 0 else ""
        problems.append(Problem(number, "location", _unknown(place, LOCATIONS) + hint))
    elif place and ich == 0:
        problems.append(
            Problem(number, "location", f"{place!r} in a row without hemorrhage (ich is 0); leave it empty")
        )
    elif place and not said:
        problems.append(Problem(number, "location", f"{place!r}, but ich is empty; enter 1 there"))
    return ich, place if place in LOCATIONS else None, problems


def _position(number: int, cell: str) -> tuple[int | None, list[Problem]]:
    if not cell:
        return None, []
    whole = re.fullmatch(r"([+-]?\d{1,18})(\.0*)?", cell)  # as under ich, pandas adds the point
    if whole is None:
        return None, [Problem(number, "slice", f"{cell!r} is not a whole number (the order within the series)")]
    return int(whole[1]), []


def _duplicates(rows: Iterable[Row]) -> list[Problem]:
    first: dict[Path, int] = {}
    problems = []
    for row in rows:
        before = first.setdefault(row.path.resolve(), row.line)
        if before != row.line:
            problems.append(Problem(row.line, "path", f"the same picture as in row {before}; list each picture once"))
    return problems


def _doubles(rows: Iterable[Row]) -> list[Problem]:
    """Patients who may be one under two spellings, of which one could train and the other test: a spreadsheet turns
    00123 into 123. Reported at the first row of the later spelling."""
    alike: dict[str, list[tuple[str, int]]] = {}
    seen: set[str] = set()
    problems = []
    for row in rows:
        if row.patient_id in seen:
            continue
        seen.add(row.patient_id)
        plain = _plain(row.patient_id)
        others = alike.setdefault(re.sub(r"(?<!\d)0+(?=\d)", "", plain), [])
        # Lost zeros shorten an id: among ids of one length, such as hexadecimal ones, a01b1 and a1b01 are two.
        before = next((line for text, line in others if text == plain or len(text) != len(plain)), None)
        if before is not None:
            text = f"as in row {before} except for case, spaces, dashes or leading zeros; spell one patient one way, "
            problems.append(Problem(row.line, "patient_id", text + "and let the ids of two differ in more"))
        others.append((plain, row.line))
    return problems


def _plain(patient_id: str) -> str:
    """Without case and spaces, except one space between two digits: 1 23 and 12 3 are two patients of two sites. What
    cannot be seen (a zero-width space out of a web page) does not count, and every dash is one."""
    letters = "".join(
        "-" if kind == "Pd" else letter
        for letter in unicodedata.normalize("NFKC", patient_id).casefold()
        if (kind := unicodedata.category(letter)) != "Cf"
    )
    return re.sub(r"\s+", " ", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", letters))


def _strays(rows: Iterable[Row]) -> list[Problem]:
    """Rows that put a patient into another part than the patient's first row did."""
    first: dict[str, Row] = {}
    problems = []
    for row in rows:
        before = first.setdefault(row.patient_id, row)
        if row.split and before.split and row.split != before.split:
            text = f"{row.split!r}, but the same patient is in {before.split!r} in row {before.line}"
            problems.append(Problem(row.line, "split", text + "; a patient belongs to one part"))
    return problems


def _unusable(folder: Path, rows: Sequence[Row]) -> list[Problem]:
    """Files that are missing, or by their first bytes are not 8-bit pictures; `filed.load` sees the rest."""

    def look(row: Row) -> Problem | None:
        try:
            look_at(row.path)
        except UnusablePicture as exc:
            hint = "; separate folders by / on every system" if "\\" in str(row.path) else ""
            return Problem(row.line, "path", f"{as_listed(row.path, folder)} {exc}{hint}")
        return None

    with ThreadPoolExecutor(READERS) as pool:
        return [problem for problem in pool.map(look, rows) if problem is not None]


def _one_class(rows: Sequence[Row]) -> list[Problem]:
    found = {row.ich for row in rows}
    if len(found) != 1:
        return []
    only, lacking = ("1", "0") if found == {1} else ("0", "1")
    text = f"only {only} occurs in {len(rows)} rows; without pictures of {lacking} there is nothing to tell apart"
    return [Problem(rows[0].line, "ich", text)]


def as_listed(path: Path, folder: Path) -> str:
    """A path as the manifest in this folder has it, as far as that can be told."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _unknown(value: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(value.lower(), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{value!r} is none of {', '.join(known)}{hint}"

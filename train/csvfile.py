"""Tables as CSV in UTF-8, written and read; and what is wrong with one: by row and column, all of it in one error."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UnusableData

TOLD = 20  # problems in one message; more than that usually have one cause


@dataclass(frozen=True)
class Problem:
    """One cell, or one row, that cannot be used."""

    row: int
    """The header being row 1, as a spreadsheet counts."""
    column: str | None
    text: str

    def __str__(self) -> str:
        return f"row {self.row}" + (f", {self.column}: " if self.column else ": ") + self.text


class UnusableTable(UnusableData):
    """A table cannot be used; `problems` gives each reason."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"{path}: {count}; nothing was done with it. Correct the following and run again:"]
        lines += [f"  {problem}" for problem in problems[:TOLD]]
        if len(problems) > TOLD:
            lines.append(f"  and {len(problems) - TOLD} more")
        super().__init__("\n".join(lines))
        self.path, self.problems = path, tuple(problems)

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it survives the way back from a process that trains beside others."""
        return UnusableTable, (self.path, self.problems)


def encoded(rows: Iterable[Iterable[Any]]) -> bytes:
    """A line for each row; None is an empty cell."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def content(path: Path) -> bytes:
    """Raises UnusableData."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise UnusableData(f"{path} cannot be read ({exc.strerror}); give the name of a CSV file") from exc


def table(path: Path, content: bytes) -> list[list[str]]:
    """Records, their cells stripped, and [] for empty ones, which spreadsheets leave behind; what is not UTF-8 stays as
    lone surrogates, for `not_utf8` to name by row and column.

    Raises UnusableData if there is no table at all.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnusableData(f"{path} is UTF-16; save it as CSV in UTF-8")
    if b"\0" in content:
        raise UnusableData(
            f"{path} holds zero bytes, as UTF-16 and the files of spreadsheet programs do; save it as CSV in UTF-8"
        )
    text = content.decode("utf-8-sig", errors="surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[list[str]] = []
    try:
        # One by one, so that the row of a fault is known. A space around a patient's id would make two patients of one.
        records.extend(cells if any(cells := [cell.strip() for cell in record]) else [] for record in reader)
    except csv.Error as exc:
        raise UnusableTable(path, [Problem(len(records) + 1, None, f"is not valid CSV ({exc})")]) from exc
    if not records or not records[0]:
        raise UnusableData(f"{path} is empty, or its first line is; a table begins with the names of its columns")
    if len(records[0]) == 1 and any(mark in records[0][0] for mark in ";\t"):
        raise UnusableTable(path, [Problem(1, None, "its columns are not separated by commas; save it with commas")])
    return records


def not_utf8(number: int, columns: Sequence[str], record: Sequence[str]) -> list[Problem]:
    """The cells of one record that are not UTF-8."""
    return [
        Problem(number, printable(column), f"not UTF-8: {printable(cell)!r}; save the file as UTF-8")
        for column, cell in zip(columns, record, strict=True)
        if any("\ud800" <= letter <= "\udfff" for letter in cell)
    ]


def printable(cell: str) -> str:
    return cell.encode("utf-8", "replace").decode()

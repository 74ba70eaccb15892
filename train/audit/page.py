"""The audit as one HTML file that needs nothing beside it: verdict, goals, every figure, every picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from train.audit.figures import Figure, Goal, Row, Section
from train.digits import shown
from train.document import Block, Cell, Heading, Image, Table, Text, rendered

HEADER = ("", "Measured (95 % interval)", "Slices of patients", Text("Goal", "words"), "")
WARNING = "NOT FOR CLINICAL USE. If pictures of patients went in, this page shows them: keep it as safe as those."


def page(title: str, about: Sequence[tuple[str, str]], words: Sequence[str], sections: Sequence[Section]) -> bytes:
    """`words`: the verdict, then the sentences below it."""
    goals = [row for section in sections for row in section.rows if row.goal is not None]
    blocks: list[Block] = [
        Heading(1, title),
        Text(WARNING, "notice"),
        Text(words[0], "verdict"),
        " ".join(words[1:]),
        Heading(2, "Goals"),
        _table("", goals),
    ]
    for section in sections:
        blocks += _section(section)
    made = [(name, Text(value, "words")) for name, value in about]
    return rendered(title, [*blocks, Heading(2, "What was audited"), Table("", ("", ""), made)])


def _section(section: Section) -> list[Block]:
    counted = "; ".join(f"{what}: {number:,}" for what, number in section.counts)
    return [
        Heading(2, section.title),
        section.method,
        *([Text(f"{counted}.", "soft")] if counted else []),
        *(Image(f"pictures/{each.path.name}", each.path.read_bytes(), each.caption) for each in section.plates),
        *([_table("Every figure", section.rows)] if section.rows else []),
    ]


def _table(title: str, rows: Iterable[Row]) -> Table:
    return Table(title, HEADER, [_row(row) for row in rows])


def _row(row: Row) -> tuple[Cell, ...]:
    goal: tuple[Cell, Cell] = (Text(str(row.goal), "words"), _met(row.goal, row.figure)) if row.goal else ("", "")
    return row.what, _number(row.figure, row.goal), f"{row.figure.slices:,} of {row.figure.patients:,}", *goal


def _met(goal: Goal, figure: Figure) -> Text:
    """Whether the value is within its bound; and if so, whether its interval leaves that open."""
    met = goal.met(figure)
    if met is None:
        return Text("not measured", "words")
    if not met:
        return Text("not met", "bad")
    return Text("met" if goal.sure(figure) else "met, not beyond doubt", "good")


def _number(figure: Figure, goal: Goal | None) -> Cell:
    def told(value: float) -> str:
        return shown(value) if goal is None else shown(value, side=goal.holds)

    if not math.isfinite(figure.value):
        return "-"
    if not math.isfinite(figure.low):
        return Text(told(figure.value), beside="(no interval: one patient)")
    return Text(told(figure.value), beside=f"({told(figure.low)} to {told(figure.high)})")

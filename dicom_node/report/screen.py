"""An SR on a terminal, by rich: the answer in a frame, then every image with its bar, then the rest."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dicom_node.report import codes, text, wording
from dicom_node.report.readback import NotAReport, ParsedReport, ParsedSlice, parse
from dtvit.findings import Outcome

BAR = 24  # characters for 100 %
INK = "black"  # legible on every colour of `wording.COLOURS`


def show(console: Console, ds: Dataset) -> None:
    """Show a report of this project; any other SR as plain text. Nothing in it is treated as markup."""
    try:
        told = parse(ds)
    except NotAReport:
        console.print(_text(text.render(ds)))
        return
    console.print(Panel(_answer(told), title=_text(text.title(ds)), border_style=_colour(told.outcome)))
    console.print(_pairs(text.header(ds)))
    console.print(_images(told.slices))
    said = {codes.CONCLUSION.meaning, codes.NOTICE.meaning}
    for line in text.lines(ds, with_slices=False):
        if line.container:
            console.print(_text(f"\n{'  ' * line.depth}{line.name}", style="bold"))
        elif line.name not in said:
            console.print(_pairs([(f"{'  ' * line.depth}{line.name}", line.value)]))


def _answer(told: ParsedReport) -> Group:
    first, *more = told.conclusion
    colour = Style(color=INK, bgcolor=_colour(told.outcome).color, bold=True)
    notices = [_text(notice, style="bold") for notice in told.notices]
    return Group(_text(f" {first} ", style=colour), *(_text(line) for line in more), *notices)


def _images(slices: tuple[ParsedSlice, ...]) -> Table:
    table = Table("image", "output", "", "", title="Images from feet to head", title_justify="left")
    for s in slices:
        style = _colour(s.outcome)
        bar: ProgressBar | Text = Text()
        if s.output is not None:
            bar = ProgressBar(total=1.0, completed=s.output, width=BAR, complete_style=style, finished_style=style)
        output = "" if s.output is None else f"{100 * s.output:.1f} %"
        told = _text(text.words(s), style="dim" if s.output is None else "")
        table.add_row(_text(s.name), bar, _text(output, justify="right"), told)
    return table


def _pairs(values: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=36)
    grid.add_column()
    for name, value in values:
        grid.add_row(_text(name, style="dim"), _text(value))
    return grid


def _text(words: str, **how: Any) -> Text:
    return Text(text.printable(words), **how)


def _colour(outcome: Outcome) -> Style:
    red, green, blue = wording.COLOURS[outcome]
    return Style(color=f"rgb({red},{green},{blue})")

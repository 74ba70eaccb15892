"""Pieces of a page in HTML. What comes from outside is escaped here, and nowhere else is markup made of it."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.digits import shown

Cell = str | tuple[str, str]
"""Text, or text and the class of its cell; of the class `figure` it is markup already."""


def figure(figures: Mapping[str, Any], name: str) -> Cell:
    """One of metrics.json, as a cell of a table."""
    return told(figures, name)


def told(figures: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A figure with its interval, as markup, or the reason for none, as text; and which of the two it is."""
    value = figures[name]
    if not math.isfinite(value):
        return figures[f"{name}_why"], "why"
    low, high = figures.get(f"{name}_ci", (math.nan, math.nan))
    beside = f"{shown(low)} to {shown(high)}" if math.isfinite(low) else text(figures.get(f"{name}_ci_why", ""))
    return shown(value) + (f" <small>{beside}</small>" if beside else ""), "figure"


def spread(values: tuple[float, float, float] | None) -> str:
    if values is None:
        return "-"
    low, middle, high = values
    return f"{middle:.3g}" if low == high else f"{middle:.3g} ({low:.3g} to {high:.3g})"


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str) -> str:
    head = "".join(f"<th>{text(each)}</th>" for each in header) if any(header) else ""
    body = "".join(f"<tr>{''.join(_cell(each) for each in row)}</tr>" for row in rows)
    opened = '<table class="even">' if len(header) == 3 else "<table>"
    above = f"<caption>{text(caption)}</caption>" if caption else ""
    return f"{opened}{above}{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{text(cell)}</td>"
    content, kind = cell
    return f'<td class="{kind}">{content if kind == "figure" else text(content)}</td>'


def inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def items(sentences: Iterable[str]) -> str:
    return "".join(f"<li>{text(each)}</li>" for each in sentences)


def text(raw: str) -> str:
    return html.escape(raw)

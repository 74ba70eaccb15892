"""The audit as one HTML file that needs nothing beside it: verdict, goals, every figure, every picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from train.audit.figures import Figure, Goal, Row, Section
from train.digits import shown
from train.evaluation.markup import inline, text

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2e7d4f; --bad: #b03a2e; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 600; }
.met, .missed { white-space: nowrap; }
.verdict { font-size: 1.15rem; font-weight: 600; } .small { font-size: .85rem; opacity: .8; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption { font-size: .85rem; opacity: .8; }
"""


def page(title: str, about: Sequence[tuple[str, str]], words: Sequence[str], sections: Sequence[Section]) -> str:
    """`words`: the verdict, then the sentences below it."""
    goals = [_row(row) for section in sections for row in section.rows if row.goal is not None]
    warning = (
        "NOT FOR CLINICAL USE. Where pictures of patients went in, this page shows them: keep it as they are kept."
    )
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{text(title)}</title>",
        "<meta name=viewport content='width=device-width'>",
        f"<style>{STYLE}</style><h1>{text(title)}</h1><p>{warning}</p>",
        f"<p class=verdict>{text(words[0])}</p><p>{text(' '.join(words[1:]))}</p>",
        "<h2>Goals</h2>",
        _table(("", "Measured (95 % interval)", "Slices of patients", "Goal", ""), goals),
    ]
    parts += [_section(section) for section in sections]
    rows = "".join(f"<tr><th>{text(name)}<td class=small>{text(value)}" for name, value in about)
    parts.append(f"<h2>What was audited</h2><table>{rows}</table>")
    return "\n".join(parts)


def _section(section: Section) -> str:
    counted = "; ".join(f"{what}: {number:,}" for what, number in section.counts)
    rows = [_row(row) for row in section.rows]
    plates = "".join(
        f"<figure><img src='{inline(plate.path.read_bytes())}' alt='{text(plate.caption)}'>"
        f"<figcaption>{text(plate.caption)}</figcaption></figure>"
        for plate in section.plates
    )
    table = _table(("", "Measured (95 % interval)", "Slices of patients", "Goal", ""), rows) if rows else ""
    counts = f"<p class=small>{text(counted)}.</p>" if counted else ""
    figures = f"<details open><summary>Every figure</summary>{table}</details>"
    return f"<h2>{text(section.title)}</h2><p>{text(section.method)}</p>{counts}{plates}{figures}"


def _table(header: Sequence[str], rows: Sequence[str]) -> str:
    return f"<table><tr>{''.join(f'<th>{text(name)}' for name in header)}</tr>{''.join(rows)}</table>"


def _row(row: Row) -> str:
    goal = f"<td>{text(str(row.goal))}<td>{_met(row.goal, row.figure)}" if row.goal else "<td><td>"
    counted = f"{row.figure.slices:,} of {row.figure.patients:,}"
    return f"<tr><td>{text(row.what)}<td class=number>{_number(row.figure, row.goal)}<td class=number>{counted}{goal}"


def _met(goal: Goal, figure: Figure) -> str:
    """Whether the value is within its bound; and of one that is, whether its interval leaves that open."""
    met = goal.met(figure)
    if met is None:
        return "not measured"
    if not met:
        return "<span class=missed>not met</span>"
    sure = goal.met(replace(figure, value=figure.high if goal.at_most else figure.low))
    return "<span class=met>met</span>" + ("" if sure else ", not beyond doubt")


def _number(figure: Figure, goal: Goal | None) -> str:
    def told(value: float) -> str:
        return shown(value) if goal is None else shown(value, side=goal.holds)

    if not math.isfinite(figure.value):
        return "-"
    if not math.isfinite(figure.low):
        return f"{told(figure.value)} (no interval: one patient)"
    return f"{told(figure.value)} ({told(figure.low)} to {told(figure.high)})"

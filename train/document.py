"""A page as self-contained HTML, and as Markdown, from the same blocks. All escaping for HTML is done here.

No script, no link, no other files, pictures embedded: a page can be mailed, kept and printed.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from train import csvfile


@dataclass(frozen=True)
class Text:
    """A paragraph, or a cell of a table, with a look of its own."""

    text: str
    look: str = ""
    """Its class in `STYLE`: `notice`, `verdict`, `soft`; for cells `words` (left-aligned), `good`, `bad`, `why`."""
    beside: str = ""
    """Small print after it; cells only."""

    def __str__(self) -> str:
        return f"{self.text} {self.beside}".rstrip()


Cell = Text | str


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Items:
    """A list; each entry with a highlighted word before it, or none."""

    entries: Sequence[tuple[str, str]]
    boxed: bool = False


@dataclass(frozen=True)
class Tiles:
    """Figures to take in at a glance, and what each is."""

    entries: Sequence[tuple[Text, str]]


@dataclass(frozen=True)
class Image:
    file: str
    png: bytes
    caption: str
    small: bool = False
    """Small ones stand side by side."""


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[Cell]
    lines: Sequence[Sequence[Cell]]
    note: str = ""
    name: str = ""
    """Name of its CSV file, if it has one."""

    def to_csv(self) -> bytes:
        return csvfile.encoded([self.header, *self.lines])


Block = Heading | Items | Tiles | Image | Table | Cell
"""A plain string is a paragraph."""
EVEN, WIDE = 3, 8  # columns: of a table set in equal widths, and the most that need no wider page


def markdown(blocks: Sequence[Block]) -> bytes:
    return ("\n\n".join(map(_markdown, blocks)) + "\n").encode()


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Items():
            return "\n".join(
                f"- **{word}.** {sentence}" if word else f"- {sentence}" for word, sentence in block.entries
            )
        case Tiles():
            return "\n".join(f"- {what}: {value}" for value, what in block.entries)
        case Image():
            return f"![{block.caption}]({block.file})"
        case Table():
            head = f"**{block.title}**" + (f" ([CSV]({block.name}.csv))" if block.name else "")
            lines = [block.header, ("---",) * len(block.header), *block.lines]
            body = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
            return "\n\n".join(part for part in (head, body, block.note) if part)
    return str(block)


def rendered(title: str, blocks: Sequence[Block]) -> bytes:
    """HTML, in UTF-8."""
    wide = any(isinstance(block, Table) and len(block.header) > WIDE for block in blocks)
    body = "\n".join(map(_html, blocks))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body{_look('wide' if wide else '')}>\n{body}\n</body></html>\n"
    ).encode()


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
        case Items():
            items = "".join(f"<li>{_word(word)}{html.escape(sentence)}</li>" for word, sentence in block.entries)
            return f"<ul{_look('boxed' if block.boxed else '')}>{items}</ul>"
        case Tiles():
            tiles = (f"{_cell('b', value)}<span>{html.escape(what)}</span>" for value, what in block.entries)
            return f'<div class="tiles">{"".join(f"<div>{tile}</div>" for tile in tiles)}</div>'
        case Image():
            caption, data = html.escape(block.caption), base64.b64encode(block.png).decode()
            image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
            return f"<figure{_look('small' if block.small else '')}>{image}<figcaption>{caption}</figcaption></figure>"
        case Table():
            return _table(block)
    paragraph = _told(block)
    code = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(paragraph.text))  # as in Markdown
    return f"<p{_look(paragraph.look)}>{code}</p>"


def _table(table: Table) -> str:
    caption = f"<caption>{html.escape(table.title)}{_small(table.note)}</caption>" if table.title or table.note else ""
    head = f"<thead>{_row('th', table.header)}</thead>" if any(table.header) else ""
    body = "".join(_row("td", line) for line in table.lines)
    opened = f"<table{_look('even' if len(table.header) == EVEN else '')}>"
    return f"{opened}{caption}{head}<tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[Cell]) -> str:
    return f"<tr>{''.join(_cell(tag, cell) for cell in cells)}</tr>"


def _cell(tag: str, cell: Cell) -> str:
    told = _told(cell)
    return f"<{tag}{_look(told.look)}>{html.escape(told.text)}{_small(told.beside)}</{tag}>"


def _told(text: Cell) -> Text:
    return Text(text) if isinstance(text, str) else text


def _small(text: str) -> str:
    return f" <small>{html.escape(text)}</small>" if text else ""


def _word(word: str) -> str:
    return f"<b>{html.escape(word)}.</b> " if word else ""


def _look(name: str) -> str:
    return f' class="{name}"' if name else ""


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #57606a; --line: #d8dee4; --tint: #f6f8fa;
  --blue: #0072b2; --warn: #a34700; --good: #2e7d4f; --bad: #b03a2e; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --paper: #15181c; --soft: #9aa4ae;
  --line: #363d45; --tint: #1e2329; --blue: #4aa3d8; --warn: #f0955a; --good: #6cc08b; --bad: #f08a7e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 62rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
body.wide { max-width: 90rem; } .wide table { font-size: .8rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .6rem 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; } .soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.notice { display: inline-block; padding: .15rem .6rem; border: 2px solid var(--warn); color: var(--warn);
  font-weight: 600; letter-spacing: .03em; }
.verdict { font-size: 1.15rem; font-weight: 600; }
ul { padding-left: 1.3rem; } li { margin: .35rem 0; }
.boxed { background: var(--tint); border-left: 4px solid var(--blue); padding: .8rem 1.2rem .8rem 2.3rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tiles div { border: 1px solid var(--line); border-top: 4px solid var(--blue); padding: .6rem .8rem; }
.tiles b { font-size: 1.6rem; line-height: 1.15; font-variant-numeric: tabular-nums; }
.tiles small { display: block; } .tiles small, .tiles .why { font-size: .8rem; font-weight: 400; color: var(--soft); }
.tiles span { display: block; margin-top: .3rem; font-size: .85rem; line-height: 1.35; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .32rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .words, .good, .bad { text-align: left; min-width: 6.5rem; }
.words { overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid var(--ink); } .even { table-layout: fixed; }
td small { color: var(--soft); white-space: nowrap; } td.why { color: var(--soft); font-style: italic; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; white-space: nowrap; }
figure { margin: 1rem 0; break-inside: avoid; } img { max-width: 100%; height: auto; display: block; }
figure.small { display: inline-block; width: calc(33% - .9rem); margin: .5rem .8rem .5rem 0; vertical-align: top; }
.small img { width: 100%; background: #000; }
code { font-size: .85em; overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) { table { display: block; overflow-x: auto; } figure.small { width: 100%; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } h2, h3 { break-after: avoid; }
  table, .boxed, .tiles { break-inside: avoid; } }
"""

"""One page, as Markdown and as self-contained HTML, from the same blocks."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from train.evaluation.markup import inline, text
from train.evaluation.style import STYLE


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Items:
    """A list; each entry with a word before it that is set off."""

    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Image:
    file: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Table:
    name: str
    """Of its CSV file."""
    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_csv(self) -> bytes:
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator="\n").writerows([self.header, *self.lines])
        return file.getvalue().encode()


Block = Heading | Items | Image | Table | str
"""A text is a paragraph."""


def markdown(blocks: Sequence[Block]) -> bytes:
    return ("\n\n".join(map(_markdown, blocks)) + "\n").encode()


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Items():
            return "\n".join(f"- **{word}.** {sentence}" for word, sentence in block.entries)
        case Image():
            return f"![{block.caption}]({block.file})"
        case Table():
            head = f"**{block.title}** ([CSV]({block.name}.csv))"
            lines = [block.header, ("---",) * len(block.header), *block.lines]
            body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            return "\n\n".join(part for part in (head, body, block.note) if part)
    return block


def rendered(title: str, blocks: Sequence[Block]) -> bytes:
    """HTML."""
    wide = "body { max-width: 90rem; } table { font-size: .8rem; }"
    head = f'<meta charset="utf-8"><title>{text(title)}</title><style>{STYLE}{wide}</style>'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(map(_html, blocks))}</body></html>'.encode()
    )


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{text(block.text)}</h{block.level}>"
        case Items():
            return f"<ul>{''.join(f'<li><b>{text(w)}.</b> {text(t)}</li>' for w, t in block.entries)}</ul>"
        case Image():
            caption = text(block.caption)
            return f'<figure><img alt="{caption}" src="{inline(block.png)}"><figcaption>{caption}</figcaption></figure>'
        case Table():
            caption = f"{text(block.title)} <small>{text(block.note)}</small>"
            head = "".join(f"<th>{text(each)}</th>" for each in block.header)
            body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in line)}</tr>" for line in block.lines)
            return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    code = re.sub(r"`([^`]+)`", r"<code>\1</code>", text(block))  # as in Markdown
    return f"<p>{code}</p>"

"""An SR for a person to read: plain text for a terminal, HTML for a browser.

A report of this project shows its slices as one table with a bar each; any other SR is shown as its whole tree.
What nobody reads first (language, observer) comes last, and UIDs are left out.
"""

from __future__ import annotations

import html as markup
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import fill

from pydicom.dataset import Dataset

from dicom_node.report import codes, wording
from dicom_node.report.readback import NotAReport, ParsedReport, ParsedSlice, children, is_named, parse, source_images
from dtvit.findings import Outcome

WIDTH = 100
BAR = 20  # characters for 100 %


@dataclass(frozen=True)
class Line:
    """One content item: `depth` 0 is right under the root; a container has no value."""

    depth: int
    name: str
    value: str = ""
    container: bool = False


def render(ds: Dataset) -> str:
    """Plain text, at most `WIDTH` columns."""
    told = _ours(ds)
    slices = () if told is None else told.slices
    out = [title(ds), "=" * len(title(ds)), *(f"{k}: {v}" for k, v in header(ds))]
    for line in lines(ds, with_slices=not slices):
        indent = "  " * line.depth
        if line.container:
            out += ["", f"{indent}{line.name}"]
            continue
        first, *more = f"{line.name}: {line.value}".splitlines()
        out.append(fill(first, WIDTH, initial_indent=indent, subsequent_indent=indent + "    "))
        out += [fill(m, WIDTH, initial_indent=indent + "  ", subsequent_indent=indent + "    ") for m in more]
    if slices:
        out += ["", "Images from feet to head"]
        widest = max(len(s.name) for s in slices)
        for s in slices:
            filled = round(BAR * (s.output or 0.0))
            bar = "" if s.output is None else f"{'#' * filled}{'.' * (BAR - filled)} {100 * s.output:5.1f} %"
            out.append(f"  {s.name:<{widest}}  {bar:<{BAR + 8}}  {words(s)}"[:WIDTH].rstrip())
    return printable("\n".join(out)) + "\n"


def printable(text: str) -> str:
    """Without control characters, which would act on a terminal: a foreign SR may hold anything."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def html(ds: Dataset) -> str:
    """One page without scripts or external files; readable on a dark and a light screen."""
    told = _ours(ds)
    rows = []
    for line in lines(ds, with_slices=told is None):
        pad = f' style="padding-left:{1.2 * line.depth:.1f}em"'
        if line.container:
            rows.append(f"<tr><th colspan=2{pad}>{markup.escape(line.name)}</th></tr>")
        else:
            rows.append(f"<tr><td{pad}>{markup.escape(line.name)}</td><td>{_paragraphs(line.value)}</td></tr>")
    head = "".join(f"<dt>{markup.escape(k)}</dt><dd>{markup.escape(v)}</dd>" for k, v in header(ds))
    heading = markup.escape(title(ds))
    answer = slices = ""
    if told is not None and told.conclusion:
        colour = _css(told.outcome)
        answer = f'<p class=answer style="background:{colour}">{markup.escape(told.conclusion[0])}</p>'
        slices = f"<h2>Images from feet to head</h2><table>{''.join(map(_html_slice, told.slices))}</table>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>{heading}</title><style>body{{font:16px/1.4 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}"
        "table{border-collapse:collapse;width:100%}th{text-align:left;padding-top:1em}"
        "td{vertical-align:top;padding:.15em .5em .15em 0}td:first-child{opacity:.75;width:35%}"
        "td.bar{width:12em}td.bar i{display:inline-block;height:.7em;min-width:2px}"
        ".answer{font-size:1.5em;padding:.4em .6em;color:#111}"
        "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em}dd{margin:0}</style>"
        f"<h1>{heading}</h1>{answer}<dl>{head}</dl><table>{''.join(rows)}</table>{slices}</html>\n"
    )


def _html_slice(s: ParsedSlice) -> str:
    bar = output = ""
    if s.output is not None:
        bar = f'<i style="width:{100 * s.output:.1f}%;background:{_css(s.outcome)}"></i>'
        output = f"{100 * s.output:.1f} %"
    name, said = markup.escape(s.name), markup.escape(words(s))
    return f"<tr><td>{name}</td><td class=bar>{bar}</td><td>{output}</td><td>{said}</td></tr>"


def _css(outcome: Outcome) -> str:
    return "#{:02x}{:02x}{:02x}".format(*wording.COLOURS[outcome])


def words(s: ParsedSlice) -> str:
    """What the report says about one slice, in one line."""
    if s.left_out is not None:
        said = f"not evaluated: {s.left_out}"
    else:
        said = f"{s.outcome.value}, {s.location}" if s.location else s.outcome.value
    return "; ".join([said, *s.doubts])


def _ours(ds: Dataset) -> ParsedReport | None:
    """What one of our reports says; None for an SR that somebody else made."""
    try:
        return parse(ds)
    except NotAReport:
        return None


def lines(ds: Dataset, *, with_slices: bool) -> Iterator[Line]:
    """All content items; the groups for single images only `with_slices`."""
    top: list[Dataset] = list(ds.get("ContentSequence") or [])
    containers = [item for item in top if item.get("ValueType") == "CONTAINER"]
    names = _image_names(ds)
    yield from _walk(containers, 0, names, with_slices)
    others = list(_walk([item for item in top if item not in containers], 1, names, with_slices))
    if others:
        yield Line(0, "About this report", container=True)
        yield from others


def _walk(items: Iterable[Dataset], depth: int, images: dict[tuple[str, str], str], slices: bool) -> Iterator[Line]:
    for item in items:
        kind, name = item.get("ValueType", ""), _meaning(item.get("ConceptNameCodeSequence"))
        if kind == "CONTAINER":
            if not slices and any(source_images(item)):
                continue
            tracked = next((str(c.get("TextValue", "")) for c in children(item, codes.TRACKING_IDENTIFIER)), "")
            yield Line(depth, tracked or name, container=True)
        elif kind != "UIDREF" and not is_named(item, codes.TRACKING_IDENTIFIER):
            yield Line(depth, name, _value(item, kind, images))
        yield from _walk(item.get("ContentSequence") or [], depth + 1, images, slices)


def _value(item: Dataset, kind: str, images: dict[tuple[str, str], str]) -> str:
    if kind == "TEXT":
        return str(item.get("TextValue", ""))
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        measured = (item.get("MeasuredValueSequence") or [Dataset()])[0]
        unit = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
        sign = "%" if unit.get("CodeValue") == codes.PERCENT.value else unit.get("CodeMeaning", "")
        return f"{measured.get('NumericValue', '')} {sign}".strip()
    if kind == "IMAGE":
        return images.get(_reference(item)) or _reference(item)[0]
    for keyword in ("PersonName", "DateTime", "Date", "Time"):
        if keyword in item:
            return str(item.get(keyword))
    return f"[{kind}]"


def title(ds: Dataset) -> str:
    """The concept name of the root."""
    return _meaning(ds.get("ConceptNameCodeSequence")) or "Structured Report"


def header(ds: Dataset) -> list[tuple[str, str]]:
    """Patient, study and status of the report: names and values."""
    shown = [
        ("Patient", f"{ds.get('PatientName', '')} ({ds.get('PatientID', '')})"),
        ("Study", f"{ds.get('StudyDescription', '')} {ds.get('StudyDate', '')}".strip()),
        ("Accession number", str(ds.get("AccessionNumber") or "")),
        ("Series", str(ds.get("SeriesDescription") or "")),
        (
            "Report",
            ", ".join(str(ds.get(k, "")) for k in ("CompletionFlag", "VerificationFlag", "PreliminaryFlag")),
        ),
    ]
    return [(name, value) for name, value in shown if value]


def _image_names(item: Dataset) -> dict[tuple[str, str], str]:
    """(SOP Instance UID, frame) -> the name that the image's own group gives it."""
    names: dict[tuple[str, str], str] = {}
    for child in item.get("ContentSequence") or []:
        names.update(_image_names(child))
    for name in children(item, codes.TRACKING_IDENTIFIER):
        names.update({_reference(image): str(name.get("TextValue", "")) for image in source_images(item)})
    return names


def _reference(item: Dataset) -> tuple[str, str]:
    reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
    return str(reference.get("ReferencedSOPInstanceUID", "")), str(reference.get("ReferencedFrameNumber", ""))


def _meaning(sequence: list[Dataset] | None) -> str:
    return str((sequence or [Dataset()])[0].get("CodeMeaning", ""))


def _paragraphs(value: str) -> str:
    return "<br>".join(markup.escape(line) for line in value.splitlines())

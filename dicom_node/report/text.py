"""An SR as a person reads it: plain text for a terminal, HTML for a browser. Works on the SR of anyone.

The tree is shown in its own order; UIDs and the observer's details, which nobody reads first, come at the end.
"""

from __future__ import annotations

import html as markup
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import fill

from pydicom.dataset import Dataset

from dicom_node.report import codes

WIDTH = 100


@dataclass(frozen=True)
class Line:
    """One content item: `depth` 0 is right under the root; a container has no value."""

    depth: int
    name: str
    value: str
    container: bool = False


def lines(ds: Dataset) -> Iterator[Line]:
    """All content items but UIDs, in the order of the tree; references are given as the name of the image."""
    yield from _walk(ds, 0, _image_names(ds))


def render(ds: Dataset) -> str:
    """Plain text, at most `WIDTH` columns."""
    out = [_title(ds), "=" * len(_title(ds)), *(f"{k}: {v}" for k, v in _header(ds)), ""]
    for line in lines(ds):
        indent = "  " * line.depth
        if line.container:
            out += ["", f"{indent}{line.name}"]
            continue
        text = f"{line.name}: {line.value}"
        out.append(fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "    "))
    return "\n".join(out) + "\n"


def html(ds: Dataset) -> str:
    """One page without scripts or outside files; readable on a dark and on a light screen."""
    rows = []
    for line in lines(ds):
        pad = f' style="padding-left:{1.2 * line.depth:.1f}em"'
        if line.container:
            rows.append(f"<tr><th colspan=2{pad}>{markup.escape(line.name)}</th></tr>")
        else:
            rows.append(f"<tr><td{pad}>{markup.escape(line.name)}</td><td>{markup.escape(line.value)}</td></tr>")
    head = "".join(f"<dt>{markup.escape(k)}</dt><dd>{markup.escape(v)}</dd>" for k, v in _header(ds))
    title = markup.escape(_title(ds))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>body{{font:16px/1.4 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}"
        "table{border-collapse:collapse;width:100%}th{text-align:left;padding-top:1em}"
        "td{vertical-align:top;padding:.15em .5em .15em 0}td:first-child{opacity:.75;width:35%}"
        "dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em}dd{margin:0}</style>"
        f"<h1>{title}</h1><dl>{head}</dl><table>{''.join(rows)}</table></html>\n"
    )


def _title(ds: Dataset) -> str:
    return _meaning(ds.get("ConceptNameCodeSequence")) or "Structured Report"


def _header(ds: Dataset) -> list[tuple[str, str]]:
    shown = [
        ("Patient", f"{ds.get('PatientName', '')} ({ds.get('PatientID', '')})"),
        ("Study", f"{ds.get('StudyDescription', '')} {ds.get('StudyDate', '')}".strip()),
        ("Accession number", str(ds.get("AccessionNumber") or "")),
        ("Series", str(ds.get("SeriesDescription") or "")),
        (
            "Report",
            f"{ds.get('CompletionFlag', '')}, {ds.get('VerificationFlag', '')}, {ds.get('PreliminaryFlag', '')}",
        ),
    ]
    return [(name, value) for name, value in shown if value]


def _image_names(ds: Dataset) -> dict[tuple[str, str], str]:
    """(SOP Instance UID, frame) -> the name that the group about this image gives it."""
    names: dict[tuple[str, str], str] = {}
    for item in ds.get("ContentSequence") or []:
        names.update(_image_names(item))
        name = next((str(c.TextValue) for c in _named(item, codes.TRACKING_IDENTIFIER)), None)
        for image in _named(item, codes.SOURCE_IMAGE):
            names[_reference(image)] = name or ""
    return names


def _named(item: Dataset, concept: codes.Concept) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        name = (child.get("ConceptNameCodeSequence") or [Dataset()])[0]
        if (name.get("CodeValue"), name.get("CodingSchemeDesignator")) == concept.key:
            yield child


def _reference(item: Dataset) -> tuple[str, str]:
    reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
    return str(reference.get("ReferencedSOPInstanceUID", "")), str(reference.get("ReferencedFrameNumber", ""))


def _walk(item: Dataset, depth: int, images: dict[tuple[str, str], str]) -> Iterator[Line]:
    for child in item.get("ContentSequence") or []:
        kind = child.get("ValueType", "")
        name = _meaning(child.get("ConceptNameCodeSequence"))
        if kind == "CONTAINER":
            tracked = next((str(c.TextValue) for c in _named(child, codes.TRACKING_IDENTIFIER)), "")
            yield Line(depth, tracked or name, "", container=True)
            yield from _walk(child, depth + 1, images)
            continue
        own = (child.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeValue")
        if kind == "UIDREF" or own == codes.TRACKING_IDENTIFIER.value:
            continue
        yield Line(depth, name, _value(child, kind, images))
        yield from _walk(child, depth + 1, images)


def _value(item: Dataset, kind: str, images: dict[tuple[str, str], str]) -> str:
    if kind == "TEXT":
        return str(item.get("TextValue", ""))
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        measured = (item.get("MeasuredValueSequence") or [Dataset()])[0]
        unit = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
        sign = unit.get("CodeMeaning", "") if unit.get("CodeValue") != codes.PERCENT.value else "%"
        return f"{measured.get('NumericValue', '')} {sign}".strip()
    if kind == "IMAGE":
        return images.get(_reference(item)) or _reference(item)[0]
    for keyword in ("PersonName", "DateTime", "Date", "Time"):
        if keyword in item:
            return str(item.get(keyword))
    return f"[{kind}]"


def _meaning(sequence: list[Dataset] | None) -> str:
    return str((sequence or [Dataset()])[0].get("CodeMeaning", ""))

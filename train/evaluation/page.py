"""report.html: one file, pictures inside, no script; to be read from the top, and to be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtvit.checkpoint import Checkpoint
from dtvit.findings import LOCATIONS
from train.digits import shown
from train.evaluation.drift import Drift
from train.evaluation.gallery import Example
from train.evaluation.markup import Cell, figure, inline, items, spread, table, text, told
from train.evaluation.style import STYLE

PRESENCE_ROWS = (
    ("auc", "AUC (area under the ROC curve)"),
    ("average_precision", "average precision"),
    ("accuracy", "accuracy"),
    ("precision", "precision (positive predictive value here)"),
    ("recall", "recall (sensitivity)"),
    ("specificity", "specificity"),
    ("f1", "F1"),
    ("ece", "expected calibration error"),
    ("brier", "Brier score"),
)
LOCATION_ROWS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("auc", "AUC, mean of each against the others"),
    ("precision", "precision, mean of the three"),
    ("specificity", "specificity, mean of the three"),
    ("f1", "F1, mean of the three"),
    ("found_and_right", "called present, and in the right place"),
    ("ece", "expected calibration error"),
    ("brier", "Brier score, over the three"),
)
KINDS = (
    ("missed", "Missed: hemorrhage, and less likely than not for the model"),
    ("false alarm", "False alarms: no hemorrhage, and likelier than not for the model"),
    ("wrong place", "Wrong place, the surest first"),
)
FILES = (
    "What each figure is, how the intervals are made and what they leave out: docs/evaluation.md of the project. The "
    "figures are in metrics.json and metrics.csv, each slice in predictions.csv, each series in series.csv."
)


@dataclass(frozen=True)
class Report:
    """Everything that stands in it."""

    title: str
    checkpoint: Checkpoint
    about: Sequence[tuple[str, str]]
    """What the evaluation was made with: name and value."""
    summary: Sequence[str]
    doubts: Sequence[str]
    metrics: Mapping[str, Any]
    drift: Sequence[Drift]
    figures: Mapping[str, bytes]
    """PNG by name of file."""
    examples: Sequence[Example]
    no_maps: str
    """Why there are no relevance maps; empty where there are."""


def render(report: Report) -> bytes:
    """The page, in UTF-8."""
    body = [
        f'<p class="notice">{text(report.checkpoint.metadata.notice)}</p>',
        f"<h1>{text(report.title)}</h1>",
        f'<p class="soft">{text(report.checkpoint.metadata.name)} <code>{report.checkpoint.digest[:12]}</code></p>',
        *_tiles(report.metrics),
        f'<section class="summary"><ul>{items(report.summary)}</ul></section>',
        "<h2>What this does not show</h2>",
        f'<ul class="doubts">{items(report.doubts)}</ul>',
        *_presence(report),
        *_rules(report),
        *_location(report),
        *_strata(report),
        *_gallery(report),
        *_drift(report),
        *_about(report),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(report.title)}</title><style>{STYLE}</style></head>\n<body>\n"
    )
    return (page + "\n".join(body) + "\n</body></html>\n").encode()


def _tiles(metrics: Mapping[str, Any]) -> list[str]:
    """Four figures of series, for the first glance."""
    presence = metrics["presence"]["patient"]
    chosen = (
        ("AUC, hemorrhage or none", presence, "auc"),
        ("called present, of those with hemorrhage", presence["answers"]["hemorrhage"], "present"),
        ("called absent, of those without", presence["answers"]["none"], "absent"),
        ("location right, of those with hemorrhage", metrics["location"]["patient"], "accuracy"),
    )
    made = []
    for words, figures, name in chosen:
        value, kind = told(figures, name)
        value = value.replace(" <small>", "<br><small>") if kind == "figure" else f"<small>{text(value)}</small>"
        made.append(f"<div><b>{value}</b><span>{text(words)}</span></div>")
    return [f'<div class="tiles">{"".join(made)}</div>']


def _presence(report: Report) -> list[str]:
    found = report.metrics["presence"]
    cuts = ", ".join(
        f"{name} from {shown(found[level]['cut'])}" for level, name in (("slice", "slices"), ("patient", "series"))
    )
    rows = [(words, *(figure(found[level], key) for level in ("slice", "patient"))) for key, words in PRESENCE_ROWS]
    counts = [
        (f"number {side} hemorrhage", *(f"{found[level][key]:,}" for level in ("slice", "patient")))
        for key, side in (("positives", "with"), ("negatives", "without"))
    ]
    made = ["<h2>Is there a hemorrhage?</h2>"]
    made += _image(report, "answers.png", "What the node would say, by its two thresholds.")
    made += [
        table(("", "slices", "series"), [*rows, *counts], f"With 95 % intervals. Counted as called: {cuts}."),
    ]
    believed = [
        (
            {"ppv": "present is right (PPV)", "npv": "absent is right (NPV)"}[key],
            *(figure(found[level]["at_prevalence"], key) for level in ("slice", "patient")),
        )
        for key in ("ppv", "npv")
    ]
    prevalence = found["patient"]["at_prevalence"]["prevalence"]
    caption = f"How far to believe an answer where {100 * prevalence:.3g} % have a hemorrhage."
    made += [table(("", "slices", "series"), believed, caption)]
    made += _image(report, "curves.png", "Both curves, with the thresholds of this checkpoint on the left one.")
    return made + _image(report, "reliability.png", "A calibrated model lies on the dotted line.")


def _rules(report: Report) -> list[str]:
    rows = [
        (each["what"], *(figure(each, key) for key in ("auc", "sensitivity")))
        for each in report.metrics["series_rules"].values()
    ]
    return [
        "<h2>How should a series follow from its slices?</h2>",
        table(("", "AUC", "called"), rows, "Called: of series with hemorrhage, where a twentieth of those without is."),
    ]


def _location(report: Report) -> list[str]:
    found = report.metrics["location"]
    rows = [(words, *(figure(found[level], key) for level in ("slice", "patient"))) for key, words in LOCATION_ROWS]
    classes = [
        (
            f"{name}, {level_name} ({of['positives']:,})",
            *(figure(of, key) for key in ("auc", "precision", "recall", "f1")),
        )
        for level, level_name in (("slice", "slices"), ("patient", "series"))
        for name in LOCATIONS
        for of in (found[level]["by_class"][name],)
    ]
    return [
        "<h2>Where is it?</h2>",
        "<p>Scored wherever there is a hemorrhage with a known location, found or missed, over three classes.</p>",
        table(("", "slices", "series"), rows, "With 95 % intervals."),
        table(("", "AUC", "precision", "recall", "F1"), classes, "Each location against the other two."),
        *_image(report, "confusion.png", "Counts, and shares of the row."),
    ]


def _strata(report: Report) -> list[str]:
    rows = [
        (
            f"{by.replace('_', ' ')}: {value}",
            f"{of['positives']:,}",
            f"{of['negatives']:,}",
            *(figure(of, key) for key in ("auc", "called_present", "called_absent", "false_alarms")),
        )
        for by, values in report.metrics["strata"]["patient"].items()
        for value, of in values.items()
    ]
    if not rows:
        return []
    header = ("", "with", "without", "AUC", "called present", "called absent", "false alarms")
    return [
        "<h2>For whom is it better or worse?</h2>",
        "<p>Series. Hemorrhages of one kind are held against all without any; a site or scanner against its own.</p>",
        table(header, rows, "Called present and absent: of those with hemorrhage. False alarms: of those without."),
        *_image(report, "strata.png", "Numbers with (+) and without (-) hemorrhage in brackets."),
    ]


def _gallery(report: Report) -> list[str]:
    made = ["<h2>The worst errors</h2>"]
    if not report.examples:
        return [*made, "<p>No slice with a label was answered wrongly.</p>"]
    maps = (
        f"There are no relevance maps: {text(report.no_maps)}."
        if report.no_maps
        else "Beside each slice: what spoke for hemorrhage, scaled to its own brightest spot. The map is no "
        "segmentation, and brightness does not compare between slices."
    )
    made.append(f'<p class="soft">One slice of a series at most. {maps}</p>')
    for kind, words in KINDS:
        chosen = [each for each in report.examples if each.kind == kind]
        if not chosen:
            continue
        cells = "".join(
            f'<figure><img alt="{text(each.caption)}" src="{inline(each.png)}">'
            f"<figcaption>{text(each.caption)}</figcaption></figure>"
            for each in chosen
        )
        made.append(f'<h3>{text(words)}</h3><div class="gallery">{cells}</div>')
    return made


def _drift(report: Report) -> list[str]:
    rows = [
        (
            f"{line.name}{f', {line.unit}' if line.unit else ''}",
            spread(line.there),
            spread(line.here),
            "" if line.outside is None else f"{line.outside:.0%}",
            (line.verdict, "words far" if line.verdict == "far off" else "words"),
        )
        for line in report.drift
    ]
    heading = "<h2>Are these pictures like those it learned from?</h2>"
    if all(line.there is None for line in report.drift):
        here = [(words, (now, "words")) for words, _, now, _, _ in rows]
        return [
            heading,
            "<p>This cannot be told: the checkpoint keeps no numbers of its training pictures. Of these here:</p>",
            table(("", ""), here, "Median (5 to 95 %)."),
        ]
    caption = (
        "Median (5 to 95 %). Outside: share of these pictures beyond the 5 to 95 % of the training pictures; "
        "10 % would be alike."
    )
    return [
        heading,
        table(("", "training", "here", "outside", ""), rows, caption),
    ]


def _about(report: Report) -> list[str]:
    rows: list[Sequence[Cell]] = [(name, (value, "words")) for name, value in report.about]
    return [
        "<h2>How this was made</h2>",
        table(("", ""), rows, ""),
        f'<p class="soft">{FILES}</p>',
    ]


def _image(report: Report, name: str, caption: str) -> list[str]:
    if name not in report.figures:
        return []
    image = f'<img alt="{text(caption)}" src="{inline(report.figures[name])}">'
    return [f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"]

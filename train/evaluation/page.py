"""report.html: one file, to be read from the top, and to be printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtvit.checkpoint import Checkpoint
from dtvit.findings import LOCATIONS
from train.digits import shown
from train.document import Block, Cell, Heading, Image, Items, Table, Text, Tiles, rendered
from train.evaluation.cases import TOO_GOOD
from train.evaluation.drift import Drift
from train.evaluation.gallery import Example

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
BELIEVED_ROWS = (("ppv", "present is right (PPV)"), ("npv", "absent is right (NPV)"))
KINDS = (
    ("missed", "Missed: hemorrhage that the model finds less likely than not"),
    ("false alarm", "False alarms: no hemorrhage, but the model finds it more likely than not"),
    ("wrong place", "Wrong place, the most confident first"),
)
FILES = (
    "What each figure is, how the intervals are made and what they leave out: docs/evaluation.md of the project. The "
    "figures are in metrics.json and metrics.csv, each slice in predictions.csv, each series in series.csv."
)
BOTH = ("", "slices", "series")


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    title: str
    checkpoint: Checkpoint
    about: Sequence[tuple[str, str]]
    """How the evaluation was made: name and value."""
    label: str
    """How patients were divided; what must stand beside every number."""
    summary: Sequence[str]
    doubts: Sequence[str]
    metrics: Mapping[str, Any]
    drift: Sequence[Drift]
    figures: Mapping[str, bytes]
    """PNG by file name."""
    examples: Sequence[Example]
    no_maps: str
    """Why there are no relevance maps; empty if there are."""


def render(report: Report) -> bytes:
    """The page, in UTF-8."""
    blocks = [
        Text(report.checkpoint.metadata.notice, "notice"),
        Heading(1, report.title),
        Text(f"{report.checkpoint.metadata.name} `{report.checkpoint.digest[:12]}`", "soft"),
        Text(
            f"Split of every number here: {report.label}.",
            "notice" if report.label in TOO_GOOD else "soft",
        ),
        _tiles(report.metrics),
        Items([("", each) for each in report.summary], boxed=True),
        Heading(2, "What this does not show"),
        Items([("", each) for each in report.doubts]),
        *_presence(report),
        *_rules(report),
        *_location(report),
        *_strata(report),
        *_gallery(report),
        *_drift(report),
        Heading(2, "How this was made"),
        Table("", ("", ""), [(name, Text(value, "words")) for name, value in report.about]),
        Text(FILES, "soft"),
    ]
    return rendered(report.title, blocks)


def _tiles(metrics: Mapping[str, Any]) -> Tiles:
    """Four figures of series, to take in at a glance."""
    presence = metrics["presence"]["patient"]
    chosen = (
        ("AUC, hemorrhage or none", presence, "auc"),
        ("called present, of those with hemorrhage", presence["answers"]["hemorrhage"], "present"),
        ("called absent, of those without", presence["answers"]["none"], "absent"),
        ("location right, of those with hemorrhage", metrics["location"]["patient"], "accuracy"),
    )
    return Tiles([(measured(figures, name), words) for words, figures, name in chosen])


def _presence(report: Report) -> list[Block]:
    found = report.metrics["presence"]
    cuts = ", ".join(
        f"{name} from {shown(found[level]['cut'])}" for level, name in (("slice", "slices"), ("patient", "series"))
    )
    counts = [
        (f"number {side} hemorrhage", *(f"{found[level][key]:,}" for level in ("slice", "patient")))
        for key, side in (("positives", "with"), ("negatives", "without"))
    ]
    slices, series = (found[level]["at_prevalence"] for level in ("slice", "patient"))
    believed = _of_both(BELIEVED_ROWS, slices, series)
    prevalence = series["prevalence"]
    return [
        Heading(2, "Is there a hemorrhage?"),
        *_image(report, "answers.png", "What the node would answer, by its two thresholds."),
        Table(
            f"With 95 % intervals. Counted as called: {cuts}.",
            BOTH,
            [*_of_both(PRESENCE_ROWS, found["slice"], found["patient"]), *counts],
        ),
        Table(f"How far to trust an answer where {100 * prevalence:.3g} % have a hemorrhage.", BOTH, believed),
        *_image(report, "curves.png", "Both curves, with the thresholds of this checkpoint on the left one."),
        *_image(report, "reliability.png", "A calibrated model lies on the dotted line."),
    ]


def _of_both(
    rows: Sequence[tuple[str, str]], slices: Mapping[str, Any], series: Mapping[str, Any]
) -> list[tuple[Cell, ...]]:
    return [(words, measured(slices, key), measured(series, key)) for key, words in rows]


def _rules(report: Report) -> list[Block]:
    rows = [
        (each["what"], measured(each, "auc"), measured(each, "sensitivity"))
        for each in report.metrics["series_rules"].values()
    ]
    caption = "Called: share of series with hemorrhage, at a cut that calls a twentieth of those without."
    return [Heading(2, "How should slices decide on a series?"), Table(caption, ("", "AUC", "called"), rows)]


def _location(report: Report) -> list[Block]:
    found = report.metrics["location"]
    classes: list[tuple[Cell, ...]] = [
        (
            f"{name}, {level_name} ({of['positives']:,})",
            *(measured(of, key) for key in ("auc", "precision", "recall", "f1")),
        )
        for level, level_name in (("slice", "slices"), ("patient", "series"))
        for name in LOCATIONS
        for of in (found[level]["by_class"][name],)
    ]
    return [
        Heading(2, "Where is it?"),
        "Scored wherever there is a hemorrhage with a known location, found or missed, over three classes.",
        Table("With 95 % intervals.", BOTH, _of_both(LOCATION_ROWS, found["slice"], found["patient"])),
        Table("Each location against the other two.", ("", "AUC", "precision", "recall", "F1"), classes),
        *_image(report, "confusion.png", "Counts, and shares of the row."),
    ]


def _strata(report: Report) -> list[Block]:
    rows: list[tuple[Cell, ...]] = [
        (
            f"{by.replace('_', ' ')}: {value}",
            f"{of['positives']:,}",
            f"{of['negatives']:,}",
            *(measured(of, key) for key in ("auc", "called_present", "called_absent", "false_alarms")),
        )
        for by, values in report.metrics["strata"]["patient"].items()
        for value, of in values.items()
    ]
    if not rows:
        return []
    header = ("", "with", "without", "AUC", "called present", "called absent", "false alarms")
    return [
        Heading(2, "For whom is it better or worse?"),
        "By series. Hemorrhages of one kind are compared with all series without any; a site or scanner with its own.",
        Table("Called present, called absent: of those with hemorrhage. False alarms: of those without.", header, rows),
        *_image(report, "strata.png", "Numbers with (+) and without (-) hemorrhage in brackets."),
    ]


def _gallery(report: Report) -> list[Block]:
    heading = Heading(2, "The worst errors")
    if not report.examples:
        return [heading, "No slice with a label was answered wrongly."]
    maps = (
        f"There are no relevance maps: {report.no_maps}."
        if report.no_maps
        else "Beside each slice: what spoke for hemorrhage, scaled to its own brightest spot. The map is not a "
        "segmentation, and brightness cannot be compared between slices."
    )
    made: list[Block] = [heading, Text(f"At most one slice per series. {maps}", "soft")]
    for kind, words in KINDS:
        chosen = [each for each in report.examples if each.kind == kind]
        if chosen:
            made.append(Heading(3, words))
            made += [Image(f"gallery/{each.name}", each.png, each.caption, small=True) for each in chosen]
    return made


def _drift(report: Report) -> list[Block]:
    rows = [
        (
            f"{line.name}{f', {line.unit}' if line.unit else ''}",
            spread(line.there),
            spread(line.here),
            "" if line.outside is None else f"{line.outside:.0%}",
            Text(line.verdict, "bad" if line.verdict == "far off" else "words"),
        )
        for line in report.drift
    ]
    heading = Heading(2, "Are these pictures like those it learned from?")
    if all(line.there is None for line in report.drift):
        return [
            heading,
            "This is not known: the checkpoint keeps no numbers of its training pictures. Those of the pictures here:",
            Table("Median (5 to 95 %).", ("", ""), [(words, Text(now, "words")) for words, _, now, _, _ in rows]),
        ]
    caption = (
        "Median (5 to 95 %). Outside: share of these pictures beyond the 5 to 95 % range of the training pictures; "
        "10 % is what identical sets would have."
    )
    return [heading, Table(caption, ("", "training", "here", "outside", ""), rows)]


def _image(report: Report, name: str, caption: str) -> list[Block]:
    return [Image(name, report.figures[name], caption)] if name in report.figures else []


def measured(figures: Mapping[str, Any], name: str) -> Text:
    """A figure of metrics.json with its interval, or the reason for having none."""
    value = figures[name]
    if not math.isfinite(value):
        return Text(figures[f"{name}_why"], "why")
    low, high = figures.get(f"{name}_ci", (math.nan, math.nan))
    beside = f"{shown(low)} to {shown(high)}" if math.isfinite(low) else figures.get(f"{name}_ci_why", "")
    return Text(shown(value), beside=beside)


def spread(values: tuple[float, float, float] | None) -> str:
    if values is None:
        return "-"
    low, middle, high = values
    return f"{middle:.3g}" if low == high else f"{middle:.3g} ({low:.3g} to {high:.3g})"

"""The model card, written from what the checkpoint says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtvit.checkpoint import Checkpoint
from dtvit.findings import LOCATIONS

NOT_ASSESSED = (
    "subdural, epidural, subarachnoid and purely intraventricular hemorrhage",
    "children, contrast series, CT angiography, heads after surgery or trauma",
    "scanners, kernels and protocols of the real world, of which a phantom is a guess",
)


def model_card(checkpoint: Checkpoint) -> str:
    """Markdown. Every figure comes from the checkpoint's metadata; what is missing there is left out."""
    metadata = checkpoint.metadata
    low, high = metadata.window_hu
    text = f"""# {metadata.name}

**{metadata.notice}.** Licence: {metadata.licence}.

## What it is

DTViT: encoder `{metadata.encoder}` ({checkpoint.parameters:,} parameters with both heads, stored as float16), a
{metadata.head} head for hemorrhage present or not, a {metadata.head} head for the location.
It takes axial non-contrast head CT, slice by slice: {low:g} to {high:g} HU, head holder removed, short side
{metadata.resize_pixels} pixels, middle {metadata.crop_pixels} x {metadata.crop_pixels}; preprocessing
{", ".join(metadata.preprocessing)}. Made on {metadata.created}; SHA-256
`{checkpoint.digest}`.

## What it was trained on

{metadata.training_data} Patients seen: {metadata.patients_seen}.
{_training(metadata.training)}
"""
    if metadata.metrics:
        text += f"\n## What was measured\n\n{_measured(metadata.metrics)}"
    slices, series = metadata.slice_thresholds, metadata.series_thresholds
    text += f"""
## How outputs are read

Temperatures and thresholds were fitted on the validation heads. A probability below the first threshold means absent,
from the second on present, between them undetermined.

| | absent below | present at | temperature |
| --- | --- | --- | --- |
| slice | {slices.absent_below:.3f} | {slices.present_at:.3f} | {metadata.presence_temperature:g} |
| series | {series.absent_below:.3f} | {series.present_at:.3f} | |
| location | | | {metadata.location_temperature:g} |

## What it cannot do

"""
    text += "".join(f"- Not assessed: {each}.\n" for each in NOT_ASSESSED)
    text += "".join(f"- {each}\n" for each in metadata.limits)
    if metadata.patients_seen == "none":
        text += (
            "- It has seen no patient. The figures say how well it tells phantoms apart, and nothing about patients.\n"
        )
    return text


def _training(training: Mapping[str, Any]) -> str:
    if "steps_done" not in training:
        return ""
    counts = ", ".join(
        f"{part} {training['slices'][part]:,} ({training['heads_by_part'][part]:,})" for part in training["slices"]
    )
    start = f"started from {training['start_from']}" if training.get("start_from") else "random weights at the start"
    return (
        f"Slices (heads): {counts}; a head is in one part only. Run: {start}, {training['steps_done']:,} steps of\n"
        f"{training['batch']} slices, AdamW {training['learning_rate']:g}, {training['minutes']:g} minutes on "
        f"{training['device']}, seed {training['seed']}."
    )


def _measured(metrics: Mapping[str, Any]) -> str:
    presence, location = metrics["presence"], metrics["location"]
    volumes = ", ".join(f"{_bounds(each)} ml {_figure(v)}" for each, v in presence["patient_auc_by_volume_ml"].items())
    rows = [
        _row("AUC, hemorrhage", presence, "auc", interval=True),
        _row("bleeding, called present", presence, "sensitivity"),
        _row("bleeding, called absent", presence, "missed"),
        _row("not bleeding, called absent", presence, "specificity"),
        _row("not bleeding, called present", presence, "false_alarms"),
        _row("undetermined, of all", presence, "undetermined"),
        _row("number bleeding", presence, "positives"),
        _row("number not bleeding", presence, "negatives"),
        _row("location right, of those bleeding", location, "accuracy", interval=True),
        _row("the same, mean of the three", location, "balanced_accuracy"),
    ]
    for name in LOCATIONS:
        cells = [_figure(location[level]["accuracy_by_class"][name]) for level in ("slice", "patient")]
        rows.append(f"| location right, {name} | {' | '.join(cells)} |")
    return (
        "On heads used neither for training nor for choosing anything; 95 % intervals from drawing heads again.\n\n"
        "| | slices | series |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        f"AUC of series by volume of the bleed: {volumes}.\n"
    )


def _row(name: str, head: Mapping[str, Any], key: str, *, interval: bool = False) -> str:
    cells = []
    for level in ("slice", "patient"):
        text = _figure(head[level][key])
        if interval:
            text += " ({} to {})".format(*map(_figure, head[level][f"{key}_ci"]))
        cells.append(text)
    return f"| {name} | {' | '.join(cells)} |"


def _bounds(bin_: str) -> str:
    low, _, high = bin_.partition("-")
    return f"over {low}" if high == "inf" else f"{low} to {high}"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

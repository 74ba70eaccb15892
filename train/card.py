"""The model card, written from what the checkpoint says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dtvit.checkpoint import Checkpoint, Metadata
from dtvit.findings import LOCATIONS
from train.dataset.pictures import APART
from train.dataset.splits import LEAKY
from train.digits import shown

NOT_ASSESSED = (
    "subdural, epidural, subarachnoid and purely intraventricular hemorrhage",
    "children, contrast series, CT angiography, heads after surgery or trauma",
)
OF_PHANTOMS = "scanners, kernels and protocols of the real world, of which a phantom is a guess"
OF_PATIENTS = "other scanners, kernels and protocols than those of its training data"
NO_PERSON = "none"
SHORT = 12  # digits of a digest, as a checkpoint quotes it for where its training pictures came from


def model_card(checkpoint: Checkpoint) -> str:
    """In Markdown. Every figure comes from the checkpoint's metadata; what is missing there is left out."""
    metadata = checkpoint.metadata
    parts = [
        f"# {metadata.name}\n\n**{metadata.notice}.** Licence: {metadata.licence}.\n",
        _what_it_is(checkpoint),
        f"## What it was trained on\n\n{learned_from(metadata)}\n{_training(metadata.training)}\n",
    ]
    if {"presence", "location"} <= metadata.metrics.keys():
        parts.append(f"## What was measured\n\n{_measured(metadata.metrics)}")
    return "\n".join([*parts, _reading(metadata), _limits(metadata)])


def _what_it_is(checkpoint: Checkpoint) -> str:
    metadata = checkpoint.metadata
    low, high = metadata.window_hu
    return f"""## What it is

DTViT: encoder `{metadata.encoder}` ({checkpoint.parameters:,} parameters with both heads, stored as float16), a
{metadata.head} head for the presence of hemorrhage and a {metadata.head} head for its location.
It takes axial non-contrast head CT, slice by slice: {low:g} to {high:g} HU, head holder removed, {_geometry(metadata)};
preprocessing
{", ".join(metadata.preprocessing)}. Made on {metadata.created}; SHA-256
`{checkpoint.digest}`.
"""


def _reading(metadata: Metadata) -> str:
    slices, series = metadata.slice_thresholds, metadata.series_thresholds
    return f"""## How outputs are read

Temperatures and thresholds were fitted on {_fitted_on(metadata.training)}.
A probability below the first threshold means absent, at or above the second present, in between undetermined.

| | absent below | present at | temperature |
| --- | --- | --- | --- |
| slice | {shown(slices.absent_below)} | {shown(slices.present_at)} | {metadata.presence_temperature:g} |
| series | {shown(series.absent_below)} | {shown(series.present_at)} | |
| location | | | {metadata.location_temperature:g} |
"""


def _limits(metadata: Metadata) -> str:
    unseen = metadata.patients_seen == NO_PERSON
    limits = [f"Not assessed: {each}." for each in (*NOT_ASSESSED, OF_PHANTOMS if unseen else OF_PATIENTS)]
    limits += metadata.limits
    if unseen:
        limits.append(
            "It has seen no patient. The figures show how well it tells phantoms apart, and nothing about patients."
        )
    return "## What it cannot do\n\n" + "".join(f"- {each}\n" for each in limits)


def learned_from(metadata: Metadata) -> str:
    """Training data and the patients in it, in whole sentences; a run begins the former with the latter."""
    if metadata.training_data.startswith(metadata.patients_seen):
        return metadata.training_data
    return f"{metadata.training_data} Patients seen: {metadata.patients_seen.removesuffix('.')}."


def trained_on(metadata: Metadata, digest: str) -> bool:
    """Whether a checkpoint says that it learned from this manifest, or from this split of one; by SHA-256."""
    learned = {key: value for key, value in metadata.training.items() if not key.startswith("calibrated")}
    return digest[:SHORT] in metadata.training_data + json.dumps(learned, default=str)


def _geometry(metadata: Metadata) -> str:
    if any("head-box" in version for version in metadata.preprocessing):
        return f"the head's own box at {metadata.crop_pixels} x {metadata.crop_pixels}"
    return f"shorter side {metadata.resize_pixels} pixels, central {metadata.crop_pixels} x {metadata.crop_pixels}"


def _fitted_on(training: Mapping[str, Any]) -> str:
    if "calibrated_on" in training:  # by evaluate
        part = training.get("calibrated_on_part", "all")
        mixed = f", {LEAKY}" if training.get("calibrated_on_split") == LEAKY else ""
        return f"{part} rows of a manifest of SHA-256 {training['calibrated_on'][:SHORT]}{mixed}"
    return str(training.get("calibrated_by", "the validation part"))


def _training(training: Mapping[str, Any]) -> str:
    if not {"recipe", "split", "steps_done"} <= training.keys():  # made by hand, or by an older version
        return ""
    recipe, split = training["recipe"], training["split"]
    counts = ", ".join(
        f"{part} {training['slices'][part]:,} ({training['patients'][part]:,})" for part in training["slices"]
    )
    divided = f" Split: {split['kind']}, SHA-256 `{split['digest'][:12]}`." if "kind" in split else ""
    return (
        f"Slices (patients or synthetic heads): {counts}; {split['label']}.{divided}\n\n"
        f"Run: recipe {recipe['name']}, {training['start']}, {training['steps_done']:,} steps of "
        f"{recipe['batch']} slices,\n{recipe['optimiser']} {recipe['learning_rate']:g}, "
        f"{training['minutes']:g} minutes on {training['device']}, "
        f"seed {recipe['seed']}; the weights of step {training['chosen_step']:,}."
    )


def _measured(metrics: Mapping[str, Any]) -> str:
    """`metrics` as `train.evaluation.measure` gives them; a row without any figure is left out."""
    presence, location = metrics["presence"], metrics["location"]
    rows = [
        _row("AUC, hemorrhage", presence, "auc"),
        _row("bleeding, called present", presence, "answers", "hemorrhage", "present"),
        _row("bleeding, called absent", presence, "answers", "hemorrhage", "absent"),
        _row("not bleeding, called absent", presence, "answers", "none", "absent"),
        _row("not bleeding, called present", presence, "answers", "none", "present"),
        _row("number bleeding", presence, "positives"),
        _row("number not bleeding", presence, "negatives"),
        _row("location right, of those bleeding", location, "accuracy"),
        _row("the same, mean of the three locations", location, "balanced_accuracy"),
        *(_row(f"location right, {name}", location, "by_class", name, "recall") for name in LOCATIONS),
    ]
    volumes = metrics.get("strata", {}).get("patient", {}).get("volume_ml", {})
    by_volume = ", ".join(f"{_bounds(each)} {_figure(found['auc'])}" for each, found in volumes.items())
    label = metrics.get("split", APART)
    whose = "On patients, or synthetic heads, used neither for training nor for fitting thresholds"
    if label == LEAKY:
        whose = f"**Of no use for patients: {label}**"
    elif label != APART:
        whose = f"By {metrics['folds']} {label}"
    return (
        f"{whose}; 95 % intervals from resampling them.\n\n| | slices | series |\n| --- | --- | --- |\n"
        + "\n".join(row for row in rows if not row.endswith("| - | - |"))
        + (f"\n\nAUC of series by volume of the bleed: {by_volume}.\n" if by_volume else "\n")
    )


def _row(name: str, head: Mapping[str, Any], *path: str) -> str:
    cells = []
    for level in ("slice", "patient"):
        place: Mapping[str, Any] = head.get(level, {})
        for key in path[:-1]:
            place = place.get(key, {})
        text = _figure(place.get(path[-1]))
        low, high = place.get(f"{path[-1]}_ci") or (None, None)
        why = place.get(f"{path[-1]}_ci_why")
        beside = f" ({why})" if why else ""
        cells.append(text + (beside if low is None else f" ({_figure(low)} to {_figure(high)})"))
    return f"| {name} | {' | '.join(cells)} |"


def _bounds(bin_: str) -> str:
    low, dash, high = bin_.partition("-")
    if not dash:
        return bin_  # not known
    return f"over {low} ml" if high == "inf" else f"{low} to {high} ml"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else shown(value)

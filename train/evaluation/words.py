"""The first page of a report, in plain words: on what, how good, how sure, and what it does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dtvit.checkpoint import Metadata
from dtvit.findings import LOCATIONS
from train.card import NO_PERSON, trained_on
from train.digits import of_hundred
from train.evaluation.cases import ALL, Cases
from train.evaluation.drift import UNLIKE, Drift

FEW = 30  # patients of a class; below, a percentile interval is known to be too narrow
NOT_SHOWN = (
    (
        "The pictures came ready-made from the manifest. What the node does before that (reading DICOM, choosing a "
        "series and its slices, removing the head holder) is not measured here."
    ),
    (
        "A series is judged as if its slices showed the whole brain. In use, a gap or a missing end turns an answer of "
        "absent into undetermined."
    ),
    (
        "Only what the labels say is measured: other hemorrhages (subdural, epidural, subarachnoid), other findings, "
        "and what people make of a result are not."
    ),
    (
        "A high figure does not show that blood was seen. Where cases with and without hemorrhage were collected "
        "differently, noise or head shape tells them apart just as well; dicom-node audit asks what the model looks at."
    ),
    (
        "The intervals show how much the figures would vary with other patients from the same source. They do not "
        "cover wrong labels, another hospital, another scanner, or the choice of this checkpoint among several."
    ),
)


def summary(cases: Cases, metrics: Mapping[str, Any]) -> list[str]:
    """Sentences on what was measured, how good it was and how certain that is; plain text."""
    truth, patient = cases.pictures, metrics["presence"]["patient"]
    series = len(set(truth.series.tolist()))
    unknown = series - patient["positives"] - patient["negatives"]
    part = "all of it" if cases.part == ALL else f"its {cases.part} part"
    told = [
        f"Measured on {len(truth):,} slices in {_count(series, 'series', 'series')} of "
        f"{_count(len(set(truth.patient.tolist())), 'patient')}, from {cases.manifest.path.name} ({part}): "
        f"{patient['positives']:,} series with hemorrhage, {patient['negatives']:,} without"
        + (f", {unknown:,} not labelled." if unknown else ".")
    ]
    if math.isfinite(patient["auc"]):
        told.append(
            f"Shown a series with hemorrhage and one without, the model gives the former the higher output in "
            f"{_of_hundred(patient, 'auc')} of 100 such pairs; a guess would be right in 50."
        )
    else:
        told.append(f"How well the model tells hemorrhage from none is not known: {patient['auc_why']}.")
    told += _answers(patient)
    place = metrics["location"]["patient"]
    if math.isfinite(place["accuracy"]):
        commonest = max(place["by_class"][name]["positives"] for name in LOCATIONS) / place["positives"]
        told.append(
            f"Asked for the place, the model is right in {_of_hundred(place, 'accuracy')} of 100 series with "
            f"hemorrhage; always naming the commonest place would be right in {100 * commonest:.0f}."
        )
    told.append("In brackets: 95 % intervals, from resampling the patients.")
    least = min(patient["positive_patients"], patient["negative_patients"])
    if 0 < least < FEW:
        which = f"{_count(least, 'patient')} {'is' if least == 1 else 'are'}"
        told.append(
            f"Only {which} in the smaller class: each of these figures may be far off, and the intervals are too "
            "narrow rather than too wide."
        )
    return told


def doubts(cases: Cases, metadata: Metadata, fitted_on: Cases | None, shifts: Sequence[Drift]) -> list[str]:
    """What the figures do not show, beginning with what is specific to this evaluation; plain text. `fitted_on`: what
    this evaluation fitted temperatures and thresholds on."""
    told = []
    if cases.split.leaky:
        told.append("The split mixes slices: the same patients train and test. Every figure here is too good.")
    elif trained_on(metadata, cases.manifest.digest) or trained_on(metadata, cases.split.digest):
        if cases.part == "test" and trained_on(metadata, cases.split.digest):
            told.append("This is the test part of the data the model was trained on: other patients, the same source.")
        else:
            told.append(
                "The model was trained on this very manifest. Unless the part evaluated here was kept out of training, "
                "every figure is too good."
            )
    if fitted_on is not None and cases.shares_patients(fitted_on):
        told.append(
            "Temperatures and thresholds were fitted on patients measured here; what depends on them is too good."
        )
    if metadata.patients_seen == NO_PERSON:
        told.append("The model was trained on phantoms alone and has seen no patient.")
    moved = cases.patients_at_two_sites
    if moved:
        told.append(
            f"{_count(moved, 'patient id')} {'stands' if moved == 1 else 'stand'} at more than one site. If these are "
            "different people, give them different ids: here they count as one, in the intervals and in any split."
        )
    unlike = [f"{each.name} ({each.verdict})" for each in shifts if each.of_pixels and each.verdict in UNLIKE]
    if unlike:
        told.append(
            f"These pictures differ from those that the model learned from: {', '.join(unlike)}. Are they 0 to 80 HU, "
            "without the head holder, and 0 outside the head (docs/data.md)? If so, it is another scanner or protocol."
        )
    return told + list(NOT_SHOWN)


def _answers(patient: Mapping[str, Any]) -> list[str]:
    told = []
    for side, name, wrong, verdict in (
        ("hemorrhage", "with", "absent", "missed"),
        ("none", "without", "present", "false alarms"),
    ):
        found = patient["answers"][side]
        if not found["count"]:
            continue
        counts = _counts(found)
        right = "absent" if wrong == "present" else "present"
        told.append(
            f"Of the {found['count']:,} series {name} hemorrhage the node would call {counts[right]:,} {right}, leave "
            f"{counts['undetermined']:,} undetermined, and call {counts[wrong]:,} {wrong} ({verdict})."
        )
    unlabelled = patient["answers"]["unlabelled"]
    if unlabelled["count"]:
        counts = _counts(unlabelled)
        told.append(
            f"Of the {unlabelled['count']:,} series without a label the node would call {counts['present']:,} present, "
            f"leave {counts['undetermined']:,} undetermined, and call {counts['absent']:,} absent."
        )
    believed = patient["at_prevalence"]
    if math.isfinite(believed["ppv"]):
        told.append(
            f"Where {100 * believed['prevalence']:.3g} of 100 heads scanned have a hemorrhage, "
            f"{_of_hundred(believed, 'ppv')} of 100 answers of present would be right"
            + (
                f", and {_of_hundred(believed, 'npv')} of 100 answers of absent."
                if math.isfinite(believed["npv"])
                else "."
            )
        )
    return told


def _counts(found: Mapping[str, Any]) -> dict[str, int]:
    """Shares of answers, turned back into counts."""
    return {answer: round(found[answer] * found["count"]) for answer in ("present", "undetermined", "absent")}


def _of_hundred(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures.get(f"{name}_ci", (math.nan, math.nan))
    text = of_hundred(figures[name])
    if math.isfinite(low):
        return f"{text} ({of_hundred(low)} to {of_hundred(high)})"
    why = figures.get(f"{name}_ci_why")
    return f"{text} ({why})" if why else text


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"

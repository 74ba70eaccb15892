"""One evaluation from beginning to end: pictures, predictions, figures, a folder with everything.

Files are made in memory and written when all of them are there, each whole, `metrics.json` last.
"""

from __future__ import annotations

import datetime
import io
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from dtvit.checkpoint import Checkpoint, UnusableCheckpoint, load
from dtvit.inference import NotFinite, UnavailableDevice, choose_device
from dtvit.model import DTViT
from dtvit.vit.relevance import NoAttention
from train.card import learned_from
from train.errors import UnusableData
from train.evaluation import drift, gallery, page, plots, rules, tables, words
from train.evaluation.calibration import Calibration, kept_in
from train.evaluation.cases import Cases, gather, geometry_of
from train.evaluation.measuring import measure, plain
from train.evaluation.output import UnusableOutput, put, writable
from train.evaluation.predicting import Logits, predict
from train.evaluation.recalibrating import recalibrated
from train.evaluation.settings import Settings
from train.evaluation.units import Units, of_series, of_slices
from train.progress import Tell

REFUSALS = (UnusableCheckpoint, UnusableData, UnusableOutput, UnavailableDevice, NotFinite, NoAttention)
"""What `evaluate` raises for a person to put right, the text says how; NoAttention if maps of all slices are wanted."""


def evaluate(settings: Settings, tell: Tell) -> dict[str, Any]:
    """What metrics.json holds. Raises REFUSALS."""
    writable(settings.output)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    model, checkpoint = load(settings.checkpoint)
    model.to(device)
    cases = gather(
        settings.data,
        settings.part,
        geometry=geometry_of(checkpoint),
        split_file=settings.split,
        masks=settings.masks,
        tell=partial(tell, "reading pictures"),
    )
    if settings.relevance:  # an encoder that has no maps is refused before the rest is computed
        one = cases.pictures.take(np.arange(1))
        gallery.relevance_maps(model, one, (checkpoint.metadata.mean, checkpoint.metadata.std))
    fitted_on = None
    if settings.calibrate is not None:
        checkpoint, fitted_on = recalibrated(settings, model, checkpoint, tell)
    logits = predict(
        model,
        cases.pictures,
        (checkpoint.metadata.mean, checkpoint.metadata.std),
        precision=settings.precision,
        batch=settings.batch,
        tell=partial(tell, "predicting"),
    )
    return _write(settings, _Results(cases, checkpoint, model, logits, fitted_on), tell)


@dataclass(frozen=True)
class _Results:
    cases: Cases
    checkpoint: Checkpoint
    model: DTViT
    logits: Logits
    fitted_on: Cases | None
    """What this run fitted temperatures and thresholds on."""


def _write(settings: Settings, results: _Results, tell: Tell) -> dict[str, Any]:
    cases, metadata = results.cases, results.checkpoint.metadata
    calibration, label = kept_in(metadata), cases.label(metadata)
    slices = of_slices(results.logits, cases.pictures, calibration, cases.share)
    series = of_series(slices, cases.pictures.series, calibration)
    tell("measuring", 0, 1)
    found = measure(
        results.logits,
        cases.pictures,
        calibration,
        settings.seed,
        prevalence=settings.prevalence,
        resamples=settings.resamples,
        columns=cases.columns,
        share=cases.share,
    )
    found["series_rules"] = rules.compared(slices, cases.pictures.series, settings.seed, settings.resamples)
    shifts = drift.compare(metadata.statistics, drift.statistics(cases.pictures))
    tell("measuring", 1, 1)
    chosen = gallery.choose(slices, cases.pictures.series, settings.examples)
    tell("drawing", 0, 1)
    examples, no_maps = gallery.examples(chosen, cases, slices, results.model, (metadata.mean, metadata.std), label)
    drawn = _drawn(found, slices, series, calibration, label)
    about = _about(settings, results, label)
    report = page.Report(
        title=f"{metadata.name} on {cases.manifest.path.name}",
        checkpoint=results.checkpoint,
        label=label,
        about=about,
        summary=words.summary(cases, found),
        doubts=words.doubts(cases, metadata, results.fitted_on, shifts),
        metrics=found,
        drift=shifts,
        figures=drawn,
        examples=examples,
        no_maps=no_maps,
    )
    files = {
        "report.html": page.render(report),
        **_tables(cases, found, slices, series, label),
        "drift.csv": tables.drift(shifts, label),
        **drawn,
        **{f"gallery/{each.name}": each.png for each in examples},
    }
    tell("drawing", 1, 1)
    if settings.relevance:
        files["relevance.npz"] = _maps(results, label, tell)
    told = {"split": label, **plain(found), "about": dict(about), "doubts": list(report.doubts)}
    files["metrics.json"] = (json.dumps(told, indent=1, allow_nan=False) + "\n").encode()
    put(settings.output, files)
    return told


def _tables(cases: Cases, found: dict[str, Any], slices: Units, series: Units, label: str) -> dict[str, bytes]:
    return {
        "metrics.csv": tables.metrics(found, label),
        "predictions.csv": tables.predictions(cases, slices, label),
        "series.csv": tables.series(cases, series, label),
        "series_rules.csv": tables.series_rules(found["series_rules"], label),
        "reliability.csv": tables.reliability(slices, label),
        "confusion.csv": tables.confusion(found, label),
    }


def _drawn(
    found: dict[str, Any], slices: Units, series: Units, calibration: Calibration, label: str
) -> dict[str, bytes]:
    """The figures by file name, as PNG; without those for which there is nothing to draw."""
    cuts = {"slice": calibration.slice_thresholds, "patient": calibration.series_thresholds}
    figures = {
        "answers.png": plots.answers(found, label),
        "curves.png": plots.curves({"slice": slices, "patient": series}, found, cuts, label),
        "reliability.png": plots.reliability(slices, label),
        "confusion.png": plots.confusions(found, label),
        "strata.png": plots.strata(found, "patient", "series", label),
    }
    return {name: png for name, png in figures.items() if png is not None}


def _maps(results: _Results, label: str, tell: Tell) -> bytes:
    """Relevance maps of all slices, in the order of predictions.csv. Raises NoAttention."""
    metadata, cases = results.checkpoint.metadata, results.cases
    told = partial(tell, "relevance maps")
    maps = gallery.relevance_maps(results.model, cases.pictures, (metadata.mean, metadata.std), told)
    buffer = io.BytesIO()
    rows = np.array([row.line for row in cases.rows], np.int32)
    np.savez_compressed(buffer, maps=maps, row=rows, split=np.array(label))
    return buffer.getvalue()


def _about(settings: Settings, results: _Results, label: str) -> list[tuple[str, str]]:
    metadata, cases = results.checkpoint.metadata, results.cases
    slices, series = metadata.slice_thresholds, metadata.series_thresholds
    device = next(results.model.parameters()).device
    return [
        ("checkpoint", f"{metadata.name}, {results.checkpoint.path.name}, SHA-256 {results.checkpoint.digest}"),
        ("encoder", metadata.encoder),
        ("trained on", learned_from(metadata)),
        ("preprocessing", ", ".join(metadata.preprocessing)),
        ("thresholds of a slice", f"absent below {slices.absent_below:.4f}, present from {slices.present_at:.4f}"),
        ("thresholds of a series", f"absent below {series.absent_below:.4f}, present from {series.present_at:.4f}"),
        ("temperatures", f"presence {metadata.presence_temperature:g}, location {metadata.location_temperature:g}"),
        ("manifest", f"{cases.manifest.path.name}, SHA-256 {cases.manifest.digest}"),
        ("part", f"{cases.part}; split {cases.split.kind}, {label}, SHA-256 {cases.split.digest}"),
        ("intervals", f"95 %, {settings.resamples:,} resamples of patients, seed {settings.seed}"),
        ("computed", f"{settings.precision} precision on {device.type}, batches of {settings.batch or 'default'} size"),
        ("made", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")),
    ]

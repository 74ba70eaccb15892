"""One evaluation from beginning to end: pictures, predictions, figures, a folder with everything.

Files are made in memory and written when all of them are there, each whole, `metrics.json` last.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dtvit.checkpoint import Checkpoint, Metadata, describe, load, save, write_whole
from dtvit.inference import choose_device
from dtvit.model import DTViT
from train.data import PARTS
from train.evaluation import drift, gallery, page, plots, tables, words
from train.evaluation.bootstrap import RESAMPLES
from train.evaluation.calibration import Calibration, kept_in
from train.evaluation.cases import ALL, Cases, gather, geometry_of
from train.evaluation.measuring import PREVALENCE, calibrate, measure, plain
from train.evaluation.predicting import Logits, Precision, predict
from train.evaluation.units import of_series, of_slices

Seen = Callable[[str, int, int], None]
"""Told what is being done, how many of it are done, and of how many."""


class UnusableOutput(Exception):
    """The folder for the results cannot be written to."""


@dataclass(frozen=True)
class Settings:
    checkpoint: Path
    data: Path
    output: Path
    part: str | None = None
    split: Path | None = None
    calibrate: str | None = None
    """A manifest, or one of PARTS for that part of `data`: temperatures and thresholds are fitted on it first."""
    masks: str | None = None
    prevalence: float = PREVALENCE
    resamples: int = RESAMPLES
    examples: int = gallery.EACH
    relevance: bool = False
    precision: Precision = "node"
    device: str = "auto"
    batch: int | None = None
    threads: int | None = None
    seed: int = 0


def evaluate(settings: Settings, seen: Seen = lambda what, done, of: None) -> dict[str, Any]:
    """What metrics.json holds.

    Raises UnusableCheckpoint, UnusableData, UnusableOutput, UnavailableDevice, NotFinite, and NoAttention where maps of
    all slices are wanted.
    """
    _writable(settings.output)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    model, checkpoint = load(settings.checkpoint)
    model.to(device)
    geometry = geometry_of(checkpoint)
    cases = gather(
        settings.data,
        settings.part,
        geometry=geometry,
        split_file=settings.split,
        masks=settings.masks,
        tell=lambda done, of: seen("reading pictures", done, of),
    )
    fitted_on = None
    if settings.calibrate is not None:
        validation = _validation(settings, geometry, seen)
        fitted_on = validation.manifest.digest
        checkpoint = _calibrated(settings, model, checkpoint, validation, seen)
    logits = _predict(settings, model, checkpoint.metadata, cases, seen)
    return _write(settings, _Results(cases, checkpoint, model, logits, fitted_on), seen)


@dataclass(frozen=True)
class _Results:
    cases: Cases
    checkpoint: Checkpoint
    model: DTViT
    logits: Logits
    fitted_on: str | None
    """Digest of the manifest on which this run fitted temperatures and thresholds."""


def _write(settings: Settings, results: _Results, seen: Seen) -> dict[str, Any]:
    cases, metadata = results.cases, results.checkpoint.metadata
    calibration = kept_in(metadata)
    slices = of_slices(results.logits, cases.pictures, calibration, cases.share)
    series = of_series(slices, cases.pictures.series, calibration)
    seen("measuring", 0, 1)
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
    shifts = drift.compare(metadata.statistics, drift.statistics(cases.pictures))
    seen("measuring", 1, 1)
    chosen = gallery.choose(slices, cases.pictures.series, settings.examples)
    seen("drawing", 0, 1)
    examples, no_maps = gallery.examples(chosen, cases, slices, results.model, metadata.mean, metadata.std)
    units = {"slice": slices, "patient": series}
    figures = {
        "answers.png": plots.answers(found),
        "curves.png": plots.curves(units, found, _cuts(calibration)),
        "reliability.png": plots.reliability(slices),
        "confusion.png": plots.confusions(found),
        "strata.png": plots.strata(found, "patient", "series"),
    }
    drawn = {name: png for name, png in figures.items() if png is not None}
    about = _about(settings, results)
    report = page.Report(
        title=f"{metadata.name} on {cases.manifest.path.name}",
        checkpoint=results.checkpoint,
        about=about,
        summary=words.summary(cases, found),
        doubts=words.doubts(cases, metadata, results.fitted_on),
        metrics=found,
        drift=shifts,
        figures=drawn,
        examples=examples,
        no_maps=no_maps,
    )
    files = {
        "report.html": page.render(report),
        "metrics.csv": tables.metrics(found),
        "predictions.csv": tables.predictions(cases, slices),
        "series.csv": tables.series(cases, series),
        "reliability.csv": tables.reliability(slices),
        "confusion.csv": tables.confusion(found),
        "drift.csv": tables.drift(shifts),
        **drawn,
        **{f"gallery/{each.name}": each.png for each in examples},
    }
    seen("drawing", 1, 1)
    if settings.relevance:
        files["relevance.npz"] = _maps(results, seen)
    told = {**plain(found), "about": dict(about), "doubts": list(report.doubts)}
    files["metrics.json"] = (json.dumps(told, indent=1, allow_nan=False) + "\n").encode()
    _put(settings.output, files)
    return told


def _validation(settings: Settings, geometry: str, seen: Seen) -> Cases:
    assert settings.calibrate is not None
    own = settings.calibrate in PARTS
    return gather(
        settings.data if own else Path(settings.calibrate),
        settings.calibrate if own else ALL,
        geometry=geometry,
        split_file=settings.split if own else None,
        tell=lambda done, of: seen("reading validation pictures", done, of),
    )


def _calibrated(settings: Settings, model: DTViT, checkpoint: Checkpoint, validation: Cases, seen: Seen) -> Checkpoint:
    """A new checkpoint in the output folder, with the same weights; the one it comes from stays as it is."""
    metadata = checkpoint.metadata
    fitted = calibrate(_predict(settings, model, metadata, validation, seen), validation.pictures)
    changed = replace(
        metadata,
        presence_temperature=round(fitted.presence_temperature, 4),
        location_temperature=round(fitted.location_temperature, 4),
        slice_thresholds=fitted.slice_thresholds,
        series_thresholds=fitted.series_thresholds,
        training={
            **metadata.training,
            "calibrated_from": checkpoint.digest,
            "calibrated_on": validation.manifest.digest,
            "calibrated_on_part": validation.part,
        },
    )
    path = settings.output / f"{settings.checkpoint.stem}-calibrated.safetensors"
    try:
        save(path, model.state_dict(), changed)
    except OSError as exc:
        raise UnusableOutput(f"{path} could not be written ({exc.strerror}); make room there") from exc
    return describe(path)


def _predict(settings: Settings, model: DTViT, metadata: Metadata, cases: Cases, seen: Seen) -> Logits:
    done = 0

    def more(slices: int) -> None:
        nonlocal done
        done += slices
        seen("predicting", done, len(cases.pictures))

    return predict(
        model,
        cases.pictures,
        mean=metadata.mean,
        std=metadata.std,
        precision=settings.precision,
        batch=settings.batch,
        seen=more,
    )


def _maps(results: _Results, seen: Seen) -> bytes:
    """Relevance maps of all slices, in the order of predictions.csv. Raises NoAttention."""
    metadata, pictures = results.checkpoint.metadata, results.cases.pictures
    done = 0

    def more(slices: int) -> None:
        nonlocal done
        done += slices
        seen("relevance maps", done, len(pictures))

    maps = gallery.relevance_maps(results.model, pictures, metadata.mean, metadata.std, more)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, maps=maps, row=np.array([row.line for row in results.cases.rows], np.int32))
    return buffer.getvalue()


def _about(settings: Settings, results: _Results) -> list[tuple[str, str]]:
    metadata, cases = results.checkpoint.metadata, results.cases
    slices, series = metadata.slice_thresholds, metadata.series_thresholds
    device = next(results.model.parameters()).device
    return [
        ("checkpoint", f"{metadata.name}, {results.checkpoint.path.name}, SHA-256 {results.checkpoint.digest}"),
        ("encoder", metadata.encoder),
        ("trained on", f"{metadata.training_data} Patients seen: {metadata.patients_seen}."),
        ("preprocessing", ", ".join(metadata.preprocessing)),
        ("thresholds of a slice", f"absent below {slices.absent_below:.4f}, present from {slices.present_at:.4f}"),
        ("thresholds of a series", f"absent below {series.absent_below:.4f}, present from {series.present_at:.4f}"),
        ("temperatures", f"presence {metadata.presence_temperature:g}, location {metadata.location_temperature:g}"),
        ("manifest", f"{cases.manifest.path.name}, SHA-256 {cases.manifest.digest}"),
        ("part", f"{cases.part}; split {cases.split.kind}, {cases.split.label}, SHA-256 {cases.split.digest}"),
        ("intervals", f"95 %, {settings.resamples:,} resamples of patients, seed {settings.seed}"),
        ("computed", f"{settings.precision} precision on {device.type}, batches of {settings.batch or 'default'} size"),
        ("made", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")),
    ]


def _cuts(calibration: Calibration) -> dict[str, Any]:
    return {"slice": calibration.slice_thresholds, "patient": calibration.series_thresholds}


def _writable(folder: Path) -> None:
    """Before anything is computed. Raises UnusableOutput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as exc:
        raise UnusableOutput(
            f"{folder} cannot be written to ({exc.strerror}); name another folder with --output"
        ) from exc


def _put(folder: Path, files: dict[str, bytes]) -> None:
    """`metrics.json` comes last; a gallery of an earlier run goes."""
    try:
        for old in (folder / "gallery").glob("*.png"):
            old.unlink()
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as exc:
        raise UnusableOutput(f"{folder}: the results could not be written ({exc.strerror}); make room there") from exc

"""Temperatures and thresholds for another population: fitted on its validation patients, kept in a new checkpoint."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dtvit.checkpoint import Checkpoint, describe, save
from dtvit.model import DTViT
from train.dataset.pictures import PARTS
from train.errors import UnusableData
from train.evaluation.calibration import kept_with
from train.evaluation.cases import ALL, Cases, gather, geometry_of
from train.evaluation.measuring import calibrate
from train.evaluation.output import UnusableOutput
from train.evaluation.predicting import predict
from train.evaluation.settings import Settings
from train.progress import Tell


def recalibrated(settings: Settings, model: DTViT, checkpoint: Checkpoint, tell: Tell) -> tuple[Checkpoint, Cases]:
    """A new checkpoint in the output folder, and the pictures it was fitted on; the old one stays.

    Raises UnusableData if the validation pictures lack a class, and UnusableOutput.
    """
    validation = _validation(settings, checkpoint, tell)
    metadata, labels = checkpoint.metadata, validation.pictures
    if not {0, 1} <= set(np.unique(labels.presence).tolist()):  # what has no label is -1
        part = "" if validation.part == ALL else f"{validation.part} "
        raise UnusableData(
            f"{validation.manifest.path}: its {part}rows lack slices with hemorrhage, or slices without; thresholds "
            "need both"
        )
    logits = predict(
        model,
        labels,
        (metadata.mean, metadata.std),
        precision=settings.precision,
        batch=settings.batch,
        tell=partial(tell, "predicting validation"),
    )
    fitted = calibrate(logits, labels)
    placed = bool((labels.location >= 0).any())
    calibrated = kept_with(fitted, metadata)
    changed = replace(
        calibrated if placed else replace(calibrated, location_temperature=metadata.location_temperature),
        metrics={},  # those were measured with the old thresholds
        training={
            **metadata.training,
            "calibrated_from": checkpoint.digest,
            "calibrated_on": validation.manifest.digest,
            "calibrated_on_part": validation.part,
            "calibrated_on_split": validation.label(metadata),
        },
    )
    path = settings.output / f"{settings.checkpoint.stem}-calibrated.safetensors"
    try:
        save(path, model.state_dict(), changed)
    except OSError as exc:
        raise UnusableOutput(f"{path} could not be written ({exc.strerror}); make room there") from exc
    return describe(path), validation


def _validation(settings: Settings, checkpoint: Checkpoint, tell: Tell) -> Cases:
    assert settings.calibrate is not None
    own = settings.calibrate in PARTS
    return gather(
        settings.data if own else Path(settings.calibrate),
        settings.calibrate if own else ALL,
        geometry=geometry_of(checkpoint),
        split_file=settings.split if own else None,
        tell=partial(tell, "reading validation pictures"),
    )

"""What a run leaves: the chosen weights as a checkpoint, calibrated and measured; metrics.json and a model card."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dtvit.checkpoint import NONE, Metadata, describe, load, save
from dtvit.findings import LOCATIONS
from dtvit.inference import NotFinite
from dtvit.wholefile import write_whole
from train.card import NO_PERSON, model_card
from train.dataset.pictures import APART, PARTS, Pictures
from train.evaluation import calibrate, heldout, measure, plain, predict
from train.evaluation.calibration import EVEN, kept_with
from train.evaluation.drift import statistics
from train.learning.pretrained import Start
from train.learning.state import UnusableRun
from train.progress import Say
from train.recipe import Recipe

BEST, LAST = "best.safetensors", "last.safetensors"
HELD_OUT = "held-out.npz"
OPEN = "for whoever trained it to choose"
GENTLER = "begin again in another folder with a lower learning_rate, or with clip"


@dataclass(frozen=True)
class Source:
    """Where the pictures come from, as the checkpoint will state it."""

    training_data: str
    patients_seen: str
    preprocessing: tuple[str, ...]
    digest: str = ""
    """Of everything that decided which pictures there are; a run continues only with the same."""
    shown: str = ""
    """SHA-256 of the pictures of people as they were read; likewise."""
    split: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """`kind` and `digest` of `train.dataset.splits.Split`; empty for phantoms alone."""
    label: str = APART
    """What must stand beside every number of this run."""
    replicated: bool = False
    """Whether the split has replicated slices already."""

    @property
    def divided(self) -> dict[str, str]:
        """What a checkpoint says of the split."""
        return {**self.split, "label": self.label}


@dataclass(frozen=True)
class Ended:
    """How the training went."""

    steps: int
    minutes: float
    device: torch.device
    ranks: int
    start: Start


def keep(
    path: Path, recipe: Recipe, source: Source, start: Start, weights: Mapping[str, torch.Tensor], step: int
) -> None:
    """Save the weights as they are now, uncalibrated; always whole. Raises UnusableRun where float16 is too small."""
    try:
        save(path, weights, _metadata(recipe, source, start, {"step": step, "split": source.divided}))
    except ValueError as exc:
        raise UnusableRun(f"{path} cannot be kept: {exc}; {GENTLER}") from exc


def finish(output: Path, recipe: Recipe, data: Pictures, source: Source, ended: Ended, say: Say) -> Path:
    """Calibrate the chosen weights, as stored, on the validation part, and measure them on the test part. Their path.

    Raises UnusableRun if no weights were kept, or if they give no finite number for a slice that no look has seen.
    """
    chosen = output / (BEST if recipe.choose == "best" else LAST)
    if not chosen.exists():
        raise UnusableRun(
            f"{output}: no step was taken: what comes before the first took {ended.minutes:.1f} minutes, all of "
            "--max-time; allow more"
        )
    model, kept = load(chosen)
    model.to(ended.device)
    validation, test = data.of_part("validation"), data.of_part("test")
    say(f"calibrating on {len(validation)} slices, then measuring on {len(test)}")
    try:
        judged, tested = (predict(model, part, recipe.mean_std) for part in (validation, test))
    except NotFinite as exc:
        raise UnusableRun(f"{kept.path}: {exc}; {GENTLER}") from exc
    calibration = calibrate(judged, validation)
    found = plain(measure(tested, test, calibration))
    heldout.write(output / HELD_OUT, [heldout.of(judged, validation), heldout.of(tested, test)], source.label)
    metrics = {"split": source.label, **found}
    step = kept.metadata.training["step"]
    metadata = dataclasses.replace(
        kept_with(calibration, _metadata(recipe, source, ended.start, _told(recipe, data, source, ended, step))),
        metrics=metrics,
        statistics=statistics(data.of_part("train")),
    )
    path = output / f"{recipe.name}.safetensors"
    save(path, model.state_dict(), metadata)
    write_whole(output / "metrics.json", json.dumps(metrics, indent=1).encode())
    write_whole(output / "MODEL-CARD.md", model_card(describe(path)).encode())
    say(f"{path}: slice AUC {found['presence']['slice']['auc']} on the test part; {source.label}")
    return path


def _told(recipe: Recipe, data: Pictures, source: Source, ended: Ended, step: int) -> dict[str, Any]:
    """What the checkpoint says of the run that made it."""
    parts = {part: data.of_part(part) for part in PARTS}
    before = {"training_data": ended.start.before}
    if not source.split:  # else its own counts
        before["split"] = ended.start.split
    return {
        "recipe": recipe.recorded(),
        "start": ended.start.told,
        **({"before": before} if ended.start.before else {}),
        "data": source.digest,
        "split": source.divided,
        "steps_done": ended.steps,
        "chosen_step": step,
        "minutes": round(ended.minutes, 1),
        "device": ended.device.type,
        "ranks": ended.ranks,
        "torch": torch.__version__,
        "slices": {part: len(pictures) for part, pictures in parts.items()},
        "patients": {part: len(np.unique(pictures.patient)) for part, pictures in parts.items()},
    }


def licence(recipe: Recipe, start: Start) -> str:
    """Of a checkpoint: as chosen by whoever trained it; then what is known of the weights that it started from."""
    chosen = recipe.licence or OPEN
    return f"{chosen}; {start.licence}" if start.licence else chosen


def _metadata(recipe: Recipe, source: Source, start: Start, training: Mapping[str, Any]) -> Metadata:
    mean, std = recipe.mean_std
    return Metadata(
        name=recipe.name,
        encoder=recipe.encoder,
        head=recipe.head,
        location_classes=(*LOCATIONS, NONE) if recipe.location_outputs > len(LOCATIONS) else LOCATIONS,
        training_data=source.training_data,
        patients_seen=source.patients_seen if source.patients_seen != NO_PERSON else start.patients_seen or NO_PERSON,
        preprocessing=source.preprocessing,
        slice_thresholds=EVEN.slice_thresholds,
        series_thresholds=EVEN.series_thresholds,
        mean=mean,
        std=std,
        licence=licence(recipe, start),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        training=training,
    )

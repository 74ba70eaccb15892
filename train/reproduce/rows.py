"""One row of the tables: train and measure, or ask a yardstick.

What a training run leaves beside its numbers is removed once they are known, since the weights of all rows would fill a
disk.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train import recipe
from train.completing import Made, Rows
from train.dataset import splits
from train.dataset.manifest import Manifest, pictures_digest
from train.dataset.pictures import PARTS
from train.dataset.splits import Split
from train.evaluation import Logits, calibrate, measure, plain
from train.learning.pretrained import UnavailableWeights
from train.options import Settings
from train.progress import LOG, Say
from train.recipe import Recipe
from train.reproduce import yardsticks
from train.reproduce.planned import YARDSTICKS, Row
from train.reproduce.seen import Seen

FORMAT = 2  # goes up when rows made before cannot stand beside rows made now
RESAMPLES = 200  # for intervals of one row; the tables show how rows differ by seed
SCRATCH = {
    "pretrained": "none",
    "optimiser": "adamw",
    "learning_rate": "5e-4",
    "weight_decay": "0.05",
    "decay_everything": "false",
    "momentum": "0.9",
    "schedule": "cosine",
    "warm_up": "0.1",
    "clip": "1.0",
    "batch": "32",
    "epochs": "60",
}
"""For an encoder that starts from scratch: the papers' rates are meant for one that has seen ImageNet. AdamW,
weight decay 0.05, warm-up and a cosine as in Touvron et al. 2021 (DeiT), which has no more data than ImageNet."""
QUICK_EPOCHS = {True: "2", False: "6"}
"""With replication an epoch is more than three times as long."""


@dataclass(frozen=True)
class Reproduction:
    """What all rows have in common."""

    data: Manifest
    output: Path
    quick: bool
    pretrained: str = "auto"
    """`auto`: from the encoder's hub if that can be reached; `none`; or a folder of ENCODER.safetensors or .pth."""
    device: str = "auto"
    threads: int | None = None
    max_time: float | None = None
    """Minutes for the training of one row."""
    keep: bool = False
    """Keep checkpoints."""

    @property
    def cache(self) -> Path:
        return self.output / "cache"

    @cached_property
    def seen(self) -> Seen:
        """What the yardsticks look at."""
        return Seen(self.data, self.pictures, self.cache)

    @cached_property
    def pictures(self) -> str:
        """SHA-256 over all of them."""
        return pictures_digest(self.data)


def kept(work: Reproduction) -> Rows[Row]:
    """The rows that were made before, from this data and in this way."""
    return Rows(work.output, partial(_key, work))


def digests(output: Path) -> set[tuple[str, str]]:
    """SHA-256 of the manifests that the rows in a folder were made from, and of their pictures ("" in older rows)."""
    found = set()
    for path in (output / "rows").glob("*.json"):
        with contextlib.suppress(ValueError, KeyError):  # a row that cannot be read is made again
            form, of_manifest, of_pictures, *_ = json.loads(path.read_bytes())["key"].split()
            found.add((of_manifest, of_pictures if form == str(FORMAT) else ""))
    return found


def make(work: Reproduction, row: Row, say: Say) -> Made:
    """`row`, `label` and digest of the `split`, `slices` of each part, `metrics`, `scratch`, `start`, `curve`; of a
    training also `minutes` and `device`. Raises what `train.run.run` raises."""
    split = _split(work, row)
    found = _yardstick(work, row, split) if row.chapter == YARDSTICKS else _model(work, row, say)
    metrics = found.pop("metrics")
    return {
        "row": dataclasses.asdict(row),
        "label": split.label,
        "split": split.digest,
        "slices": {part: split.count(part) for part in PARTS},
        "metrics": {head: metrics[head] for head in ("presence", "location")},
        **found,
    }


def _key(work: Reproduction, row: Row) -> str:
    """A row stands for this data, this way of working, and no other."""
    way = f" {yardsticks.FORMAT}" if row.chapter == YARDSTICKS else f" {work.pretrained} {work.max_time or ''}"
    return f"{FORMAT} {work.data.digest} {work.pictures} {'quick' if work.quick else 'full'}{way}"


def _split(work: Reproduction, row: Row) -> Split:
    """The split of a row, which is also on disk."""
    if row.split == "apart":
        split = splits.by_patient(work.data, row.seed)
    else:
        split = splits.paper(work.data, row.seed, replicate=row.split == "paper")
    splits.write(_split_file(work, row), split, work.data)
    return split


def _split_file(work: Reproduction, row: Row) -> Path:
    return work.output / "splits" / f"{row.split}-{row.seed}.csv"


def _model(work: Reproduction, row: Row, say: Say) -> Made:
    """Train from ImageNet weights if they can be had, else from scratch on a schedule of its own."""
    weights = _weights(work, row.subject)
    if weights != "none":
        try:
            return _trained(work, row, planned(work, row, weights), "pretrained", say)
        except UnavailableWeights as exc:
            say(f"{exc}; from scratch instead")
    return _trained(work, row, planned(work, row, "none"), "scratch", say)


def planned(work: Reproduction, row: Row, weights: str) -> Recipe:
    """The recipe of a row: its paper's, with the row's encoder, split and seed; from scratch with another schedule."""
    chosen = recipe.read(row.chapter)
    chosen = chosen.with_replication() if row.replicate else chosen.without_augmentation()
    changes = {
        "encoder": row.subject,
        "pretrained": weights,
        "split": str(_split_file(work, row)),
        "seed": str(row.seed),
        **recipe.fitting(work.data.brace_removal),
    }
    if weights == "none":
        changes |= SCRATCH
        if row.subject.startswith(("alexnet", "squeezenet")):
            changes["learning_rate"] = "1e-4"  # they have no norms, and learn nothing at a higher rate
    if work.quick:
        changes |= {"epochs": QUICK_EPOCHS[row.replicate]}
    return chosen.changed(changes)


def _weights(work: Reproduction, encoder: str) -> str:
    if work.pretrained in ("auto", "none"):
        return work.pretrained
    for suffix in (".safetensors", ".pth"):
        path = Path(work.pretrained) / (encoder + suffix)
        if path.is_file():
            return str(path)
    return "none"


def _trained(work: Reproduction, row: Row, chosen: Recipe, start: str, say: Say) -> Made:
    from dtvit.checkpoint import describe
    from train.run import run

    folder = work.output / "runs" / row.name / start
    settings = Settings(
        output=folder,
        data=work.data.path,
        cache=work.cache,
        device=work.device,
        threads=work.threads,
        max_time=work.max_time,
    )
    path = run(chosen, settings, say)
    training = describe(path).metadata.training
    with (folder / LOG).open(newline="") as file:
        curve = list(csv.DictReader(file))
    made = {
        "metrics": json.loads((folder / "metrics.json").read_bytes()),
        "scratch": start == "scratch",
        "start": training.get("start"),
        "minutes": training.get("minutes"),
        "device": training.get("device"),
        "curve": [{key: float(each[key]) for key in ("step", "training_loss", "validation_loss")} for each in curve],
    }
    if not work.keep:
        for weights in (*folder.glob("*.safetensors"), *folder.glob("*.pt")):
            weights.unlink()
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    return made


def _yardstick(work: Reproduction, row: Row, split: Split) -> Made:
    """The same figures, from a yardstick that learns from the training part, calibrated on the validation part."""
    seen = work.seen
    train, validation, test = (seen.part(split, part) for part in PARTS)
    logits = _answers(seen, row, train)
    calibration = calibrate(logits(validation), seen.pictures.take(validation))
    found = measure(logits(test), seen.pictures.take(test), calibration, resamples=RESAMPLES)
    return {"metrics": plain(found), "scratch": False, "start": "nothing is trained on blood", "curve": []}


def _answers(seen: Seen, row: Row, train: NDArray[np.intp]) -> Callable[[NDArray[np.intp]], Logits]:
    """A function from places of pictures to logits, as learned from those at `train`."""
    known = seen.pictures.take(train)
    if row.subject == "nearest":
        small = seen.thumbnails
        return lambda asked: yardsticks.nearest(small[train], known, small[asked])
    features = seen.features[:, yardsticks.columns(() if row.subject == "all" else (row.subject,))]
    answer = yardsticks.boosted(features[train], known, row.seed)
    return lambda asked: answer(features[asked])

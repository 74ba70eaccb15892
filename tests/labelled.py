"""Does whatever the papers' split yields say so? Every kind of file that a command of `train` writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dtvit.checkpoint import describe
from train.dataset.splits import LEAKY, MIXED
from train.reproduce.tables import SHORT_LEAKY

NO_NUMBERS = ("cache", "subset.csv", "data.csv")
"""Folders and files that show pictures, rows and counts of the manifest, however it is split."""


def without_label(folder: Path) -> list[str]:
    """Files below `folder` that do not say that slices are mixed, though they hold what came of it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size)
    named = [path for path in files if not set(path.relative_to(folder).parts) & set(NO_NUMBERS)]
    return [str(path.relative_to(folder)) for path in named if not _says_so(path)]


def _says_so(path: Path) -> bool:
    match path.suffix:
        case ".csv":
            return _table_says_so(path)
        case ".json":
            found = json.loads(path.read_bytes())
            return LEAKY in (found.get("split"), found.get("label"))
        case ".html" | ".md":
            return LEAKY in path.read_text() or SHORT_LEAKY in path.read_text()
        case ".png":
            with Image.open(path) as image:
                return str(image.info.get("Description")).startswith(SHORT_LEAKY)
        case ".npz":
            with np.load(path) as arrays:
                return bool(arrays["split"] == LEAKY)
        case ".safetensors":
            training = describe(path).metadata.training
            return LEAKY in (training.get("split", {}).get("label"), training.get("calibrated_on_split"))
        case ".pt":
            return _state_says_so(path)
    return path.name.startswith("events.") and LEAKY in _events(path)


def _table_says_so(path: Path) -> bool:
    text = path.read_text()
    if text.startswith("# kind: "):  # a split itself
        return text.split("\n", 1)[0].removeprefix("# kind: ") in MIXED
    rows = list(csv.DictReader(text.splitlines()))
    said = [row.get("label") or row.get("split") for row in rows]
    return all(said) and bool({LEAKY, SHORT_LEAKY} & set(said))  # `reproduce` sets others beside them


def _state_says_so(path: Path) -> bool:
    import torch

    state: dict[str, Any] = torch.load(path, weights_only=False)
    return all(row["split"] == LEAKY for row in state["rows"])


def _events(path: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path)).Reload()
    return [each.tensor_proto.string_val[0].decode() for each in events.Tensors("split/text_summary")]

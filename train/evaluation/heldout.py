"""What a model said of slices that it was not trained on, kept as a file: logits with their truth, to be pooled.

Each fold of a cross-validation leaves one; together they hold every patient once, and calibrate a model that was
trained on all of them (`train.comparing.crossvalidation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtvit.wholefile import replacing
from train.dataset.pictures import ORIGINS, PARTS, Part, Pictures, stack
from train.errors import UnusableData
from train.evaluation.predicting import Logits

TRUTH = ("presence", "location", "patient", "series", "part", "origin", "volume_ml", "area_mm2")
"""Columns of `train.dataset.pictures.Pictures` that are kept; the pictures are not."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """N slices, those of a series together."""

    logits: Logits
    truth: Pictures
    """Its `pictures` and `blood` are empty, (N, 0, 0)."""

    def take(self, chosen: NDArray[Any]) -> HeldOut:
        """The rows that a mask or an index selects."""
        logits = Logits(self.logits.presence[chosen], self.logits.location[chosen])
        return HeldOut(logits, self.truth.take(chosen))

    def of_patients(self, part: Part) -> HeldOut:
        """Slices of patients, as they were taken, of one part; no synthetic heads."""
        patients = self.truth.origin == ORIGINS.index("patient")
        return self.take(patients & (self.truth.part == PARTS.index(part)))

    def tempered(self, presence: float, location: float) -> HeldOut:
        """Logits divided by a model's own temperatures, so that those of several models mean the same."""
        return replace(self, logits=Logits(self.logits.presence / presence, self.logits.location / location))


def of(logits: Logits, pictures: Pictures) -> HeldOut:
    empty = np.zeros((len(pictures), 0, 0), np.uint8)
    return HeldOut(logits, replace(pictures, pictures=empty, blood=empty))


def join(parts: Sequence[HeldOut]) -> HeldOut:
    """Concatenated; patients and series keep their numbers."""
    logits = Logits(
        np.concatenate([each.logits.presence for each in parts]),
        np.concatenate([each.logits.location for each in parts]),
    )
    return HeldOut(logits, stack([each.truth for each in parts]))


def write(path: Path, parts: Sequence[HeldOut], label: str) -> None:
    """Whole or not at all; `label`: of the split. Raises OSError."""
    whole = join(parts)
    with replacing(path) as file:
        np.savez_compressed(
            file,
            presence_logits=whole.logits.presence.astype(np.float32),
            location_logits=whole.logits.location.astype(np.float32),
            split=np.array(label),
            **{name: getattr(whole.truth, name) for name in TRUTH},
        )


def read(path: Path) -> HeldOut:
    """Raises UnusableData if it is not such a file."""
    try:
        with np.load(path) as arrays:
            count = len(arrays["presence"])
            empty = np.zeros((count, 0, 0), np.uint8)
            truth = Pictures(
                pictures=empty,
                blood=empty,
                traced=np.zeros(count, np.bool_),
                **{name: arrays[name] for name in TRUTH},
            )
            logits = Logits(*(arrays[name].astype(np.float64) for name in ("presence_logits", "location_logits")))
            return HeldOut(logits, truth)
    except (OSError, ValueError, KeyError) as exc:
        raise UnusableData(f"{path} holds no held-out predictions ({exc}); remove its run and make it again") from exc
